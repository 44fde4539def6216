//! The models that are part of the program, so that a first picture needs no download. Without the feature
//! `embedded` there are none, as in a web page, which fetches them.

use super::{Checkpoint, CheckpointError};
use crate::platform::Bytes;

/// The model that is used when none is named.
pub const DEFAULT: &str = "emoji";

#[cfg(not(feature = "embedded"))]
const MODELS: &[(&str, &[u8])] = &[];
#[cfg(feature = "embedded")]
const MODELS: &[(&str, &[u8])] = &[
    ("emoji", include_bytes!("../../assets/emoji.safetensors")),
    ("emoji_text", include_bytes!("../../assets/emoji_text.safetensors")),
    ("eurosat", include_bytes!("../../assets/eurosat.safetensors")),
];

/// Names of the embedded models.
pub fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|(name, _)| *name)
}

/// Opens an embedded model, or nothing where there is none of that name.
pub fn open(name: &str) -> Option<Result<Checkpoint, CheckpointError>> {
    let (name, bytes) = MODELS.iter().find(|(n, _)| *n == name)?;
    Some(Checkpoint::from_bytes(name, Bytes::new(*bytes)))
}
