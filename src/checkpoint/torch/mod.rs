//! PyTorch checkpoints (`.pt`): a zip archive with a pickle that names tensors and a file for each storage.
//! Nothing in them is executed; see `pickle`.

mod pickle;

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};

use super::error::CheckpointError;
use crate::platform::{self, Bytes};
use pickle::{Pickle, Tensor, Value};

/// Bytes of each storage in its archive, by key.
type Storages = BTreeMap<String, Range<usize>>;

/// An opened PyTorch file: the tensors of one state_dict in it.
#[derive(Debug)]
pub struct TorchFile {
    label: String,
    bytes: Bytes,
    tensors: BTreeMap<String, Tensor>,
    /// Where the numbers of each storage lie.
    storages: Storages,
    weights: Option<String>,
}

impl TorchFile {
    /// Opens a file. `weights` names the state_dict to take where there are several (`ema` or `model` in training
    /// checkpoints); a file that is a state_dict itself has none to choose from.
    ///
    /// # Errors
    /// When the file cannot be read, is not a PyTorch archive, or refers to anything but tensors.
    pub fn open(path: &Path, weights: &str) -> Result<Self, CheckpointError> {
        let label = path.display().to_string();
        let bytes = platform::map_file(path)
            .map_err(|source| CheckpointError::Unreadable { path: label.clone(), source })?;
        Self::from_bytes(&label, bytes, weights)
    }

    /// As [`TorchFile::open`], for a file that is in memory already.
    ///
    /// # Errors
    /// As [`TorchFile::open`].
    pub fn from_bytes(label: &str, bytes: Bytes, weights: &str) -> Result<Self, CheckpointError> {
        let refuse = |reason: String| CheckpointError::Torch { label: label.to_owned(), reason };
        let (description, storages) = unpack(&bytes).map_err(refuse)?;
        let pickle = Pickle::read(&description).map_err(refuse)?;
        let (dict, weights) = choose(&pickle, weights).map_err(refuse)?;
        let tensors = tensors_of(&pickle, dict).map_err(refuse)?;
        if tensors.is_empty() {
            return Err(refuse("it contains no tensors".into()));
        }
        Ok(Self { label: label.to_owned(), bytes, tensors, storages, weights })
    }

    /// Which state_dict of the file was taken, where there was a choice.
    pub fn weights(&self) -> Option<&str> {
        self.weights.as_deref()
    }

    /// Names and shapes of all tensors.
    ///
    /// # Errors
    /// When a shape is none.
    pub fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>, CheckpointError> {
        let shape = |(name, tensor): (&String, &Tensor)| {
            let shape = tensor.shape.iter().map(|&n| usize::try_from(n)).collect::<Result<_, _>>();
            let shape = shape.map_err(|_| self.refuse(name, "has a negative size"))?;
            Ok((name.clone(), shape))
        };
        self.tensors.iter().map(shape).collect()
    }

    fn refuse(&self, name: &str, reason: &str) -> CheckpointError {
        CheckpointError::Torch { label: self.label.clone(), reason: format!("{name} {reason}") }
    }

    /// Decodes a tensor to f32, row-major.
    ///
    /// # Errors
    /// When there is no such tensor, it points outside its data, or holds NaN or an infinity.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let missing = || CheckpointError::Missing { name: name.to_owned() };
        let tensor = self.tensors.get(name).ok_or_else(missing)?;
        let storage = self.storages.get(&tensor.key);
        let storage = storage.ok_or_else(|| self.refuse(name, "has no data in the archive"))?;
        let raw = &self.bytes[storage.clone()];
        let values = decode(tensor, raw).map_err(|reason| self.refuse(name, &reason))?;
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

/// The pickle of an archive, and where its storages lie in it.
fn unpack(bytes: &[u8]) -> Result<(Vec<u8>, Storages), String> {
    let no_archive = |error: zip::result::ZipError| {
        format!(
            "it is not a PyTorch archive ({error}); files of PyTorch before 1.6 must be saved \
                again with a newer version"
        )
    };
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(no_archive)?;
    let mut description = None;
    let mut storages = BTreeMap::new();
    for i in 0..archive.len() {
        let mut file = archive.by_index(i).map_err(no_archive)?;
        let name = file.name().map_err(no_archive)?.into_owned();
        // Everything lies in one folder, whose name does not matter.
        let Some((_, inner)) = name.split_once('/') else { continue };
        if file.compression() != zip::CompressionMethod::Stored {
            return Err(format!("{name} in it is compressed, which torch.save never does"));
        }
        if inner == "data.pkl" {
            let mut text = Vec::new();
            file.read_to_end(&mut text).map_err(|e| format!("{name} in it: {e}"))?;
            description = Some(text);
        } else if inner == "byteorder" {
            let mut order = String::new();
            file.read_to_string(&mut order).map_err(|e| format!("{name} in it: {e}"))?;
            if order.trim() != "little" {
                return Err(format!(
                    "its values are {order}-endian; save it on a little-endian \
                    machine"
                ));
            }
        } else if let Some(key) = inner.strip_prefix("data/") {
            let start = file.data_start().ok_or("a file in it has no offset")? as usize;
            let end = start.checked_add(file.size() as usize).filter(|&end| end <= bytes.len());
            let end =
                end.ok_or_else(|| format!("it ends inside {name}; download or copy it again"))?;
            storages.insert(key.to_owned(), start..end);
        }
    }
    let description = description.ok_or("it is a zip archive without PyTorch's data.pkl")?;
    Ok((description, storages))
}

/// The state_dict to take: the entry of that name, or the whole file.
fn choose<'a>(pickle: &'a Pickle, weights: &str) -> Result<(&'a Value, Option<String>), String> {
    let root = pickle.root();
    let Value::Dict(entries) = root else { return Err("it is not a dictionary of tensors".into()) };
    if let Some(dict @ Value::Dict(_)) = pickle.get(root, weights) {
        return Ok((dict, Some(weights.to_owned())));
    }
    let is_tensor = |e: &&(usize, usize)| matches!(pickle.value(e.1), Value::Tensor(_));
    if entries.iter().any(|e| is_tensor(&e)) {
        return Ok((root, None));
    }
    let names: Vec<_> = entries
        .iter()
        .filter(|e| matches!(pickle.value(e.1), Value::Dict(_)))
        .filter_map(|e| match pickle.value(e.0) {
            Value::Text(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    Err(format!("it has no weights {weights:?}; available: {}", names.join(", ")))
}

fn tensors_of(pickle: &Pickle, dict: &Value) -> Result<BTreeMap<String, Tensor>, String> {
    let Value::Dict(entries) = dict else { return Err("it is not a dictionary of tensors".into()) };
    let mut tensors = BTreeMap::new();
    for &(key, value) in entries {
        let (Value::Text(name), Value::Tensor(tensor)) = (pickle.value(key), pickle.value(value))
        else {
            // `_metadata` and the like.
            continue;
        };
        // Wrappers of distributed training put this in front.
        let name = name.strip_prefix("module.").unwrap_or(name);
        tensors.insert(name.to_owned(), tensor.clone());
    }
    Ok(tensors)
}

/// Gathers a tensor from its storage; every index is checked before anything is allocated.
fn decode(tensor: &Tensor, raw: &[u8]) -> Result<Vec<f32>, String> {
    let width = match tensor.dtype {
        "Double" | "Long" => 8,
        "Float" | "Int" => 4,
        "Half" | "BFloat16" | "Short" => 2,
        _ => 1,
    };
    let stored = raw.len() / width;
    if usize::try_from(tensor.storage_len) != Ok(stored) {
        return Err(format!("declares {} values but stores {stored}", tensor.storage_len));
    }
    let outside = || "points outside its data".to_owned();
    if tensor.shape.len() != tensor.strides.len() {
        return Err("has different numbers of strides and sizes".into());
    }
    let offset = usize::try_from(tensor.offset).map_err(|_| outside())?;
    let mut sizes = Vec::new();
    let (mut count, mut last) = (1_usize, offset);
    for (&size, &stride) in tensor.shape.iter().zip(&tensor.strides) {
        let size = usize::try_from(size).map_err(|_| outside())?;
        let stride = usize::try_from(stride).map_err(|_| outside())?;
        count = count.checked_mul(size).ok_or_else(outside)?;
        let reach = size.saturating_sub(1).checked_mul(stride).ok_or_else(outside)?;
        last = last.checked_add(reach).ok_or_else(outside)?;
        sizes.push((size, stride));
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    // More numbers than there are stored would be copies, which no weight is made of.
    if last >= stored || count > stored {
        return Err(outside());
    }
    let number = |at: usize| number(tensor.dtype, &raw[at * width..][..width]);
    let mut expected = 1;
    let is_contiguous = sizes.iter().rev().all(|&(size, stride)| {
        let fits = stride == expected || size == 1;
        expected *= size;
        fits
    });
    if is_contiguous {
        return Ok((offset..offset + count).map(number).collect());
    }
    let place = |mut flat: usize| {
        sizes.iter().rev().fold(offset, |at, &(size, stride)| {
            let index = flat % size;
            flat /= size;
            at + index * stride
        })
    };
    Ok((0..count).map(|flat| number(place(flat))).collect())
}

/// One number of a storage, little-endian. The slice has the type's width.
fn number(dtype: &str, b: &[u8]) -> f32 {
    let word = || [b[0], b[1], b[2], b[3]];
    let long = || [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]];
    match dtype {
        "Float" => f32::from_le_bytes(word()),
        "Half" => f16::from_le_bytes([b[0], b[1]]).to_f32(),
        "BFloat16" => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        "Double" => f64::from_le_bytes(long()) as f32,
        "Long" => i64::from_le_bytes(long()) as f32,
        "Int" => i32::from_le_bytes(word()) as f32,
        "Short" => i16::from_le_bytes([b[0], b[1]]).into(),
        "Char" => f32::from(b[0].cast_signed()),
        _ => f32::from(b[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(offset: i64, shape: &[i64], strides: &[i64]) -> Tensor {
        Tensor {
            dtype: "Float",
            key: "0".into(),
            storage_len: 12,
            offset,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
        }
    }

    fn raw() -> Vec<u8> {
        (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect()
    }

    #[test]
    fn views_of_all_kinds_are_gathered() {
        let read = |t: Tensor| decode(&t, &raw()).unwrap();
        assert_eq!(read(tensor(2, &[2, 3], &[3, 1])), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(read(tensor(0, &[3, 2], &[1, 3])), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(read(tensor(11, &[], &[])), [11.0]);
        assert!(read(tensor(0, &[0, 5], &[5, 1])).is_empty());
    }

    #[test]
    fn views_beyond_the_data_are_refused() {
        for (offset, shape, strides) in [
            (12, &[1][..], &[1][..]),
            (-1, &[2], &[1]),
            (0, &[13], &[1]),
            (0, &[2, 2], &[11, 1]),
            (0, &[2], &[-1]),
            (0, &[-2], &[1]),
            (0, &[i64::MAX, i64::MAX], &[1, 1]),
            (i64::MAX, &[2], &[i64::MAX]),
            // A thousand million numbers made of one.
            (0, &[1_000_000_000], &[0]),
        ] {
            let refusal = decode(&tensor(offset, shape, strides), &raw()).unwrap_err();
            assert!(refusal.contains("outside"), "{offset} {shape:?} {strides:?}: {refusal}");
        }
        assert!(decode(&tensor(0, &[2], &[]), &raw()).unwrap_err().contains("strides"));
        let more = Tensor { storage_len: 13, ..tensor(0, &[1], &[1]) };
        assert!(decode(&more, &raw()).unwrap_err().contains("declares 13"));
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let open = |bytes: &[u8]| {
            let bytes = Bytes::new(bytes.to_vec());
            TorchFile::from_bytes("x.pt", bytes, "ema").unwrap_err().to_string()
        };
        assert!(open(b"\x80\x02.").contains("not a PyTorch archive"), "{}", open(b"\x80\x02."));
        assert!(open(&[]).contains("x.pt"));
    }
}
