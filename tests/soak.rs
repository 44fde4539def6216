//! Long runs: memory that does not grow, and devices that are lost again and again. Some minutes: `cargo xtask soak`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::sync::Arc;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{EngineError, WeightChoice};
use diffmoe::gpu::Gpu;
use diffmoe::pipeline::{Backend, Pipeline, Run, Settings};

const CONFIG: &str = r#"{"kind":"diffmoe","t_kind":"flow","space":"pixels","params":{"input_size":[16,16],
    "in_channels":3,"num_classes":4,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,"learn_sigma":false,
    "MoE_config":{"num_experts":4,"capacity":1}}}"#;

fn checkpoint() -> Checkpoint {
    Checkpoint::random(CONFIG, 3).unwrap()
}

fn settings(pipeline: &Pipeline, seed: u64, steps: u32) -> Settings {
    let mut settings = Settings::of(pipeline.config());
    settings.labels = vec![vec![0, 1, 2, 3]];
    (settings.sampling.steps, settings.sampling.guidance, settings.sampling.seed) =
        (steps, 1.5, seed);
    settings
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    4096 * pages
}

/// Draws `count` images; the bytes after a tenth of them, and at the end.
fn growth(backend: Backend, count: u64) -> [u64; 2] {
    let pipeline = Pipeline::open(&checkpoint(), backend, WeightChoice::Auto).unwrap();
    let mut first = None;
    for batch in 0..count / 4 {
        let run = pipeline.start(settings(&pipeline, batch, 4)).unwrap();
        let finished = run.finish(|_| {}).unwrap();
        assert!(finished.samples.iter().all(|v| v.is_finite()));
        drop(finished);
        if batch == count / 40 {
            first = Some(resident());
        }
    }
    [first.unwrap(), resident()]
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn a_thousand_images_take_no_more_memory_than_a_hundred() {
    for backend in [Backend::Cpu, Backend::Gpu] {
        let [first, last] = growth(backend, 1000);
        println!("{}: {first} bytes after 100 images, {last} after 1000", backend.name());
        // One per cent, or what an allocator keeps at hand.
        let most = first + (first / 100).max(2 << 20);
        assert!(last <= most, "{}: from {first} to {last} bytes", backend.name());
    }
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn fifty_lost_devices_in_a_row_change_no_bit() {
    const LOSSES: u32 = 50;
    let checkpoint = checkpoint();
    let open = || {
        let gpu = Arc::new(Gpu::headless().unwrap());
        (Pipeline::load(&gpu, &checkpoint).unwrap(), gpu)
    };
    let (whole, _gpu) = open();
    let steps = LOSSES + 2;
    let want = whole.start(settings(&whole, 7, steps)).unwrap().finish(|_| {}).unwrap().samples;
    drop(whole);
    let (pipeline, mut gpu) = open();
    let mut run = pipeline.start(settings(&pipeline, 7, steps)).unwrap();
    let mut losses = 0;
    let begin = resident();
    loop {
        // A step, and the device is gone in the middle of the next.
        let goal = losses + 1;
        let lost = loop {
            if run.finished_steps() == goal && losses < LOSSES {
                gpu.device.destroy();
            }
            match run.advance(20) {
                Ok(_) if run.is_finished() => break None,
                Ok(_) => {}
                Err(error) => break Some(error),
            }
        };
        let Some(error) = lost else { break };
        assert!(matches!(error, EngineError::DeviceLost(_)), "{error}");
        losses += 1;
        let state = run.state();
        assert_eq!(state.steps, goal, "what was finished is kept");
        drop(run);
        let (pipeline, new) = open();
        gpu = new;
        let engine = pipeline.engine(4).unwrap();
        run =
            Run::resume(engine, checkpoint.config(), settings(&pipeline, 7, steps), state).unwrap();
    }
    assert_eq!(losses, LOSSES);
    assert_eq!(run.latent(), want);
    println!("{losses} losses, from {begin} to {} bytes", resident());
}
