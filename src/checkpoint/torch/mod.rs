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

    #[test]
    fn what_is_no_archive_is_refused() {
        let legacy = open(b"\x80\x02.");
        assert!(legacy.contains("not a PyTorch archive; files of PyTorch before 1.6"), "{legacy}");
        let short = open(b"PK\x03\x04 and some bytes");
        assert!(short.contains("its end is missing"), "{short}");
        assert!(open(&[]).contains("x.pt is not a readable PyTorch checkpoint: it is not"));
    }
}
