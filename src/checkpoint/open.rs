//! Finding the files of a checkpoint: one file, or an index and its parts.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use super::error::CheckpointError;
use super::tensor_file::TensorFile;
use crate::platform;

/// The index of a sharded checkpoint, in the form that is usual for safetensors.
#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, String>,
}

impl TensorFile {
    /// Opens a safetensors file, or the `.json` index of a sharded one.
    ///
    /// The configuration is read from the file's header, or from `config.json` or `case.json` in the same folder.
    ///
    /// # Errors
    /// When a file cannot be read or is not a safetensors file.
    pub fn open(path: &Path) -> Result<TensorFile, CheckpointError> {
        let label = path.display().to_string();
        let unreadable = |path: &Path, source| CheckpointError::Unreadable {
            path: path.display().to_string(),
            source,
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        let is_index = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let files: Vec<_> = if is_index {
            let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, e))?;
            let index: Index = serde_json::from_str(&text).map_err(|e| {
                let reason = format!("it is not an index of a sharded checkpoint ({e})");
                CheckpointError::Malformed { label: label.clone(), reason }
            })?;
            // A part is named relative to its index; a name that leads elsewhere is not followed.
            let names: BTreeSet<_> = index.weight_map.into_values().collect();
            for name in &names {
                if Path::new(name).file_name().is_none_or(|n| n != name.as_str()) {
                    let reason = format!("its part {name:?} is not a plain file name");
                    return Err(CheckpointError::Malformed { label, reason });
                }
            }
            names.into_iter().map(|name| folder.join(name)).collect()
        } else {
            vec![path.to_owned()]
        };
        let mut parts = Vec::new();
        for file in files {
            let bytes = platform::map_file(&file).map_err(|e| unreadable(&file, e))?;
            parts.push((file.display().to_string(), bytes));
        }
        let beside = ["config.json", "case.json"]
            .iter()
            .find_map(|name| std::fs::read_to_string(folder.join(name)).ok());
        TensorFile::from_parts(parts, beside)
    }
}
