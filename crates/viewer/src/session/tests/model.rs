//! A model file with random weights, small enough to sample in milliseconds.

use std::path::PathBuf;

use diffmoe::checkpoint::{CONFIG_KEY, TensorOut, write_safetensors};
use diffmoe::model::Config;
use diffmoe::scheduler::gaussian;

/// Names of the first label table.
pub(crate) const LABELS: [&str; 5] = ["ant", "bee", "cat", "dog", "elk"];

const CONFIG: &str = r#"{"name": "tiny", "kind": "diffmoe", "t_kind": "flow", "space": "pixels",
    "params": {"input_size": 8, "in_channels": 3, "num_classes": 5, "patch_size": 2, "depth": 2,
        "hidden_size": 16, "num_heads": 2, "learn_sigma": false,
        "MoE_config": {"num_experts": 4, "interleave": true}},
    "labels": [
        {"name": "subject", "tensor": "y_embedder.0.weight", "null": 5,
         "values": ["ant", "bee", "cat", "dog", "elk"]},
        {"name": "style", "tensor": "y_embedder.1.weight", "null": 3}],
    "defaults": {"steps": 5, "guidance": 2.0, "solver": "euler"}}"#;

/// The same for latents of `channels`, and steps enough to stop in between.
fn latents(channels: usize) -> String {
    CONFIG.replace("pixels", "latents").replace(
        r#""input_size": 8, "in_channels": 3"#,
        &format!(r#""input_size": 4, "in_channels": {channels}"#),
    )
}

/// A folder that is deleted when it is dropped, and the model in it.
pub(crate) fn file() -> (tempfile::TempDir, PathBuf) {
    write(CONFIG)
}

/// As [`file`], for a model that generates latents of 4 × 4 cells.
pub(crate) fn latent_file(channels: usize) -> (tempfile::TempDir, PathBuf) {
    write(&latents(channels))
}

fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
    let config = Config::from_json(text).unwrap();
    let tensors: Vec<_> = (0..)
        .zip(config.tensors())
        .map(|(i, spec)| {
            let mut values = gaussian(1, i, spec.shape.iter().product());
            let scale = match spec.name.as_str() {
                // Predicted capacities are probabilities: a threshold in their middle takes some tokens.
                name if name.ends_with("expert_threshold") => 0.0,
                name if name.strip_suffix(".bias").is_some() => 0.1,
                _ => 0.3,
            };
            let shift = if scale == 0.0 { 0.5 } else { 0.0 };
            for value in &mut values {
                *value = *value * scale + shift;
            }
            TensorOut::f32(spec.name, &spec.shape, &values)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.safetensors");
    write_safetensors(&path, &tensors, [(CONFIG_KEY.to_owned(), text.to_owned())]).unwrap();
    (folder, path)
}
