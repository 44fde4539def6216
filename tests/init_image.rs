//! Runs that start from an image and keep a part of it, on both engines, against the same steps with the blend computed
//! outside of the engine: after each step the kept part is the image with the noise of that time.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod device;

use std::path::Path;

use device::{device, turn};
use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::RunConfig;
use diffmoe::gpu::Profile;
use diffmoe::pipeline::{InitImage, Pipeline, Run, Settings};
use diffmoe::scheduler::{Next, Observation, ScheduleConfig, StepNoise, gaussian};

const SEED: u64 = 5;
const STEPS: u32 = 5;
const IMAGES: usize = 2;

fn open(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    Checkpoint::open(&folder.join("model.safetensors")).unwrap()
}

/// The settings, the image and its mask, which also has values between.
fn settings(pipeline: &Pipeline, scheduler: &str, strength: f32) -> (Settings, Vec<f32>, Vec<f32>) {
    let config = pipeline.config();
    let image: Vec<f32> = gaussian(9, 0, config.sample_len()).iter().map(|v| 0.5 * v).collect();
    let mask: Vec<f32> = (0..config.plane()).map(|at| (at / 3 % 3) as f32 / 2.0).collect();
    let init = InitImage::of_sample(image.clone()).with_mask(mask.clone());
    let settings = Settings::builder(config).images(IMAGES).seed(SEED).steps(STEPS).guidance(1.5);
    let settings = settings.scheduler(scheduler.parse().unwrap()).init(init).strength(strength);
    (settings.build().unwrap(), image, mask)
}

/// Signal and noise before each step and after the last.
fn levels(is_flow: bool) -> Vec<[f32; 2]> {
    if is_flow {
        let level = |i: u32| f64::from(i) / f64::from(STEPS);
        return (0..=STEPS).map(|i| [level(i) as f32, (1.0 - level(i)) as f32]).collect();
    }
    let mut bar = 1.0;
    let bars: Vec<f64> = (0..1000)
        .map(|i| {
            bar *= 1.0 - (1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0);
            bar
        })
        .collect();
    // 999·i/4, with halves to the even number.
    let kept = [999, 749, 500, 250, 0].map(|time| bars[time]);
    let levels = kept.iter().chain([&1.0]);
    levels.map(|bar| [bar.sqrt() as f32, (1.0 - bar).sqrt() as f32]).collect()
}

/// The end of the run, with everything but the steps computed here.
fn reference(pipeline: &Pipeline, scheduler: &str, strength: f32) -> Vec<f32> {
    let (settings, image, mask) = settings(pipeline, scheduler, strength);
    let config = pipeline.config();
    let (image, mask) = (image.repeat(IMAGES), mask.repeat(IMAGES * config.in_channels));
    let len = config.sample_len();
    let noise: Vec<f32> = (0..IMAGES as u64).flat_map(|i| gaussian(SEED, i, len)).collect();
    let levels = levels(config.objective == diffmoe::model::Objective::Flow);
    let levels = &levels[(STEPS - settings.steps_taken()) as usize..];
    let noised = |[signal, noisy]: [f32; 2]| -> Vec<f32> {
        image.iter().zip(&noise).map(|(x, e)| signal * x + noisy * e).collect()
    };
    let mut sample = if strength < 1.0 { noised(levels[0]) } else { noise.clone() };
    let images = 0..IMAGES as u64;
    let schedule = ScheduleConfig {
        strength,
        ..ScheduleConfig::new(STEPS, 1.5, StepNoise::Seeded { seed: SEED, images })
    };
    let mut scheduler = settings.sampling.scheduler.schedule(config, schedule);
    let mut engine = pipeline.engine(IMAGES).unwrap();
    for level in &levels[1..] {
        let Next::Step(ops) = scheduler.next() else { panic!("a step for each level") };
        let run = RunConfig {
            latent: sample,
            buffers: scheduler.state().unwrap().buffers,
            labels: settings.labels.clone(),
            ..RunConfig::default()
        };
        engine.start(&run).unwrap();
        engine.finish_step(&ops).unwrap();
        let snapshot = engine.take_snapshot().unwrap();
        scheduler.observe(Observation { sample: &snapshot.latent, reports: &snapshot.reports });
        let blended = snapshot.latent.iter().zip(noised(*level)).zip(&mask);
        sample = blended.map(|((x, known), mask)| mask * x + (1.0 - mask) * known).collect();
    }
    assert_eq!(scheduler.next(), Next::Done);
    sample
}

fn check(pipeline: &Pipeline, tolerance: f32) {
    let is_flow = pipeline.config().objective == diffmoe::model::Objective::Flow;
    let names: &[&str] = if is_flow { &["euler", "heun", "dpmpp_2m"] } else { &["ddpm", "ddim"] };
    for name in names {
        for strength in [0.61, 1.0] {
            let (settings, image, mask) = settings(pipeline, name, strength);
            assert_eq!(settings.steps_taken(), if strength < 1.0 { 3 } else { 5 });
            let engine = pipeline.engine(IMAGES).unwrap();
            let run = Run::start(engine, pipeline.config(), settings, 0).unwrap();
            let got = run.finish(|_| {}).unwrap().samples;
            let want = reference(pipeline, name, strength);
            for (at, (a, b)) in got.iter().zip(&want).enumerate() {
                let what = format!("{name}, strength {strength}, number {at}: {a} for {b}");
                assert!((a - b).abs() <= tolerance, "{what}");
                let kept = mask[at % mask.len()] == 0.0;
                let is_image = a.to_bits() == image[at % image.len()].to_bits();
                assert_eq!(kept, kept && is_image, "{what}");
            }
        }
    }
}

#[test]
fn the_processor_blends_to_the_bit() {
    for name in ["diffmoe_flow", "diffmoe_ddpm"] {
        check(&Pipeline::cpu(&open(name)).unwrap(), 0.0);
    }
}

#[test]
fn gpus_blend_on_the_device() {
    let _turn = turn();
    for profile in [Profile::Software, Profile::Gpu] {
        let gpu = device(profile);
        for name in ["diffmoe_flow", "diffmoe_ddpm"] {
            check(&Pipeline::load(&gpu, &open(name)).unwrap(), 2e-5);
        }
    }
}

/// The same seed without a mask: only the start differs, and the rest of the path is walked.
#[test]
fn a_weak_start_stays_near_the_image() {
    let pipeline = Pipeline::cpu(&open("diffmoe_flow")).unwrap();
    let config = pipeline.config();
    let image: Vec<f32> = gaussian(9, 0, config.sample_len());
    let distance = |strength: f32| {
        let init = InitImage::of_sample(image.clone());
        let settings = Settings::builder(config).steps(10).guidance(1.0);
        let settings = settings.init(init).strength(strength).build().unwrap();
        let samples = pipeline.start(settings).unwrap().finish(|_| {}).unwrap().samples;
        samples.iter().zip(&image).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
    };
    let distances = [0.1, 0.4, 0.7, 1.0].map(distance);
    assert!(distances.windows(2).all(|pair| pair[0] < pair[1]), "{distances:?}");
}

#[test]
fn images_that_do_not_suit_the_model_are_refused() {
    let pipeline = Pipeline::cpu(&open("diffmoe_flow")).unwrap();
    let config = pipeline.config();
    let refused = |init: InitImage, scheduler: &str, strength| {
        let settings = Settings::builder(config).scheduler(scheduler.parse().unwrap());
        settings.init(init).strength(strength).build().unwrap_err().to_string()
    };
    let image = || InitImage::of_sample(vec![0.0; config.sample_len()]);
    let whole = vec![1.0; config.plane()];
    assert!(refused(image(), "euler", 0.0).contains("above 0"));
    assert!(refused(image(), "euler", f32::NAN).contains("got NaN"));
    assert!(refused(InitImage::of_sample(vec![0.0; 3]), "euler", 0.5).contains("finite numbers"));
    assert!(refused(image().with_mask(vec![2.0; 3]), "euler", 0.5).contains("from 0 to 1"));
    let adaptive = refused(image().with_mask(whole), "dopri5", 0.5);
    assert!(adaptive.contains("supports no mask"), "{adaptive}");
    let grey = diffmoe::pixels::RgbImage::from_raw(1, 1, vec![0; 3]).unwrap();
    let latents = InitImage::of_pixels(&grey, config).unwrap_err().to_string();
    assert!(latents.contains("generates latents"), "{latents}");
}
