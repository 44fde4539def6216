//! Long runs: memory that does not grow, and devices that are lost again and again. Some minutes: `cargo xtask soak`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::sync::Arc;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{EngineError, WeightChoice};
use diffmoe::gpu::Gpu;
use diffmoe::pipeline::{Backend, Pipeline, Run, Settings};
use diffmoe::wgpu;

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

/// Draws a thousand images; what `measure` says after a hundred, and at the end.
fn over_time<T>(pipeline: &Pipeline, measure: impl Fn() -> T) -> [T; 2] {
    let mut first = None;
    for batch in 0..250 {
        let run = pipeline.start(settings(pipeline, batch, 4)).unwrap();
        let finished = run.finish(|_| {}).unwrap();
        assert!(finished.samples.iter().all(|v| v.is_finite()));
        drop(finished);
        if batch == 24 {
            first = Some(measure());
        }
    }
    [first.unwrap(), measure()]
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn a_thousand_images_on_the_cpu_take_no_more_memory_than_a_hundred() {
    let pipeline = Pipeline::open(&checkpoint(), Backend::Cpu, WeightChoice::Auto).unwrap();
    let [first, last] = over_time(&pipeline, resident);
    println!("{first} bytes after 100 images, {last} after 1000");
    // What an allocator keeps at hand.
    assert!(last <= first + (2 << 20), "from {first} to {last} bytes");
}

/// Counts what this process holds of the device. Its resident memory is printed only: the thread of lavapipe (Mesa 22.3)
/// keeps about 7 MB for each engine that draws, whatever becomes of the engine.
#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn a_thousand_images_on_a_gpu_leave_nothing_on_the_device() {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default());
    let adapter = pollster::block_on(adapter).unwrap();
    let request = adapter.request_device(&Gpu::device_descriptor(&adapter));
    let (device, queue) = pollster::block_on(request).unwrap();
    let gpu = Gpu::on(&device, &queue).unwrap();
    let pipeline = Pipeline::load(&gpu, &checkpoint()).unwrap();
    let held = || {
        gpu.wait().unwrap();
        println!("{} bytes resident", resident());
        let report = instance.generate_report().unwrap();
        let hub = report.hub_report();
        let bytes = device.generate_allocator_report().map(|report| report.total_allocated_bytes);
        let objects = [&hub.buffers, &hub.bind_groups, &hub.compute_pipelines, &hub.query_sets];
        (objects.map(|objects| objects.num_allocated), bytes)
    };
    let [first, last] = over_time(&pipeline, held);
    println!("buffers, bind groups, pipelines, query sets; bytes: {first:?}");
    assert_eq!(last, first);
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
