//! Writing a model tensor by tensor in the requested precision, with at most one tensor
//! in memory; in one file, or in parts with an index.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::Dtype;

use super::error::CheckpointError;
use super::metadata::{self, file_order, header};
use super::quantise::{int4_row, int8_row};
use super::rows::{StoredRows, StoredValues};
use super::tensor_file::{MODULE_SCALE_SUFFIX, SCALE_SUFFIX};
use crate::model::{Config, INT4_GROUP, Storage, TensorSpec};

/// Where numbers come from: the rows of the tensor of a name.
type Reader<'a, 'd> = dyn Fn(&TensorSpec) -> Result<StoredRows<'d>, CheckpointError> + 'a;

/// A tensor that is computed when the file has got to its place.
struct Lazy<'a, 'd> {
    spec: &'a TensorSpec,
    form: Form,
    shape: Vec<usize>,
    read: &'a Reader<'a, 'd>,
    /// The writer cannot fail in the middle: the first error waits here.
    error: &'a RefCell<Option<CheckpointError>>,
}

/// What a tensor of the file has of a tensor of the model.
#[derive(Clone, Copy)]
enum Form {
    F32,
    F16,
    Int8,
    Int8Scales,
    Int4,
    Int4Scales,
}

impl Form {
    /// What the tensors of a file have of one of the model: numbers, and scales where there are some.
    fn all(storage: Storage) -> (Self, Option<Self>) {
        match storage {
            Storage::F32 => (Self::F32, None),
            Storage::F16 => (Self::F16, None),
            Storage::Int8 => (Self::Int8, Some(Self::Int8Scales)),
            Storage::Int4 => (Self::Int4, Some(Self::Int4Scales)),
        }
    }

    fn shape(self, spec: &TensorSpec) -> Vec<usize> {
        match (self, &spec.shape[..]) {
            (Self::Int8Scales, &[rows, _]) => vec![rows],
            (Self::Int4, &[rows, columns]) => vec![rows, columns.div_ceil(2)],
            (Self::Int4Scales, &[rows, columns]) => vec![rows, columns.div_ceil(INT4_GROUP)],
            (_, shape) => shape.to_vec(),
        }
    }
}

impl Lazy<'_, '_> {
    fn dtype(&self) -> Dtype {
        match self.form {
            Form::F32 | Form::Int8Scales => Dtype::F32,
            Form::F16 | Form::Int4Scales => Dtype::F16,
            Form::Int8 => Dtype::I8,
            Form::Int4 => Dtype::U8,
        }
    }

    /// The bytes; zeros once there was an error.
    fn data(&self) -> Vec<u8> {
        if self.error.borrow().is_none() {
            let needed = self.spec.shape.iter().product::<usize>();
            match (self.read)(self.spec) {
                Ok(rows) if rows.len() * rows.width() == needed => return self.encode(rows),
                Ok(rows) => {
                    let count = rows.len() * rows.width();
                    *self.error.borrow_mut() = Some(miscounted(self.spec, count));
                }
                Err(error) => *self.error.borrow_mut() = Some(error),
            }
        }
        vec![0; self.data_len()]
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
    }

    /// Integers that are in the form already stay as they are, scales included.
    fn encode(&self, rows: StoredRows<'_>) -> Vec<u8> {
        match (self.form, rows.values()) {
            (Form::Int8, StoredValues::Int8 { numbers, .. })
            | (Form::Int4, StoredValues::Int4 { numbers, .. }) => return numbers.to_vec(),
            (Form::Int8Scales, StoredValues::Int8 { scales, .. }) => {
                return scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            }
            (Form::Int4Scales, StoredValues::Int4 { scales, .. }) => {
                return scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            }
            _ => {}
        }
        let values = rows.decode();
        let rows = || values.chunks_exact(self.spec.shape[1]);
        match self.form {
            Form::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Form::F16 => {
                // What f16 cannot hold becomes its largest number rather than an infinity.
                let bound = f16::MAX.to_f32();
                let half = |v: &f32| f16::from_f32(v.clamp(-bound, bound)).to_le_bytes();
                values.iter().flat_map(half).collect()
            }
            Form::Int8 => rows().flat_map(|row| int8_row(row).1.map(i8::cast_unsigned)).collect(),
            Form::Int8Scales => rows().flat_map(|row| int8_row(row).0.to_le_bytes()).collect(),
            Form::Int4 => rows().flat_map(|row| int4_row(row).0).collect(),
            Form::Int4Scales => {
                rows().flat_map(|row| int4_row(row).1).flat_map(f16::to_le_bytes).collect()
            }
        }
    }
}

/// A model to be written.
#[derive(Clone, Copy, Debug)]
pub struct ModelOut<'a> {
    /// Its configuration as JSON.
    pub config_text: &'a str,
    /// Its tensors, and how each is stored.
    pub tensors: &'a [(TensorSpec, Storage)],
    /// The size of the files, if there are to be several.
    pub part_bytes: Option<u64>,
    /// Whether scales have names that a module of `PyTorch` can have, where a parameter has no parts: `weight_scale`
    /// instead of `weight.scale`. Both are read.
    pub is_module: bool,
}

impl ModelOut<'_> {
    /// Writes tensors to a file, or to several of about `part_bytes` with an index, and returns the path to open. Rows that
    /// are stored in the format already keep their bytes. Several files are renamed into place when all are complete.
    ///
    /// # Errors
    /// When a tensor cannot be read or a file cannot be written.
    pub fn write(&self, path: &Path, read: &Reader<'_, '_>) -> Result<PathBuf, CheckpointError> {
        let error = RefCell::new(None);
        let mut parts: Vec<Vec<(String, Lazy)>> = vec![Vec::new()];
        let mut filled = 0;
        let suffix = if self.is_module { MODULE_SCALE_SUFFIX } else { SCALE_SUFFIX };
        for (spec, storage) in self.tensors {
            let stored = stored(spec, *storage, suffix, read, &error);
            let bytes: u64 = stored.iter().map(|(_, t)| t.data_len() as u64).sum();
            if self.part_bytes.is_some_and(|limit| filled > 0 && filled + bytes > limit) {
                parts.push(Vec::new());
                filled = 0;
            }
            filled += bytes;
            if let Some(part) = parts.last_mut() {
                part.extend(stored);
            }
        }
        let metadata = metadata::entries(self.config_text);
        let write = |path: &Path, part: &mut Vec<(String, Lazy)>| {
            let written = std::fs::File::create(path).and_then(|file| {
                let mut file = std::io::BufWriter::new(file);
                emit(&mut file, part, &metadata)?;
                file.flush()
            });
            match error.borrow_mut().take() {
                Some(error) => Err(error),
                None => written.map_err(|e| unwritable(path, e)),
            }
        };
        if self.part_bytes.is_none() {
            write(path, &mut parts[0])?;
            return Ok(path.to_owned());
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut map = serde_json::Map::new();
        let mut files = Unfinished(Vec::new());
        let count = parts.len();
        for (i, part) in parts.iter_mut().enumerate() {
            let name = format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1);
            write(files.begin(&path.with_file_name(&name)), part)?;
            map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), name.clone().into())));
        }
        let index = path.with_file_name(format!("{stem}.safetensors.index.json"));
        let text = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
        let part = files.begin(&index);
        std::fs::write(part, text).map_err(|e| unwritable(part, e))?;
        files.finish()?;
        Ok(index)
    }
}

/// Writes a model as [`ModelOut`] does: large matrices are stored in `storage`, all others in f32.
///
/// # Errors
/// When a tensor cannot be read or a file cannot be written.
pub fn write_model(
    path: &Path,
    config_text: &str,
    tensors: &[TensorSpec],
    storage: Storage,
    part_bytes: Option<u64>,
    read: &Floats<'_>,
) -> Result<PathBuf, CheckpointError> {
    let tensors: Vec<_> = tensors.iter().map(|t| (t.clone(), storage.of(t))).collect();
    let out = ModelOut { config_text, tensors: &tensors, part_bytes, is_module: false };
    out.write(path, &|spec| floats(spec, read))
}

/// Where numbers come from: the tensor of a name, as f32.
type Floats<'a> = dyn Fn(&TensorSpec) -> Result<Vec<f32>, CheckpointError> + 'a;

fn floats(spec: &TensorSpec, read: &Floats<'_>) -> Result<StoredRows<'static>, CheckpointError> {
    let values = read(spec)?;
    if values.len() as u64 != spec.elements() {
        return Err(miscounted(spec, values.len()));
    }
    Ok(StoredRows::floats(spec.shape.iter().skip(1).product(), values))
}

/// Files that are being written: temporary path and final path.
struct Unfinished(Vec<(PathBuf, PathBuf)>);

impl Unfinished {
    /// The temporary path to write to.
    fn begin(&mut self, path: &Path) -> &Path {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let part = path.with_file_name(format!(".part-{}-{name}", std::process::id()));
        self.0.push((part, path.to_owned()));
        &self.0[self.0.len() - 1].0
    }

    /// Renames all files into place, in the order in which they were begun.
    fn finish(mut self) -> Result<(), CheckpointError> {
        for (part, path) in std::mem::take(&mut self.0) {
            std::fs::rename(&part, &path).map_err(|e| unwritable(&path, e))?;
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        for (part, _) in &self.0 {
            // It may not exist yet.
            drop(std::fs::remove_file(part));
        }
    }
}

/// The bytes of a model file in memory, for [`Checkpoint::from_bytes`](super::Checkpoint::from_bytes): the
/// configuration as JSON, and for each tensor of the model its numbers from `read`, row-major. Large matrices are
/// stored in `storage`, all others in f32.
///
/// # Errors
/// When the configuration is not readable, or `read` fails or returns another number of values than the tensor has.
pub fn model_bytes(
    config_text: &str,
    storage: Storage,
    read: &Floats<'_>,
) -> Result<Vec<u8>, CheckpointError> {
    let read = &|spec: &TensorSpec| floats(spec, read);
    let label = "the model in memory";
    let config = Config::from_json(config_text)
        .map_err(|source| CheckpointError::Config { label: label.into(), source })?;
    let error = RefCell::new(None);
    let specs = config.stored_tensors();
    let stored = |spec| stored(spec, storage.of(spec), SCALE_SUFFIX, read, &error);
    let mut tensors: Vec<_> = specs.iter().flat_map(stored).collect();
    let mut bytes = Vec::new();
    let written = emit(&mut bytes, &mut tensors, &metadata::entries(config_text));
    if let Some(error) = error.borrow_mut().take() {
        return Err(error);
    }
    let malformed = |e: std::io::Error| CheckpointError::Malformed {
        label: label.into(),
        reason: e.to_string(),
    };
    written.map_err(malformed).map(|()| bytes)
}

/// Writes a file, computing each tensor when its turn comes.
fn emit(
    out: &mut dyn Write,
    tensors: &mut [(String, Lazy)],
    metadata: &BTreeMap<String, String>,
) -> std::io::Result<()> {
    tensors.sort_by(|(a, first), (b, second)| file_order((first.dtype(), a), (second.dtype(), b)));
    let entries = tensors.iter().map(|(name, t)| (&**name, t.dtype(), &*t.shape, t.data_len()));
    out.write_all(&header(entries, metadata))?;
    tensors.iter().try_for_each(|(_, tensor)| out.write_all(&tensor.data()))
}

fn miscounted(spec: &TensorSpec, count: usize) -> CheckpointError {
    let problems = vec![format!("{} {:?} was given {count} values", spec.name, spec.shape)];
    CheckpointError::Mismatch { label: "the model".into(), problems }
}

/// What a file has of one tensor of the model, with the names there.
fn stored<'a, 'd>(
    spec: &'a TensorSpec,
    storage: Storage,
    scale_suffix: &str,
    read: &'a Reader<'a, 'd>,
    error: &'a RefCell<Option<CheckpointError>>,
) -> Vec<(String, Lazy<'a, 'd>)> {
    let lazy = |form: Form| Lazy { spec, form, shape: form.shape(spec), read, error };
    let (numbers, scales) = Form::all(storage);
    let scales = scales.map(|form| (format!("{}{scale_suffix}", spec.name), lazy(form)));
    std::iter::once((spec.name.clone(), lazy(numbers))).chain(scales).collect()
}

fn unwritable(path: &Path, source: std::io::Error) -> CheckpointError {
    CheckpointError::Unwritable { path: path.display().to_string(), source }
}
