//! Cycle spinning on both engines. With Euler's method it is the mean of plain steps from the shifted sample, shifted back,
//! which is computed here with one plain step for each shift.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod device;

use std::path::Path;

use device::{device, turn};
use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::RunConfig;
use diffmoe::gpu::Profile;
use diffmoe::model::{Config, Routing, RoutingRule};
use diffmoe::pipeline::{Pipeline, Run, Settings, SettingsError};
use diffmoe::scheduler::{Branch, CycleSpin, Next, ScheduleConfig, StepNoise, gaussian};
use diffmoe::trace::Trace;

const SEED: u64 = 5;
const STEPS: u32 = 5;
const IMAGES: usize = 2;
/// The last two steps.
const SPIN: CycleSpin = CycleSpin { count: 2, from: 0.6 };

fn open(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    Checkpoint::open(&folder.join("model.safetensors")).unwrap()
}

fn settings(config: &Config, rule: RoutingRule, spin: CycleSpin) -> Settings {
    let settings = Settings::builder(config).images(IMAGES).seed(SEED).steps(STEPS).guidance(1.5);
    settings.scheduler("euler".parse().unwrap()).rule(rule).cycle_spin(spin).build().unwrap()
}

/// `x` with every channel shifted in a circle.
fn shifted(config: &Config, x: &[f32], [down, right]: [usize; 2]) -> Vec<f32> {
    let [height, width] = config.input_size;
    let mut out = vec![0.0; x.len()];
    for (at, value) in x.iter().enumerate() {
        let (plane, rest) = (at / config.plane(), at % config.plane());
        let y = (rest / width + down) % height;
        let x = (rest % width + right) % width;
        out[plane * config.plane() + y * width + x] = *value;
    }
    out
}

/// The end of the run, with the means computed here.
fn reference(pipeline: &Pipeline, rule: RoutingRule) -> Vec<f32> {
    let config = pipeline.config();
    let settings = settings(config, rule, CycleSpin::default());
    let images = 0..IMAGES as u64;
    let noise = images.clone().flat_map(|i| gaussian(SEED, i, config.sample_len()));
    let mut sample: Vec<f32> = noise.collect();
    let run = ScheduleConfig::new(STEPS, 1.5, StepNoise::Seeded { seed: SEED, images });
    let mut scheduler = settings.sampling.scheduler.schedule(config, run);
    let mut engine = pipeline.engine(IMAGES).unwrap();
    for step in 0..STEPS {
        let Next::Step(ops) = scheduler.next() else { panic!("five steps") };
        let mut after = |latent: Vec<f32>| {
            let routing = Routing { rule, ..Routing::default() };
            let labels = settings.labels.clone();
            engine.start(&RunConfig { latent, labels, routing, ..RunConfig::default() }).unwrap();
            engine.finish_step(&ops).unwrap();
            engine.take_snapshot().unwrap().latent
        };
        let plain = after(sample.clone());
        sample = if step < 3 {
            plain
        } else {
            let by = config.patch_size / 2;
            let moved = after(shifted(config, &sample, [by; 2]));
            let back = shifted(config, &moved, config.input_size.map(|side| side - by));
            plain.iter().zip(back).map(|(a, b)| 0.5 * (a + b)).collect()
        };
    }
    sample
}

fn check(pipeline: &Pipeline, tolerance: f32) {
    let config = pipeline.config();
    for &rule in RoutingRule::ALL {
        let run = |spin| {
            let engine = pipeline.engine(IMAGES).unwrap();
            let run = Run::start(engine, config, settings(config, rule, spin), 0).unwrap();
            run.finish(|_| {}).unwrap()
        };
        let (got, plain) = (run(SPIN), run(CycleSpin::default()));
        let want = reference(pipeline, rule);
        let error =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let off = error(&got.samples, &want);
        assert!(off <= tolerance, "{rule}: {off}");
        assert!(error(&got.samples, &plain.samples) > 1e-3, "{rule}: nothing was averaged");
        let passes = |trace: &Trace| -> Vec<(u32, Branch)> {
            trace.forwards().iter().map(|pass| (pass.step, pass.branch)).collect()
        };
        assert_eq!(passes(&got.trace), passes(&plain.trace), "{rule}");
    }
}

#[test]
fn the_processor_averages_over_shifts() {
    for name in ["diffmoe_flow", "detail_head"] {
        check(&Pipeline::cpu(&open(name)).unwrap(), 2e-6);
    }
}

#[test]
fn gpus_average_over_shifts() {
    let _turn = turn();
    for profile in [Profile::Software, Profile::Gpu] {
        let gpu = device(profile);
        for name in ["diffmoe_flow", "detail_head"] {
            check(&Pipeline::load(&gpu, &open(name)).unwrap(), 5e-5);
        }
    }
}

#[test]
fn settings_say_where_it_has_no_effect() {
    let flow = open("diffmoe_flow").config().clone();
    let of = |config, spin: &str, scheduler: &str| {
        let settings = Settings::builder(config).cycle_spin(spin.parse().unwrap());
        settings.scheduler(scheduler.parse().unwrap()).build()
    };
    let patch = flow.patch_size;
    let refused = of(&flow, "8", "euler").unwrap_err();
    assert_eq!(refused, SettingsError::SpinPatch { count: 8, patch });
    let adaptive = of(&flow, "2", "dopri5").unwrap();
    let error = adaptive.sampling.check_spins(&flow).unwrap_err();
    assert!(error.to_string().starts_with("dopri5 supports no cycle spinning"), "{error}");
    let ddpm = open("diffmoe_ddpm").config().clone();
    assert!(of(&ddpm, "2", "ddim").unwrap().sampling.check_spins(&ddpm).is_err());
    assert!(of(&ddpm, "1", "ddim").unwrap().sampling.check_spins(&ddpm).is_ok());
}
