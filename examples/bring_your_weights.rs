//! Builds a model in memory from a configuration and weights of any origin, and samples from it.
//!
//! `cargo run --release --example bring_your_weights`

use std::error::Error;

use diffmoe::checkpoint::{Checkpoint, model_bytes};
use diffmoe::model::{Storage, TensorSpec};
use diffmoe::pipeline::{Pipeline, Settings};
use diffmoe::platform::Bytes;

/// The constructor arguments of the official code, and what the weights were trained for.
const CONFIG: &str = r#"{
    "name": "two experts", "kind": "diffmoe", "t_kind": "flow", "space": "pixels",
    "params": {
        "input_size": 8, "in_channels": 3, "patch_size": 2, "num_classes": 10,
        "depth": 2, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2.0,
        "MoE_config": { "num_experts": 2, "capacity": 1 }
    }
}"#;

fn main() -> Result<(), Box<dyn Error>> {
    let samples = draw()?;
    let mean = samples.iter().sum::<f32>() / samples.len() as f32;
    println!("{} values with mean {mean:.3}: untrained weights give noise", samples.len());
    Ok(())
}

/// One image `[1, 3, 8, 8]` of a model whose tensors are computed here.
///
/// # Errors
/// When the model, a setting or the device is at fault.
pub fn draw() -> Result<Vec<f32>, Box<dyn Error>> {
    // A file of trained weights is made in the same way: the library requests each tensor by its official name.
    let bytes = model_bytes(CONFIG, Storage::F16, &|spec| Ok(weights(spec)))?;
    let checkpoint = Checkpoint::from_bytes("two experts", Bytes::new(bytes))?;
    let pipeline = Pipeline::cpu(&checkpoint)?;
    let mut settings = Settings::of(pipeline.config());
    settings.sampling.steps = 4;
    Ok(pipeline.start(settings)?.finish(|_| {})?.samples)
}

/// Numbers for a tensor, row-major.
fn weights(spec: &TensorSpec) -> Vec<f32> {
    let inputs = spec.shape.get(1).copied().unwrap_or(1) as f32;
    let count: usize = spec.shape.iter().product();
    (0..count).map(|i| (i as f32 * 0.7 + count as f32).sin() / inputs.sqrt()).collect()
}
