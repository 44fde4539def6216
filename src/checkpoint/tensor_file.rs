//! The tensors of one or several safetensors files, for transformers ([`super::Checkpoint`]) and image decoders
//! alike.

use std::borrow::Cow;
use std::collections::BTreeMap;

use half::f16;
use safetensors::Dtype;

use super::error::CheckpointError;
use super::foreign::Names;
use super::parts::{PartFile, Parts};
use super::rows::{StoredRows, StoredValues};
use super::{dtype, header};
use crate::model::{INT4_GROUP, Storage};
use crate::platform::Bytes;

/// The header entry that holds the configuration as JSON.
pub const CONFIG_KEY: &str = "diffmoe";

/// Suffix of the tensor that holds the scales of an int8 or int4 matrix.
pub(super) const SCALE_SUFFIX: &str = ".scale";

/// The same in the layout of diffusers: a parameter of `PyTorch` has no parts, so it cannot be called `weight.scale`.
pub(super) const MODULE_SCALE_SUFFIX: &str = "_scale";

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

/// Location and storage of a tensor.
#[derive(Clone, Debug)]
struct Location {
    part: usize,
    range: (usize, usize),
    dtype: Dtype,
    /// Two numbers of the tensor's in each of its bytes; `shape` counts numbers.
    is_int4: bool,
    shape: Vec<usize>,
}

/// A tensor as it stands in the file, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Official name.
    pub name: String,
    /// Storage type: `F32`, `F16`, `BF16`, `I8`, `I4`.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Bytes in the file, scales included.
    pub bytes: usize,
}

impl TensorFile {
    /// A file that is in memory already.
    ///
    /// # Errors
    /// When it is not a safetensors file.
    pub fn from_bytes(label: &str, bytes: Bytes) -> Result<Self, CheckpointError> {
        Self::from_parts(Parts::one(label, bytes), None)
    }

    /// Assembles tensors from their parts; `beside` is the configuration to use if no header has one.
    pub(super) fn from_parts(
        files: Parts,
        beside: Option<String>,
    ) -> Result<Self, CheckpointError> {
        let Parts { label, files } = files;
        let mut parts = Vec::new();
        let mut tensors = BTreeMap::new();
        let mut config_text: Option<String> = None;
        let mut problems = Vec::new();
        for (part, file) in files.into_iter().enumerate() {
            let PartFile { name, label, bytes, wanted, prefix } = file;
            let malformed =
                |reason: String| CheckpointError::Malformed { label: label.clone(), reason };
            let (data, metadata) = header::read(&bytes).map_err(malformed)?;
            let text = metadata.metadata().as_ref().and_then(|entries| entries.get(CONFIG_KEY));
            // A refiner in a file of its own has a configuration of its own there; the model's includes it.
            if let Some(text) = text.filter(|_| prefix.is_empty()) {
                let known = config_text.get_or_insert_with(|| text.clone());
                if known != text {
                    let reason = "its configuration differs from that of the other parts; download all parts of one model";
                    return Err(malformed(reason.into()));
                }
            }
            let found = metadata.tensors();
            let missing = wanted.iter().flatten().filter(|tensor| !found.contains_key(*tensor));
            problems.extend(missing.map(|tensor| format!("{name} has no tensor {tensor}")));
            for (tensor, info) in found {
                // A part may still contain tensors that the index takes from another part.
                if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&tensor)) {
                    continue;
                }
                let (begin, end) = info.data_offsets;
                if data + end > bytes.len() {
                    return Err(malformed(format!(
                        "ends inside tensor {tensor}; download it again"
                    )));
                }
                let location = Location {
                    part,
                    range: (begin, end),
                    dtype: info.dtype,
                    is_int4: false,
                    shape: info.shape.clone(),
                };
                tensors.insert(format!("{prefix}{tensor}"), location);
            }
            parts.push(Part { label, bytes, data });
        }
        if !problems.is_empty() {
            return Err(CheckpointError::Index { label, problems });
        }
        let names = Names::of(tensors.keys().map(String::as_str));
        let mut official = BTreeMap::new();
        for (name, location) in tensors {
            let renamed = names.official(&name);
            if official.insert(renamed.clone(), location).is_some() {
                let reason = format!("it has {renamed} under two names; remove one of them");
                return Err(CheckpointError::Malformed { label, reason });
            }
        }
        let mut tensors = official;
        if let Some(renamed) = rename_scales(&mut tensors) {
            let reason = format!("it has {renamed} under two names; remove one of them");
            return Err(CheckpointError::Malformed { label, reason });
        }
        mark_int4(&mut tensors);
        Ok(Self { label, parts, tensors, config_text: config_text.or(beside) })
    }

    /// File or model name, for display.
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

    /// Gives memory of mapped files back to the system.
    pub(super) fn release(&self) {
        for part in &self.parts {
            part.bytes.release(0..part.bytes.len());
        }
    }

    /// Names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// All tensors with their storage, by name; scales are counted with their matrix.
    pub fn list(&self) -> Vec<TensorInfo> {
        let size = |l: &Location| l.range.1 - l.range.0;
        self.tensors
            .iter()
            .filter(|(name, _)| !self.is_scale(name))
            .map(|(name, location)| TensorInfo {
                name: name.clone(),
                dtype: location.type_name(),
                shape: location.shape.clone(),
                bytes: size(location)
                    + self.tensors.get(&format!("{name}{SCALE_SUFFIX}")).map_or(0, size),
            })
            .collect()
    }

    /// Names and shapes of all tensors, scales left out.
    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let matrices = self.tensors.iter().filter(|(name, _)| !self.is_scale(name));
        matrices.map(|(name, location)| (name.clone(), location.shape.clone())).collect()
    }

    fn is_scale(&self, name: &str) -> bool {
        name.strip_suffix(SCALE_SUFFIX)
            .and_then(|matrix| self.tensors.get(matrix))
            .is_some_and(Location::is_scaled)
    }

    /// Errors in the storage of a tensor, if any, and its scales.
    pub(super) fn find(&self, name: &str) -> Found {
        let Some(found) = self.tensors.get(name) else { return Found::Missing };
        if dtype::is_float(found.dtype) {
            return Found::Plain;
        }
        if !found.is_scaled() {
            return Found::Unsupported(format!("{name} is stored as {:?}", found.dtype));
        }
        let scale = format!("{name}{SCALE_SUFFIX}");
        let Some(&rows) = found.shape.first() else {
            return Found::Unsupported(format!("{name} is an integer scalar"));
        };
        let (needed, of) = if found.is_int4 {
            (vec![rows, found.shape[1].div_ceil(INT4_GROUP)], " of F16")
        } else {
            (vec![rows], "")
        };
        let fits = |s: &Location| {
            let is_type =
                if found.is_int4 { s.dtype == Dtype::F16 } else { dtype::is_float(s.dtype) };
            is_type && s.shape == needed
        };
        let is_there = self.tensors.get(&scale).is_some_and(fits);
        Found::Scaled { problem: (!is_there).then(|| format!("{scale} {needed:?}{of} is missing")) }
    }

    /// The format that keeps a tensor's numbers in another file; for bf16 that is f32.
    ///
    /// # Errors
    /// When there is no tensor of that name.
    pub fn kept_by(&self, name: &str) -> Result<Storage, CheckpointError> {
        let is_bf16 = self.location(name)?.dtype == Dtype::BF16;
        if is_bf16 { Ok(Storage::F32) } else { self.storage(name) }
    }

    /// How a tensor is stored; bf16 counts as f16, which has as many bytes.
    ///
    /// # Errors
    /// When there is no tensor of that name.
    pub fn storage(&self, name: &str) -> Result<Storage, CheckpointError> {
        let location = self.location(name)?;
        Ok(match location.dtype {
            _ if location.is_int4 => Storage::Int4,
            Dtype::I8 => Storage::Int8,
            Dtype::F16 | Dtype::BF16 => Storage::F16,
            _ => Storage::F32,
        })
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
        self.rows(name).map(StoredRows::decode)
    }

    /// The rows of a tensor as they are stored: `shape[0]` of them, each with all that follows the first dimension.
    ///
    /// # Errors
    /// As [`TensorFile::read`].
    pub fn rows(&self, name: &str) -> Result<StoredRows<'_>, CheckpointError> {
        let location = self.location(name)?;
        if let Found::Unsupported(problem) | Found::Scaled { problem: Some(problem), .. } =
            self.find(name)
        {
            let problems = vec![problem];
            return Err(CheckpointError::Mismatch { label: self.label.clone(), problems });
        }
        let numbers = self.raw(location);
        let scales = || self.location(&format!("{name}{SCALE_SUFFIX}"));
        let values = if location.is_int4 {
            let halves = self.raw(scales()?).as_chunks::<2>().0;
            let scales = halves.iter().map(|&b| f16::from_le_bytes(b)).collect();
            StoredValues::Int4 { numbers, scales: Cow::Owned(scales) }
        } else if location.dtype == Dtype::I8 {
            let scales = scales()?;
            let scales = dtype::decode(scales.dtype, self.raw(scales));
            StoredValues::Int8 { numbers, scales: Cow::Owned(scales) }
        } else {
            StoredValues::Floats(Cow::Owned(dtype::decode(location.dtype, numbers)))
        };
        let rows = StoredRows::new(location.shape.iter().skip(1).product(), values);
        if rows.are_finite() {
            return Ok(rows);
        }
        let width = rows.width();
        let values = rows.decode();
        match values.iter().position(|v| !v.is_finite()) {
            // Factors that are too large, of numbers that are zero.
            None => Ok(StoredRows::floats(width, values)),
            Some(at) => Err(CheckpointError::NotFinite {
                label: self.parts[location.part].label.clone(),
                name: name.to_owned(),
                at,
                value: values[at],
            }),
        }
    }
}

impl Location {
    fn is_scaled(&self) -> bool {
        self.is_int4 || self.dtype == Dtype::I8
    }

    fn type_name(&self) -> String {
        if self.is_int4 { "I4".into() } else { format!("{:?}", self.dtype) }
    }
}

/// Renames the scales of quantised matrices in the diffusers layout to the names used everywhere else. Returns one that
/// exists already, if any does.
fn rename_scales(tensors: &mut BTreeMap<String, Location>) -> Option<String> {
    let renamed = |name: &String| {
        let of = tensors.get(name.strip_suffix(MODULE_SCALE_SUFFIX)?)?;
        matches!(of.dtype, Dtype::I8 | Dtype::U8).then(|| name.clone())
    };
    let names: Vec<_> = tensors.keys().filter_map(renamed).collect();
    names.into_iter().find_map(|name| {
        let location = tensors.remove(&name)?;
        let stem = &name[..name.len() - MODULE_SCALE_SUFFIX.len()];
        let official = format!("{stem}{SCALE_SUFFIX}");
        tensors.insert(official.clone(), location).map(|_| official)
    })
}

/// safetensors has no 4-bit type: a matrix of bytes with scales is int4.
fn mark_int4(tensors: &mut BTreeMap<String, Location>) {
    let is_int4 = |(name, location): (&String, &Location)| {
        let has_bytes = location.dtype == Dtype::U8 && location.shape.len() == 2;
        let is_int4 = has_bytes && tensors.contains_key(&format!("{name}{SCALE_SUFFIX}"));
        is_int4.then(|| name.clone())
    };
    let names: Vec<_> = tensors.iter().filter_map(is_int4).collect();
    for name in names {
        if let Some(location) = tensors.get_mut(&name) {
            location.is_int4 = true;
            location.shape[1] *= 2;
        }
    }
}

/// How a tensor is stored.
pub(super) enum Found {
    /// It is not there.
    Missing,
    /// As something that cannot be read, in a sentence.
    Unsupported(String),
    /// As floating-point numbers.
    Plain,
    /// As integers with scales in another tensor, which may be missing.
    Scaled {
        /// What is wrong with them.
        problem: Option<String>,
    },
}
