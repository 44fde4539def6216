//! Errors of checkpoints. Messages say what to do.

use crate::model::ConfigError;

/// Why a checkpoint was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system could not read the file.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not a safetensors file, or cut short.
    #[error("{label} is not a complete safetensors file: {reason}")]
    Malformed {
        /// File or model name.
        label: String,
        /// What is wrong.
        reason: String,
    },
    /// An index that does not match its parts.
    #[error(
        "{label} lists tensors that its parts do not contain: {}; download the index and all parts again",
        summary(problems)
    )]
    Index {
        /// The index.
        label: String,
        /// One sentence for each tensor.
        problems: Vec<String>,
    },
    /// A PyTorch file that is damaged or contains more than tensors.
    #[error("{label} is not a readable PyTorch checkpoint: {reason}")]
    Torch {
        /// File name.
        label: String,
        /// What is wrong.
        reason: String,
    },
    /// A file that cannot be written.
    #[error("cannot write {path}: {source}")]
    Unwritable {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// Tensors without a description of the model.
    #[error(
        "{label} has no model description: it needs a `diffmoe` entry in its header or a config.json in the same \
         folder; convert it first"
    )]
    NoConfig {
        /// File or model name.
        label: String,
    },
    /// A description that cannot be.
    #[error("{label}: {source}")]
    Config {
        /// File or model name.
        label: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// Tensors that do not fit the description; all of them.
    #[error("{label} does not fit its configuration: {}", summary(problems))]
    Mismatch {
        /// File or model name.
        label: String,
        /// One sentence for each tensor.
        problems: Vec<String>,
    },
    /// A requested tensor does not exist.
    #[error("tensor {name} is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A weight that would turn every image into noise.
    #[error(
        "{label} is damaged: {name} contains {value} at position {at}; download or export it \
            again"
    )]
    NotFinite {
        /// File or model name.
        label: String,
        /// The tensor.
        name: String,
        /// Flat index.
        at: usize,
        /// NaN or an infinity.
        value: f32,
    },
}

/// All problems, but no more than a screenful.
fn summary(problems: &[String]) -> String {
    const SHOWN: usize = 20;
    let text = problems.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}
