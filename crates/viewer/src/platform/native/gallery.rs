//! Kept images as files of a folder.

use std::path::PathBuf;

/// A folder of kept images.
#[derive(Clone, Debug)]
pub struct GalleryStore {
    folder: PathBuf,
}

/// The user's folder for data of this program.
pub fn gallery_folder() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let data = if cfg!(target_os = "windows") {
        of("APPDATA")
    } else if cfg!(target_os = "macos") {
        of("HOME").map(|home| home.join("Library/Application Support"))
    } else {
        of("XDG_DATA_HOME").or_else(|| of("HOME").map(|home| home.join(".local/share")))
    };
    Some(data?.join("diffmoe").join("gallery"))
}

#[expect(clippy::unused_async, reason = "web pages do this asynchronously")]
impl GalleryStore {
    /// The store in a folder, which need not exist yet; `None` without one.
    ///
    /// # Errors
    /// None here; a page may have no storage.
    pub fn open(folder: Option<PathBuf>) -> Result<Option<Self>, &'static str> {
        Ok(folder.map(|folder| Self { folder }))
    }

    /// Where the images are, for display.
    pub fn place(&self) -> String {
        format!("Stored on this computer only, in {}.", self.folder.display())
    }

    /// Names of all files, in no order.
    ///
    /// # Errors
    /// The system's reason.
    pub async fn names(&self) -> Result<Vec<String>, String> {
        let failed = |error| format!("cannot read {}: {error}", self.folder.display());
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// The system's reason.
    pub async fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.folder.join(name);
        std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// The system's reason.
    pub async fn write(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let (path, part) = (self.folder.join(name), self.folder.join(format!(".{name}.part")));
        let written = std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(&part, bytes))
            .and_then(|()| std::fs::rename(&part, &path));
        written.map_err(|error| {
            // It may not be there.
            let _ = std::fs::remove_file(&part);
            format!("cannot write {}: {error}", path.display())
        })
    }

    /// Deletes a file; one that is gone already is no error.
    ///
    /// # Errors
    /// The system's reason.
    pub async fn delete(&self, name: &str) -> Result<(), String> {
        let path = self.folder.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("cannot delete {}: {error}", path.display()))
            }
            _ => Ok(()),
        }
    }
}
