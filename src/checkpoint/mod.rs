//! Checkpoints: safetensors files with the official `state_dict` names and the configuration inside.
//!
//! A checkpoint may be one file or an index with parts. Files are memory-mapped where there is a file
//! system; tensors are decoded one at a time, so that loading needs little more memory than the largest
//! tensor. Every missing, extra and mis-shaped tensor is reported at once.

mod dtype;
pub mod embedded;
mod error;
#[cfg(feature = "import")]
mod infer;
mod open;
mod random;
#[cfg(feature = "import")]
mod source;
mod store;
#[cfg(feature = "import")]
mod torch;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

pub use error::CheckpointError;
#[cfg(feature = "import")]
pub use infer::{Hints, infer_config};
pub use random::random_tensor;
#[cfg(feature = "import")]
pub use source::{SafetensorsFile, Source};
pub use store::write_model;
#[cfg(feature = "import")]
pub use torch::TorchFile;
pub use write::{TensorOut, write_safetensors};

use crate::model::Config;
use crate::platform::Bytes;

/// The header entry that holds the configuration as JSON.
pub const CONFIG_KEY: &str = "diffmoe";

/// Suffix of the tensor that holds the row scales of an int8 matrix.
const SCALE_SUFFIX: &str = ".scale";

/// An opened checkpoint whose tensors have been checked against its configuration.
#[derive(Debug)]
pub struct Checkpoint {
    parts: Vec<Part>,
    tensors: BTreeMap<String, Location>,
    config: Config,
    config_text: String,
}

#[derive(Debug)]
struct Part {
    label: String,
    bytes: Bytes,
    /// Where tensor data starts, after the header.
    data: usize,
}

/// Where a tensor lies and how it is stored.
#[derive(Clone, Debug)]
struct Location {
    part: usize,
    range: (usize, usize),
    dtype: Dtype,
    shape: Vec<usize>,
}

/// A tensor as it stands in the file, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Official name.
    pub name: String,
    /// Storage type: `F32`, `F16`, `BF16`, `I8`.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Bytes in the file, row scales included.
    pub bytes: usize,
}

impl Checkpoint {
    /// Opens a safetensors file, or the `.json` index of a sharded one.
    ///
    /// A configuration is looked for in the file's header, then in `config.json` and `case.json` beside it.
    ///
    /// # Errors
    /// When a file cannot be read, is no safetensors file, has no configuration, or its tensors do not fit.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        open::open(path)
    }

    /// A checkpoint that is in memory already.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(label: &str, bytes: Bytes) -> Result<Self, CheckpointError> {
        Self::from_parts(vec![(label.to_owned(), bytes)], None)
    }

    /// Puts a checkpoint together from its parts; `beside` is the configuration to use where no header has one.
    fn from_parts(
        files: Vec<(String, Bytes)>,
        beside: Option<String>,
    ) -> Result<Self, CheckpointError> {
        let label = files.first().map_or_else(String::new, |f| f.0.clone());
        let mut parts = Vec::new();
        let mut tensors = BTreeMap::new();
        let mut config_text = None;
        for (part, (label, bytes)) in files.into_iter().enumerate() {
            let malformed =
                |reason: String| CheckpointError::Malformed { label: label.clone(), reason };
            let (header, metadata) =
                SafeTensors::read_metadata(&bytes).map_err(|e| malformed(open::explain(&e)))?;
            let data = header + 8;
            if config_text.is_none() {
                config_text = metadata.metadata().as_ref().and_then(|m| m.get(CONFIG_KEY)).cloned();
            }
            for (name, info) in metadata.tensors() {
                let (begin, end) = info.data_offsets;
                if data + end > bytes.len() {
                    return Err(malformed(format!("ends inside tensor {name}; download it again")));
                }
                let location = Location {
                    part,
                    range: (begin, end),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                };
                tensors.insert(name, location);
            }
            parts.push(Part { label, bytes, data });
        }
        let config_text = config_text
            .or(beside)
            .ok_or_else(|| CheckpointError::NoConfig { label: label.clone() })?;
        let config = Config::from_json(&config_text)
            .map_err(|source| CheckpointError::Config { label: label.clone(), source })?;
        let checkpoint = Self { parts, tensors, config, config_text };
        checkpoint.check(&label)?;
        Ok(checkpoint)
    }

    /// Compares what is there with what the configuration needs.
    fn check(&self, label: &str) -> Result<(), CheckpointError> {
        let mut problems = Vec::new();
        let mut needed = std::collections::BTreeSet::new();
        for spec in self.config.tensors() {
            match self.tensors.get(&spec.name) {
                // A buffer of the trainer that inference never reads.
                None if spec.name.ends_with(".ema_decay") => {}
                None => problems.push(format!("{} {:?} is missing", spec.name, spec.shape)),
                Some(found) if found.shape != spec.shape => problems.push(format!(
                    "{} has shape {:?}, {:?} is needed",
                    spec.name, found.shape, spec.shape
                )),
                Some(found) => {
                    if !dtype::is_supported(found.dtype) {
                        problems.push(format!("{} is stored as {:?}", spec.name, found.dtype));
                    } else if found.dtype == Dtype::I8 {
                        let scale = format!("{}{SCALE_SUFFIX}", spec.name);
                        let rows = spec.shape[0];
                        if self.tensors.get(&scale).is_none_or(|s| s.shape != [rows]) {
                            problems.push(format!("{scale} [{rows}] is missing"));
                        }
                        needed.insert(scale);
                    }
                }
            }
            needed.insert(spec.name);
        }
        for name in self.tensors.keys().filter(|name| !needed.contains(*name)) {
            problems.push(format!("{name} is not part of this model"));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(CheckpointError::Mismatch { label: label.to_owned(), problems })
        }
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration as it stands in the file, with keys that [`Config`] does not know (the model card).
    pub fn config_text(&self) -> &str {
        &self.config_text
    }

    /// All tensors with their storage, by name; row scales are counted with their matrix.
    pub fn list(&self) -> Vec<TensorInfo> {
        let size = |l: &Location| l.range.1 - l.range.0;
        self.tensors
            .iter()
            .filter(|(name, _)| !self.is_scale(name))
            .map(|(name, location)| TensorInfo {
                name: name.clone(),
                dtype: format!("{:?}", location.dtype),
                shape: location.shape.clone(),
                bytes: size(location)
                    + self.tensors.get(&format!("{name}{SCALE_SUFFIX}")).map_or(0, size),
            })
            .collect()
    }

    fn is_scale(&self, name: &str) -> bool {
        name.strip_suffix(SCALE_SUFFIX)
            .and_then(|matrix| self.tensors.get(matrix))
            .is_some_and(|matrix| matrix.dtype == Dtype::I8)
    }

    /// Shape of a tensor.
    ///
    /// # Errors
    /// When there is no tensor of that name.
    pub fn shape(&self, name: &str) -> Result<&[usize], CheckpointError> {
        Ok(&self.location(name)?.shape)
    }

    fn location(&self, name: &str) -> Result<&Location, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::Missing { name: name.to_owned() })
    }

    fn raw(&self, location: &Location) -> &[u8] {
        let part = &self.parts[location.part];
        &part.bytes[part.data + location.range.0..part.data + location.range.1]
    }

    /// Decodes a tensor to f32, row-major, whatever it is stored as.
    ///
    /// # Errors
    /// When there is no such tensor, or it holds NaN or an infinity.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let location = self.location(name)?;
        let raw = self.raw(location);
        let values = if location.dtype == Dtype::I8 {
            let scales = self.location(&format!("{name}{SCALE_SUFFIX}"))?;
            let scales = dtype::decode(scales.dtype, self.raw(scales));
            dtype::decode_int8_rows(raw, &scales)
        } else {
            dtype::decode(location.dtype, raw)
        };
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(CheckpointError::NotFinite {
                label: self.parts[location.part].label.clone(),
                name: name.to_owned(),
                at,
                value: values[at],
            });
        }
        Ok(values)
    }
}
