//! The operating system or the browser, behind one interface; `native.rs` and `web.rs` are the only
//! places where the two differ.

#[cfg(feature = "app")]
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

use std::ops::Deref;
use std::path::PathBuf;

#[cfg(feature = "app")]
pub use dropped::read_dropped;
pub use imp::{
    adapter_name, breathe, built_in, built_in_names, cached, delete_cached, fetch, fragment,
    free_memory, map_file, new_seed, page_address, query, quiet_vulkan, set_fragment, sha256,
    spawn,
};
#[cfg(feature = "app")]
pub use imp::{pick_file, save_file};
pub use task::{Task, Waker};
pub use transfer::{FetchError, Transfer};

/// A download that the browser keeps for the next visit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedFile {
    /// Where it came from.
    pub location: String,
    /// Bytes that are kept.
    pub bytes: u64,
    /// Whether that is all of it; the rest of an interrupted download is fetched when it is asked for again.
    pub complete: bool,
}

/// A file that the user chose.
#[derive(Debug)]
pub struct PickedFile {
    /// Its name, without folders.
    pub name: String,
    /// What is in it.
    pub bytes: Bytes,
    /// Where it lies, where a program may look at what lies beside it.
    pub path: Option<PathBuf>,
}

/// Bytes of a file, wherever they live.
pub struct Bytes(Box<dyn Deref<Target = [u8]> + Send + Sync>);

impl Bytes {
    /// Takes ownership of whatever holds the bytes: a vector, a memory map, an embedded file.
    pub fn new(holder: impl Deref<Target = [u8]> + Send + Sync + 'static) -> Self {
        Self(Box::new(holder))
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
