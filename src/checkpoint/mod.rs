//! Checkpoints: safetensors files with the official `state_dict` names and the configuration inside.
//!
//! A checkpoint may be one file or an index with parts. Files are memory-mapped where there is a file
//! system; tensors are decoded one at a time, so that loading needs little more memory than the largest
//! tensor. Every missing, extra and mis-shaped tensor is reported at once.

mod check;
mod dtype;
mod error;
#[cfg(feature = "import")]
mod family;
mod foreign;
mod header;
#[cfg(feature = "import")]
mod hints;
#[cfg(feature = "import")]
mod infer;
#[cfg(feature = "import")]
mod jit;
mod metadata;
mod open;
mod parts;
#[cfg(feature = "import")]
mod published;
mod quantise;
mod random;
mod rows;
#[cfg(feature = "import")]
mod source;
mod store;
mod tensor_file;
#[cfg(feature = "import")]
mod torch;
mod write;
#[cfg(feature = "import")]
mod yaml;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use error::CheckpointError;
#[cfg(feature = "import")]
pub use family::{Nearest, nearest_family};
#[cfg(feature = "import")]
pub use hints::Hints;
#[cfg(feature = "import")]
pub use infer::{InferError, Inferred, infer_config, is_run_config};
pub use open::hub_file;
#[cfg(test)]
pub(crate) use quantise::from_int4_row;
pub(crate) use quantise::{int4_row, int8_row};
pub use random::random_tensor;
pub use rows::StoredRows;
pub(crate) use rows::StoredValues;
#[cfg(feature = "import")]
pub use source::Source;
pub use store::{ModelOut, model_bytes, write_model};
pub use tensor_file::{CONFIG_KEY, TensorFile, TensorInfo};
#[cfg(feature = "import")]
pub use torch::TorchFile;
pub use write::{TensorOut, safetensors_bytes, write_safetensors};

use crate::model::{Config, REFINER, Storage, TensorSpec, refiner_document};
use crate::platform::Bytes;
use check::check_file;

/// An opened checkpoint whose tensors have been checked against its configuration.
#[derive(Debug)]
pub struct Checkpoint {
    file: Arc<TensorFile>,
    /// What the names of its tensors begin with in the file
    prefix: &'static str,
    config: Config,
    config_text: String,
    /// Tensors of the file that were decoded so far, for a progress bar
    reads: Arc<AtomicUsize>,
}

impl Checkpoint {
    /// Opens a safetensors file, the `.json` index of a sharded one, or a folder with either as diffusers writes it.
    ///
    /// The configuration is read from the file's header, or from `config.json` or `case.json` in the same folder.
    ///
    /// # Errors
    /// When a file cannot be read, is not a safetensors file, has no configuration, or its tensors do not fit.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::from_file(TensorFile::open(path)?)
    }

    /// A checkpoint that is in memory already.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(label: &str, bytes: Bytes) -> Result<Self, CheckpointError> {
        Self::from_file(TensorFile::from_bytes(label, bytes)?)
    }

    /// An untrained model of a configuration, given as JSON: to measure time and memory, and for tests. The same seed
    /// gives the same weights.
    ///
    /// # Errors
    /// When the configuration is not readable.
    pub fn random(config_text: &str, seed: u64) -> Result<Self, CheckpointError> {
        let label = "random model";
        let config = Config::from_json(config_text)
            .map_err(|source| CheckpointError::Config { label: label.into(), source })?;
        let read = |spec: &TensorSpec| Ok(random_tensor(&config, spec, seed));
        let bytes = model_bytes(config_text, Storage::F32, &read)?;
        Self::from_bytes(label, Bytes::new(bytes))
    }

    /// Reads the configuration that came with the tensors and checks them against it.
    ///
    /// # Errors
    /// When there is no configuration, or the tensors do not fit it.
    pub fn from_file(file: TensorFile) -> Result<Self, CheckpointError> {
        let label = file.label().to_owned();
        let config_text = file
            .config_text()
            .ok_or_else(|| CheckpointError::NoConfig { label: label.clone() })?
            .to_owned();
        let config = Config::from_json(&config_text)
            .map_err(|source| CheckpointError::Config { label, source })?;
        check_file(&file, &config)?;
        Ok(Self { file: Arc::new(file), prefix: "", config, config_text, reads: Arc::default() })
    }

    /// The model's refiner as a model of its own, which shares the file.
    ///
    /// # Errors
    /// Never in practice: its configuration was read with the model's.
    pub fn refiner(&self) -> Result<Option<Self>, CheckpointError> {
        let Some(refiner) = &self.config.refiner else { return Ok(None) };
        let config_text = refiner_document(&self.config_text).map_err(|source| {
            CheckpointError::Config { label: self.file.label().to_owned(), source }
        })?;
        Ok(Some(Self {
            file: self.file.clone(),
            prefix: REFINER,
            config: refiner.config.clone(),
            config_text,
            reads: self.reads.clone(),
        }))
    }

    /// The name in the file of one of its tensors.
    fn name<'a>(&self, name: &'a str) -> Cow<'a, str> {
        if self.prefix.is_empty() { name.into() } else { format!("{}{name}", self.prefix).into() }
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The configuration as stored in the file, including keys that [`Config`] ignores (the model card).
    pub fn config_text(&self) -> &str {
        &self.config_text
    }

    /// All tensors of the file with their storage, by name; row scales are counted with their matrix.
    pub fn list(&self) -> Vec<TensorInfo> {
        self.file.list()
    }

    /// How a tensor is stored; bf16 counts as f16, which has as many bytes.
    ///
    /// # Errors
    /// When there is no tensor of that name.
    pub fn storage(&self, name: &str) -> Result<Storage, CheckpointError> {
        self.file.storage(&self.name(name))
    }

    /// Calls of [`Checkpoint::read`] so far, and the number of tensors: the progress of loading.
    pub fn progress(&self) -> (usize, usize) {
        (self.reads.load(Ordering::Relaxed), self.file.names().count())
    }

    /// Starts [`Checkpoint::progress`] again.
    pub fn reset_progress(&self) {
        self.reads.store(0, Ordering::Relaxed);
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files().map(|file| file.len() as u64).sum()
    }

    /// Its files, in order.
    pub fn files(&self) -> impl Iterator<Item = &[u8]> {
        self.file.files()
    }

    /// Gives memory of mapped files back to the system; what is read again is loaded again.
    pub fn release(&self) {
        self.file.release();
    }

    /// Shape of a tensor.
    ///
    /// # Errors
    /// When there is no tensor of that name.
    pub fn shape(&self, name: &str) -> Result<&[usize], CheckpointError> {
        self.file.shape(&self.name(name))
    }

    /// Decodes a tensor to f32, row-major, whatever it is stored as.
    ///
    /// # Errors
    /// When there is no such tensor, or it holds NaN or an infinity.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.file.read(&self.name(name))
    }

    /// The rows of a tensor as they are stored: `shape[0]` of them, each with all that follows the first dimension.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn rows(&self, name: &str) -> Result<StoredRows<'_>, CheckpointError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.file.rows(&self.name(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_holds_is_told() {
        const CONFIG: &str = r#"{"name":"tiny","kind":"dense","t_kind":"flow","params":{"input_size":4,"in_channels":1,
            "num_classes":2,"patch_size":2,"depth":1,"hidden_size":8,"num_heads":2}}"#;
        let checkpoint = Checkpoint::random(CONFIG, 3).unwrap();
        let config = Config::from_json(checkpoint.config_text()).unwrap();
        assert_eq!((&*config.name, config.hidden_size), ("tiny", 8));
        let specs = config.tensors();
        assert_eq!(checkpoint.list().len(), specs.len());
        for spec in &specs {
            assert_eq!(checkpoint.shape(&spec.name).unwrap(), spec.shape);
            let info = checkpoint.list().into_iter().find(|info| info.name == spec.name).unwrap();
            assert_eq!(info.bytes, 4 * spec.shape.iter().product::<usize>());
        }
        assert!(checkpoint.shape("x").is_err());
        let all = specs.len();
        assert_eq!(checkpoint.progress(), (0, all));
        checkpoint.read("pos_embed").unwrap();
        checkpoint.rows("pos_embed").unwrap();
        assert_eq!(checkpoint.progress(), (2, all));
        checkpoint.reset_progress();
        assert_eq!(checkpoint.progress(), (0, all));
        let [file] = checkpoint.files().collect::<Vec<_>>()[..] else { panic!("one file") };
        assert_eq!(checkpoint.bytes(), file.len() as u64);
        assert!(checkpoint.bytes() > 4 * config.tensors().len() as u64);
    }
}
