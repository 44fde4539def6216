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
use super::tensor_file::SCALE_SUFFIX;
use crate::model::{Config, INT4_GROUP, Storage, TensorSpec};

/// Where numbers come from: the tensor of a name, as f32.
type Reader<'a> = dyn Fn(&TensorSpec) -> Result<Vec<f32>, CheckpointError> + 'a;

/// A tensor that is computed when the file has got to its place.
struct Lazy<'a> {
    spec: &'a TensorSpec,
    form: Form,
    shape: Vec<usize>,
    read: &'a Reader<'a>,
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
    /// What the tensors of a file have of one of the model, with what is put behind its name.
    fn all(storage: Storage) -> &'static [(&'static str, Self)] {
        match storage {
            Storage::F32 => &[("", Self::F32)],
            Storage::F16 => &[("", Self::F16)],
            Storage::Int8 => &[("", Self::Int8), (SCALE_SUFFIX, Self::Int8Scales)],
            Storage::Int4 => &[("", Self::Int4), (SCALE_SUFFIX, Self::Int4Scales)],
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

impl Lazy<'_> {
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
                Ok(values) if values.len() == needed => return self.encode(&values),
                Ok(values) => *self.error.borrow_mut() = Some(miscounted(self.spec, values.len())),
                Err(error) => *self.error.borrow_mut() = Some(error),
            }
        }
        vec![0; self.data_len()]
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
    }

    fn encode(&self, values: &[f32]) -> Vec<u8> {
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

/// Writes tensors to a file, or to several of about `part_bytes` with an index, and returns the path to open.
/// Large matrices are stored in `storage`, all others in f32. Several files are renamed into place when all are complete.
///
/// # Errors
/// When a tensor cannot be read or a file cannot be written.
pub fn write_model(
    path: &Path,
    config_text: &str,
    tensors: &[TensorSpec],
    storage: Storage,
    part_bytes: Option<u64>,
    read: &Reader<'_>,
) -> Result<PathBuf, CheckpointError> {
    let error = RefCell::new(None);
    let mut parts: Vec<Vec<(String, Lazy)>> = vec![Vec::new()];
    let mut filled = 0;
    for spec in tensors {
        let stored = stored(spec, storage, read, &error);
        let bytes: u64 = stored.iter().map(|(_, t)| t.data_len() as u64).sum();
        if part_bytes.is_some_and(|limit| filled > 0 && filled + bytes > limit) {
            parts.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(part) = parts.last_mut() {
            part.extend(stored);
        }
    }
    let metadata = metadata::entries(config_text);
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
    if part_bytes.is_none() {
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
    read: &Reader<'_>,
) -> Result<Vec<u8>, CheckpointError> {
    let label = "the model in memory";
    let config = Config::from_json(config_text)
        .map_err(|source| CheckpointError::Config { label: label.into(), source })?;
    let error = RefCell::new(None);
    let specs = config.tensors();
    let mut tensors: Vec<_> =
        specs.iter().flat_map(|spec| stored(spec, storage, read, &error)).collect();
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
fn stored<'a>(
    spec: &'a TensorSpec,
    storage: Storage,
    read: &'a Reader<'a>,
    error: &'a RefCell<Option<CheckpointError>>,
) -> Vec<(String, Lazy<'a>)> {
    let forms = Form::all(storage.of(spec)).iter();
    let lazy = |form: Form| Lazy { spec, form, shape: form.shape(spec), read, error };
    forms.map(|&(suffix, form)| (format!("{}{suffix}", spec.name), lazy(form))).collect()
}

fn unwritable(path: &Path, source: std::io::Error) -> CheckpointError {
    CheckpointError::Unwritable { path: path.display().to_string(), source }
}
