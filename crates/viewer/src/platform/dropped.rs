//! Files that were dropped on the window or the page.

use std::path::{Path, PathBuf};

use super::PickedFile;

/// Reads a dropped file: natively it is mapped into memory, a page reads it whole.
///
/// # Errors
/// The reason why it could not be read.
pub async fn read_dropped(file: egui::DroppedFileHandle) -> Result<PickedFile, String> {
    let path = file.path().to_owned();
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let bytes = read(&*file).await.map_err(|reason| format!("cannot read {name}: {reason}"))?;
    Ok(PickedFile { name, bytes, path: on_disk(&path) })
}

/// Where it lies, where that may be opened again.
#[cfg(not(target_arch = "wasm32"))]
#[allow(clippy::unnecessary_wraps, reason = "web pages cannot read paths")]
fn on_disk(path: &Path) -> Option<PathBuf> {
    Some(path.to_owned())
}

#[cfg(target_arch = "wasm32")]
fn on_disk(_path: &Path) -> Option<PathBuf> {
    None
}

#[cfg(not(target_arch = "wasm32"))]
#[expect(clippy::unused_async, reason = "web pages read files asynchronously")]
async fn read(file: &dyn egui::DroppedFile) -> Result<super::Bytes, String> {
    super::map_file(file.path()).map_err(|error| error.to_string())
}

#[cfg(target_arch = "wasm32")]
async fn read(file: &dyn egui::DroppedFile) -> Result<super::Bytes, String> {
    file.bytes_async().await.map(super::Bytes::new)
}
