//! A scheduler outside of the library: the two-step Adams–Bashforth method for flow models, as lists of instructions
//! that an engine executes on a GPU or on the CPU.
//!
//! `cargo run --release --example custom_scheduler -- [MODEL.safetensors [OUT.png]]`

use std::error::Error;
use std::path::Path;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{RunConfig, WeightChoice};
use diffmoe::model::{Config, Objective, Prediction};
use diffmoe::pipeline::{Backend, Pipeline, RunState, Settings};
use diffmoe::pixels;
use diffmoe::scheduler::{Branch, Instruction, Latent};

/// A flow model of this repository that draws emoji of 64 × 64 pixels.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/emoji.safetensors");

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| MODEL.into());
    let out = arguments.next().unwrap_or_else(|| "custom_scheduler.png".into());
    let checkpoint = Checkpoint::open(Path::new(&model))?;
    let samples = draw(&checkpoint, Backend::Auto, 25)?;
    pixels::grid(&samples, checkpoint.config().input_size, None).save(&out)?;
    println!("wrote {out}");
    Ok(())
}

/// One sample `[1, C, height, width]`, without guidance.
///
/// # Errors
/// When the model, a setting or the device is at fault.
pub fn draw(
    checkpoint: &Checkpoint,
    backend: Backend,
    steps: u32,
) -> Result<Vec<f32>, Box<dyn Error>> {
    let pipeline = Pipeline::open(checkpoint, backend, WeightChoice::Auto)?;
    let config = pipeline.config();
    if config.objective != Objective::Flow {
        return Err("Adams-Bashforth integrates the velocity of flow models".into());
    }
    let settings = Settings::of(config);
    let mut engine = pipeline.engine(1)?;
    engine.start(&RunConfig {
        latent: RunState::start(config, &settings, 0).latent,
        labels: settings.labels,
        prompts: settings.prompts,
        ..RunConfig::default()
    })?;
    let mut sample = Vec::new();
    for index in 0..steps {
        engine.finish_step(&step(config, index, steps))?;
        if let Some(snapshot) = engine.take_snapshot() {
            sample = snapshot.latent;
        }
    }
    Ok(sample)
}

/// `z += Δt·(3/2·v(z, t) - 1/2·v_before)`, the first time with Euler's `z += Δt·v`.
fn step(config: &Config, index: u32, steps: u32) -> Vec<Instruction> {
    let (time, dt) = (index as f32 / steps as f32, 1.0 / steps as f32);
    let (now, before) =
        (Latent::Velocity((index % 2) as u8), Latent::Velocity(((index + 1) % 2) as u8));
    let output = Latent::Output(0);
    let velocity = match config.prediction {
        Prediction::Velocity => vec![(1.0, output)],
        Prediction::Reversed => vec![(-1.0, output)],
        // A model that predicts the sample x₀: v = (x₀ - z) / (1 - t).
        Prediction::Sample => {
            vec![(1.0 / (1.0 - time), output), (-1.0 / (1.0 - time), Latent::Sample)]
        }
    };
    let mut terms = vec![(1.0, Latent::Sample)];
    match index {
        0 => terms.push((dt, now)),
        _ => terms.extend([(1.5 * dt, now), (-0.5 * dt, before)]),
    }
    vec![
        Instruction::Forward { input: Latent::Sample, output, time, branch: Branch::Conditional },
        Instruction::Combine { output: now, terms: velocity },
        Instruction::Combine { output: Latent::Sample, terms },
    ]
}
