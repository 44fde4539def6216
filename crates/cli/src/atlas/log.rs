//! What a survey has measured so far: a file beside the atlas that only grows, a line for each batch. A process that is
//! killed leaves at most one line that is not whole, which is cut off; the atlas itself is written at the end, at once.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use diffmoe::pipeline::SurveyBatch;
use serde::{Deserialize, Serialize};

use super::survey::Planned;

/// One batch.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Number of its first image.
    first: usize,
    #[serde(flatten)]
    batch: SurveyBatch,
}

/// The file, open at its end.
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens what an earlier call of the same command left beside the atlas, or begins.
    pub(super) fn open(atlas: &Path, survey: &Planned) -> Result<(Self, Vec<SurveyBatch>), String> {
        let mut name = atlas.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let path = atlas.with_file_name(name);
        let fail = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        let header = format!("{}\n", survey.header());
        let text = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let (batches, whole) = match text.strip_prefix(header.as_bytes()) {
            Some(rest) => {
                let (batches, bytes) = read(rest, survey);
                (batches, header.len() + bytes)
            }
            // Killed while it wrote its first line.
            None if header.as_bytes().starts_with(&text) => (Vec::new(), 0),
            None => {
                return Err(format!(
                    "{} was begun with other settings or another model; delete it, or choose another --out",
                    path.display()
                ));
            }
        };
        let file = File::options().create(true).append(true).open(&path).map_err(fail)?;
        file.set_len(whole as u64).map_err(fail)?;
        let mut log = Self { path: path.clone(), file };
        if whole == 0 {
            log.file.write_all(header.as_bytes()).map_err(fail)?;
        }
        Ok((log, batches))
    }

    /// Adds a batch, whose first image has this number.
    pub(super) fn append(&mut self, first: usize, batch: &SurveyBatch) -> Result<(), String> {
        let fail = |error: &dyn std::fmt::Display| {
            format!("cannot write {}: {error}", self.path.display())
        };
        let line = Line { first, batch: batch.clone() };
        let mut text = serde_json::to_vec(&line).map_err(|e| fail(&e))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(|e| fail(&e))
    }

    /// Deletes the file, once the atlas is there.
    pub(super) fn remove(self) {
        // A second call finds the atlas and does not look here.
        let _ = std::fs::remove_file(self.path);
    }
}

/// The batches that are whole and in order, and how many bytes they take.
fn read(text: &[u8], planned: &Planned) -> (Vec<SurveyBatch>, usize) {
    let config = planned.checkpoint.config();
    let (layers, experts) = (config.moe_blocks().len(), config.num_experts);
    let (mut batches, mut images, mut bytes) = (Vec::new(), 0, 0);
    for text in text.split_inclusive(|&byte| byte == b'\n') {
        let line = serde_json::from_slice::<Line>(text).ok().filter(|line| {
            text.ends_with(b"\n")
                && line.first == images
                && line.batch.images() <= planned.survey.images() - images
                && line.batch.fits(layers, experts)
        });
        let Some(line) = line else { break };
        images += line.batch.images();
        batches.push(line.batch);
        bytes += text.len();
    }
    (batches, bytes)
}
