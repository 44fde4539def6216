//! Finding the files of a checkpoint: one file, or an index and its parts.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::CheckpointError;
use super::parts::{PartFile, Parts};
use super::tensor_file::TensorFile;
use crate::model::REFINER;
use crate::platform;

/// The index of a sharded checkpoint, in the form that is usual for safetensors.
#[derive(Deserialize)]
struct Document {
    weight_map: BTreeMap<String, String>,
}

/// The folders of a model and of its refiner in a pipeline of diffusers.
const TRANSFORMERS: [&str; 2] = ["transformer", "transformer_2"];

/// Where the weights are in a folder that follows the conventions of model hubs, the first that is there: that of a
/// pipeline of diffusers, of its transformer alone, or of one model.
const HUB_FILES: [&str; 6] = [
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
];

/// The file to open in a folder from a model hub: weights, or their index. `None` for another folder, or a file.
pub fn hub_file(folder: &Path) -> Option<PathBuf> {
    HUB_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

impl TensorFile {
    /// Opens a safetensors file, the `.json` index of a sharded one, or a folder that has one of them where diffusers
    /// puts it. Each tensor is read from the part that the index names.
    ///
    /// The configuration is read from the file's header, or from `config.json` or `case.json` in the same folder.
    ///
    /// # Errors
    /// When a file cannot be read or is not a safetensors file, or a part lacks a tensor that the index lists.
    pub fn open(path: &Path) -> Result<TensorFile, CheckpointError> {
        let path = hub_file(path).map_or(Cow::Borrowed(path), Cow::Owned);
        let parts = Parts::open(&path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let beside = ["config.json", "case.json"]
            .iter()
            .find_map(|name| std::fs::read_to_string(folder.join(name)).ok());
        TensorFile::from_parts(parts, beside)
    }
}

impl Parts {
    /// Maps a safetensors file, or all parts of an index; and those of the refiner, if this is the model of a pipeline of
    /// diffusers that has one.
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mut parts = Self::of(path)?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = absolute.parent().filter(|folder| folder.ends_with(TRANSFORMERS[0]));
        let refiner = folder.map(|folder| folder.with_file_name(TRANSFORMERS[1]));
        if let Some(refiner) = refiner.and_then(|folder| hub_file(&folder)) {
            let files = Self::of(&refiner)?.files.into_iter();
            parts.files.extend(files.map(|file| PartFile { prefix: REFINER, ..file }));
        }
        Ok(parts)
    }

    fn of(path: &Path) -> Result<Self, CheckpointError> {
        let label = path.display().to_string();
        let unreadable = |path: &Path, source| CheckpointError::Unreadable {
            path: path.display().to_string(),
            source,
        };
        let map = |path: &Path| platform::map_file(path).map_err(|e| unreadable(path, e));
        if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("json")) {
            return Ok(Self::one(&label, map(path)?));
        }
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, e))?;
        let malformed =
            |reason: String| CheckpointError::Malformed { label: label.clone(), reason };
        let document: Document = serde_json::from_str(&text)
            .map_err(|e| malformed(format!("it is not an index of a sharded checkpoint ({e})")))?;
        let mut wanted = BTreeMap::<_, BTreeSet<_>>::new();
        for (tensor, part) in document.weight_map {
            wanted.entry(part).or_default().insert(tensor);
        }
        let mut files = Vec::new();
        // A part is named relative to its index; a name that leads elsewhere is not followed.
        for (name, wanted) in wanted {
            if Path::new(&name).file_name().is_none_or(|n| n != name.as_str()) {
                return Err(malformed(format!("its part {name:?} is not a plain file name")));
            }
            let path = path.with_file_name(&name);
            let (label, bytes) = (path.display().to_string(), map(&path)?);
            files.push(PartFile { label, bytes, name, wanted: Some(wanted), prefix: "" });
        }
        Ok(Self { label, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{TensorOut, write_safetensors};

    #[test]
    fn an_index_names_files_beside_it_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        for path in [folder.path().join("a.safetensors"), inner.join("a.safetensors")] {
            write_safetensors(&path, &[TensorOut::f32("w", &[1], &[1.0])], []).unwrap();
        }
        let index = inner.join("model.safetensors.index.json");
        let open = |part: &str| {
            std::fs::write(&index, format!(r#"{{"weight_map":{{"w":"{part}"}}}}"#)).unwrap();
            TensorFile::open(&index)
        };
        assert_eq!(open("a.safetensors").unwrap().read("w").unwrap(), [1.0]);
        for part in ["../a.safetensors", "./a.safetensors", "", ".."] {
            let error = open(part).unwrap_err().to_string();
            assert!(error.contains("not a plain file name"), "{part}: {error}");
        }
        open("a.safetensors").unwrap();
        assert_eq!(hub_file(&inner), Some(index.clone()));
        assert_eq!(TensorFile::open(&inner).unwrap().read("w").unwrap(), [1.0]);
        assert_eq!(hub_file(folder.path()), None);
        assert_eq!(hub_file(&index), None, "a file");
    }
}
