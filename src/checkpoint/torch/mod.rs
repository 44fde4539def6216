//! PyTorch checkpoints (`.pt`): a zip archive with a pickle that names tensors and a file for each storage.
//! Nothing in them is executed; see `pickle`.

mod archive;
mod decode;
mod names;
mod pickle;
mod select;
mod value;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::error::CheckpointError;
use crate::platform::{self, Bytes};
use archive::Archive;
use decode::decode;
use select::{Chosen, choose};
use value::{Pickle, Tensor};

/// An opened PyTorch file: the tensors of one state_dict in it.
#[derive(Debug)]
pub struct TorchFile {
    label: String,
    bytes: Bytes,
    tensors: BTreeMap<String, Arc<Tensor>>,
    /// Where the numbers of each storage lie.
    archive: Archive,
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
        let (archive, pickle) = unpack(&bytes).map_err(refuse)?;
        let Chosen { tensors, weights } = choose(&pickle, weights).map_err(refuse)?;
        if tensors.is_empty() {
            return Err(refuse("it contains no tensors".into()));
        }
        Ok(Self { label: label.to_owned(), bytes, tensors, archive, weights })
    }

    /// File name, for people.
    pub fn label(&self) -> &str {
        &self.label
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
        let shape = |(name, tensor): (&String, &Arc<Tensor>)| {
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
        let storage = self.archive.get(&format!("data/{}", tensor.storage.key));
        let storage = storage.ok_or_else(|| self.refuse(name, "has no data in the archive"))?;
        let raw = &self.bytes[storage];
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

/// The pickle of an archive, and the list of its files.
fn unpack(bytes: &[u8]) -> Result<(Archive, Pickle), String> {
    let archive = Archive::read(bytes)?;
    if let Some(order) = archive.get("byteorder") {
        let order = String::from_utf8_lossy(&bytes[order]);
        if order.trim() != "little" {
            let order: String = order.chars().take(20).collect();
            return Err(format!(
                "its values are {order}-endian; save it on a little-endian machine"
            ));
        }
    }
    let description = archive.get("data.pkl");
    let description = description.ok_or("it is a zip archive without PyTorch's data.pkl")?;
    let pickle = Pickle::read(&bytes[description])?;
    Ok((archive, pickle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes: &[u8]) -> String {
        let bytes = Bytes::new(bytes.to_vec());
        TorchFile::from_bytes("x.pt", bytes, "ema").unwrap_err().to_string()
    }

    /// `{"w": tensor, "b": tensor}`: a matrix of 2×2 of four numbers, transposed, and `b` of `shape`.
    fn pickle(shape: &[u8]) -> Vec<u8> {
        let storage =
            b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
        let tensor = |shape: &[u8], strides: &[u8]| {
            let make = &b"ctorch._utils\n_rebuild_tensor_v2\n("[..];
            [make, storage, b"K\0", shape, strides, b"\x89}tR"].concat()
        };
        let w = tensor(b"K\x02K\x02\x86", b"K\x01K\x02\x86");
        let b = tensor(shape, b"K\x01\x85");
        let name = |name: &str| [b"X\x01\0\0\0", name.as_bytes()].concat();
        [&b"\x80\x02}("[..], &name("w"), &w, &name("b"), &b, b"u."].concat()
    }

    fn file(pickle: &[u8], numbers: [f32; 4], order: &[u8]) -> Vec<u8> {
        let numbers: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
        let files = [("x/data.pkl", pickle), ("x/byteorder", order), ("x/data/0", &numbers)];
        archive::tests::archive(&files)
    }

    #[test]
    fn tensors_of_an_archive_are_read() {
        let bytes = file(&pickle(b"K\x03\x85"), [1.0, 2.0, 3.0, 4.0], b"little\n");
        let file = TorchFile::from_bytes("x.pt", Bytes::new(bytes), "ema").unwrap();
        assert_eq!((file.label(), file.weights()), ("x.pt", None));
        let shapes = file.shapes().unwrap();
        assert_eq!(shapes, [("b".into(), vec![3]), ("w".into(), vec![2, 2])].into());
        assert_eq!(file.read("w").unwrap(), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(file.read("b").unwrap(), [1.0, 2.0, 3.0]);
        assert!(matches!(file.read("c"), Err(CheckpointError::Missing { .. })));
    }

    #[test]
    fn tensors_that_cannot_be_read_are_refused() {
        let of = |shape: &[u8], numbers, order| {
            let bytes = Bytes::new(file(&pickle(shape), numbers, order));
            TorchFile::from_bytes("x.pt", bytes, "ema")
        };
        let good = [1.0, 2.0, 3.0, 4.0];
        let big = of(b"K\x03\x85", good, b"big").unwrap_err().to_string();
        assert!(big.contains("big-endian"), "{big}");
        let negative = of(b"J\xff\xff\xff\xff\x85", good, b"little").unwrap();
        assert!(negative.shapes().unwrap_err().to_string().contains("b has a negative size"));
        let error = of(b"K\x03\x85", [0.0, 1.0, f32::NAN, 2.0], b"little").unwrap().read("b");
        assert!(matches!(error, Err(CheckpointError::NotFinite { at: 2, .. })), "{error:?}");
        let lacks = archive::tests::archive(&[("x/data.pkl", &pickle(b"K\x03\x85"))]);
        let lacks = TorchFile::from_bytes("x.pt", Bytes::new(lacks), "ema").unwrap();
        assert!(lacks.read("w").unwrap_err().to_string().contains("w has no data"));
        assert!(open(&archive::tests::archive(&[("x/a", b"")])).contains("without PyTorch's data"));
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let legacy = open(b"\x80\x02.");
        assert!(legacy.contains("not a PyTorch archive; files of PyTorch before 1.6"), "{legacy}");
        let short = open(b"PK\x03\x04 and some bytes");
        assert!(short.contains("its end is missing"), "{short}");
        assert!(open(&[]).contains("x.pt is not a readable PyTorch checkpoint: it is not"));
    }
}
