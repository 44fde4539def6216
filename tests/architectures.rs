//! Every variant of the model at odd shapes, on both backends and both kernel families, compared with an f64
//! reference.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod device;
mod reference;

use std::collections::HashMap;
use std::sync::Arc;

use device::{device, turn};
use diffmoe::checkpoint::{Checkpoint, TensorOut, write_safetensors};
use diffmoe::engine::{CpuEngine, CpuModel};
use diffmoe::engine::{Engine, GpuEngine, GpuModel, Inspect, LayerRouting, RunConfig};
use diffmoe::gpu::Profile;
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Config, Kind, Routing, RoutingRule};
use diffmoe::scheduler::{Branch, Instruction, Latent, gaussian};
use reference::Reference;

/// Numbers for a tensor: matrices that keep the size of what they multiply, and biases that matter.
fn numbers(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let len = shape.iter().product();
    let inputs: usize = shape.iter().skip(1).product();
    let stream = name.bytes().fold(7, |hash: u64, b| hash.wrapping_mul(31).wrapping_add(b.into()));
    let scale = if shape.len() == 1 { 0.2 } else { (1.0 / inputs as f32).sqrt() };
    let (scale, centre) = match name {
        // So that they change the choice.
        _ if name.ends_with("e_score_correction_bias") => (0.1, 0.0),
        _ if name.ends_with("expert_threshold") => (0.03, 0.52),
        _ if name.ends_with("_norm.weight") => (0.3, 1.0),
        "pos_embed" => (1.0, 0.0),
        _ => (scale, 0.0),
    };
    gaussian(seed, stream >> 1, len).into_iter().map(|v| centre + scale * v).collect()
}

/// The weights of a configuration and a file with them.
fn checkpoint(text: &str, seed: u64) -> (HashMap<String, Vec<f32>>, Checkpoint) {
    let config = Config::from_json(text).unwrap();
    let weights: HashMap<String, Vec<f32>> = config
        .tensors()
        .into_iter()
        .map(|t| (t.name.clone(), numbers(&t.name, &t.shape, seed)))
        .collect();
    let tensors: Vec<_> = config
        .tensors()
        .into_iter()
        .map(|t| TensorOut::f32(t.name.clone(), &t.shape, &weights[&t.name]))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &tensors, HashMap::from([("diffmoe".into(), text.into())])).unwrap();
    (weights, Checkpoint::open(&path).unwrap())
}

/// Checks one configuration in JSON.
fn check(text: &str, seed: u64) {
    let _turn = turn();
    let config = Config::from_json(text).unwrap();
    let (weights, checkpoint) = checkpoint(text, seed);
    let times = [0.15, 0.8, 0.4];
    let batch = times.len();
    let latent = gaussian(seed, 1, batch * config.sample_len());
    // A class, another one, and the null row.
    let labels: Vec<Vec<u32>> =
        config.labels.iter().map(|table| vec![0, table.null - 1, table.null]).collect();
    let rules: &[RoutingRule] = match config.kind {
        Kind::DiffMoe => RoutingRule::ALL,
        _ => &[RoutingRule::Pool],
    };
    for &rule in rules {
        let reference = Reference { config: &config, weights: &weights, rule };
        let (want, routes) = reference.forward(&latent, &times, &labels);
        let taken: u32 = routes.iter().flatten().map(|mask| mask.count_ones()).sum();
        assert_eq!(taken > 0, !config.moe_blocks().is_empty(), "experts have something to do");
        let routing = Routing { rule, ..Routing::default() };
        let run = RunConfig {
            latent: latent.clone(),
            labels: labels.clone(),
            routing,
            ..RunConfig::default()
        };
        let on_cpu = Arc::new(CpuModel::load(&checkpoint).unwrap());
        compare(&mut CpuEngine::new(on_cpu, batch), &run, &times, &want);
        for profile in [Profile::Software, Profile::Gpu] {
            let model = GpuModel::load(device(profile), &checkpoint, WeightPrecision::F32).unwrap();
            compare(&mut GpuEngine::new(Arc::new(model), batch).unwrap(), &run, &times, &want);
        }
    }
}

/// The output of one pass; another token with an expert would show as a difference of 0.1 and more.
fn compare(engine: &mut dyn Inspect, run: &RunConfig, times: &[f32], want: &[f64]) {
    let taps = engine.forward_with_taps(run, times).unwrap();
    let (_, _, out) = taps.iter().find(|tap| tap.0 == "out").unwrap();
    assert_eq!(out.len(), want.len());
    let size = want.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
    let error = |(a, b): (&f32, &f64)| {
        let error = (f64::from(*a) - b).abs();
        if error.is_nan() { f64::INFINITY } else { error }
    };
    let worst = out.iter().zip(want).map(error).fold(0.0, f64::max);
    println!("{}: off by {worst:.1e} of {size:.1}", engine.device());
    assert!(worst <= 2e-5 * size, "{}: off by {worst} of {size}", engine.device());
}

#[test]
fn dense_with_heads_of_24_and_three_channels_without_variance() {
    check(
        r#"{"kind":"dense","t_kind":"flow","time_scale":1000,"params":{"input_size":10,"in_channels":3,
        "num_classes":5,"patch_size":2,"depth":2,"hidden_size":48,"num_heads":2,"mlp_ratio":2,
        "learn_sigma":false}}"#,
        1,
    );
}

#[test]
fn dense_swiglu_with_heads_of_72_and_normalised_queries() {
    check(
        r#"{"kind":"dense","t_kind":"ddpm","params":{"input_size":9,"num_classes":2,"patch_size":3,
        "depth":1,"hidden_size":144,"num_heads":2,"mlp_ratio":1.5,"use_swiglu":true,"qk_norm":true}}"#,
        2,
    );
}

#[test]
fn diffmoe_in_every_block_with_a_shared_expert_and_heads_of_80() {
    check(
        r#"{"kind":"diffmoe","t_kind":"flow","params":{"input_size":10,"num_classes":4,"patch_size":2,
        "depth":2,"hidden_size":64,"num_heads":1,"head_dim":80,"qk_norm":true,"mlp_ratio":1,
        "MoE_config":{"num_experts":5,"capacity":1,"n_shared_experts":2,"interleave":false}}}"#,
        3,
    );
}

#[test]
fn diffmoe_interleaved_with_swiglu_and_two_label_tables() {
    check(
        r#"{"kind":"diffmoe","t_kind":"flow","params":{"input_size":6,"in_channels":1,"num_classes":4,
        "patch_size":1,"depth":2,"hidden_size":32,"num_heads":2,"mlp_ratio":2,"use_swiglu":true,
        "MoE_config":{"num_experts":3,"interleave":true}},
        "labels":[{"name":"subject","tensor":"y_embedder.embedding_table.weight","null":4},
        {"name":"style","tensor":"style_embedder.embedding_table.weight","null":2}]}"#,
        4,
    );
}

#[test]
fn diffmoe_on_images_of_two_to_three() {
    for (size, seed) in [("[8, 12]", 7), ("[12, 8]", 8)] {
        let text = r#"{"kind":"diffmoe","t_kind":"flow","params":{"input_size":SIZE,"in_channels":3,
            "num_classes":4,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,"mlp_ratio":2,
            "MoE_config":{"num_experts":4,"interleave":true}}}"#;
        check(&text.replace("SIZE", size), seed);
    }
}

#[test]
fn a_detail_head_on_rectangular_images() {
    for (size, channels, head, seed) in [
        ("[9, 12]", 3, r#"{"channels":7}"#, 9),
        ("[18, 9]", 3, r#"{"channels":24}"#, 10),
        ("[3, 6]", 1, r#"{"channels":1}"#, 11),
        ("[9, 12]", 3, r#"{"channels":7,"phase":true}"#, 12),
        ("[18, 9]", 1, r#"{"channels":12,"phase":true}"#, 13),
    ] {
        let text = r#"{"kind":"diffmoe","t_kind":"flow","time_scale":1000,"params":{"input_size":SIZE,
            "in_channels":CHANNELS,"num_classes":4,"patch_size":3,"depth":2,"hidden_size":32,"num_heads":2,
            "mlp_ratio":2,"learn_sigma":false,"prediction":"data","detail_head":HEAD,
            "MoE_config":{"num_experts":4,"interleave":true}}}"#;
        let text = text.replace("SIZE", size).replace("CHANNELS", &channels.to_string());
        check(&text.replace("HEAD", head), seed);
    }
}

#[test]
fn token_choice_of_two_experts_with_a_shared_one_and_heads_of_96() {
    check(
        r#"{"kind":"tc","t_kind":"flow","params":{"input_size":10,"num_classes":3,"patch_size":2,
        "depth":2,"hidden_size":96,"num_heads":1,"mlp_ratio":1,"use_swiglu":true,
        "MoE_config":{"num_experts":3,"capacity":2,"n_shared_experts":1,"interleave":true}}}"#,
        5,
    );
}

/// DSMoE: K, sum of weights, experts, their width, side, heads and their width, blocks with experts.
#[test]
fn a_sigmoid_router_with_rotary_positions_and_silu() {
    for (k, scale, experts, width, size, heads, head_dim, interleave, seed) in [
        (2, 2.0, 4, 24, "10", 2, 24, true, 18),
        (5, 2.5, 48, 12, "[6, 10]", 3, 20, true, 19),
        (1, 1.5, 3, 40, "[8, 4]", 1, 72, false, 20),
        (3, 0.75, 64, 8, "6", 2, 4, false, 21),
    ] {
        let text = format!(
            r#"{{"kind":"tc","t_kind":"flow","params":{{"input_size":{size},"num_classes":3,"patch_size":2,"depth":2,
            "hidden_size":48,"num_heads":{heads},"head_dim":{head_dim},"mlp_ratio":1.5,"mlp_act":"silu",
            "rope_type":"2d","MoE_config":{{"router":"sigmoid","num_experts":{experts},"capacity":{k},
            "moe_intermediate_size":{width},"routed_scaling_factor":{scale},"n_group":2,"topk_group":2,
            "interleave":{interleave}}}}}}}"#
        );
        check(&text, seed);
    }
}

/// JiTMoE, and JiT without experts: experts, their width, size, heads and their width, tokens that carry the labels and their first block.
#[test]
fn tokens_that_carry_the_labels_with_rms_norms_and_biases() {
    for (experts, width, size, heads, head_dim, [context, start], seed) in [
        (4, 24, "10", 2, 24, [3, 1], 40),
        (48, 12, "[6, 10]", 3, 20, [32, 2], 41),
        (0, 0, "[8, 4]", 1, 72, [1, 0], 42),
        (3, 8, "6", 2, 8, [5, 0], 43),
    ] {
        let (kind, moe) = if experts == 0 {
            ("dense", String::new())
        } else {
            let moe = format!(
                r#","MoE_config":{{"router":"sigmoid","num_experts":{experts},"capacity":2,
                "moe_intermediate_size":{width},"routed_scaling_factor":2.5}}"#
            );
            ("tc", moe)
        };
        let text = format!(
            r#"{{"kind":"{kind}","t_kind":"flow","space":"pixels","params":{{"input_size":{size},"in_channels":3,
            "num_classes":3,"patch_size":2,"depth":3,"hidden_size":48,"num_heads":{heads},"head_dim":{head_dim},
            "mlp_ratio":1.5,"use_swiglu":true,"swiglu_bias":true,"norm_type":"rmsnorm","rope_type":"2d","pos_embed":true,
            "qk_norm":true,"qk_norm_eps":1e-6,"learn_sigma":false,"prediction":"data",
            "context_tokens":{context},"context_start":{start}{moe}}}}}"#
        );
        check(&text, seed);
    }
}

/// Each part of JiT by itself, in models that have no others.
#[test]
fn rms_norms_biases_and_tokens_with_labels_by_themselves() {
    const TABLES: &str =
        r#""labels":[{"name":"a","tensor":"a","null":2},{"name":"b","tensor":"b","null":4}],"#;
    for (kind, tables, more, seed) in [
        ("dense", "", r#""norm_type":"rmsnorm""#, 44),
        ("diffmoe", "", r#""norm_type":"rmsnorm","MoE_config":{"num_experts":3}"#, 45),
        ("dense", "", r#""norm_type":"rmsnorm","qk_norm":true"#, 46),
        ("dense", "", r#""use_swiglu":true,"swiglu_bias":true"#, 47),
        (
            "diffmoe",
            "",
            r#""use_swiglu":true,"swiglu_bias":true,"MoE_config":{"num_experts":3,"interleave":false}"#,
            48,
        ),
        ("dense", "", r#""rope_type":"2d","pos_embed":true"#, 49),
        ("dense", "", r#""pos_embed":false"#, 50),
        ("dense", TABLES, r#""context_tokens":2,"context_start":1"#, 51),
        (
            "tc",
            TABLES,
            r#""context_tokens":3,"context_start":2,"MoE_config":{"num_experts":3,"capacity":2,"n_shared_experts":1,
            "interleave":false}"#,
            52,
        ),
    ] {
        let text = format!(
            r#"{{"kind":"{kind}","t_kind":"flow",{tables}"params":{{"input_size":6,"num_classes":3,"patch_size":2,"depth":3,
            "hidden_size":32,"num_heads":2,{more}}}}}"#
        );
        check(&text, seed);
    }
}

/// `ProMoE`: kind, capacity, experts, their width and that of the shared one, whether one takes samples without a label, side.
#[test]
fn a_router_by_prototypes_with_reversed_time() {
    for (kind, capacity, experts, width, shared, unconditional, size, interleave, seed) in [
        ("tc", 1.0, 4, 24, 40, true, "10", true, 26),
        ("tc", 1.0, 13, 12, 0, true, "[6, 10]", false, 27),
        ("tc", 1.0, 3, 40, 24, false, "[8, 4]", true, 28),
        ("tc", 1.0, 64, 8, 16, true, "6", false, 29),
        ("ec", 1.0, 4, 24, 40, true, "10", true, 31),
        ("ec", 2.5, 3, 40, 24, false, "[8, 4]", false, 32),
        // A token for each expert, which the quotient would not give.
        ("ec", 1.0, 64, 8, 16, true, "6", false, 33),
        ("ec", 3.0, 4, 12, 0, true, "[6, 10]", true, 34),
    ] {
        let shared = match shared {
            0 => r#""use_shared_expert":false"#.to_owned(),
            width => format!(r#""shared_expert_intermediate_size":{width}"#),
        };
        let text = format!(
            r#"{{"kind":"{kind}","t_kind":"flow","time_scale":1000,"params":{{"input_size":{size},"num_classes":3,
            "patch_size":2,"depth":2,"hidden_size":48,"num_heads":2,"mlp_ratio":1.5,"prediction":"reversed","MoE_config":{{
            "router":"prototypes","num_experts":{experts},"capacity":{capacity},"moe_intermediate_size":{width},{shared},
            "use_uncond_expert":{unconditional},"interleave":{interleave}}}}}}}"#
        );
        check(&text, seed);
    }
}

/// Each part of DSMoE by itself, in models that have no others.
#[test]
fn rotary_positions_silu_and_a_sigmoid_router_by_themselves() {
    for (kind, more, seed) in [
        ("dense", r#""rope_type":"2d","qk_norm":true,"prediction":"data","learn_sigma":false"#, 22),
        ("dense", r#""mlp_act":"silu""#, 23),
        ("dense", r#""qk_norm":true,"qk_norm_eps":0.5,"prediction":"reversed""#, 30),
        ("diffmoe", r#""rope_type":"2d","MoE_config":{"num_experts":3}"#, 24),
        (
            "tc",
            r#""use_swiglu":true,"MoE_config":{"num_experts":3,"capacity":2,"router":"sigmoid",
            "moe_intermediate_size":20}"#,
            25,
        ),
    ] {
        let text = format!(
            r#"{{"kind":"{kind}","t_kind":"flow","params":{{"input_size":6,"num_classes":3,"patch_size":2,"depth":2,
            "hidden_size":32,"num_heads":2,{more}}}}}"#
        );
        check(&text, seed);
    }
}

#[test]
fn expert_choice_of_a_fraction_with_shared_experts_and_heads_of_64() {
    check(
        r#"{"kind":"ec","t_kind":"flow","params":{"input_size":10,"num_classes":3,"patch_size":2,
        "depth":2,"hidden_size":64,"num_heads":1,"mlp_ratio":2,
        "MoE_config":{"num_experts":4,"capacity":1.5,"n_shared_experts":2,"interleave":false}}}"#,
        6,
    );
}

/// As [`with_many_experts`], with the router and the positions of DSMoE.
fn with_a_sigmoid_router() -> String {
    let text = with_many_experts((40, "tc"));
    text.replace(
        r#""capacity":2,"#,
        r#""capacity":5,"router":"sigmoid","moe_intermediate_size":16,"routed_scaling_factor":2.5,"#,
    )
    .replace(r#""mlp_ratio":1,"#, r#""mlp_ratio":1,"rope_type":"2d","mlp_act":"silu","#)
}

/// The same with a router by prototypes.
fn with_prototypes() -> String {
    with_many_experts((40, "tc")).replace(
        r#""capacity":2,"#,
        r#""router":"prototypes","moe_intermediate_size":16,"shared_expert_intermediate_size":8,"#,
    )
}

/// A `DiffMoE` and a token-choice model with more experts than a 32-bit word has bits.
const MANY: [(usize, &str); 2] = [(40, "diffmoe"), (64, "tc")];

fn with_many_experts((experts, kind): (usize, &str)) -> String {
    format!(
        r#"{{"kind":"{kind}","t_kind":"flow","params":{{"input_size":8,"num_classes":3,"patch_size":2,
        "depth":2,"hidden_size":32,"num_heads":2,"mlp_ratio":1,
        "MoE_config":{{"num_experts":{experts},"capacity":2,"interleave":true}}}}}}"#
    )
}

#[test]
fn more_experts_than_bits_in_a_word() {
    for (model, seed) in MANY.into_iter().zip([14, 15]) {
        check(&with_many_experts(model), seed);
    }
}

#[test]
fn both_backends_record_the_same_many_experts() {
    let _turn = turn();
    let texts = MANY.into_iter().map(with_many_experts);
    let chosen = with_prototypes().replace(r#""kind":"tc""#, r#""kind":"ec""#);
    let texts = texts.chain([with_a_sigmoid_router(), with_prototypes(), chosen]);
    for (text, seed) in texts.zip(16..) {
        let config = Config::from_json(&text).unwrap();
        let (_, checkpoint) = checkpoint(&text, seed);
        let run = RunConfig {
            latent: gaussian(seed, 1, 2 * config.sample_len()),
            labels: vec![vec![0, 2]],
            record_scores: true,
            ..RunConfig::default()
        };
        let time = 0.4;
        let (input, output, branch) = (Latent::Sample, Latent::Output(0), Branch::Conditional);
        let pass = [Instruction::Forward { input, output, time, branch }];
        let routing = |engine: &mut dyn Engine| {
            engine.start(&run).unwrap();
            engine.finish_step(&pass).unwrap();
            engine.take_snapshot().unwrap().routing
        };
        let on_cpu = Arc::new(CpuModel::load(&checkpoint).unwrap());
        let wanted = routing(&mut CpuEngine::new(on_cpu, 2));
        let layer = &wanted[0].layers[0];
        assert!(layer.masks.iter().any(|mask| mask >> 32 != 0), "experts beyond 32 take tokens");
        for profile in [Profile::Software, Profile::Gpu] {
            let model = GpuModel::load(device(profile), &checkpoint, WeightPrecision::F32).unwrap();
            let got = routing(&mut GpuEngine::new(Arc::new(model), 2).unwrap());
            assert_eq!(got[0].layers[0].masks, layer.masks, "{text}");
            let sizes = |layer: &LayerRouting| {
                layer.scores.as_ref().map(|scores| (scores.gate.len(), scores.need.len()))
            };
            assert_eq!(sizes(&got[0].layers[0]), sizes(layer));
            let gates = |layer: &LayerRouting| layer.scores.as_ref().unwrap().gate.clone();
            let pairs = gates(&got[0].layers[0]).into_iter().zip(gates(layer));
            let mut errors = pairs.map(|(a, b)| (a.to_f32() - b.to_f32()).abs());
            assert!(errors.all(|error| error < 0.01), "{text}");
        }
    }
}
