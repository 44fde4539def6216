//! The GPU engine against the official PyTorch modules: every intermediate value, every solver, on both
//! families of kernels; and what the engine promises about submissions.

#![allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]

mod device;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use device::{device, turn};
use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{CpuEngine, CpuModel};
use diffmoe::engine::{
    Engine, EngineError, Footprint, GpuEngine, GpuModel, Inspect, Progress, RunConfig, Scope,
    Snapshot, Stage,
};
use diffmoe::gpu::{Gpu, GpuOptions, Profile};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Routing, RoutingRule};
use diffmoe::pipeline::{Label, Run, Settings};
use diffmoe::scheduler::{Branch, Instruction, Latent};
use diffmoe::scheduler::{Next, Observation, ScheduleConfig, SchedulerKind, StepNoise};
use safetensors::SafeTensors;

/// Float32 with another order of summation, as the parity cases state.
const TOLERANCE: f32 = 1e-4;

/// Where a parity case lies: beside the repository all of them, inside it one.
fn case(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let candidates = [
        std::env::var_os("DIFFMOE_FIXTURES").map(PathBuf::from),
        Some(root.join("../shared/fixtures")),
        Some(root.join("tests/fixtures")),
    ];
    let found = candidates.into_iter().flatten().map(|dir| dir.join(name)).find(|dir| dir.is_dir());
    assert!(found.is_some() || name != "diffmoe_flow", "the parity case diffmoe_flow is missing");
    if found.is_none() {
        eprintln!("skipped: the parity case {name} is not here");
    }
    found
}

/// A parity case, opened.
struct Case {
    checkpoint: Checkpoint,
    info: serde_json::Value,
    io: Vec<u8>,
}

impl Case {
    fn open(name: &str) -> Option<Self> {
        let dir = case(name)?;
        Some(Self {
            checkpoint: Checkpoint::open(&dir.join("model.safetensors")).unwrap(),
            info: serde_json::from_slice(&std::fs::read(dir.join("case.json")).unwrap()).unwrap(),
            io: std::fs::read(dir.join("io.safetensors")).unwrap(),
        })
    }

    /// A tensor as f32, whatever integers it is stored as.
    fn tensor(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.io).unwrap();
        let view = file.tensor(name).unwrap();
        let data = view.data();
        match view.dtype() {
            safetensors::Dtype::F32 => bytemuck::pod_collect_to_vec(data),
            safetensors::Dtype::I32 => {
                bytemuck::pod_collect_to_vec::<_, i32>(data).into_iter().map(|v| v as f32).collect()
            }
            safetensors::Dtype::U8 => data.iter().map(|&v| f32::from(v)).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }

    fn number(&self, key: &str) -> f64 {
        self.info[key].as_f64().unwrap()
    }

    fn labels(&self) -> Vec<Vec<u32>> {
        vec![self.tensor("y").into_iter().map(|y| y as u32).collect()]
    }

    /// The case's sample as the start of a run, with the official pool rule.
    fn run(&self) -> RunConfig {
        RunConfig {
            latent: self.tensor("x"),
            labels: self.labels(),
            routing: Routing { rule: RoutingRule::Pool, ..Routing::default() },
            ..RunConfig::default()
        }
    }

    fn model(&self, gpu: &Arc<Gpu>) -> Arc<GpuModel> {
        let model = GpuModel::load(gpu.clone(), &self.checkpoint, WeightPrecision::F32).unwrap();
        Arc::new(model)
    }

    fn engine(&self, gpu: &Arc<Gpu>) -> GpuEngine {
        GpuEngine::new(self.model(gpu), self.labels()[0].len()).unwrap()
    }
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let difference = |(g, w): (&f32, &f32)| {
        let d = (g - w).abs();
        if d.is_nan() { f32::INFINITY } else { d }
    };
    got.iter().zip(want).map(difference).fold(0.0, f32::max)
}

/// One forward pass; reports the first value that diverges.
fn check_taps(name: &str) {
    let _turn = turn();
    let Some(case) = Case::open(name) else { return };
    for profile in [Profile::Software, Profile::Gpu] {
        let mut engine = case.engine(&device(profile));
        let taps = engine.forward_with_taps(&case.run(), &case.tensor("t")).unwrap();
        let known = SafeTensors::deserialize(&case.io).unwrap();
        let wanted = known.names().into_iter().filter(|n| n.starts_with("blocks.") || *n == "out");
        assert_eq!(wanted.count(), taps.len(), "all values that the case knows");
        let mut worst = 0.0_f32;
        for (tap, _, values) in &taps {
            let want = case.tensor(tap);
            let difference = largest_difference(values, &want);
            let is_exact =
                tap.rsplit('.').next().is_some_and(|what| ["k", "selected"].contains(&what));
            let allowed = if is_exact { 0.0 } else { TOLERANCE };
            assert!(difference <= allowed, "{name}, {profile:?}: {tap} is off by {difference}");
            worst = worst.max(difference);
        }
        println!("{name}, {profile:?}: {} values, largest difference {worst:.2e}", taps.len());
    }
}

#[test]
fn diffmoe_forward_matches() {
    check_taps("diffmoe_flow");
}

#[test]
fn diffmoe_with_swiglu_and_a_shared_expert_matches() {
    check_taps("diffmoe_swiglu_shared");
}

#[test]
fn diffmoe_with_ddpm_times_matches() {
    check_taps("diffmoe_ddpm");
}

#[test]
fn dense_forward_matches() {
    check_taps("dense_flow");
}

#[test]
fn token_choice_forward_matches() {
    check_taps("tc_flow");
}

#[test]
fn expert_choice_forward_matches() {
    check_taps("ec_flow");
}

const COND: Branch = Branch::Conditional;
const NULL: Branch = Branch::Unconditional;

fn forward(input: Latent, output: u8, time: f32, branch: Branch) -> Instruction {
    Instruction::Forward { input, output: Latent::Output(output), time, branch }
}

/// Euler's method, guided where `scale` is not 1: `z += (v_u + s·(v_c − v_u)) / N`.
fn euler(step: u32, steps: u32, scale: f32) -> Vec<Instruction> {
    let (time, dt) = (step as f32 / steps as f32, 1.0 / steps as f32);
    let is_guided = (scale - 1.0).abs() > f32::EPSILON;
    if !is_guided {
        let terms = vec![(1.0, Latent::Sample), (dt, Latent::Output(0))];
        return vec![
            forward(Latent::Sample, 0, time, COND),
            Instruction::Combine { output: Latent::Sample, terms },
        ];
    }
    vec![
        forward(Latent::Sample, 0, time, COND),
        forward(Latent::Sample, 1, time, NULL),
        Instruction::Combine {
            output: Latent::Sample,
            terms: vec![
                (1.0, Latent::Sample),
                (scale * dt, Latent::Output(0)),
                ((1.0 - scale) * dt, Latent::Output(1)),
            ],
        },
    ]
}

/// Heun's method, guided.
fn heun(step: u32, steps: u32, scale: f32) -> Vec<Instruction> {
    let (time, dt) = (step as f32 / steps as f32, 1.0 / steps as f32);
    let next = (step + 1) as f32 / steps as f32;
    let sum = |output, first: u8, factor: f32, count: u8| {
        let mut terms = vec![(1.0, Latent::Sample)];
        for stage in 0..count {
            terms.push((scale * factor, Latent::Output(first + 2 * stage)));
            terms.push(((1.0 - scale) * factor, Latent::Output(first + 2 * stage + 1)));
        }
        Instruction::Combine { output, terms }
    };
    vec![
        forward(Latent::Sample, 0, time, COND),
        forward(Latent::Sample, 1, time, NULL),
        sum(Latent::Trial, 0, dt, 1),
        forward(Latent::Trial, 2, next, COND),
        forward(Latent::Trial, 3, next, NULL),
        sum(Latent::Sample, 0, dt / 2.0, 2),
    ]
}

/// Runs all steps in slices of `budget` dispatches and returns the snapshots.
fn sample(
    engine: &mut GpuEngine,
    run: &RunConfig,
    steps: &[Vec<Instruction>],
    budget: usize,
) -> Vec<Snapshot> {
    engine.start(run).unwrap();
    let mut snapshots = Vec::new();
    for ops in steps {
        engine.begin_step(ops).unwrap();
        loop {
            match engine.advance(budget).unwrap() {
                Progress::Done => break,
                Progress::Working => {}
                Progress::Busy => engine.wait().unwrap(),
            }
        }
        snapshots.extend(engine.take_snapshot());
    }
    engine.wait().unwrap();
    snapshots.extend(std::iter::from_fn(|| engine.take_snapshot()));
    assert_eq!(snapshots.len(), steps.len(), "one snapshot after each step");
    snapshots
}

fn check_solvers(name: &str) {
    let _turn = turn();
    let Some(case) = Case::open(name) else { return };
    let scale = case.number("cfg_scale") as f32;
    let (n, heun_n) = (case.number("steps") as u32, case.number("heun_steps") as u32);
    let runs: [(&str, Vec<Vec<Instruction>>); 3] = [
        ("euler_nocfg", (0..n).map(|i| euler(i, n, 1.0)).collect()),
        ("euler_cfg", (0..n).map(|i| euler(i, n, scale)).collect()),
        ("heun_cfg", (0..heun_n).map(|i| heun(i, heun_n, scale)).collect()),
    ];
    for profile in [Profile::Software, Profile::Gpu] {
        let mut engine = case.engine(&device(profile));
        for (key, steps) in &runs {
            let snapshots = sample(&mut engine, &case.run(), steps, usize::MAX);
            let last = &snapshots.last().unwrap().latent;
            let difference = largest_difference(last, &case.tensor(key));
            println!("{name}, {profile:?}, {key}: largest difference {difference:.2e}");
            assert!(difference <= TOLERANCE, "{name}, {profile:?}: {key} is off by {difference}");
        }
    }
}

#[test]
fn diffmoe_samples_match() {
    check_solvers("diffmoe_flow");
}

#[test]
fn diffmoe_samples_with_swiglu_and_a_shared_expert_match() {
    check_solvers("diffmoe_swiglu_shared");
}

#[test]
fn dense_samples_match() {
    check_solvers("dense_flow");
}

/// Guided ancestral sampling: passes over both branches, learned variances, recorded noise.
#[test]
fn ddpm_samples_match_in_any_slices() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_ddpm") else { return };
    let config = case.checkpoint.config();
    let noise = case.tensor("ddpm_cfg_noise");
    let len = case.tensor("x").len();
    let noise = noise.chunks(2 * len).map(|step| Arc::new(step[..len].to_vec())).collect();
    let run = ScheduleConfig {
        steps: case.number("steps") as u32,
        guidance: case.number("cfg_scale") as f32,
        noise: StepNoise::Recorded(noise),
    };
    let kind: SchedulerKind = "ddpm".parse().unwrap();
    let mut scheduler = kind.schedule(config, run);
    let next = || match scheduler.next() {
        Next::Step(ops) => Some(ops),
        _ => None,
    };
    let steps: Vec<_> = std::iter::from_fn(next).collect();
    for profile in [Profile::Software, Profile::Gpu] {
        let mut engine = case.engine(&device(profile));
        let whole = sample(&mut engine, &case.run(), &steps, usize::MAX);
        let last = &whole.last().unwrap().latent;
        // The second half of the recorded batch is thrown away by the official code, too.
        let want = &case.tensor("ddpm_cfg")[..len];
        // With random weights samples grow to hundreds.
        let size = want.iter().fold(1.0_f32, |m, v| m.max(v.abs()));
        let difference = largest_difference(last, want);
        println!("{profile:?}: largest difference {difference:.2e} of {size}");
        assert!(difference <= TOLERANCE * size, "{profile:?}: {difference} of {size}");
        assert_eq!(engine.submissions(), steps.len(), "one submission for each step");
        let slices = sample(&mut engine, &case.run(), &steps, 9);
        assert_eq!(whole, slices);
        let branches: Vec<_> = whole[0].routing.iter().map(|pass| pass.branch).collect();
        assert_eq!(branches, [COND, NULL]);
    }
}

/// The adaptive solver judges its steps on the host: both backends take the same ones.
#[test]
fn dopri5_takes_the_same_steps_on_both_backends() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let run = |engine: &mut dyn Engine| {
        let kind: SchedulerKind = "dopri5".parse().unwrap();
        let noise = StepNoise::Seeded { seed: 0, images: 0..1 };
        let run = ScheduleConfig { steps: 1, guidance: 1.5, noise };
        let mut scheduler = kind.schedule(case.checkpoint.config(), run);
        engine.start(&case.run()).unwrap();
        let mut latent = Vec::new();
        let mut times = Vec::new();
        while let Next::Step(ops) = scheduler.next() {
            times.extend(ops.iter().flat_map(Instruction::passes).map(|pass| pass.0));
            engine.finish_step(&ops).unwrap();
            let snapshot = engine.take_snapshot().unwrap();
            scheduler.observe(Observation { sample: &snapshot.latent, reports: &snapshot.reports });
            latent = snapshot.latent;
        }
        assert!((scheduler.fraction(0) - 1.0).abs() < f32::EPSILON, "it came to the end");
        (times, latent)
    };
    let batch = case.labels()[0].len();
    let on_cpu = Arc::new(CpuModel::load(&case.checkpoint).unwrap());
    let (times, latent) = run(&mut CpuEngine::new(on_cpu, batch));
    let (gpu_times, gpu_latent) = run(&mut case.engine(&device(Profile::Software)));
    assert_eq!(times.len(), gpu_times.len());
    assert!(largest_difference(&gpu_times, &times) <= 1e-3);
    let difference = largest_difference(&gpu_latent, &latent);
    println!("{} passes, off by {difference:.2e}", times.len());
    assert!(difference <= TOLERANCE, "{difference}");
}

/// Every fixed scheduler of flow models: CPU and GPU agree, and a run that changes to another engine after two steps is
/// the same, bit for bit, because the earlier predictions of a multistep method come with it.
#[test]
fn multistep_runs_match_on_both_backends_and_resume_exactly() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let (config, labels) = (case.checkpoint.config(), case.labels());
    let gpu = device(Profile::Software);
    let on_cpu = Arc::new(CpuModel::load(&case.checkpoint).unwrap());
    let mut histories = 0;
    let all = SchedulerKind::for_objective(config.objective);
    for scheduler in all.into_iter().filter(|scheduler| scheduler.resumes()) {
        let name = scheduler.name();
        let table = &config.labels[0].name;
        let settings = Settings::builder(config)
            .images(labels[0].len())
            .labels(table, labels[0].iter().map(|&row| Label::Row(row)))
            .scheduler(scheduler)
            .steps(5)
            .guidance(1.5)
            .rule(RoutingRule::Pool)
            .build()
            .unwrap();
        let start =
            |engine: Box<dyn Engine>| Run::start(engine, config, settings.clone(), 0).unwrap();
        let cpu = start(Box::new(CpuEngine::new(on_cpu.clone(), labels[0].len())));
        let cpu = cpu.finish(|_| {}).unwrap().samples;
        let whole = start(Box::new(case.engine(&gpu))).finish(|_| {}).unwrap().samples;
        let difference = largest_difference(&whole, &cpu);
        println!("{name}: off by {difference:.2e}");
        assert!(difference <= TOLERANCE, "{name}: {difference}");

        let mut run = start(Box::new(case.engine(&gpu)));
        run.set_limit(2);
        while run.finished_steps() < 2 {
            run.advance(usize::MAX).unwrap();
            run.engine().wait().unwrap();
        }
        let so_far = run.state();
        assert_eq!(so_far.steps, 2);
        histories += usize::from(!so_far.buffers.is_empty());
        let resumed = Run::resume(Box::new(case.engine(&gpu)), config, settings.clone(), so_far);
        let resumed = resumed.unwrap();
        assert_eq!(resumed.finish(|_| {}).unwrap().samples, whole, "{name}");
    }
    assert!(histories > 0, "a multistep scheduler has a history");
}

#[test]
fn slices_of_one_and_of_everything_give_the_same_bits_and_the_same_routing() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let mut engine = case.engine(&device(Profile::Software));
    let steps: Vec<_> = (0..2).map(|i| heun(i, 2, 1.5)).collect();
    let whole = sample(&mut engine, &case.run(), &steps, usize::MAX);
    for budget in [1, 7] {
        let slices = sample(&mut engine, &case.run(), &steps, budget);
        assert_eq!(whole, slices, "slices of {budget}");
    }
}

#[test]
fn timing_the_stages_changes_no_bit_and_names_every_stage() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let gpu = device(Profile::Software);
    assert!(gpu.has_timestamps(), "this test needs an adapter with a clock, such as lavapipe");
    let mut engine = case.engine(&gpu);
    let steps: Vec<_> = (0..2).map(|i| heun(i, 2, 1.5)).collect();
    let plain = sample(&mut engine, &case.run(), &steps, 50);
    assert!(plain.iter().all(|snapshot| snapshot.stage_ms.is_empty()), "nobody asked");
    engine.set_profiling(true);
    for budget in [7, usize::MAX] {
        let timed = sample(&mut engine, &case.run(), &steps, budget);
        for (plain, timed) in plain.iter().zip(&timed) {
            assert_eq!((&plain.latent, &plain.routing), (&timed.latent, &timed.routing));
            let stages: Vec<_> = timed.stage_ms.iter().map(|(stage, _)| *stage).collect();
            assert_eq!(stages, Stage::ALL);
            assert!(timed.stage_ms.iter().all(|(_, ms)| *ms > 0.0), "{:?}", timed.stage_ms);
        }
    }
    assert!(engine.slice_time().is_some_and(|slice| slice.ms > 0.0));
    engine.set_profiling(false);
    let again = sample(&mut engine, &case.run(), &steps, 50);
    assert_eq!(plain, again);
}

#[test]
fn what_does_not_fit_is_refused_and_spoils_nothing() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let gpu = Arc::new(Gpu::headless().unwrap());
    let mut engine = case.engine(&gpu);
    let size = gpu.device.limits().max_buffer_size + 4;
    let refused = pollster::block_on(gpu.error_scope(async {
        let usage = wgpu::BufferUsages::STORAGE;
        let label = Some("too large");
        gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label,
            size,
            usage,
            mapped_at_creation: false,
        })
    }));
    assert!(refused.is_err());
    assert_eq!(gpu.failure(), None);
    sample(&mut engine, &case.run(), &[euler(0, 1, 1.0)], 10);
    assert_eq!(pollster::block_on(gpu.error_scope(async { 7 })), Ok(7));
}

#[test]
fn the_trace_holds_what_the_taps_show() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let mut engine = case.engine(&device(Profile::Software));
    let batch = engine.batch();
    let taps = engine.forward_with_taps(&case.run(), &vec![0.25; batch]).unwrap();
    let ops = [forward(Latent::Sample, 0, 0.25, COND)];
    let snapshot = sample(&mut engine, &case.run(), &[ops.to_vec()], usize::MAX).remove(0);
    let [pass] = &snapshot.routing[..] else { panic!("one forward pass") };
    assert_eq!((pass.step, pass.time, pass.branch), (0, 0.25, COND));
    assert_eq!(pass.layers.iter().map(|l| l.block).collect::<Vec<_>>(), [1, 3]);
    for layer in &pass.layers {
        let name = format!("blocks.{}.selected", layer.block);
        let (_, shape, selected) = taps.iter().find(|tap| tap.0 == name).unwrap();
        let bit = |(e, &taken): (usize, &f32)| (taken as u32) << e;
        let masks: Vec<u32> =
            selected.chunks(shape[1]).map(|s| s.iter().enumerate().map(bit).sum()).collect();
        assert_eq!(layer.masks, masks, "{name}");
    }
}

#[test]
fn a_step_is_one_submission_and_blocks_are_few_dispatches() {
    let _turn = turn();
    for name in ["dense_flow", "diffmoe_flow", "diffmoe_swiglu_shared"] {
        let Some(case) = Case::open(name) else { continue };
        let config = case.checkpoint.config().clone();
        let mut engine = case.engine(&device(Profile::Gpu));
        let dispatches = engine.dispatches(&heun(0, 2, 1.5)).unwrap();
        for block in 0..config.depth {
            // Four forward passes in a guided Heun step.
            let is_here = |(scope, _): &&(Scope, &str)| scope.block == Some(block);
            let count = dispatches.iter().filter(is_here).count() / 4;
            let limit = if config.is_moe(block) { 14 } else { 10 };
            println!("{name}, block {block}: {count} dispatches");
            assert!((1..=limit).contains(&count), "{name}, block {block}: {count} dispatches");
        }
        println!("{name}: {} dispatches in a guided Heun step", dispatches.len());
        let steps: Vec<_> = (0..3).map(|i| heun(i, 3, 1.5)).collect();
        sample(&mut engine, &case.run(), &steps, usize::MAX);
        assert_eq!(engine.submissions(), 3, "one submission for each step");
    }
}

/// Timings by stage rest on it.
#[test]
fn every_dispatch_knows_its_block_and_stage() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let config = case.checkpoint.config().clone();
    let mut engine = case.engine(&device(Profile::Software));
    let dispatches = engine.dispatches(&euler(0, 2, 1.5)).unwrap();
    let stage_of = |shader: &str| match shader {
        "embed_condition" | "patchify" => Some(Stage::Condition),
        "attention_software" => Some(Stage::Attention),
        "route_score" | "route_select" | "trace_store" => Some(Stage::Router),
        "expert_linear_software" | "combine_experts" => Some(Stage::Experts),
        "unpatchify" => Some(Stage::Final),
        "combine_latents" => Some(Stage::Solver),
        // Linear layers and norms belong to several stages.
        _ => None,
    };
    for (scope, shader) in &dispatches {
        if let Some(stage) = stage_of(shader) {
            assert_eq!(scope.stage, stage, "{scope}: {shader}");
        }
        let is_block = [Stage::Attention, Stage::Router, Stage::Experts].contains(&scope.stage);
        assert_eq!(scope.block.is_some(), is_block, "{scope}: {shader}");
    }
    // Two passes, and the step.
    let mut want = Vec::new();
    for _ in 0..2 {
        want.push(Scope::from(Stage::Condition));
        for block in 0..config.depth {
            want.push(Scope::of_block(block, Stage::Attention));
            if config.is_moe(block) {
                want.push(Scope::of_block(block, Stage::Router));
                want.push(Scope::of_block(block, Stage::Experts));
                // The routing is stored at the end of the block.
                want.push(Scope::of_block(block, Stage::Router));
            } else {
                want.push(Scope::of_block(block, Stage::Experts));
            }
        }
        want.push(Scope::from(Stage::Final));
    }
    want.push(Scope::from(Stage::Solver));
    let mut found: Vec<_> = dispatches.into_iter().map(|(scope, _)| scope).collect();
    found.dedup();
    assert_eq!(found, want);
}

#[test]
fn the_token_rule_does_not_depend_on_batch_mates() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let gpu = device(Profile::Software);
    let model = case.model(&gpu);
    let all = RunConfig { routing: Routing::default(), ..case.run() };
    let batch = all.labels[0].len();
    let alone = RunConfig {
        latent: all.latent[..all.latent.len() / batch].to_vec(),
        labels: vec![all.labels[0][..1].to_vec()],
        routing: all.routing,
        ..RunConfig::default()
    };
    let steps: Vec<_> = (0..2).map(|i| euler(i, 2, 1.5)).collect();
    let mut together = GpuEngine::new(model.clone(), batch).unwrap();
    let mut single = GpuEngine::new(model, 1).unwrap();
    let together = sample(&mut together, &all, &steps, usize::MAX).remove(1).latent;
    let single = sample(&mut single, &alone, &steps, usize::MAX).remove(1).latent;
    let difference = largest_difference(&together[..single.len()], &single);
    // The kernels sum each row in the same order whatever the batch.
    assert!(difference <= 1e-6, "{difference}");
}

#[test]
fn raising_thresholds_sends_fewer_tokens_to_experts() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let mut engine = case.engine(&device(Profile::Software));
    let steps = [euler(0, 1, 1.0)];
    let mut taken = |routing: Routing| -> u32 {
        let run = RunConfig { routing, ..case.run() };
        let snapshot = sample(&mut engine, &run, &steps, usize::MAX).remove(0);
        let layers = snapshot.routing.iter().flat_map(|pass| &pass.layers);
        layers.flat_map(|layer| &layer.masks).map(|mask| mask.count_ones()).sum()
    };
    for rule in [RoutingRule::Pool, RoutingRule::Token] {
        let all = taken(Routing { rule, gamma: Some(0.0), ..Routing::default() });
        let own = taken(Routing { rule, ..Routing::default() });
        let fewer = taken(Routing { rule, shift: 0.05, ..Routing::default() });
        let none = taken(Routing { rule, gamma: Some(1.0), ..Routing::default() });
        assert!(all > own && own > fewer && fewer > 0 && none == 0, "{all} {own} {fewer} {none}");
    }
}

#[test]
fn bindings_that_hold_a_fraction_of_a_layer_change_nothing_but_the_number_of_dispatches() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let compute = |binding_limit| {
        let options = GpuOptions {
            profile: Some(Profile::Software),
            binding_limit,
            poison: true,
            panic_on_error: true,
        };
        let mut engine = case.engine(&Arc::new(Gpu::headless_with(options).unwrap()));
        let steps = [euler(0, 1, 1.5)];
        let dispatches = engine.dispatches(&steps[0]).unwrap().len();
        (dispatches, sample(&mut engine, &case.run(), &steps, usize::MAX).remove(0))
    };
    let (few, want) = compute(None);
    let (many, got) = compute(Some(80_000));
    assert!(many > few, "{many} dispatches, {few} without a limit");
    assert_eq!(got.routing, want.routing);
    let difference = largest_difference(&got.latent, &want.latent);
    // Parts of the experts' rows are added one after the other.
    assert!(difference <= 1e-5, "{difference}");
}

#[test]
fn the_footprint_foresees_what_the_weights_take() {
    use WeightPrecision::{F16, F32, Int4, Int8};
    let _turn = turn();
    let gpu = device(Profile::Software);
    for name in ["diffmoe_flow", "diffmoe_swiglu_shared", "dense_flow", "tc_flow", "ec_flow"] {
        let Some(case) = Case::open(name) else { continue };
        let config = case.checkpoint.config();
        for precision in [F16, F32, Int8, Int4] {
            let foreseen = Footprint::on_gpu(config, 1, precision, gpu.binding_limit).weights;
            let before = gpu.allocated_bytes();
            let model = GpuModel::load(gpu.clone(), &case.checkpoint, precision).unwrap();
            let taken = gpu.allocated_bytes() - before;
            assert_eq!((foreseen, model.weight_bytes()), (taken, taken), "{name}, {precision}");
        }
    }
}

#[test]
fn f16_weights_stay_close() {
    let _turn = turn();
    let Some(case) = Case::open("dense_flow") else { return };
    let gpu = device(Profile::Software);
    let batch = case.labels()[0].len();
    let half = GpuModel::load(gpu, &case.checkpoint, WeightPrecision::F16).unwrap();
    let mut engine = GpuEngine::new(Arc::new(half), batch).unwrap();
    let taps = engine.forward_with_taps(&case.run(), &case.tensor("t")).unwrap();
    let (_, _, out) = taps.last().unwrap();
    let want = case.tensor("out");
    let size = want.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let difference = largest_difference(out, &want);
    println!("f16: off by {difference:.2e} where values reach {size:.2}");
    // Weights are rounded by 2⁻¹¹ relative; some dozens of layers of random ones add up.
    assert!(difference > 0.0 && difference <= 0.01 * size, "{difference} of {size}");
}

#[test]
fn a_lost_device_is_an_error_and_not_a_panic() {
    let _turn = turn();
    let Some(case) = Case::open("dense_flow") else { return };
    let gpu = Arc::new(Gpu::headless().unwrap());
    let mut engine = case.engine(&gpu);
    engine.start(&case.run()).unwrap();
    engine.begin_step(&euler(0, 2, 1.0)).unwrap();
    engine.advance(3).unwrap();
    gpu.device.destroy();
    let outcome = (0..8).try_for_each(|_| engine.advance(1).map(drop).and_then(|()| engine.wait()));
    assert!(matches!(outcome, Err(EngineError::DeviceLost(_))), "{outcome:?}");
    assert!(engine.take_snapshot().is_none());
    assert!(matches!(engine.advance(1), Err(EngineError::DeviceLost(_))), "it stays lost");
}

#[test]
fn what_a_binding_cannot_hold_is_refused_with_a_way_out() {
    let _turn = turn();
    let Some(case) = Case::open("diffmoe_flow") else { return };
    let limited = |limit| {
        let options = GpuOptions { binding_limit: Some(limit), ..GpuOptions::default() };
        Arc::new(Gpu::headless_with(options).unwrap())
    };
    let refused = |result: Result<(), EngineError>, advice: &str| match result {
        Err(EngineError::TooLarge(text)) => assert!(text.contains(advice), "{text}"),
        other => panic!("{other:?}"),
    };
    let load = |limit| GpuModel::load(limited(limit), &case.checkpoint, WeightPrecision::F16);
    refused(load(10_000).map(drop), "binds 10000 at once");
    let model = Arc::new(load(80_000).unwrap());
    refused(GpuEngine::new(model, 64).map(drop), "reduce the batch");
}
