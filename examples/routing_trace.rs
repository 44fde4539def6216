//! Shows which expert takes which token while an image is sampled: the mean number of experts per token at each step,
//! and a map of the image at the last one.
//!
//! `cargo run --release --example routing_trace -- [MODEL.safetensors]`

use std::error::Error;
use std::path::Path;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::pipeline::{Pipeline, Settings};
use diffmoe::scheduler::Branch;
use diffmoe::trace::{At, Trace};

/// A model of this repository with eight experts in every other block.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/emoji.safetensors");

fn main() -> Result<(), Box<dyn Error>> {
    let model = std::env::args().nth(1).unwrap_or_else(|| MODEL.into());
    let trace = trace(Path::new(&model), 20)?;
    for (step, capacity) in trace.capacity_by_step().iter().enumerate() {
        println!("step {step:3}: {capacity:.2} experts per token");
    }
    if let Some(map) = map(&trace) {
        println!("experts per token in the last MoE layer at the last step:\n{map}");
    }
    Ok(())
}

/// Draws one image on the CPU and returns the routing of all its passes.
///
/// # Errors
/// When the model, a setting or the device is at fault.
pub fn trace(model: &Path, steps: u32) -> Result<Trace, Box<dyn Error>> {
    let pipeline = Pipeline::cpu(&Checkpoint::open(model)?)?;
    let mut settings = Settings::of(pipeline.config());
    settings.sampling.steps = steps;
    let finished = pipeline.start(settings)?.finish(|_| {})?;
    Ok(finished.trace)
}

/// For each token of the first image the number of experts that took it, as rows of digits.
pub fn map(trace: &Trace) -> Option<String> {
    let at = At {
        step: trace.steps().checked_sub(1)?,
        layer: trace.blocks().len().checked_sub(1)?,
        branch: Branch::Conditional,
    };
    let counts = trace.token_map(at, 0)?;
    let rows = counts.chunks(trace.grid()[1]);
    let row = |row: &[u32]| row.iter().map(|n| format!("{n:2}")).collect::<Vec<_>>().concat();
    Some(rows.map(row).collect::<Vec<_>>().join("\n"))
}
