//! The detail head against the trainer's recorded answers, on the processor and on both families of kernels: a forward
//! pass, sampling runs with and without guidance, and a pass over both branches.

use std::sync::Arc;

use diffmoe::engine::{
    CpuEngine, CpuModel, Footprint, GpuEngine, GpuModel, Inspect, RunConfig, Stage,
};
use diffmoe::gpu::Profile;
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::Routing;
use diffmoe::scheduler::{Guidance, GuidanceInterval, Instruction, Latent, Next};
use diffmoe::scheduler::{ScheduleConfig, SchedulerKind, StepNoise};

use crate::case::{COND, Case, NULL, TOLERANCE, forward, largest_difference};
use crate::device::{device, turn};

const BATCH: usize = 3;

/// One on the processor, and one for each family of kernels.
fn engines(case: &Case) -> Vec<Box<dyn Inspect>> {
    let on_cpu = Arc::new(CpuModel::load(&case.checkpoint).unwrap());
    let mut engines: Vec<Box<dyn Inspect>> = vec![Box::new(CpuEngine::new(on_cpu, BATCH))];
    for profile in [Profile::Software, Profile::Gpu] {
        let engine = GpuEngine::new(case.model(&device(profile)), BATCH).unwrap();
        engines.push(Box::new(engine));
    }
    engines
}

#[test]
fn a_forward_pass_is_the_recorded_one() {
    let _turn = turn();
    let case = Case::open("detail_head");
    for mut engine in engines(&case) {
        let taps = engine.forward_with_taps(&case.run(), &case.tensor("t")).unwrap();
        // Recorded are all values but the input of the MoE layer.
        let taps: Vec<_> = taps.iter().filter(|tap| !tap.0.ends_with(".moe_in")).collect();
        for (name, _, values) in &taps {
            let is_exact = matches!(name.rsplit('.').next(), Some("k" | "selected"));
            let difference = largest_difference(values, &case.tensor(name));
            println!("{}, {name}: {difference:.1e}", engine.device());
            let allowed = if is_exact { 0.0 } else { TOLERANCE };
            assert!(difference <= allowed, "{}: {name} is off by {difference}", engine.device());
        }
        assert_eq!(taps[taps.len() - 2].0, "detail_head.x");
        assert_eq!(taps[taps.len() - 1].0, "out");
    }
    let [before, after] = ["detail_head.x", "out"].map(|name| case.tensor(name));
    assert!(largest_difference(&before, &after) > 0.1, "the head does something");
}

#[test]
fn sampling_runs_end_at_the_recorded_samples() {
    let _turn = turn();
    let case = Case::open("detail_head");
    let [steps, heun_steps] = ["steps", "heun_steps"].map(|key| case.number(key) as u32);
    let scale = case.number("cfg_scale") as f32;
    let guided: Guidance = scale.into();
    let interval = GuidanceInterval { low: 0.3, high: 0.6 };
    for mut engine in engines(&case) {
        for (key, scheduler, steps, guidance) in [
            ("euler_nocfg", "euler", steps, 1.0.into()),
            ("euler_cfg", "euler", steps, guided),
            ("heun_cfg", "heun", heun_steps, guided),
            ("euler_interval", "euler", steps, Guidance { interval, ..guided }),
        ] {
            let kind: SchedulerKind = scheduler.parse().unwrap();
            let noise = StepNoise::Seeded { seed: 0, images: 0..BATCH as u64 };
            let run = ScheduleConfig::new(steps, guidance, noise);
            let mut scheduler = kind.schedule(case.checkpoint.config(), run);
            engine.start(&case.run()).unwrap();
            while let Next::Step(ops) = scheduler.next() {
                engine.finish_step(&ops).unwrap();
            }
            let last = std::iter::from_fn(|| engine.take_snapshot()).last().unwrap();
            let difference = largest_difference(&last.latent, &case.tensor(key));
            println!("{}, {key}: {difference:.1e}", engine.device());
            assert!(difference <= TOLERANCE, "{}: {key} is off by {difference}", engine.device());
        }
    }
}

#[test]
fn a_joint_pass_finishes_both_branches_and_the_head_is_a_stage_of_its_own() {
    let _turn = turn();
    let case = Case::open("detail_head");
    let time = 0.35;
    // With the token rule a sample does not depend on who shares its pass.
    let run = RunConfig { routing: Routing::default(), ..case.run() };
    let report = |pass: Instruction, output| {
        let terms = vec![(1.0, Latent::Output(output))];
        let copy = Instruction::Combine { output: Latent::Trial, terms };
        [pass, copy, Instruction::Report(Latent::Trial)]
    };
    for mut engine in engines(&case) {
        engine.set_profiling(true);
        for (output, branch) in [(0, COND), (1, NULL)] {
            let [one, both] = [
                forward(Latent::Sample, output, time, branch),
                Instruction::JointForward { input: Latent::Sample, time },
            ]
            .map(|pass| {
                engine.start(&run).unwrap();
                engine.finish_step(&report(pass, output)).unwrap();
                engine.take_snapshot().unwrap()
            });
            let difference = largest_difference(&one.reports[0], &both.reports[0]);
            assert!(difference <= 1e-5, "{}: {branch:?} is off by {difference}", engine.device());
            let is_head = |(stage, ms): &(Stage, f32)| *stage == Stage::Detail && *ms > 0.0;
            assert!(one.stage_ms.iter().any(is_head), "{:?}", one.stage_ms);
        }
    }
}

#[test]
fn the_footprint_counts_the_weights_of_the_head_to_the_byte() {
    let _turn = turn();
    let case = Case::open("detail_head");
    let (gpu, config) = (device(Profile::Software), case.checkpoint.config());
    for precision in [WeightPrecision::F32, WeightPrecision::Int8] {
        let foreseen =
            Footprint::on_gpu(config, BATCH, precision, gpu.profile, gpu.binding_limit).weights;
        let before = gpu.allocated_bytes();
        let model = GpuModel::load(gpu.clone(), &case.checkpoint, precision).unwrap();
        let taken = gpu.allocated_bytes() - before;
        assert_eq!((foreseen, model.weight_bytes()), (taken, taken), "{precision}");
    }
}
