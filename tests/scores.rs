//! The router's scores in the trace, and muted experts, on both backends: scores explain the masks, recording changes
//! nothing else, and a muted expert takes no token under any rule.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod device;

use std::sync::Arc;

use device::{device, turn};
use diffmoe::checkpoint::{Checkpoint, TensorOut, random_tensor, write_safetensors};
use diffmoe::engine::{
    CpuEngine, CpuModel, Engine, GpuEngine, GpuModel, Inspect, LayerRouting, RunConfig, Scores,
    Snapshot,
};
use diffmoe::gpu::Profile;
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Config, Routing, RoutingRule};
use diffmoe::scheduler::{Branch, Instruction, Latent, gaussian};
use diffmoe::trace::logit;

const BATCH: usize = 2;
const EXPERTS: usize = 5;

/// A random model of three blocks with experts in the second, or in all.
fn checkpoint(kind: &str, interleave: bool) -> Checkpoint {
    let text = format!(
        r#"{{"kind":"{kind}","t_kind":"flow","params":{{"input_size":8,"num_classes":10,"patch_size":2,"depth":3,
        "hidden_size":32,"num_heads":2,"MoE_config":{{"num_experts":{EXPERTS},"capacity":1,
        "interleave":{interleave}}}}}}}"#
    );
    let config = Config::from_json(&text).unwrap();
    let tensor = |spec: diffmoe::model::TensorSpec| {
        let mut values = random_tensor(&config, &spec, 3);
        if spec.name.ends_with("expert_threshold") {
            values.iter_mut().zip([0.45, 0.5, 0.55, 0.48, 0.52]).for_each(|(v, t)| *v = t);
        }
        TensorOut::f32(spec.name, &spec.shape, &values)
    };
    let tensors: Vec<_> = config.tensors().into_iter().map(tensor).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &tensors, [("diffmoe".to_owned(), text)]).unwrap();
    Checkpoint::open(&path).unwrap()
}

/// The processor, and both families of kernels.
fn engines(checkpoint: &Checkpoint) -> Vec<Box<dyn Inspect>> {
    let on_cpu = Arc::new(CpuModel::load(checkpoint).unwrap());
    let on_gpu = [Profile::Software, Profile::Gpu].map(|profile| -> Box<dyn Inspect> {
        let model = GpuModel::load(device(profile), checkpoint, WeightPrecision::F32).unwrap();
        Box::new(GpuEngine::new(Arc::new(model), BATCH).unwrap())
    });
    std::iter::once(Box::new(CpuEngine::new(on_cpu, BATCH)) as Box<dyn Inspect>)
        .chain(on_gpu)
        .collect()
}

fn run(config: &Config, rule: RoutingRule, record_scores: bool, muted: &str) -> RunConfig {
    RunConfig {
        latent: gaussian(5, 1, BATCH * config.sample_len()),
        labels: vec![vec![1, 7]],
        routing: Routing { rule, ..Routing::default() },
        record_scores,
        muted: muted.parse().unwrap(),
        ..RunConfig::default()
    }
}

/// A step of separate passes and one over both branches.
fn step() -> Vec<Instruction> {
    let pass = |output, branch| Instruction::Forward {
        input: Latent::Sample,
        output: Latent::Output(output),
        time: 0.3,
        branch,
    };
    let terms = vec![(1.0, Latent::Sample), (0.2, Latent::Output(0)), (-0.1, Latent::Output(1))];
    vec![
        pass(2, Branch::Conditional),
        pass(3, Branch::Unconditional),
        Instruction::JointForward { input: Latent::Sample, time: 0.3 },
        Instruction::Combine { output: Latent::Sample, terms },
    ]
}

/// The snapshot of the second of two steps: the first has seen to it that memory is used again.
fn compute(engine: &mut dyn Inspect, run: &RunConfig) -> Snapshot {
    engine.start(run).unwrap();
    engine.finish_step(&step()).unwrap();
    engine.finish_step(&step()).unwrap();
    engine.take_snapshot().unwrap();
    engine.take_snapshot().unwrap()
}

fn layers(snapshot: &Snapshot) -> impl Iterator<Item = &LayerRouting> {
    snapshot.routing.iter().flat_map(|pass| &pass.layers)
}

/// Half a unit in the last place of an f16, and what f32 sums differ by.
fn slack(value: f32) -> f32 {
    value.abs() / 2048.0 + 1e-4
}

#[test]
fn under_the_token_rule_the_scores_explain_every_mask() {
    let _turn = turn();
    let checkpoint = checkpoint("diffmoe", false);
    let run = RunConfig {
        shifts: "1=0.5,1:3=-1".parse().unwrap(),
        ..run(checkpoint.config(), RoutingRule::Token, true, "0:2")
    };
    for mut engine in engines(&checkpoint) {
        let (mut sure, mut all) = (0, 0);
        let snapshot = compute(&mut *engine, &run);
        assert_eq!(snapshot.routing.len(), 4, "two passes, and one that counts as two");
        for layer in layers(&snapshot) {
            let Scores { gate, need, thresholds } = layer.scores.as_ref().unwrap();
            assert_eq!((gate.len(), need.len()), (32 * EXPERTS, 32 * EXPERTS));
            let muted = if layer.block == 0 { f32::INFINITY } else { 0.55 };
            for (e, stored) in [0.45, 0.5, muted, 0.48, 0.52].into_iter().enumerate() {
                let moved = run.shifts.of(layer.block, e);
                let distance = logit(thresholds[e]) - logit(stored) - moved;
                let same = thresholds[e].to_bits() == stored.to_bits();
                assert!(if moved == 0.0 { same } else { distance.abs() < 1e-5 }, "expert {e}");
            }
            for (i, need) in need.iter().map(|need| need.to_f32()).enumerate() {
                let (token, expert) = (i / EXPERTS, i % EXPERTS);
                let margin = need - logit(thresholds[expert]);
                all += 1;
                if margin.abs() > slack(need) {
                    sure += 1;
                    let took = layer.masks[token] >> expert & 1 == 1;
                    assert_eq!(margin > 0.0, took, "{}: {margin}", engine.device());
                }
            }
        }
        println!("{}: {sure} of {all} beyond rounding", engine.device());
        assert!(sure * 100 > all * 95, "the slack hides too much: {sure} of {all}");
    }
}

#[test]
fn both_backends_record_the_same_scores() {
    let _turn = turn();
    for kind in ["diffmoe", "tc", "ec"] {
        let checkpoint = checkpoint(kind, false);
        let run = run(checkpoint.config(), RoutingRule::Pool, true, "");
        let mut engines = engines(&checkpoint);
        let want = compute(&mut *engines.remove(0), &run);
        for mut engine in engines {
            let got = compute(&mut *engine, &run);
            let mut worst = 0.0_f32;
            for (got, want) in layers(&got).zip(layers(&want)) {
                assert_eq!((got.block, &got.masks), (want.block, &want.masks), "{kind}");
                let (got, want) = (got.scores.as_ref().unwrap(), want.scores.as_ref().unwrap());
                assert_eq!(got.thresholds, want.thresholds);
                assert_eq!(got.need.len(), want.need.len());
                assert_eq!(got.need.is_empty(), kind != "diffmoe");
                let pairs = got.gate.iter().zip(&want.gate).chain(got.need.iter().zip(&want.need));
                for (a, b) in pairs {
                    let (a, b) = (a.to_f32(), b.to_f32());
                    worst = worst.max((a - b).abs());
                    // Each is rounded by itself.
                    assert!((a - b).abs() <= 2.0 * slack(b), "{kind}: {a} for {b}");
                }
            }
            println!("{kind}, {}: scores differ by {worst:.1e} at most", engine.device());
        }
    }
}

#[test]
fn gates_before_their_softmax_are_those_of_the_pass() {
    let _turn = turn();
    let checkpoint = checkpoint("diffmoe", false);
    let config = checkpoint.config();
    let run = run(config, RoutingRule::Token, true, "");
    for mut engine in engines(&checkpoint) {
        let taps = engine.forward_with_taps(&run, &[0.3; BATCH]).unwrap();
        engine.start(&run).unwrap();
        engine.finish_step(&step()).unwrap();
        let snapshot = engine.take_snapshot().unwrap();
        for layer in &snapshot.routing[0].layers {
            let tap = |what: &str| {
                let name = format!("blocks.{}.{what}", layer.block);
                taps.iter().find(|tap| tap.0 == name).unwrap().2.clone()
            };
            let scores = layer.scores.as_ref().unwrap();
            for (got, want) in scores.need.iter().zip(tap("capacity")) {
                let got = 1.0 / (1.0 + (-got.to_f32()).exp());
                assert!((got - want).abs() <= 1e-3, "{got} for {want}");
            }
            let gates = tap("gate");
            for (logits, want) in scores.gate.chunks(EXPERTS).zip(gates.chunks(EXPERTS)) {
                let powers: Vec<f32> = logits.iter().map(|logit| logit.to_f32().exp()).collect();
                let sum: f32 = powers.iter().sum();
                for (power, want) in powers.iter().zip(want) {
                    assert!((power / sum - want).abs() <= 1e-3, "{} for {want}", power / sum);
                }
            }
        }
    }
}

#[test]
fn recording_changes_nothing_but_the_record() {
    let _turn = turn();
    let checkpoint = checkpoint("diffmoe", false);
    let config = checkpoint.config();
    let [off, on] = [false, true].map(|on| run(config, RoutingRule::Token, on, ""));
    for mut engine in engines(&checkpoint) {
        // On and off again on one engine.
        let [first, recorded, last] = [&off, &on, &off].map(|run| compute(&mut *engine, run));
        for other in [&recorded, &last] {
            assert_eq!(first.latent, other.latent, "{}", engine.device());
            assert!(layers(&first).map(|l| &l.masks).eq(layers(other).map(|l| &l.masks)));
        }
        assert!(layers(&recorded).all(|layer| layer.scores.is_some()));
        assert!(layers(&first).chain(layers(&last)).all(|layer| layer.scores.is_none()));
    }
}

#[test]
fn recording_takes_no_dispatch_of_its_own() {
    let _turn = turn();
    let checkpoint = checkpoint("diffmoe", false);
    let model = GpuModel::load(device(Profile::Software), &checkpoint, WeightPrecision::F32);
    let mut engine = GpuEngine::new(Arc::new(model.unwrap()), BATCH).unwrap();
    let mut dispatches = |record| {
        engine.start(&run(checkpoint.config(), RoutingRule::Token, record, "")).unwrap();
        engine.dispatches(&step()).unwrap()
    };
    let [off, on] = [false, true].map(&mut dispatches);
    assert_eq!(off, on);
}

#[test]
fn a_muted_expert_takes_no_token_and_the_others_change_only_through_what_they_see() {
    let _turn = turn();
    for kind in ["diffmoe", "tc", "ec"] {
        let checkpoint = checkpoint(kind, false);
        let config = checkpoint.config();
        let rules = [RoutingRule::Token, RoutingRule::Pool];
        let rules = if kind == "diffmoe" { &rules[..] } else { &rules[..1] };
        for &rule in rules {
            let [all, none] = [false, true].map(|record| run(config, rule, record, ""));
            let muted = run(config, rule, false, "1:0,1:3");
            for mut engine in engines(&checkpoint) {
                let what = format!("{kind}, {rule:?}, {}", engine.device());
                engine.start(&all).unwrap();
                engine.finish_step(&step()).unwrap();
                let before = engine.take_snapshot().unwrap();
                engine.start(&muted).unwrap();
                engine.finish_step(&step()).unwrap();
                let after = engine.take_snapshot().unwrap();
                for (a, b) in before.routing.iter().zip(&after.routing) {
                    // Block 0 sees the same, and so does the router of block 1.
                    assert_eq!(a.layers[0].masks, b.layers[0].masks, "{what}");
                    let others: Vec<u64> = a.layers[1].masks.iter().map(|m| m & 0b10110).collect();
                    assert_eq!(b.layers[1].masks, others, "{what}");
                    assert_ne!(a.layers[1].masks, others, "{what}: they had tokens before");
                }
                assert_ne!(before.latent, after.latent, "{what}");
                assert!(after.latent.iter().all(|v| v.is_finite()), "{what}");
                // Nothing of it stays.
                let [first, last] = [&all, &none].map(|run| compute(&mut *engine, run));
                assert_eq!(first.latent, last.latent, "{what}");
                engine.start(&all).unwrap();
                engine.finish_step(&step()).unwrap();
                assert_eq!(engine.take_snapshot().unwrap().latent, before.latent, "{what}");
            }
        }
    }
}

#[test]
fn a_layer_of_muted_experts_adds_nothing() {
    let _turn = turn();
    let checkpoint = checkpoint("diffmoe", true);
    let all: Vec<String> = (0..EXPERTS).map(|expert| format!("1:{expert}")).collect();
    let run = run(checkpoint.config(), RoutingRule::Pool, true, &all.join(","));
    let mut outcomes = Vec::new();
    for mut engine in engines(&checkpoint) {
        let snapshot = compute(&mut *engine, &run);
        assert!(layers(&snapshot).all(|layer| layer.masks.iter().all(|&mask| mask == 0)));
        outcomes.push(snapshot.latent);
    }
    for other in &outcomes[1..] {
        let pairs = outcomes[0].iter().zip(other);
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
        assert!(worst < 1e-4, "{worst}");
    }
}

/// Milliseconds of a step.
fn time_step(engine: &mut dyn Engine) -> f64 {
    let begin = std::time::Instant::now();
    engine.finish_step(&step()).unwrap();
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    engine.take_snapshot().unwrap();
    ms
}

/// `cargo nextest run --features import --test scores --run-ignored only --no-capture`
#[test]
#[ignore = "measures time"]
fn recording_costs_less_than_a_tenth_of_a_step() {
    const PAIRS: usize = 25;
    let _turn = turn();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/emoji.safetensors");
    let checkpoint = Checkpoint::open(std::path::Path::new(path)).unwrap();
    let config = checkpoint.config();
    let [off, on] = [false, true].map(|record| RunConfig {
        labels: config.labels.iter().map(|_| vec![1, 7]).collect(),
        ..run(config, RoutingRule::Token, record, "")
    });
    // Two engines of each kind that take turns, so that whatever else the machine does meets both.
    let pairs = engines(&checkpoint).into_iter().zip(engines(&checkpoint));
    // A software adapter has its own family of kernels; the other says nothing there.
    for (mut plain, mut recording) in pairs.take(2) {
        plain.start(&off).unwrap();
        recording.start(&on).unwrap();
        let mut times = Vec::new();
        for _ in 0..PAIRS {
            times.push((time_step(&mut *plain), time_step(&mut *recording)));
        }
        // The first step also records its dispatches.
        let times = &times[1..];
        let median = |of: &dyn Fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = times.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let ratio = median(&|(off, on)| on / off);
        println!(
            "{}: {:.1} ms without, {:.1} ms with scores, median of ratios {ratio:.3}",
            plain.device(),
            median(&|times| times.0),
            median(&|times| times.1)
        );
        assert!(ratio < 1.1, "{}: {ratio}", plain.device());
    }
}
