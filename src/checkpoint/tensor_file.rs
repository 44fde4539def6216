//! The tensors of one or several safetensors files, without a view on what they are for: transformers
//! ([`super::Checkpoint`]) and image decoders read them the same way.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{CONFIG_KEY, CheckpointError, dtype, open};
use crate::platform::Bytes;

/// Suffix of the tensor that holds the row scales of an int8 matrix.
pub(super) const SCALE_SUFFIX: &str = ".scale";

/// Named tensors, decoded one at a time.
#[derive(Debug)]
pub struct TensorFile {
    label: String,
    parts: Vec<Part>,
    tensors: BTreeMap<String, Location>,
    config_text: Option<String>,
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

impl TensorFile {
    /// Opens a safetensors file, or the `.json` index of a sharded one.
    ///
    /// A configuration is looked for in the file's header, then in `config.json` and `case.json` beside it.
    ///
    /// # Errors
    /// When a file cannot be read or is no safetensors file.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        open::open(path)
    }

    /// A file that is in memory already.
    ///
    /// # Errors
    /// When it is no safetensors file.
    pub fn from_bytes(label: &str, bytes: Bytes) -> Result<Self, CheckpointError> {
        Self::from_parts(vec![(label.to_owned(), bytes)], None)
    }

    /// Puts tensors together from their parts; `beside` is the configuration to use where no header has one.
    pub(super) fn from_parts(
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
        Ok(Self { label, parts, tensors, config_text: config_text.or(beside) })
    }

    /// File or model name, for people.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The configuration that came with the tensors, as it stands there.
    pub fn config_text(&self) -> Option<&str> {
        self.config_text.as_deref()
    }

    /// Its files, in order.
    pub fn files(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| &*part.bytes)
    }

    /// Names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
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

    /// What is wrong with how a tensor is stored, if anything is, and the row scales that belong to it.
    pub(super) fn storage(&self, name: &str) -> Storage {
        let Some(found) = self.tensors.get(name) else { return Storage::Missing };
        if !dtype::is_supported(found.dtype) {
            return Storage::Unsupported(format!("{name} is stored as {:?}", found.dtype));
        }
        if found.dtype != Dtype::I8 {
            return Storage::Plain;
        }
        let scale = format!("{name}{SCALE_SUFFIX}");
        let rows = found.shape.first().copied().unwrap_or(0);
        let is_there = self.tensors.get(&scale).is_some_and(|s| s.shape == [rows]);
        Storage::Scaled {
            problem: (!is_there).then(|| format!("{scale} [{rows}] is missing")),
            scale,
        }
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
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
    /// When there is no such tensor, it is stored as something that is no floating-point number, or it
    /// holds NaN or an infinity.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let location = self.location(name)?;
        if let Storage::Unsupported(problem) = self.storage(name) {
            let problems = vec![problem];
            return Err(CheckpointError::Mismatch { label: self.label.clone(), problems });
        }
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

/// How a tensor is stored.
pub(super) enum Storage {
    /// It is not there.
    Missing,
    /// As something that cannot be read, in a sentence.
    Unsupported(String),
    /// As floating-point numbers.
    Plain,
    /// As int8 rows with scales in another tensor, which may be missing.
    Scaled {
        /// Name of the tensor with the scales.
        scale: String,
        /// What is wrong with it.
        problem: Option<String>,
    },
}
