//! Output files of a command: reserved before the work, so that an unwritable path fails before minutes of
//! computing, and renamed into place only when they are complete.

use std::path::{Path, PathBuf};

/// A file to be written at the end.
pub(super) struct Output {
    path: PathBuf,
    part: PathBuf,
}

impl Output {
    /// Makes sure that a file can be written at `path`.
    pub(super) fn reserve(path: &Path) -> Result<Self, String> {
        let refuse = |reason: &str| {
            format!("cannot write {}: {reason}; choose another path", path.display())
        };
        if path.is_dir() {
            return Err(refuse("it is a folder"));
        }
        let Some(name) = path.file_name() else {
            return Err(refuse("it has no file name"));
        };
        // The extension stays last: some writers choose the format by it.
        let part = path.with_file_name(format!(".part-{}", name.to_string_lossy()));
        std::fs::File::create(&part).map_err(|error| refuse(&error.to_string()))?;
        Ok(Self { path: path.to_owned(), part })
    }

    /// Writes the file with `write`, which gets the path to write to, and puts it in place.
    pub(super) fn write<E: std::fmt::Display>(
        self,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), String> {
        let fail = |error: String| format!("cannot write {}: {error}", self.path.display());
        write(&self.part).map_err(|error| fail(error.to_string()))?;
        // On the disk before it has its name: also a machine that loses power leaves no part of it there.
        let part = std::fs::OpenOptions::new().append(true).open(&self.part);
        let synced = part.and_then(|file| file.sync_all());
        synced.map_err(|error| fail(error.to_string()))?;
        std::fs::rename(&self.part, &self.path).map_err(|error| fail(error.to_string()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Gone already when the file was put in place.
        let _ = std::fs::remove_file(&self.part);
    }
}
