//! Where a conversion reads from: a PyTorch file or a safetensors file, of any model.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{CONFIG_KEY, CheckpointError, TorchFile, dtype, open};
use crate::platform::{self, Bytes};

/// Tensors by name, decoded one at a time.
#[derive(Debug)]
pub enum Source {
    /// `.pt`
    Torch(TorchFile),
    /// `.safetensors`
    Safetensors(SafetensorsFile),
}

/// A safetensors file whose tensors have not been compared with any configuration.
#[derive(Debug)]
pub struct SafetensorsFile {
    label: String,
    bytes: Bytes,
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
        let malformed = |error: safetensors::SafeTensorError| CheckpointError::Malformed {
            label: label.clone(),
            reason: open::explain(&error),
        };
        SafeTensors::deserialize(&bytes).map_err(malformed)?;
        Ok(Self::Safetensors(SafetensorsFile { label, bytes }))
    }

    /// Names and shapes of all tensors.
    ///
    /// # Errors
    /// When a shape is none.
    pub fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>, CheckpointError> {
        match self {
            Self::Torch(file) => file.shapes(),
            Self::Safetensors(file) => {
                let tensors = file.tensors()?;
                let shapes =
                    tensors.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec()));
                Ok(shapes.collect())
            }
        }
    }

    /// The configuration in the header of one of our own files.
    pub fn config_text(&self) -> Option<String> {
        let Self::Safetensors(file) = self else { return None };
        let (_, metadata) = SafeTensors::read_metadata(&file.bytes).ok()?;
        metadata.metadata().as_ref()?.get(CONFIG_KEY).cloned()
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

impl SafetensorsFile {
    fn tensors(&self) -> Result<SafeTensors<'_>, CheckpointError> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| self.malformed(open::explain(&error)))
    }

    fn malformed(&self, reason: String) -> CheckpointError {
        CheckpointError::Malformed { label: self.label.clone(), reason }
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let missing = |_| CheckpointError::Missing { name: name.to_owned() };
        let file = self.tensors()?;
        let view = file.tensor(name).map_err(missing)?;
        let values = match view.dtype() {
            Dtype::I8 => {
                let scales = file.tensor(&format!("{name}.scale")).map_err(missing)?;
                dtype::decode_int8_rows(view.data(), &dtype::decode(scales.dtype(), scales.data()))
            }
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => dtype::decode(view.dtype(), view.data()),
            other => return Err(self.malformed(format!("{name} is stored as {other:?}"))),
        };
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(at) => Err(CheckpointError::NotFinite {
                label: self.label.clone(),
                name: name.to_owned(),
                at,
                value: values[at],
            }),
        }
    }
}
