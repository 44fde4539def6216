//! A model that reads prompts, on the CPU and with both kinds of GPU kernels: against the recorded answers of
//! the training code, and against itself where an answer must not depend on something.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diffmoe::checkpoint::Checkpoint;
use diffmoe::cpu::{CpuEngine, CpuModel};
use diffmoe::diffusion::{Next, Plan, Request, Solver};
use diffmoe::gpu::{Gpu, GpuOptions, Profile};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{
    Branch, Engine, GpuEngine, GpuModel, Op, Routing, RoutingRule, RunSpec, Slot,
};
use safetensors::{Dtype, SafeTensors};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/t2i_tiny")
}

fn checkpoint() -> Checkpoint {
    Checkpoint::open(&folder().join("model.safetensors")).unwrap()
}

/// Software drivers do not like several devices at work at once.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The three ways to compute a model.
const DEVICES: [&str; 3] = ["cpu", "software kernels", "gpu kernels"];

fn engine(device: &str, batch: usize) -> Box<dyn Engine> {
    let checkpoint = checkpoint();
    let profile = match device {
        "cpu" => {
            let model = Arc::new(CpuModel::load(&checkpoint).unwrap());
            return Box::new(CpuEngine::new(model, batch));
        }
        "software kernels" => Profile::Software,
        _ => Profile::Gpu,
    };
    let options = GpuOptions {
        profile: Some(profile),
        poison: true,
        panic_on_error: true,
        ..GpuOptions::default()
    };
    let gpu = Gpu::headless_with(options).expect("these tests need a GPU or Mesa's lavapipe");
    let model = GpuModel::load(Arc::new(gpu), &checkpoint, WeightPrecision::F32).unwrap();
    Box::new(GpuEngine::new(Arc::new(model), batch).unwrap())
}

/// Shape and values of every recorded tensor.
fn recorded() -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(folder().join("io.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let read = |view: &safetensors::tensor::TensorView| -> Vec<f32> {
        let words = view.data().as_chunks::<4>().0.iter();
        match view.dtype() {
            Dtype::F32 => words.map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::I32 => words.map(|&b| i32::from_le_bytes(b) as f32).collect(),
            _ => view.data().iter().map(|&b| f32::from(b)).collect(),
        }
    };
    file.iter().map(|(name, v)| (name.to_owned(), (v.shape().to_vec(), read(&v)))).collect()
}

fn case() -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder().join("case.json")).unwrap()).unwrap()
}

/// The recorded run, with the official pool rule.
fn run(x: &[f32]) -> RunSpec {
    let case = case();
    let prompts = case["prompts"].as_array().unwrap().iter();
    RunSpec {
        latent: x.to_vec(),
        prompts: prompts.map(|p| p.as_str().unwrap().to_owned()).collect(),
        negative: case["negative"].as_str().unwrap().to_owned(),
        routing: Routing { rule: RoutingRule::Pool, ..Routing::default() },
        ..RunSpec::default()
    }
}

fn sample(
    engine: &mut dyn Engine,
    run: &RunSpec,
    solver: Solver,
    steps: u32,
    guidance: f32,
) -> Vec<f32> {
    let pictures = 0..engine.batch() as u64;
    let request = Request { solver, steps, guidance, seed: 0, pictures };
    let mut plan = Plan::new(checkpoint().config(), request);
    engine.start(run);
    let mut latent = Vec::new();
    while let Next::Step(ops) = plan.next_step() {
        engine.finish_step(&ops).unwrap();
        while let Some(snapshot) = engine.take_snapshot() {
            plan.observe(&snapshot);
            latent = snapshot.latent;
        }
    }
    latent
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

#[test]
fn recorded_passes_and_samples_are_reproduced() {
    let _turn = turn();
    let (io, case) = (recorded(), case());
    let number = |key: &str| case[key].as_f64().unwrap();
    for device in DEVICES {
        let mut engine = engine(device, 3);
        let run = run(&io["x"].1);
        let taps = engine.forward_with_taps(&run, &io["t"].1).unwrap();
        let mut compared = Vec::new();
        // Taps come in the order of computation: the first that is wrong is where to look.
        for (name, shape, got) in &taps {
            let Some((wanted_shape, want)) = io.get(name) else { continue };
            assert_eq!(shape, wanted_shape, "{device} {name}");
            let error = largest_difference(got, want);
            let last = name.rsplit('.').next().unwrap();
            let is_exact = ["k", "selected"].contains(&last) || last.ends_with("tokens");
            println!("{device} {name}: {error:.2e}");
            assert!(error <= if is_exact { 0.0 } else { 2e-5 }, "{device} {name}: {error} off");
            compared.push(name.as_str());
        }
        for tap in ["tokens", "negative_tokens", "text.out", "text.pooled", "blocks.1.kv", "out"] {
            assert!(compared.contains(&tap), "{device}: {tap} was not compared");
        }
        let guidance = number("cfg_scale") as f32;
        for (key, solver, steps, guidance) in [
            ("euler_nocfg", Solver::Euler, number("steps"), 1.0),
            ("euler_cfg", Solver::Euler, number("steps"), guidance),
            ("heun_cfg", Solver::Heun, number("heun_steps"), guidance),
        ] {
            let got = sample(engine.as_mut(), &run, solver, steps as u32, guidance);
            let error = largest_difference(&got, &io[key].1);
            println!("{device} {key}: {error:.2e}");
            assert!(error <= 1e-4, "{device} {key}: {error} off");
        }
    }
}

/// The recorded run with other prompts, and each token for itself.
fn asking(x: &[f32], prompts: &[&str], negative: &str) -> RunSpec {
    RunSpec {
        prompts: prompts.iter().map(|&p| p.to_owned()).collect(),
        negative: negative.to_owned(),
        routing: Routing::default(),
        ..run(x)
    }
}

#[test]
fn prompts_are_independent_of_batch_mates_and_of_earlier_runs() {
    let _turn = turn();
    let x = recorded().remove("x").unwrap().1;
    let size = x.len() / 3;
    for device in DEVICES {
        let mut three = engine(device, 3);
        let mut one = engine(device, 1);
        let draw = |engine: &mut dyn Engine, x: &[f32], prompts: &[&str], negative: &str| {
            sample(engine, &asking(x, prompts, negative), Solver::Euler, 2, 1.7)
        };
        // Few different prompts first, then more than there is memory for, then few again.
        let same = draw(three.as_mut(), &x, &["robot"; 3], "blob");
        let mixed = draw(three.as_mut(), &x, &["robot", "a red fox", "flat style"], "blob");
        assert!(largest_difference(&same[..size], &mixed[..size]) <= 1e-6, "{device}: first");
        assert!(largest_difference(&same[size..], &mixed[size..]) > 1e-3, "{device}: others");
        let again = draw(three.as_mut(), &x, &["robot"; 3], "blob");
        assert_eq!(same, again, "{device}: the same run gives the same bits");
        let alone = draw(one.as_mut(), &x[size..2 * size], &["a red fox"], "blob");
        assert!(largest_difference(&alone, &mixed[size..2 * size]) <= 1e-5, "{device}: alone");
        // Case and spaces do not matter; the negative prompt does.
        let shouted = draw(one.as_mut(), &x[size..2 * size], &["A RED  fox"], "blob");
        assert_eq!(alone, shouted, "{device}");
        let other = draw(one.as_mut(), &x[size..2 * size], &["a red fox"], "");
        assert!(largest_difference(&alone, &other) > 1e-3, "{device}: negative");
    }
}

#[test]
fn guidance_away_from_the_prompt_itself_is_no_guidance() {
    let _turn = turn();
    let x = recorded().remove("x").unwrap().1;
    for device in DEVICES {
        let mut engine = engine(device, 3);
        let run = asking(&x, &["a red fox"; 3], "a red fox");
        let guided = sample(engine.as_mut(), &run, Solver::Euler, 2, 3.0);
        let plain = sample(engine.as_mut(), &run, Solver::Euler, 2, 1.0);
        assert!(largest_difference(&guided, &plain) <= 1e-5, "{device}");
    }
}

#[test]
fn a_pass_over_both_branches_sees_both_prompts() {
    let _turn = turn();
    let x = recorded().remove("x").unwrap().1;
    let sum = |ops: Vec<Op>| {
        let terms = vec![(1.0, Slot::Output(0)), (2.0, Slot::Output(1))];
        [ops, vec![Op::Combine { output: Slot::Latent, terms }]].concat()
    };
    let pass =
        |branch, n| Op::Forward { input: Slot::Latent, output: Slot::Output(n), time: 0.3, branch };
    let one = sum(vec![pass(Branch::Conditional, 0), pass(Branch::Unconditional, 1)]);
    let both = sum(vec![Op::JointForward { input: Slot::Latent, time: 0.3 }]);
    for device in DEVICES {
        let mut engine = engine(device, 3);
        let mut compute = |run: &RunSpec, ops: &[Op]| {
            engine.start(run);
            engine.finish_step(ops).unwrap();
            engine.take_snapshot().unwrap().latent
        };
        let first = asking(&x, &["robot"; 3], "blob");
        let want = compute(&first, &one);
        assert!(largest_difference(&compute(&first, &both), &want) <= 1e-5, "{device}");
        // More prompts than before: memory that a joint pass has to follow.
        let second = asking(&x, &["robot", "a red fox", "flat style"], "");
        let got = compute(&second, &both);
        assert!(largest_difference(&got, &compute(&second, &one)) <= 1e-5, "{device}");
        assert!(largest_difference(&got, &want) > 1e-3, "{device}");
    }
}
