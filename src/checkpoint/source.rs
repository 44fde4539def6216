//! The source of a conversion: a PyTorch or safetensors file of any model.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::CheckpointError;
use super::tensor_file::TensorFile;
use super::torch::TorchFile;
use crate::platform;

/// Tensors by name, decoded one at a time.
#[derive(Debug)]
pub enum Source {
    /// `.pt`
    Torch(TorchFile),
    /// `.safetensors`
    Safetensors(TensorFile),
}

impl Source {
    /// Opens a file by its extension. `weights` as in [`TorchFile::open`].
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn open(path: &Path, weights: &str) -> Result<Self, CheckpointError> {
        if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("safetensors")) {
            return Ok(Self::Torch(TorchFile::open(path, weights)?));
        }
        let label = path.display().to_string();
        let bytes = platform::map_file(path)
            .map_err(|source| CheckpointError::Unreadable { path: label.clone(), source })?;
        // Not a config.json in the same folder, which may come from another program.
        Ok(Self::Safetensors(TensorFile::from_bytes(&label, bytes)?))
    }

    /// Names and shapes of all tensors.
    ///
    /// # Errors
    /// When a shape is none.
    pub fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>, CheckpointError> {
        match self {
            Self::Torch(file) => file.shapes(),
            Self::Safetensors(file) => {
                let listed = file.list().into_iter();
                Ok(listed.map(|tensor| (tensor.name, tensor.shape)).collect())
            }
        }
    }

    /// The configuration in the header of one of our own files.
    pub fn config_text(&self) -> Option<String> {
        let Self::Safetensors(file) = self else { return None };
        file.config_text().map(str::to_owned)
    }

    /// Which state_dict of a training checkpoint was taken.
    pub fn weights(&self) -> Option<&str> {
        match self {
            Self::Torch(file) => file.weights(),
            Self::Safetensors(_) => None,
        }
    }

    /// Decodes a tensor to f32.
    ///
    /// # Errors
    /// When there is none of that name, it is damaged, or holds NaN or an infinity.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        match self {
            Self::Torch(file) => file.read(name),
            Self::Safetensors(file) => file.read(name),
        }
    }
}
