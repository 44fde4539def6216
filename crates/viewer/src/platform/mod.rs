//! The operating system or the browser, behind one interface; `native.rs` and `web.rs` are the only
//! places where the two differ.

mod dropped;
mod task;
mod transfer;

#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(not(target_arch = "wasm32"))]
use native as imp;

#[cfg(target_arch = "wasm32")]
mod web;
#[cfg(target_arch = "wasm32")]
use web as imp;

use std::path::PathBuf;

pub use diffmoe::platform::{Bytes, free_memory, map_file};
pub use dropped::read_dropped;
pub use imp::{
    GalleryStore, built_in, built_in_atlas, built_in_names, built_in_recording, cached,
    decode_image, delete_cached, fetch, fragment, gallery_folder, listen_for_paste, new_seed,
    open_model, page_address, pick_file, pick_image, query, save_file, set_fragment, sha256, spawn,
    take_pasted,
};
pub use task::{Task, Waker};
pub use transfer::{FetchError, Transfer};

/// A download that the browser keeps for the next visit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    /// Where it came from.
    pub location: String,
    /// Bytes that are kept.
    pub bytes: u64,
    /// Whether that is the whole file; the rest of an interrupted download is fetched on the next request.
    pub complete: bool,
}

/// A file that the user chose.
#[derive(Debug)]
pub struct PickedFile {
    /// Its name, without folders.
    pub name: String,
    /// What is in it.
    pub bytes: Bytes,
    /// Its path, if files in the same folder may be read.
    pub path: Option<PathBuf>,
}
