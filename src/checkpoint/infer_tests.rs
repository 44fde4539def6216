//! Tests of configuration inference: what is recognised, what must be given, what is rejected.

use super::*;

#[test]
fn the_yaml_of_a_run_is_told_from_others() {
    assert!(is_run_config("model: {params: {depth: 2}}").unwrap());
    assert!(!is_run_config("name: DiT").unwrap());
    assert!(matches!(is_run_config("a: [1"), Err(InferError::Yaml(_))));
}
use crate::model::Preset;

fn shapes_of(config: &Config) -> Shapes {
    config.tensors().into_iter().map(|t| (t.name, t.shape)).collect()
}

fn found(shapes: &Shapes, hints: &Hints) -> (Config, Vec<String>) {
    let Inferred { config_text, assumed } = infer_config(shapes, hints).unwrap();
    (Config::from_json(&config_text).unwrap(), assumed)
}

/// Names and shapes of DiT-XL/2 at 256 and 512 pixels and of SiT-XL/2 are those of the dense preset.
#[test]
fn published_shapes_are_recognised() {
    for (name, time, heads, capacity, assumed) in [
        ("dense-XL-ddpm", Objective::Ddpm, None, None, &["16 attention heads, as DiT-XL has"][..]),
        ("dense-XL", Objective::Flow, None, None, &["16 attention heads, as DiT-XL has"]),
        ("dense-B", Objective::Flow, Some(12), None, &[]),
        (
            "S-E8",
            Objective::Flow,
            Some(6),
            None,
            &["a training capacity of 1, which sampling does not use"],
        ),
        ("tc-S-E4", Objective::Flow, Some(6), Some(1.0), &[]),
        ("ec-L-E16-ddpm", Objective::Ddpm, Some(16), Some(1.0), &[]),
    ] {
        let config = name.parse::<Preset>().unwrap().config();
        let hints = Hints { time: Some(time), heads, capacity, ..Hints::default() };
        let (found, said) = found(&shapes_of(&config), &hints);
        assert_eq!(Config { name: config.name.clone(), ..found }, config);
        assert_eq!(said, assumed, "{name}");
    }
}

#[test]
fn dit_moe_is_recognised_by_its_form() {
    for name in ["dit-moe-S-8E2A", "dit-moe-S-16E2A", "dit-moe-B-8E2A", "dit-moe-B-16E2A"] {
        let config = name.parse::<Preset>().unwrap().config();
        let (found, said) = found(&shapes_of(&config), &Hints::default());
        assert_eq!(Config { name: config.name.clone(), ..found }, config);
        assert_eq!(said.len(), 3, "heads, experts of a token, objective: {said:?}");
        let flow = Hints { time: Some(Objective::Flow), ..Hints::default() };
        let text = infer_config(&shapes_of(&config), &flow).unwrap_err().to_string();
        assert!(text.contains("opposite velocity"), "{text}");
        let other = Hints { capacity: Some(1.0), heads: Some(12), ..Hints::default() };
        let (found, _) = super::tests::found(&shapes_of(&config), &other);
        assert_eq!((found.experts_of_token(), found.num_heads), (1, 12));
    }
}

#[test]
fn a_detail_head_tells_its_width_and_the_prediction() {
    let text = r#"{"kind":"dense","t_kind":"flow","params":{"input_size":6,"in_channels":3,"num_classes":2,
        "patch_size":2,"depth":1,"hidden_size":16,"num_heads":2,"learn_sigma":false,"prediction":"data",
        "detail_head":{"channels":5,"phase":PHASE}}}"#;
    for phase in ["false", "true"] {
        let config = Config::from_json(&text.replace("PHASE", phase)).unwrap();
        let (time, heads, name) = (Some(Objective::Flow), Some(2), Some("unnamed".into()));
        let hints = Hints { time, heads, name, ..Hints::default() };
        let (found, _) = found(&shapes_of(&config), &hints);
        assert_eq!(Config { defaults: config.defaults.clone(), ..found }, config);
    }
}

/// Two models of width 384 with other heads, and two with another capacity, have the same tensors.
#[test]
fn what_would_be_another_model_is_asked_for() {
    let time = Hints { time: Some(Objective::Flow), ..Hints::default() };
    let ask = |name: &str, hints: &Hints| {
        infer_config(&shapes_of(&name.parse::<Preset>().unwrap().config()), hints)
    };
    for name in ["dense-S", "S-128", "S-E8", "B-E8", "tc-L-E4", "ec-XL-E16"] {
        let error = ask(name, &time).unwrap_err();
        assert!(matches!(error, InferError::UnknownHeads { .. }), "{name}: {error}");
    }
    let heads = Hints { heads: Some(6), ..time.clone() };
    let error = ask("tc-S-E4", &heads).unwrap_err();
    assert!(matches!(error, InferError::UnknownCapacity { kind: "token-choice" }), "{error}");
    let error = ask("ec-S-E4", &heads).unwrap_err();
    assert!(matches!(error, InferError::UnknownCapacity { kind: "expert-choice" }), "{error}");
    let two = Hints { capacity: Some(2.0), ..heads.clone() };
    let config = "tc-S-E4".parse::<Preset>().unwrap().config();
    assert_eq!(found(&shapes_of(&config), &two).0.experts_of_token(), 2);
    // A YAML file that leaves one of them out is asked for it too, and hints go before what it says.
    let yaml = |moe: &str| {
        format!(
            "model: {{params: {{input_size: 32, num_classes: 1000, patch_size: 2, depth: 12, hidden_size: 384, \
             num_heads: 6, learn_sigma: true, MoE_config: {{num_experts: 4, interleave: true{moe}}}}}}}"
        )
    };
    let with = |moe: &str| Hints { yaml: Some(yaml(moe)), heads: None, ..time.clone() };
    let learn = shapes_of(&config);
    let error = infer_config(&learn, &with("")).unwrap_err();
    assert!(matches!(error, InferError::UnknownCapacity { .. }), "{error}");
    let (config, said) = found(&learn, &with(", capacity: 2"));
    assert_eq!((config.num_heads, config.experts_of_token(), said.len()), (6, 2, 0));
    let other = Hints { heads: Some(12), capacity: Some(3.0), ..with(", capacity: 2") };
    let (config, _) = found(&learn, &other);
    assert_eq!((config.num_heads, config.experts_of_token()), (12, 3));
}

#[test]
fn norms_of_queries_tell_the_heads() {
    let config = "dense-S".parse::<Preset>().unwrap().config();
    let mut shapes = shapes_of(&Config { qk_norm: true, ..config });
    let time = Hints { time: Some(Objective::Flow), ..Hints::default() };
    assert_eq!(found(&shapes, &time).0.num_heads, 6);
    shapes.insert("blocks.0.attn.q_norm.weight".into(), vec![0]);
    assert!(infer_config(&shapes, &time).is_err());
}

/// Every width that a ratio of two whole numbers can give, as the division and the product round it.
#[test]
fn the_width_of_feed_forward_networks_is_found_again() {
    for d in (4..=2052_usize).step_by(4) {
        for hidden in (4..=4 * d).step_by(4 * (1 + d / 100)) {
            let params = json!({ "input_size": 2, "num_classes": 1, "patch_size": 2, "depth": 1, "hidden_size": d,
                "num_heads": 1, "mlp_ratio": hidden as f64 / d as f64 });
            let text = json!({ "kind": "dense", "t_kind": "flow", "params": params }).to_string();
            assert_eq!(Config::from_json(&text).unwrap().ffn_hidden, hidden, "{hidden} of {d}");
        }
    }
}

#[test]
fn tensors_of_absurd_sizes_and_names_are_refused() {
    let whole = shapes_of(&"dense-S".parse::<Preset>().unwrap().config());
    let hints = Hints { time: Some(Objective::Flow), heads: Some(6), ..Hints::default() };
    let refused = |name: &str, shape: &[usize]| {
        let mut shapes = whole.clone();
        shapes.insert(name.to_owned(), shape.to_vec());
        infer_config(&shapes, &hints).unwrap_err().to_string()
    };
    let huge = usize::MAX;
    refused("x_embedder.proj.weight", &[384, huge, 2, 2]);
    refused("x_embedder.proj.weight", &[huge, 4, huge, huge]);
    refused("blocks.18446744073709551615.attn.qkv.bias", &[1152]);
    refused("blocks.1.mlp.experts.18446744073709551615.fc1.weight", &[4, 384]);
    refused("blocks.0.mlp.experts.3.fc1.weight", &[]);
    refused("blocks.0.mlp.shared_experts.gate_proj.weight", &[]);
    refused("pos_embed", &[1, huge, 384]);
    refused("y_embedder.embedding_table.weight", &[huge, 384]);
}

/// Trained without dropping labels: no row of the table means "no label".
#[test]
fn a_table_without_a_null_row_is_not_cut_short() {
    let mut shapes = shapes_of(&"dense-S".parse::<Preset>().unwrap().config());
    shapes.insert("y_embedder.embedding_table.weight".into(), vec![10, 384]);
    let yaml = "basic: {rf: true}\nmodel: {params: {input_size: 32, num_classes: 10, patch_size: 2, depth: 12, \
                hidden_size: 384, num_heads: 6}}";
    let hints = Hints { yaml: Some(yaml.into()), ..Hints::default() };
    let error = infer_config(&shapes, &hints).unwrap_err().to_string();
    assert!(error.contains("10 rows for 10 classes"), "{error}");
}

#[test]
fn at_512_pixels_there_are_four_times_as_many_tokens() {
    let config = "dense-XL-ddpm".parse::<Preset>().unwrap().config();
    let mut shapes = shapes_of(&config);
    shapes.insert("pos_embed".into(), vec![1, 1024, 1152]);
    let hints = Hints { time: Some(Objective::Ddpm), ..Hints::default() };
    let config = found(&shapes, &hints).0;
    assert_eq!((config.input_size, config.tokens()), ([64, 64], 1024));
}

#[test]
fn tokens_that_make_no_square_need_a_shape() {
    let config = "S".parse::<Preset>().unwrap().of_size([16, 24]).unwrap().config();
    let shapes = shapes_of(&config);
    let hints = Hints { time: Some(Objective::Flow), heads: Some(6), ..Hints::default() };
    let unknown = infer_config(&shapes, &hints).unwrap_err();
    assert!(matches!(unknown, InferError::UnknownSize { tokens: 96 }), "{unknown}");
    let hints = Hints { size: Some([16, 24]), ..hints };
    let found = found(&shapes, &hints).0;
    assert_eq!(Config { name: config.name.clone(), ..found }, config);
    let hints = Hints { size: Some([16, 16]), ..hints };
    let text = infer_config(&shapes, &hints).unwrap_err().to_string();
    assert!(text.contains("pos_embed"), "{text}");
}

#[test]
fn what_the_tensors_do_not_tell_is_asked_for() {
    let config = "S".parse::<Preset>().unwrap().config();
    let shapes = shapes_of(&config);
    let ask = |shapes: &Shapes, hints: &Hints| infer_config(shapes, hints).unwrap_err();
    let heads = Hints { heads: Some(6), ..Hints::default() };
    assert!(matches!(ask(&shapes, &heads), InferError::UnknownObjective));
    let time = Hints { time: Some(Objective::Flow), ..heads };
    let mut less = shapes.clone();
    less.remove("blocks.3.attn.qkv.bias");
    less.insert("blocks.0.attn.rope".into(), vec![1]);
    let text = ask(&less, &time).to_string();
    assert!(text.contains("blocks.3.attn.qkv.bias") && text.contains("rope"), "{text}");
    assert!(ask(&Shapes::new(), &time).to_string().contains("as in every DiT"));
    let yaml = Hints { yaml: Some("a: [1, 2".into()), ..time };
    assert!(matches!(ask(&shapes, &yaml), InferError::Yaml(_)));
}
