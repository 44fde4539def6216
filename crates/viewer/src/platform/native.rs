//! Linux, macOS, Windows.

mod gallery;

use std::borrow::Cow;
use std::future::Future;
use std::path::Path;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::WeightChoice;
use diffmoe::pipeline::{Backend, LoadError, Pipeline};
use diffmoe::pixels::RgbImage;

use super::{Bytes, CachedFile, FetchError, PickedFile, Task, Transfer, Waker, map_file};

pub use gallery::{GalleryStore, gallery_folder};

/// Runs a job on a thread of its own; `on_done` is called when its result can be taken.
pub fn spawn<T, F>(on_done: Waker, make: impl FnOnce() -> F + Send + 'static) -> Task<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (task, promise) = Task::new(on_done);
    std::thread::spawn(move || promise.keep(pollster::block_on(make())));
    task
}

/// Loads a model on the given backend. Threads share the work; there are no workers.
///
/// # Errors
/// As [`Pipeline::open_async`].
pub async fn open_model(
    checkpoint: &Checkpoint,
    backend: Backend,
    _workers: Option<usize>,
) -> Result<Pipeline, LoadError> {
    Pipeline::open_async(checkpoint, backend, WeightChoice::Auto).await
}

/// Maps the file at a path.
///
/// # Errors
/// When it cannot be read, or `location` is an address.
pub async fn fetch(location: &str, transfer: &Transfer) -> Result<Bytes, FetchError> {
    if ["http://", "https://"].iter().any(|scheme| location.starts_with(scheme)) {
        return Err(FetchError::Address(location.to_owned()));
    }
    let bytes = map_file(Path::new(location)).map_err(|error| FetchError::Unreadable {
        location: location.to_owned(),
        reason: error.to_string(),
    })?;
    transfer.set_total(bytes.len() as u64);
    transfer.add(bytes.len() as u64);
    Ok(bytes)
}

/// The models that come with the program: those that are embedded in it.
#[cfg(feature = "window")]
pub fn built_in_names() -> Vec<String> {
    diffmoe_models::names().map(str::to_owned).collect()
}

/// Without the feature `window` none are embedded.
#[cfg(not(feature = "window"))]
pub fn built_in_names() -> Vec<String> {
    Vec::new()
}

/// The bytes of an embedded model; `None` where there is none of that name.
#[cfg(feature = "window")]
pub async fn built_in(name: &str, _transfer: &Transfer) -> Option<Result<Bytes, FetchError>> {
    diffmoe_models::bytes(name).map(|bytes| Ok(Bytes::new(bytes)))
}

/// Without the feature `window` none are embedded.
#[cfg(not(feature = "window"))]
pub async fn built_in(_name: &str, _transfer: &Transfer) -> Option<Result<Bytes, FetchError>> {
    None
}

/// The atlas of an embedded model; `None` where none comes with it.
#[cfg(feature = "window")]
pub fn built_in_atlas(name: &str) -> Option<Cow<'static, [u8]>> {
    diffmoe_models::atlas(name).map(Cow::Borrowed)
}

/// Without the feature `window` none are embedded.
#[cfg(not(feature = "window"))]
pub fn built_in_atlas(_name: &str) -> Option<Cow<'static, [u8]>> {
    None
}

/// A recorded run of a model, to explore while the model arrives; an embedded model is there at once.
pub fn built_in_recording(_name: &str) -> Option<Vec<u8>> {
    None
}

/// Downloads that were kept: none.
pub async fn cached() -> Vec<CachedFile> {
    Vec::new()
}

/// Deletes a download that was kept.
///
/// # Errors
/// None: there are no such downloads.
pub async fn delete_cached(_location: &str) -> Result<(), String> {
    Ok(())
}

/// SHA-256 of some bytes.
pub async fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

/// Asks the user for a model, a trace or an image; `None` when the user changed their mind.
pub async fn pick_file() -> Option<Result<PickedFile, String>> {
    let kinds = ["safetensors", "json", "png", "jpg", "jpeg"];
    let dialog = rfd::AsyncFileDialog::new().add_filter("models, traces, images", &kinds);
    pick(dialog.set_title("Open a model, a trace or an image")).await
}

/// The same for an image alone.
pub async fn pick_image() -> Option<Result<PickedFile, String>> {
    let dialog = rfd::AsyncFileDialog::new().add_filter("images", &["png", "jpg", "jpeg"]);
    pick(dialog.set_title("Open an image")).await
}

async fn pick(dialog: rfd::AsyncFileDialog) -> Option<Result<PickedFile, String>> {
    let file = dialog.pick_file().await?;
    let name = file.file_name();
    let bytes = map_file(file.path());
    Some(bytes.map_err(|error| format!("cannot read {name}: {error}")).map(|bytes| PickedFile {
        name,
        bytes,
        path: Some(file.path().to_owned()),
    }))
}

/// Reads an image file.
///
/// # Errors
/// A sentence where it is no image or cannot be read.
pub async fn decode_image(bytes: &[u8]) -> Result<RgbImage, String> {
    RgbImage::read(bytes).map_err(|error| error.to_string())
}

/// Collects images that are pasted: the window's own events bring them.
pub fn listen_for_paste(_waker: Waker) {}

/// An image that was pasted outside of the window's events: none.
pub fn take_pasted() -> Option<Result<PickedFile, String>> {
    None
}

/// Asks the user where a file should go and writes it there; the path, or `None` when the user changed their mind.
///
/// # Errors
/// The system's reason why it could not be written.
pub async fn save_file(
    name: String,
    _mime: &'static str,
    bytes: Vec<u8>,
) -> Result<Option<String>, String> {
    let dialog = rfd::AsyncFileDialog::new().set_file_name(name);
    let Some(file) = dialog.save_file().await else { return Ok(None) };
    let path = file.path();
    std::fs::write(path, bytes)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(Some(path.display().to_string()))
}

/// The address of the page, without its fragment: there is no page.
pub fn page_address() -> Option<String> {
    None
}

/// What follows `#` in the page's address: there is no page.
pub fn fragment() -> Option<String> {
    None
}

/// Puts text behind the `#` of the page's address: there is no page.
pub fn set_fragment(_text: &str) {}

/// A parameter of the page's address: there is no page.
pub fn query(_name: &str) -> Option<String> {
    None
}

/// A seed that no one chose, from 0 to 999,999: short enough to be read out and typed again.
pub fn new_seed() -> u64 {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) % 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_fetched_and_counted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"weights").unwrap();
        let transfer = Transfer::default();
        let bytes =
            pollster::block_on(fetch(&file.path().display().to_string(), &transfer)).unwrap();
        assert_eq!((&*bytes, transfer.done(), transfer.total()), (&b"weights"[..], 7, Some(7)));
    }

    #[test]
    fn what_cannot_be_fetched_says_what_to_do() {
        let refused = |location| {
            pollster::block_on(fetch(location, &Transfer::default())).unwrap_err().to_string()
        };
        assert!(refused("https://example.org/a.safetensors").contains("Download the file first"));
        assert!(
            refused("/nowhere/a.safetensors").starts_with("cannot read /nowhere/a.safetensors")
        );
    }

    #[test]
    fn a_checksum_is_the_standard_one() {
        let digest = pollster::block_on(sha256(b"abc"));
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf], "FIPS 180-2, B.1");
    }
}
