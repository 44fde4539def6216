//! What the PyTorch reader finds in a file, for `pytorch.py`, which compares it with PyTorch.

use std::fmt::Write as _;

use diffmoe::checkpoint::{CheckpointError, TorchFile};
use serde_json::{Value, json};

/// A line of JSON: `{"tensors": {name: {"shape": [...], "values": hex of f32, little-endian}}}`, or `{"error": …}`.
pub(crate) fn line(path: &str) -> String {
    let read = || -> Result<Value, CheckpointError> {
        let file = TorchFile::open(path.as_ref(), "ema")?;
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let mut values = String::new();
            for byte in file.read(&name)?.into_iter().flat_map(f32::to_le_bytes) {
                let _ = write!(values, "{byte:02x}");
            }
            Ok((name, json!({ "shape": shape, "values": values })))
        };
        let tensors = file.shapes()?.into_iter().map(tensor);
        let tensors: serde_json::Map<_, _> = tensors.collect::<Result<_, CheckpointError>>()?;
        Ok(json!({ "weights": file.weights(), "tensors": tensors }))
    };
    read().unwrap_or_else(|error| json!({ "error": error.to_string() })).to_string()
}
