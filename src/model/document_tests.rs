//! Tests of reading configurations: what is accepted, and what is refused and why.

use super::*;
use crate::model::Router;

#[test]
fn a_showcase_has_a_row_of_each_table() {
    let read = |rows: &str| {
        Config::from_json(&format!(
            r#"{{"kind":"dense","t_kind":"flow",
            "params":{{"input_size":2,"num_classes":3,"patch_size":1,"depth":1,"hidden_size":4,"num_heads":1}},
            "labels":[{{"name":"subject","tensor":"a","null":3}},{{"name":"style","tensor":"b","null":2}}],
            "defaults":{{"showcase":{{"judge":"by eye","rows":{rows}}}}}}}"#
        ))
    };
    let showcase = read("[[2,1],[0,0]]").unwrap().defaults.showcase.unwrap();
    assert_eq!((showcase.judge.as_str(), showcase.rows), ("by eye", vec![vec![2, 1], vec![0, 0]]));
    for wrong in ["[[0]]", "[[0,0,0]]", "[[3,0]]", "[[0,0],[0,2]]"] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.contains("expected a row of each of the 2 label tables"), "{error}");
    }
}

#[test]
fn impossible_shapes_are_refused_with_the_reason() {
    let text = r#"{"kind":"dense","t_kind":"flow","params":{"input_size":9,"num_classes":10,
        "patch_size":2,"depth":1,"hidden_size":64,"num_heads":4}}"#;
    let error = Config::from_json(text).unwrap_err().to_string();
    assert!(error.contains("not a multiple of patch_size"), "{error}");
}

#[test]
fn samples_may_be_wider_than_high() {
    let read = |size: &str| {
        let text = r#"{"kind":"dense","t_kind":"flow","params":{"input_size":SIZE,"num_classes":10,
            "patch_size":2,"depth":1,"hidden_size":64,"num_heads":4,"learn_sigma":false}}"#;
        Config::from_json(&text.replace("SIZE", size)).map_err(|error| error.to_string())
    };
    let wide = read("[4, 10]").unwrap();
    assert_eq!((wide.input_size, wide.grid(), wide.tokens()), ([4, 10], [2, 5], 10));
    assert_eq!((wide.plane(), wide.sample_len(), wide.output_len()), (40, 160, 160));
    assert_eq!(wide.extent(), "10×4");
    assert_eq!(read("6"), read("[6, 6]"), "one number is a square");
    assert!(read("[4, 9]").unwrap_err().contains("input_size 9 is not a multiple"));
    assert!(read("[0, 4]").unwrap_err().contains("a size is 0"));
    assert!(read("[4, 99999998]").unwrap_err().contains("above 65,536"));
    for other in ["[4]", "[4, 4, 4]", "\"4x4\"", "-4"] {
        let error = read(other).unwrap_err();
        assert!(error.contains("a number or [height, width]"), "{other}: {error}");
    }
}

#[test]
fn capacities_that_no_routing_can_have_are_refused() {
    let read = |kind: &str, capacity: &str| {
        Config::from_json(&format!(
            r#"{{"kind":"{kind}","t_kind":"flow","params":{{"input_size":8,"num_classes":10,
            "patch_size":2,"depth":2,"hidden_size":64,"num_heads":4,
            "MoE_config":{{"num_experts":4,"capacity":{capacity}}}}}}}"#
        ))
        .map_err(|e| e.to_string())
    };
    assert!(read("ec", "4.5").unwrap_err().contains("at most 4, at which"));
    assert!(read("ec", "-1").unwrap_err().contains("above 0"));
    assert!(read("tc", "5").unwrap_err().contains("1 to 4 experts"));
    assert!(read("tc", "0.5").unwrap_err().contains("1 to 4 experts"));
    // 16/4·0.7 is 2.8; 0.7 in f32 would do here, but not for 40 tokens.
    assert_eq!(read("ec", "0.7").unwrap().tokens_of_expert(), 2);
    assert_eq!(read("ec", "4").unwrap().tokens_of_expert(), 16);
}

#[test]
fn names_beyond_the_table_are_refused() {
    let read = |values: &str| {
        let text = r#"{"kind":"dense","t_kind":"flow","params":{"input_size":4,"num_classes":2,"patch_size":2,
            "depth":1,"hidden_size":8,"num_heads":1},
            "labels":[{"name":"class","tensor":"t","null":2,"values":VALUES}]}"#;
        Config::from_json(&text.replace("VALUES", values)).map_err(|error| error.to_string())
    };
    assert!(read(r#"["a","b"]"#).is_ok() && read(r#"["a"]"#).is_ok() && read("[]").is_ok());
    let error = read(r#"["a","b","c"]"#).unwrap_err();
    assert!(error.contains("3 names for the 2 values of the table \"class\""), "{error}");
}

#[test]
fn sizes_whose_products_overflow_are_refused() {
    for (key, kind) in [
        ("hidden_size", "diffmoe"),
        ("hidden_size", "tc"),
        ("in_channels", "dense"),
        ("num_heads", "dense"),
        ("head_dim", "dense"),
        ("depth", "dense"),
        ("input_size", "dense"),
        ("patch_size", "dense"),
    ] {
        let mut text: serde_json::Value = serde_json::from_str(
            r#"{"t_kind":"flow","params":{"input_size":4,"num_classes":2,"patch_size":2,"depth":1,"hidden_size":8,
            "num_heads":1,"MoE_config":{"num_experts":2,"n_shared_experts":9223372036854775807}}}"#,
        )
        .unwrap();
        text["kind"] = kind.into();
        text["params"][key] = serde_json::json!(usize::MAX);
        assert!(Config::from_json(&text.to_string()).is_err(), "{key}");
    }
}

#[test]
fn a_detail_head_needs_a_predicted_sample() {
    let read = |more: &str| {
        Config::from_json(&format!(
            r#"{{"kind":"dense","t_kind":"flow","params":{{"input_size":6,"in_channels":3,"num_classes":2,
            "patch_size":2,"depth":1,"hidden_size":16,"num_heads":2,{more}}}}}"#
        ))
        .map_err(|e| e.to_string())
    };
    let data = r#""prediction":"data","learn_sigma":false"#;
    let head = |channels: i32| format!(r#""detail_head":{{"channels":{channels}}}"#);
    let config = read(&format!("{data},{}", head(5))).unwrap();
    assert_eq!(config.detail_channels, 5);
    let without = read(data).unwrap();
    assert_eq!(without.detail_channels, 0);
    let with_phase =
        read(&format!(r#"{data},"detail_head":{{"channels":5,"phase":true}}"#)).unwrap();
    assert_eq!([config.detail_inputs(), with_phase.detail_inputs()], [7, 9]);
    assert_eq!(with_phase.parameters() - config.parameters(), 9 * 2 * 5);
    // 9·(7·5 + 5·5 + 5·3) weights and 5 + 5 + 3 biases.
    assert_eq!(config.parameters() - without.parameters(), 688);
    let names: Vec<_> = config.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
    let conv_in = ("detail_head.conv_in.weight".to_owned(), vec![5, 7, 3, 3]);
    let first = names.len() - 6;
    assert_eq!(names[first], conv_in);
    assert!(names[first - 1].0.starts_with("final_layer."));
    assert!(read(&format!("{data},{}", head(0))).unwrap_err().contains("at least 1"));
    assert!(read(&format!("{data},{}", head(-1))).is_err());
    assert!(read(&format!("{data},{}", head(99_999))).unwrap_err().contains("65,536"));
    let velocity = read(&format!(r#""learn_sigma":false,{}"#, head(5))).unwrap_err();
    assert!(velocity.contains("prediction \"data\""), "{velocity}");
    let sigma = read(&format!(r#""prediction":"data",{}"#, head(5))).unwrap_err();
    assert!(sigma.contains("learn_sigma false"), "{sigma}");
}

#[test]
fn a_sigmoid_router_is_read_with_its_experts() {
    let read = |kind: &str, moe: &str| {
        let text = format!(
            r#"{{"kind":"{kind}","t_kind":"flow","params":{{"input_size":4,"num_classes":2,"patch_size":2,"depth":2,
            "hidden_size":16,"num_heads":2,"mlp_ratio":3,"mlp_act":"silu","rope_type":"2d",
            "MoE_config":{{"num_experts":4,"capacity":2,"moe_intermediate_size":12,"routed_scaling_factor":2.5{moe}}}}}}}"#
        );
        Config::from_json(&text).map_err(|error| error.to_string())
    };
    let config = read("tc", r#","router":"sigmoid""#).unwrap();
    assert_eq!(config.router, Router::Sigmoid { scale: 2.5 });
    assert_eq!((config.ffn_hidden, config.ffn_form), (48, FfnForm::Silu));
    assert_eq!((config.expert_hidden, config.expert_form), (12, FfnForm::SwiGlu));
    assert_eq!((config.shared_hidden, config.shared_form), (12, FfnForm::SwiGlu));
    let names: Vec<_> = config.tensors().into_iter().map(|t| t.name).collect();
    assert!(!names.iter().any(|name| name == "pos_embed"));
    assert!(names.iter().any(|name| name == "blocks.1.mlp.gate.e_score_correction_bias"));
    // Without the router the keys of its experts have no meaning, as in the official code.
    let plain = read("tc", "").unwrap();
    assert_eq!((plain.router, plain.expert_hidden, plain.shared_hidden), (Router::Softmax, 48, 0));
    assert!(
        read("diffmoe", r#","router":"sigmoid""#).unwrap_err().contains("only token choice (kind")
    );
    assert!(read("tc", r#","router":"dice""#).unwrap_err().contains("`sigmoid`, `prototypes`"));
    let width = read("tc", r#","router":"sigmoid","moe_intermediate_size":10"#);
    assert!(width.unwrap_err().contains("duplicate field"));
}

#[test]
fn a_router_by_prototypes_is_read_with_its_experts() {
    const SHARED: &str = r#""shared_expert_intermediate_size":20"#;
    let read = |moe: &str, labels: &str| {
        let text = format!(
            r#"{{"kind":"tc","t_kind":"flow","time_scale":1000,"params":{{"input_size":4,"num_classes":2,"patch_size":2,
            "depth":2,"hidden_size":16,"num_heads":2,"prediction":"reversed","MoE_config":{{"router":"prototypes",
            "moe_intermediate_size":12,{moe}}}}}{labels}}}"#
        );
        Config::from_json(&text).map_err(|error| error.to_string())
    };
    let config = read(&format!(r#""num_experts":4,{SHARED}"#), "").unwrap();
    assert_eq!(config.router, Router::Prototypes { unconditional: true });
    assert_eq!((config.expert_hidden, config.expert_form), (12, FfnForm::Gelu));
    assert_eq!((config.shared_hidden, config.shared_form), (20, FfnForm::Gelu));
    assert_eq!((config.prototypes(), config.unconditional_row()), (3, Some(2)));
    assert_eq!(
        [0.0, 0.25, 1.0].map(|t| config.model_time(t).to_bits()),
        [1000_f32, 750.0, 0.0].map(f32::to_bits)
    );
    let centers = config.tensors().into_iter().find(|t| t.name == "blocks.1.mlp.cluster_centers");
    assert_eq!(centers.unwrap().shape, [3, 16]);
    let all = read(r#""num_experts":4,"use_uncond_expert":false,"use_shared_expert":false"#, "");
    let all = all.unwrap();
    assert_eq!((all.prototypes(), all.unconditional_row(), all.shared_hidden), (4, None, 0));
    let tables = r#","labels":[{"name":"a","tensor":"a.weight","null":2},{"name":"b","tensor":"b.weight","null":2}]"#;
    for (moe, labels, reason) in [
        (r#""num_experts":4"#, "", "without shared_expert_intermediate_size"),
        (r#""num_experts":1,"use_shared_expert":false"#, "", "less than two experts"),
        (
            r#""num_experts":4,"capacity":2,"use_shared_expert":false"#,
            "",
            "a token takes one expert",
        ),
        (r#""num_experts":4,"use_shared_expert":false"#, tables, "exactly one label table"),
    ] {
        let error = read(moe, labels).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}
