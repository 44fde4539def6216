//! The files of a checkpoint before they are combined.

use std::collections::BTreeMap;

use crate::platform::Bytes;

/// Maps each tensor name to the part that contains it.
pub(super) type Index = BTreeMap<String, String>;

/// One file, or the parts listed by an index.
pub(super) struct Parts {
    /// File or model name of the whole, for people.
    pub(super) label: String,
    pub(super) files: Vec<PartFile>,
    /// If present, only the tensors that it lists are part of the model.
    pub(super) index: Option<Index>,
}

/// A safetensors file.
pub(super) struct PartFile {
    /// Name in the index.
    pub(super) name: String,
    /// For people.
    pub(super) label: String,
    pub(super) bytes: Bytes,
}

impl Parts {
    /// A file without an index.
    pub(super) fn one(label: &str, bytes: Bytes) -> Self {
        let part = PartFile { name: label.to_owned(), label: label.to_owned(), bytes };
        Self { label: label.to_owned(), files: vec![part], index: None }
    }
}
