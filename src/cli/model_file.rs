//! `--model`: the name of an embedded model, or a file.

use std::path::Path;

use diffmoe::checkpoint::{Checkpoint, CheckpointError, embedded};

/// Opens a model by name or path.
pub(super) fn open(model: &str) -> Result<Checkpoint, Box<dyn std::error::Error>> {
    if let Some(checkpoint) = embedded::open(model) {
        return Ok(checkpoint?);
    }
    let path = Path::new(model);
    let looks_like_a_file = path.extension().is_some() || path.components().count() > 1;
    if !looks_like_a_file && !path.exists() {
        let names: Vec<_> = embedded::names().collect();
        return Err(format!(
            "there is no model {model:?}: give {} or the path of a safetensors file",
            names.join(", ")
        )
        .into());
    }
    Checkpoint::open(path).map_err(|error| match error {
        CheckpointError::Unreadable { .. } | CheckpointError::Malformed { .. } => {
            format!("{error}; `--model` takes {} or a safetensors file", embedded::DEFAULT).into()
        }
        other => other.into(),
    })
}
