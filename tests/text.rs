//! A text-conditioned model on the CPU and with both GPU kernel families: compared with recorded results of the
//! training code, and with itself where results must not depend on something.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod device;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use device::{device, turn};
use diffmoe::checkpoint::{Checkpoint, write_model};
use diffmoe::engine::{Branches, Engine, Footprint, GpuEngine, GpuModel, Inspect, RunConfig};
use diffmoe::engine::{CpuEngine, CpuModel};
use diffmoe::gpu::Profile;
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Config, Routing, RoutingRule, Storage, TensorSpec};
use diffmoe::platform::Bytes;
use diffmoe::scheduler::{Branch, Instruction, Latent};
use diffmoe::scheduler::{Next, Observation, ScheduleConfig, SchedulerKind, StepNoise};
use safetensors::{Dtype, SafeTensors};

/// The recorded models: one whose tokenizer is a WordPiece, one with byte-pair encoding.
const CASES: [&str; 2] = ["t2i_tiny", "t2i_bpe"];

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(case)
}

fn checkpoint_of(case: &str) -> Checkpoint {
    Checkpoint::open(&folder(case).join("model.safetensors")).unwrap()
}

fn checkpoint() -> Checkpoint {
    checkpoint_of(CASES[0])
}

/// The three ways to compute a model.
const DEVICES: [&str; 3] = ["cpu", "software kernels", "gpu kernels"];

fn engine(device: &str, batch: usize) -> Box<dyn Inspect> {
    engine_of(&checkpoint(), device, batch)
}

fn engine_of(checkpoint: &Checkpoint, place: &str, batch: usize) -> Box<dyn Inspect> {
    let profile = match place {
        "cpu" => {
            let model = Arc::new(CpuModel::load(checkpoint).unwrap());
            return Box::new(CpuEngine::new(model, batch));
        }
        "software kernels" => Profile::Software,
        _ => Profile::Gpu,
    };
    let model = GpuModel::load(device(profile), checkpoint, WeightPrecision::F32).unwrap();
    Box::new(GpuEngine::new(Arc::new(model), batch).unwrap())
}

type Recorded = HashMap<String, (Vec<usize>, Vec<f32>)>;

/// Shape and values of every recorded tensor.
fn recorded() -> Recorded {
    recorded_of(CASES[0])
}

fn recorded_of(case: &str) -> Recorded {
    let bytes = std::fs::read(folder(case).join("io.safetensors")).unwrap();
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

fn description(case: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder(case).join("case.json")).unwrap()).unwrap()
}

/// The recorded run, with the official pool rule.
fn run(x: &[f32]) -> RunConfig {
    run_of(CASES[0], x)
}

fn run_of(case: &str, x: &[f32]) -> RunConfig {
    let case = description(case);
    let prompts = case["prompts"].as_array().unwrap().iter();
    RunConfig {
        latent: x.to_vec(),
        prompts: prompts.map(|p| p.as_str().unwrap().to_owned()).collect(),
        negative: case["negative"].as_str().unwrap().to_owned(),
        routing: Routing { rule: RoutingRule::Pool, ..Routing::default() },
        ..RunConfig::default()
    }
}

fn sample(
    engine: &mut dyn Engine,
    run: &RunConfig,
    scheduler: &str,
    steps: u32,
    guidance: f32,
) -> Vec<f32> {
    let noise = StepNoise::Seeded { seed: 0, images: 0..engine.batch() as u64 };
    let kind: SchedulerKind = scheduler.parse().unwrap();
    let run_config = ScheduleConfig::new(steps, guidance, noise);
    let mut scheduler = kind.schedule(checkpoint().config(), run_config);
    engine.start(run).unwrap();
    let mut latent = Vec::new();
    while let Next::Step(ops) = scheduler.next() {
        engine.finish_step(&ops).unwrap();
        while let Some(snapshot) = engine.take_snapshot() {
            scheduler.observe(Observation { sample: &snapshot.latent, reports: &snapshot.reports });
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
    for case in CASES {
        for device in DEVICES {
            reproduce(case, device);
        }
    }
}

fn reproduce(case: &str, device: &str) {
    let (io, description) = (recorded_of(case), description(case));
    let number = |key: &str| description[key].as_f64().unwrap();
    let mut engine = engine_of(&checkpoint_of(case), device, 3);
    let run = run_of(case, &io["x"].1);
    let taps = engine.forward_with_taps(&run, &io["t"].1).unwrap();
    let mut compared = Vec::new();
    // Taps come in the order of computation: the first that is wrong is where to look.
    for (name, shape, got) in &taps {
        let Some((wanted_shape, want)) = io.get(name) else { continue };
        assert_eq!(shape, wanted_shape, "{case} {device} {name}");
        let error = largest_difference(got, want);
        let last = name.rsplit('.').next().unwrap();
        let is_exact = ["k", "selected"].contains(&last) || last.ends_with("tokens");
        println!("{case} {device} {name}: {error:.2e}");
        assert!(error <= if is_exact { 0.0 } else { 2e-5 }, "{case} {device} {name}: {error} off");
        compared.push(name.as_str());
    }
    for tap in ["tokens", "negative_tokens", "text.out", "text.pooled", "blocks.1.kv", "out"] {
        assert!(compared.contains(&tap), "{case} {device}: {tap} was not compared");
    }
    let guidance = number("cfg_scale") as f32;
    for (key, solver, steps, guidance) in [
        ("euler_nocfg", "euler", number("steps"), 1.0),
        ("euler_cfg", "euler", number("steps"), guidance),
        ("heun_cfg", "heun", number("heun_steps"), guidance),
    ] {
        let got = sample(engine.as_mut(), &run, solver, steps as u32, guidance);
        let error = largest_difference(&got, &io[key].1);
        println!("{case} {device} {key}: {error:.2e}");
        assert!(error <= 1e-4, "{case} {device} {key}: {error} off");
    }
}

/// The recorded run with other prompts, and each token for itself.
fn asking(x: &[f32], prompts: &[&str], negative: &str) -> RunConfig {
    RunConfig {
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
            sample(engine, &asking(x, prompts, negative), "euler", 2, 1.7)
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
        let guided = sample(engine.as_mut(), &run, "euler", 2, 3.0);
        let plain = sample(engine.as_mut(), &run, "euler", 2, 1.0);
        assert!(largest_difference(&guided, &plain) <= 1e-5, "{device}");
    }
}

#[test]
fn a_pass_over_both_branches_sees_both_prompts() {
    let _turn = turn();
    let x = recorded().remove("x").unwrap().1;
    let sum = |ops: Vec<Instruction>| {
        let terms = vec![(1.0, Latent::Output(0)), (2.0, Latent::Output(1))];
        [ops, vec![Instruction::Combine { output: Latent::Sample, terms }]].concat()
    };
    let pass = |branch, n| Instruction::Forward {
        input: Latent::Sample,
        output: Latent::Output(n),
        time: 0.3,
        branch,
    };
    let one = sum(vec![pass(Branch::Conditional, 0), pass(Branch::Unconditional, 1)]);
    let both = sum(vec![Instruction::JointForward { input: Latent::Sample, time: 0.3 }]);
    for device in DEVICES {
        let mut engine = engine(device, 3);
        let mut compute = |run: &RunConfig, ops: &[Instruction]| {
            engine.start(run).unwrap();
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

/// The recorded model with these label tables, and with something added to the bias of its pooled text.
fn with_labels(tables: &[(&str, u32)], more: &[f32]) -> Checkpoint {
    let plain = checkpoint();
    let mut text: serde_json::Value = serde_json::from_str(plain.config_text()).unwrap();
    let entry = |(name, null): &(&str, u32)| {
        let tensor = format!("{name}_embedder.weight");
        serde_json::json!({"name": name, "null": (null), "tensor": tensor})
    };
    text["labels"] = tables.iter().map(entry).collect();
    let text = text.to_string();
    let config = Config::from_json(&text).unwrap();
    let read = |spec: &TensorSpec| {
        if let Some(i) = tables.iter().position(|(name, _)| spec.name.starts_with(name)) {
            return Ok(table(i as u32 + 1, spec.shape[0] * spec.shape[1]));
        }
        let mut values = plain.read(&spec.name)?;
        if spec.name == "text_pool.bias" {
            values.iter_mut().zip(more).for_each(|(v, m)| *v += m);
        }
        Ok(values)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labelled.safetensors");
    write_model(&path, &text, &config.tensors(), Storage::F32, None, &read).unwrap();
    Checkpoint::from_bytes("labelled", Bytes::new(std::fs::read(path).unwrap())).unwrap()
}

/// Numbers between -0.4 and 0.4 in no order.
fn table(seed: u32, count: usize) -> Vec<f32> {
    let scramble = |i: u32| (i + 1000 * seed).wrapping_mul(2_654_435_761) >> 8;
    (0..count as u32).map(|i| 0.8 * scramble(i) as f32 / (1 << 24) as f32 - 0.4).collect()
}

/// One pass over a branch of a run.
fn pass(engine: &mut dyn Engine, run: &RunConfig, branch: Branch) -> Vec<f32> {
    let (input, output) = (Latent::Sample, Latent::Output(0));
    let terms = vec![(1.0, output)];
    let ops = [
        Instruction::Forward { input, output, time: 0.4, branch },
        Instruction::Combine { output: input, terms },
    ];
    engine.start(run).unwrap();
    engine.finish_step(&ops).unwrap();
    engine.take_snapshot().unwrap().latent
}

#[test]
fn a_label_adds_its_row_to_what_the_prompt_adds() {
    let _turn = turn();
    let x = recorded().remove("x").unwrap().1;
    let labelled = with_labels(&[("class", 4), ("style", 2)], &[]);
    let d = labelled.config().hidden_size;
    let (classes, styles) = (table(1, 5 * d), table(2, 3 * d));
    let rows = |class: usize, style: usize| -> Vec<f32> {
        (0..d).map(|i| classes[class * d + i] + styles[style * d + i]).collect()
    };
    let prompts = ["robot", "a red fox", "flat style"];
    for device in DEVICES {
        let mut got = engine_of(&labelled, device, 3);
        let asked =
            RunConfig { labels: vec![vec![3; 3], vec![1; 3]], ..asking(&x, &prompts, "blob") };
        // The other branch sees the null rows and the negative prompt.
        for (branch, class, style) in [(Branch::Conditional, 3, 1), (Branch::Unconditional, 4, 2)] {
            let mut want = engine_of(&with_labels(&[], &rows(class, style)), device, 3);
            let want = pass(want.as_mut(), &asking(&x, &prompts, "blob"), branch);
            let error = largest_difference(&pass(got.as_mut(), &asked, branch), &want);
            assert!(error <= 1e-5, "{device} {branch:?}: {error} off");
        }
        let other = RunConfig { labels: vec![vec![0; 3], vec![1; 3]], ..asked.clone() };
        let first = pass(got.as_mut(), &asked, Branch::Conditional);
        let other = pass(got.as_mut(), &other, Branch::Conditional);
        assert!(largest_difference(&first, &other) > 1e-3, "{device}: the label counts");
    }
}

#[test]
fn prompts_and_labels_together_give_the_same_samples_everywhere() {
    let _turn = turn();
    let x = recorded().remove("x").unwrap().1;
    let labelled = with_labels(&[("class", 4), ("style", 2)], &[]);
    // Mixed, with the null row among them.
    let labels = vec![vec![0, 4, 2], vec![1, 0, 2]];
    let run = RunConfig { labels, ..asking(&x, &["robot", "", "a red fox"], "blob") };
    let mut samples = DEVICES.map(|device| {
        let mut engine = engine_of(&labelled, device, 3);
        sample(engine.as_mut(), &run, "heun", 3, 1.8)
    });
    let cpu = std::mem::take(&mut samples[0]);
    assert!(largest_difference(&cpu, &x) > 0.1, "something was drawn");
    for (device, got) in DEVICES.iter().zip(&samples).skip(1) {
        let error = largest_difference(got, &cpu);
        println!("{device}: {error:.2e}");
        assert!(error <= 1e-4, "{device}: {error} off");
    }
}

/// Different prompts, a negative one and two label tables: in one pass for both branches as in two, bit by bit.
#[test]
fn joined_branches_see_their_own_prompts_and_labels() {
    let _turn = turn();
    let x = recorded().remove("x").unwrap().1;
    let labelled = with_labels(&[("class", 4), ("style", 2)], &[]);
    let labels = vec![vec![0, 4, 2], vec![1, 0, 2]];
    let prompts = ["robot", "", "a red fox"];
    for profile in [Profile::Software, Profile::Gpu] {
        let model = GpuModel::load(device(profile), &labelled, WeightPrecision::F32).unwrap();
        let model = Arc::new(model);
        let mut engines = [Branches::Apart, Branches::Together]
            .map(|branches| GpuEngine::with_branches(model.clone(), 3, branches).unwrap());
        let mut drawn = Vec::new();
        // Another rule, and more prompts than before, on the same engines.
        for (prompts, negative, rule) in [
            (["robot"; 3], "", RoutingRule::Pool),
            (prompts, "blob", RoutingRule::Token),
            (prompts, "a red fox", RoutingRule::Pool),
        ] {
            let run = RunConfig {
                labels: labels.clone(),
                routing: Routing { rule, ..Routing::default() },
                ..asking(&x, &prompts, negative)
            };
            let [apart, together] =
                engines.each_mut().map(|engine| sample(engine, &run, "heun", 2, 1.8));
            assert_eq!(apart, together, "{profile:?}, {rule:?}, {negative:?}");
            drawn.push(together);
        }
        assert_ne!(drawn[1], drawn[2], "the negative prompt counts");
    }
}

#[test]
fn the_footprint_foresees_the_memory_for_prompts() {
    let _turn = turn();
    let checkpoint = checkpoint();
    let config = checkpoint.config();
    let without = Config { text: None, ..config.clone() };
    let prompts = ["robot", "a red fox", "flat style", "blob", "a robot", "red", "fox", "style"];
    for profile in [Profile::Gpu, Profile::Software] {
        for batch in [1, 3, 8] {
            let model = GpuModel::load(device(profile), &checkpoint, WeightPrecision::F32).unwrap();
            let device = model.gpu.clone();
            let before = device.allocated_bytes();
            let mut engine = GpuEngine::new(Arc::new(model), batch).unwrap();
            let passes = device.allocated_bytes() - before;
            let sample = vec![0.0; batch * config.sample_len()];
            engine.start(&asking(&sample, &prompts[..batch], "flat")).unwrap();
            let text = device.allocated_bytes() - before - passes;
            let of = |config: &Config| {
                Footprint::on_gpu(
                    config,
                    batch,
                    WeightPrecision::F32,
                    profile,
                    device.binding_limit,
                )
                .working
            };
            // Queries to a prompt are made with the other buffers of a pass.
            let is_joined =
                Branches::Suitable.are_joined(config, batch, profile, device.binding_limit);
            let rows = if is_joined { 2 * batch } else { batch } * config.tokens();
            // Without text there are none, in a buffer of one element.
            let queries = 4 * (rows * config.num_heads * config.head_dim - 1) as u64;
            let foreseen = of(config) - of(&without) - queries;
            println!(
                "{batch}: text {foreseen} for {text}, all {} for {}",
                of(config),
                passes + text
            );
            assert_eq!((foreseen, of(config)), (text, passes + text));
        }
    }
}
