//! Generates images without a window and writes a PNG, on a hardware GPU if there is one, otherwise on the CPU.
//!
//! `cargo run --release --example headless -- [MODEL.safetensors [OUT.png]]`

use std::error::Error;
use std::path::Path;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::WeightChoice;
use diffmoe::pipeline::{Backend, Pipeline, Settings};
use diffmoe::pixels;

/// A model of this repository that draws emoji of 64 × 64 pixels.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/emoji.safetensors");

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| MODEL.into());
    let out = arguments.next().unwrap_or_else(|| "headless.png".into());
    draw(Path::new(&model), Path::new(&out), Backend::Auto, None)
}

/// Draws four images of different classes into one PNG; `steps` replaces what the model recommends.
///
/// # Errors
/// When the model, a setting or the device is at fault.
pub fn draw(
    model: &Path,
    out: &Path,
    backend: Backend,
    steps: Option<u32>,
) -> Result<(), Box<dyn Error>> {
    let checkpoint = Checkpoint::open(model)?;
    let pipeline = Pipeline::open(&checkpoint, backend, WeightChoice::Auto)?;
    let config = pipeline.config();
    if !config.makes_pixels() || config.text.is_some() {
        return Err("this example needs a class-conditional model that generates pixels".into());
    }
    let mut settings = Settings::of(config);
    settings.labels =
        config.labels.iter().map(|table| (0..4).map(|i| i % table.null).collect()).collect();
    settings.sampling.steps = steps.unwrap_or(settings.sampling.steps);
    settings.sampling.seed = 7;
    let run = pipeline.start(settings)?;
    let finished = run.finish(|fraction| eprint!("\r{:3.0} %", 100.0 * fraction))?;
    pixels::grid(&finished.samples, config.input_size, None).save(out)?;
    eprintln!("\rwrote {}, computed on {}", out.display(), pipeline.device());
    Ok(())
}
