//! The trained models of this project, embedded in the program, so that the first image needs no download.
//! A web page fetches them instead and does not use this package.

use std::ffi::OsStr;
use std::path::Path;

use diffmoe::checkpoint::{Checkpoint, CheckpointError};
use diffmoe::platform::Bytes;

/// The model that is used when none is named.
pub const DEFAULT: &str = "emoji_256";

const MODELS: &[(&str, &[u8])] = &[
    ("emoji_256", include_bytes!("../../../assets/emoji_256.safetensors")),
    ("emoji", include_bytes!("../../../assets/emoji.safetensors")),
    ("emoji_text", include_bytes!("../../../assets/emoji_text.safetensors")),
    ("eurosat", include_bytes!("../../../assets/eurosat.safetensors")),
];

/// Which expert works on which label, measured with `diffmoe atlas`.
const ATLASES: &[(&str, &[u8])] = &[
    ("emoji_256", include_bytes!("../../../assets/emoji_256.atlas.json")),
    ("emoji", include_bytes!("../../../assets/emoji.atlas.json")),
    ("eurosat", include_bytes!("../../../assets/eurosat.atlas.json")),
];

/// Names of the embedded models.
pub fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|(name, _)| *name)
}

/// Opens an embedded model; `None` where there is none of that name.
///
/// # Errors
/// When the embedded file is damaged, which the tests rule out.
pub fn open(name: &str) -> Option<Result<Checkpoint, CheckpointError>> {
    Some(Checkpoint::from_bytes(name, Bytes::new(bytes(name)?)))
}

/// The file of an embedded model; `None` where there is none of that name.
pub fn bytes(name: &str) -> Option<&'static [u8]> {
    MODELS.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes)
}

/// The atlas of an embedded model (docs/atlas-format.md); `None` where none comes with it.
pub fn atlas(name: &str) -> Option<&'static [u8]> {
    ATLASES.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes)
}

/// Opens an embedded model by its name, or a safetensors file by its path: what `--model` takes.
///
/// # Errors
/// A message with the expected values.
pub fn open_any(model: impl AsRef<OsStr>) -> Result<Checkpoint, Box<dyn std::error::Error>> {
    let model = model.as_ref();
    if let Some(checkpoint) = model.to_str().and_then(open) {
        return Ok(checkpoint?);
    }
    let path = Path::new(model);
    let looks_like_a_file = path.extension().is_some() || path.components().count() > 1;
    if !looks_like_a_file && !path.exists() {
        let names: Vec<_> = names().collect();
        return Err(format!(
            "unknown model \"{}\": expected {} or the path of a safetensors file",
            path.display(),
            names.join(", ")
        )
        .into());
    }
    Checkpoint::open(path).map_err(|error| match error {
        CheckpointError::Unreadable { .. } | CheckpointError::Malformed { .. } => {
            format!("{error}; `--model` takes {DEFAULT} or a safetensors file").into()
        }
        other => other.into(),
    })
}
