//! Which experts work on which labels: atlases that come with a model, lie beside it, or were dropped here.

use std::sync::Arc;

use super::{ModelSource, NoteKind, Record, Session};
use crate::platform;
use diffmoe::trace::atlas::Atlas;

/// Most bytes of a file that are looked at to see whether it is an atlas.
const PEEK: usize = 256;

/// Whether a file is an atlas, by its first key.
pub fn is_atlas(bytes: &[u8]) -> bool {
    let start: Vec<u8> =
        bytes.iter().take(PEEK).copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    start.starts_with(b"{\"atlas\":")
}

/// Whether an atlas counts experts of the same layers.
fn fits(atlas: &Atlas, record: &Record) -> bool {
    let trace = &record.trace;
    (atlas.model.as_str(), atlas.experts) == (trace.model(), trace.experts())
        && atlas.blocks == trace.blocks()
}

impl Session {
    /// The atlas of the run on screen, the one that was opened last.
    pub fn atlas(&self) -> Option<&Arc<Atlas>> {
        let record = self.record()?;
        let mut fitting = self.atlases.iter().rev().filter(|atlas| fits(atlas, record));
        let newest = fitting.clone().next();
        fitting.find(|atlas| is_of_this_version(atlas, record)).or(newest)
    }

    /// Whether the atlas of the run on screen was measured with another file of the model's name.
    pub fn atlas_is_of_another_version(&self) -> bool {
        let pair = self.record().zip(self.atlas());
        pair.is_some_and(|(record, atlas)| {
            record.share.hash.is_some() && !is_of_this_version(atlas, record)
        })
    }

    /// Opens an atlas from a file.
    pub fn open_atlas(&mut self, name: &str, bytes: &[u8]) {
        match Atlas::from_json(bytes) {
            Ok(atlas) => {
                let model = atlas.model.clone();
                self.keep_atlas(atlas);
                self.note(
                    NoteKind::Info,
                    format!("Opened the atlas of {model}: see Explore, Labels."),
                );
            }
            Err(error) => self.note(NoteKind::Error, format!("{name}: {error}")),
        }
    }

    /// Looks for the atlas of a model that takes its place.
    pub(super) fn find_atlas(&mut self, source: &ModelSource) {
        match source {
            ModelSource::Named(name) => self.find_built_in_atlas(name),
            ModelSource::Path(path) => {
                // Most models have none, and a damaged one is measured again rather than talked about.
                let bytes = platform::map_file(&path.with_extension("atlas.json")).ok();
                let atlas = bytes.and_then(|bytes| Atlas::from_json(&bytes).ok());
                if let Some(atlas) = atlas {
                    self.keep_atlas(atlas);
                }
            }
            ModelSource::File { .. } | ModelSource::Url(_) => {}
        }
    }

    /// Takes the atlas that comes with a model of this name.
    pub(super) fn find_built_in_atlas(&mut self, name: &str) {
        let bytes = platform::built_in_atlas(name);
        if let Some(Ok(atlas)) = bytes.map(|bytes| Atlas::from_json(&bytes)) {
            self.keep_atlas(atlas);
        }
    }

    pub(super) fn keep_atlas(&mut self, atlas: Atlas) {
        self.atlases.retain(|other| **other != atlas);
        self.atlases.push(Arc::new(atlas));
    }
}

fn is_of_this_version(atlas: &Atlas, record: &Record) -> bool {
    record.share.hash.as_ref() == Some(&atlas.hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atlases_are_told_from_other_files() {
        assert!(is_atlas(b"{\"atlas\":1,\"model\":\"emoji\"}") && is_atlas(b" {\n \"atlas\": 1 }"));
        assert!(!is_atlas(b"{\"format\":1}") && !is_atlas(b"") && !is_atlas(&[7; 100]));
        for name in platform::built_in_names() {
            if let Some(bytes) = platform::built_in_atlas(&name) {
                assert!(is_atlas(&bytes), "{name}");
                assert_eq!(Atlas::from_json(&bytes).unwrap().model, name);
            }
        }
    }
}
