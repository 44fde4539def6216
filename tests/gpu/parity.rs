//! Every intermediate value and every scheduler against the official PyTorch modules, on both families of kernels.

use std::sync::Arc;

use diffmoe::engine::{CpuEngine, CpuModel, Engine, Inspect};
use diffmoe::gpu::Profile;
use diffmoe::model::RoutingRule;
use diffmoe::pipeline::{Label, Run, Settings};
use diffmoe::scheduler::{
    Instruction, Next, Observation, ScheduleConfig, SchedulerKind, StepNoise,
};
use safetensors::SafeTensors;

use crate::case::{COND, Case, NULL, TOLERANCE, euler, heun, largest_difference, sample};
use crate::device::{device, turn};

/// One forward pass; reports the first value that diverges.
fn check_taps(name: &str) {
    let _turn = turn();
    let case = Case::open(name);
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
fn dit_moe_forward_matches() {
    check_taps("dit_moe");
}

#[test]
fn flow_models_of_dit_moe_match() {
    check_taps("dit_moe_flow");
}

#[test]
fn dsmoe_forward_matches() {
    check_taps("dsmoe");
}

#[test]
fn jit_with_experts_matches() {
    check_taps("jit_moe");
}

#[test]
fn promoe_forward_matches() {
    check_taps("promoe");
    check_taps("promoe_ec");
}

#[test]
fn expert_choice_forward_matches() {
    check_taps("ec_flow");
}

fn check_solvers(name: &str) {
    let _turn = turn();
    let case = Case::open(name);
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
    let case = Case::open("diffmoe_ddpm");
    let config = case.checkpoint.config();
    let noise = case.tensor("ddpm_cfg_noise");
    let len = case.tensor("x").len();
    let noise = noise.chunks(2 * len).map(|step| Arc::new(step[..len].to_vec())).collect();
    let (steps, guidance) = (case.number("steps") as u32, case.number("cfg_scale") as f32);
    let run = ScheduleConfig::new(steps, guidance, StepNoise::Recorded(noise));
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
    let case = Case::open("diffmoe_flow");
    let run = |engine: &mut dyn Engine| {
        let kind: SchedulerKind = "dopri5".parse().unwrap();
        let noise = StepNoise::Seeded { seed: 0, images: 0..1 };
        let run = ScheduleConfig::new(1, 1.5, noise);
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
    let case = Case::open("diffmoe_flow");
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
