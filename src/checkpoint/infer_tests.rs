//! Tests of configuration inference: what is recognised, what must be given, what is rejected.

use super::*;
use crate::model::{Kind, Prediction, Preset, Router};

#[test]
fn the_yaml_of_a_run_is_told_from_others() {
    assert!(is_run_config("model: {params: {depth: 2}}").unwrap());
    assert!(!is_run_config("name: DiT").unwrap());
    assert!(matches!(is_run_config("a: [1"), Err(InferError::Yaml(_))));
}

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
        let (found, _) = super::tests::found(&shapes_of(&config), &flow);
        assert_eq!(found.prediction, Prediction::Reversed);
        let other = Hints { capacity: Some(1.0), heads: Some(12), ..Hints::default() };
        let (found, _) = super::tests::found(&shapes_of(&config), &other);
        assert_eq!((found.experts_of_token(), found.num_heads), (1, 12));
    }
}

#[test]
fn flow_models_of_dit_moe_are_recognised_by_their_norms() {
    for name in ["dit-moe-XL-8E2A", "dit-moe-G-16E2A"] {
        let config = name.parse::<Preset>().unwrap().config();
        let (found, said) = found(&shapes_of(&config), &Hints::default());
        assert_eq!(Config { name: config.name.clone(), ..found }, config);
        assert_eq!(said.len(), 3, "epsilon, experts of a token, objective: {said:?}");
        let ddpm = Hints { time: Some(Objective::Ddpm), ..Hints::default() };
        let (found, _) = super::tests::found(&shapes_of(&config), &ddpm);
        assert_eq!(found.prediction, Prediction::Velocity);
    }
}

const DSMOE: [&str; 7] = [
    "dsmoe-S-E16",
    "dsmoe-S-E48",
    "dsmoe-B-E16",
    "dsmoe-B-E48",
    "dsmoe-L-E16",
    "dsmoe-L-E48",
    "dsmoe-3B-E16",
];

#[test]
fn dsmoe_is_recognised_by_its_router() {
    for name in DSMOE {
        let config = name.parse::<Preset>().unwrap().config();
        let (found, said) = found(&shapes_of(&config), &Hints::default());
        assert_eq!(Config { name: config.name.clone(), ..found }, config);
        assert_eq!(
            said.len(),
            5,
            "size, heads, experts of a token, their weights, objective: {said:?}"
        );
    }
    let config = "dsmoe-S-E16".parse::<Preset>().unwrap().config();
    let hints = Hints {
        capacity: Some(3.0),
        heads: Some(12),
        size: Some([16, 24]),
        time: Some(Objective::Ddpm),
        ..Hints::default()
    };
    let (found, said) = found(&shapes_of(&config), &hints);
    assert_eq!((found.experts_of_token(), found.num_heads, found.tokens()), (3, 12, 96));
    assert_eq!((found.objective, said.len()), (Objective::Ddpm, 1), "{said:?}");
    let mut shapes = shapes_of(&config);
    shapes.retain(|name, _| !name.contains(".mlp.experts.15."));
    let text = infer_config(&shapes, &Hints::default()).unwrap_err().to_string();
    assert!(text.contains("15 experts") && text.contains("YAML"), "{text}");
}

#[test]
fn jit_is_recognised_by_its_class_tokens() {
    for (name, assumptions) in [
        // Of a head, the norms of queries and keys tell.
        ("jit-B", 2),
        ("jit-L", 2),
        ("jit-H", 2),
        ("jitmoe-B-E16", 4),
        ("jitmoe-B-E48", 4),
        ("jitmoe-L-E16", 4),
        ("jitmoe-H-E16", 4),
    ] {
        let config = name.parse::<Preset>().unwrap().config();
        let (found, said) = found(&shapes_of(&config), &Hints::default());
        assert_eq!(Config { name: config.name.clone(), ..found }, config);
        assert_eq!(said.len(), assumptions, "{said:?}");
    }
    let base = shapes_of(&"jitmoe-B-E16".parse::<Preset>().unwrap().config());
    let refused =
        |shapes: &Shapes, hints: Hints| infer_config(shapes, &hints).unwrap_err().to_string();
    let mut large = base.clone();
    large.insert("x_embedder.proj.weight".into(), vec![768, 3, 32, 32]);
    let large = refused(&large, Hints::default());
    assert!(large.contains("512 pixels") && large.contains("not supported"), "{large}");
    let mut other = base.clone();
    other.insert("x_embedder.proj.weight".into(), vec![384, 3, 16, 16]);
    let other = refused(&other, Hints::default());
    assert!(other.contains("hidden size 384") && other.contains("JiT-B (768)"), "{other}");
    let mut fewer = base.clone();
    fewer.retain(|name, _| !name.contains(".mlp.experts.15."));
    let fewer = refused(&fewer, Hints::default());
    assert!(fewer.contains("JiTMoE with 15 experts") && !fewer.contains("YAML"), "{fewer}");
    let yaml = Hints { yaml: Some("model: {params: {}}".into()), ..Hints::default() };
    let yaml = refused(&base, yaml);
    assert!(yaml.contains("no YAML"), "{yaml}");
}

#[test]
fn promoe_is_recognised_by_its_prototypes() {
    for name in ["promoe-S", "promoe-B", "promoe-L", "promoe-XL"] {
        let config = name.parse::<Preset>().unwrap().config();
        let (found, said) = found(&shapes_of(&config), &Hints::default());
        assert_eq!(Config { name: config.name.clone(), ..found }, config);
        assert_eq!(said.len(), 4, "heads, weights, experts of a token, objective: {said:?}");
    }
    let config = "promoe-S".parse::<Preset>().unwrap().config();
    let refused = |hints: Hints| infer_config(&shapes_of(&config), &hints).unwrap_err().to_string();
    let ddpm = refused(Hints { time: Some(Objective::Ddpm), ..Hints::default() });
    assert!(ddpm.contains("flow models only"), "{ddpm}");
    let two = refused(Hints { capacity: Some(2.0), ..Hints::default() });
    assert!(two.contains("a token takes one expert"), "{two}");
    let mut shapes = shapes_of(&config);
    shapes.retain(|name, _| !name.contains(".experts.12.") && !name.contains("shared_experts"));
    let (other, _) = found(&shapes, &Hints::default());
    assert_eq!(other.router, Router::Prototypes { unconditional: false });
    assert_eq!((other.num_experts, other.shared_hidden), (12, 0));
}

/// The keys of the published configuration files.
#[test]
fn the_configuration_file_of_promoe_is_understood() {
    let yaml = |name: &str, mode: &str, count: usize| {
        format!(
            "model_name: {name}\ngpu_ids: [0, 1]\nlr: 0.0001\nDiT_B_config:\n  qk_norm: False\n  MoE_config: \
             {{num_routed_experts: 12, moe_intermediate_size: 1536, shared_expert_intermediate_size: 1536, \
             aux_loss_coef: 0, norm_topk_prob: False, seq_aux: False, use_shared_expert: True, interleave: True, \
             init_MoeMLP: False, top_k: {count}, router_weight_mode: {mode}, routing_contrastive_lam: 1, \
             use_top_k_for_routing_contrastive: True, routing_contrastive_temperature: 0.07}}\nsample_steps: 250\n"
        )
    };
    let config = "promoe-B".parse::<Preset>().unwrap().config();
    let shapes = shapes_of(&config);
    let with = |yaml: String| Hints { yaml: Some(yaml), ..Hints::default() };
    let (known, said) = found(&shapes, &with(yaml("ProMoE_TC_B", "identity", 1)));
    assert_eq!(Config { name: "ProMoE_TC_B".into(), ..config }, known);
    assert_eq!(said, ["12 attention heads, as ProMoE-B has"]);
    for (count, tokens) in [(1, 21), (2, 42)] {
        let (known, _) = found(&shapes, &with(yaml("ProMoE_EC_B", "identity", count)));
        assert_eq!((known.kind, known.tokens_of_expert()), (Kind::Ec, tokens));
    }
    for (name, mode, count, reason) in [
        ("ProMoE_EC_B", "sigmoid", 1, "router_weight_mode"),
        ("ProMoE_TC_B", "softmax", 1, "router_weight_mode"),
        ("ProMoE_TC_B", "identity", 2, "a token takes one expert"),
    ] {
        let error = infer_config(&shapes, &with(yaml(name, mode, count))).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    // Two experts are the default of token choice alone.
    let less = yaml("ProMoE_EC_B", "identity", 1).replace("top_k: 1, ", "");
    assert_eq!(found(&shapes, &with(less)).0.tokens_of_expert(), 21);
    // Where the file does not say, the code takes softmax and two experts.
    for (left_out, reason) in [
        ("router_weight_mode: identity, ", "\"softmax\""),
        ("top_k: 1, ", "a token takes one expert"),
    ] {
        let less = yaml("ProMoE_TC_B", "identity", 1).replace(left_out, "");
        let error = infer_config(&shapes, &with(less)).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

/// The keys of the published configuration files.
#[test]
fn the_configuration_file_of_dsmoe_is_understood() {
    let yaml = |positions: &str, more: &str| {
        format!(
            "basic: {{rf: true, exp_name: a}}\nmodel: {{target: models.models_DSMoE.DiT, params: {{input_size: 32, \
             num_classes: 1000, patch_size: 2, depth: 12, hidden_size: 384, num_heads: 6, mlp_ratio: 4, \
             use_swiglu: false, rope_type: {positions}, use_sinks: false, sliding_window: 0, enable_gqa: false, \
             norm_type: layernorm, MoE_config: {{num_experts: 48, hidden_size: 384, moe_intermediate_size: 128, \
             n_group: 1, topk_group: 1, num_experts_per_tok: 4, routed_scaling_factor: 1.5, capacity: 1, \
             init_MoeMLP: false, interleave: true, skip_first2: false, use_shared_expert: true{more}}}}}}}"
        )
    };
    let config = "dsmoe-S-E48".parse::<Preset>().unwrap().config();
    let mut shapes = shapes_of(&config);
    let with = |yaml: String| Hints { yaml: Some(yaml), ..Hints::default() };
    let (known, said) = found(&shapes, &with(yaml("2d", "")));
    assert_eq!((known.experts_of_token(), said.len()), (4, 0));
    assert_eq!(known.router, Router::Sigmoid { scale: 1.5 });
    let asked = Hints { capacity: Some(2.0), ..with(yaml("2d", "")) };
    assert_eq!(found(&shapes, &asked).0.experts_of_token(), 2);
    let refused =
        |shapes: &Shapes, yaml: String| infer_config(shapes, &with(yaml)).unwrap_err().to_string();
    assert!(refused(&shapes, yaml("none", "")).contains("pos_embed"));
    assert!(refused(&shapes, yaml("1d", "")).contains("expected `none` or `2d`"));
    for (more, reason) in [
        (", topk_group: 0", "topk_group below n_group"),
        (", skip_first2: true", "skip_first2"),
        (", use_shared_expert: false", "use_shared_expert"),
        (", routed_scaling_factor: 0", "routed_scaling_factor"),
        (", moe_intermediate_size: null", "moe_intermediate_size"),
    ] {
        let error = refused(&shapes, yaml("2d", more));
        assert!(error.contains(reason), "{error}");
    }
    for (from, to, reason) in [
        ("use_sinks: false", "use_sinks: true", "attention sinks"),
        ("enable_gqa: false", "enable_gqa: true", "grouped queries"),
        ("layernorm", "rmsnorm", "supported with \"layernorm\""),
        ("MoE_config: {", "other: {", "no MoE_config"),
    ] {
        let error = refused(&shapes, yaml("2d", "").replace(from, to));
        assert!(error.contains(reason), "{error}");
    }
    shapes.insert("pos_embed".into(), vec![1, 256, 384]);
    let (known, _) = found(&shapes, &with(yaml("none", "")));
    assert_eq!((known.rope, known.ffn_hidden, known.expert_hidden), (false, 1536, 128));
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
