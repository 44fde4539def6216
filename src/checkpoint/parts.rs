//! The files of a checkpoint before they are combined.

use std::collections::BTreeSet;

use crate::platform::Bytes;

/// One file, or the parts listed by an index, and those of a refiner where it has files of its own.
pub(super) struct Parts {
    /// File or model name of the whole, for people.
    pub(super) label: String,
    pub(super) files: Vec<PartFile>,
}

/// A safetensors file.
pub(super) struct PartFile {
    /// Name in the index.
    pub(super) name: String,
    /// For people.
    pub(super) label: String,
    pub(super) bytes: Bytes,
    /// The tensors that the index takes from it, if there is an index. Others are not part of the model.
    pub(super) wanted: Option<BTreeSet<String>>,
    /// What comes in front of the names of its tensors.
    pub(super) prefix: &'static str,
}

impl Parts {
    /// A file without an index.
    pub(super) fn one(label: &str, bytes: Bytes) -> Self {
        let (name, label) = (label.to_owned(), label.to_owned());
        let part = PartFile { name, label: label.clone(), bytes, wanted: None, prefix: "" };
        Self { label, files: vec![part] }
    }
}
