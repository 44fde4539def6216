//! The source of a conversion: a PyTorch file, a safetensors file or an index of several, of any model.

use std::collections::BTreeMap;
use std::path::Path;

use super::check::{self, Shapes};
use super::error::CheckpointError;
use super::jit::JitLayout;
use super::parts::Parts;
use super::rows::StoredRows;
use super::tensor_file::TensorFile;
use super::torch::TorchFile;
use crate::model::{Config, Storage, TensorSpec};

/// Tensors by their official names, decoded one at a time.
#[derive(Debug)]
pub struct Source {
    file: File,
    /// What changes the tensors of a JiT to those of this program.
    jit: Option<JitLayout>,
}

#[derive(Debug)]
enum File {
    /// `.pt`
    Torch(TorchFile),
    /// `.safetensors`, or an index
    Safetensors(TensorFile),
}

impl File {
    fn shapes(&self) -> Result<Shapes, CheckpointError> {
        match self {
            Self::Torch(file) => file.shapes(),
            Self::Safetensors(file) => Ok(file.shapes()),
        }
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        match self {
            Self::Torch(file) => file.read(name),
            Self::Safetensors(file) => file.read(name),
        }
    }
}

impl Source {
    /// Opens a safetensors file, the `.json` index of a sharded one, or a PyTorch file. `weights` as in
    /// [`TorchFile::open`].
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn open(path: &Path, weights: &str) -> Result<Self, CheckpointError> {
        let has = |ending: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending));
        let file = if !has("safetensors") && !has("json") {
            File::Torch(TorchFile::open(path, weights)?)
        } else {
            // Not a config.json in the same folder, which may come from another program.
            File::Safetensors(TensorFile::from_parts(Parts::open(path)?, None)?)
        };
        let jit = JitLayout::of(&file.shapes()?);
        Ok(Self { file, jit })
    }

    /// Whether it is a safetensors file, beside which a configuration may lie.
    pub fn is_safetensors(&self) -> bool {
        matches!(self.file, File::Safetensors(_))
    }

    /// File name, for people.
    pub fn label(&self) -> &str {
        match &self.file {
            File::Torch(file) => file.label(),
            File::Safetensors(file) => file.label(),
        }
    }

    /// Names and shapes of all tensors.
    ///
    /// # Errors
    /// When a shape is none.
    pub fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>, CheckpointError> {
        self.jit.as_ref().map_or_else(|| self.file.shapes(), |jit| Ok(jit.shapes().clone()))
    }

    /// Checks the tensors against a configuration, as [`Checkpoint::open`](super::Checkpoint::open) does.
    ///
    /// # Errors
    /// Lists every tensor that is missing, unexpected, of the wrong shape, or stored in an unsupported format.
    pub fn check(&self, config: &Config) -> Result<(), CheckpointError> {
        match (&self.file, &self.jit) {
            (File::Safetensors(file), None) => check::check_file(file, config),
            _ => check::check(self.label(), config, &self.shapes()?),
        }
    }

    /// The configuration in the header of one of our own files.
    pub fn config_text(&self) -> Option<String> {
        let File::Safetensors(file) = &self.file else { return None };
        file.config_text().map(str::to_owned)
    }

    /// Which state_dict of a training checkpoint was taken.
    pub fn weights(&self) -> Option<&str> {
        match &self.file {
            File::Torch(file) => file.weights(),
            File::Safetensors(_) => None,
        }
    }

    /// The format that keeps a tensor's numbers: that of a safetensors file, f32 for those of `PyTorch` and of JiT.
    ///
    /// # Errors
    /// When there is no tensor of that name.
    pub fn kept_by(&self, name: &str) -> Result<Storage, CheckpointError> {
        match (&self.file, &self.jit) {
            (File::Safetensors(file), None) => file.kept_by(name),
            _ => Ok(Storage::F32),
        }
    }

    /// The rows of a tensor, with integers as they are stored.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn rows(&self, spec: &TensorSpec) -> Result<StoredRows<'_>, CheckpointError> {
        if let (File::Safetensors(file), None) = (&self.file, &self.jit) {
            return file.rows(&spec.name);
        }
        let width = spec.shape.iter().skip(1).product();
        self.read(&spec.name).map(|values| StoredRows::floats(width, values))
    }

    /// Decodes a tensor to f32.
    ///
    /// # Errors
    /// When there is none of that name, it is damaged, or holds NaN or an infinity.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        match &self.jit {
            Some(jit) => jit.read(name, |name| self.file.read(name)),
            None => self.file.read(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{TensorOut, write_safetensors};

    #[test]
    fn the_ending_of_a_name_decides() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.SAFETENSORS");
        write_safetensors(&path, &[TensorOut::f32("w", &[2], &[1.0, 2.0])], []).unwrap();
        let source = Source::open(&path, "ema").unwrap();
        assert!(source.is_safetensors());
        assert_eq!(source.label(), path.display().to_string());
        assert_eq!(source.shapes().unwrap(), [("w".to_owned(), vec![2])].into());
        assert_eq!(source.read("w").unwrap(), [1.0, 2.0]);
        assert_eq!((source.weights(), source.config_text()), (None, None));
        let config = "dense-S-flow".parse::<crate::model::Preset>().unwrap().config();
        let error = source.check(&config).unwrap_err().to_string();
        assert!(error.contains("does not fit its configuration"), "{error}");
        let ours = folder.path().join("ours.safetensors");
        let text = [(crate::checkpoint::CONFIG_KEY.to_owned(), "{}".to_owned())];
        write_safetensors(&ours, &[TensorOut::f32("w", &[1], &[1.0])], text).unwrap();
        assert_eq!(Source::open(&ours, "ema").unwrap().config_text().as_deref(), Some("{}"));
        let other = folder.path().join("a.pt");
        std::fs::rename(&path, &other).unwrap();
        let error = Source::open(&other, "ema").unwrap_err().to_string();
        assert!(error.contains("not a PyTorch archive"), "{error}");
    }
}
