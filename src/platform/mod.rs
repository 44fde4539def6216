//! The operating system or the browser, behind one interface; `native.rs` and `web.rs` are the only
//! places where the two differ.

#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(not(target_arch = "wasm32"))]
use native as imp;

#[cfg(target_arch = "wasm32")]
mod web;
#[cfg(target_arch = "wasm32")]
use web as imp;

use std::ops::Deref;

pub use imp::{adapter_name, free_memory, map_file, quiet_vulkan, yield_now};
pub(crate) use imp::{beside, may_have_gpu, pause, recall, remember, share_out, system, within};

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
