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

use std::ops::{Deref, Range};

pub(crate) use imp::{
    ROWS_BY_FOUR, beside, may_have_gpu, pause, recall, remember, share_out, system, within,
};
pub use imp::{adapter_name, free_memory, map_file, quiet_vulkan, yield_now};

/// Bytes of a file, wherever they live.
pub struct Bytes(Box<dyn Holder>);

/// What holds bytes.
trait Holder: Send + Sync {
    fn bytes(&self) -> &[u8];

    /// Gives memory back that can be read again.
    fn release(&self, _: Range<usize>) {}
}

impl<T: Deref<Target = [u8]> + Send + Sync> Holder for T {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Bytes {
    /// Takes ownership of whatever holds the bytes: a vector, a memory map, an embedded file.
    pub fn new(holder: impl Deref<Target = [u8]> + Send + Sync + 'static) -> Self {
        Self(Box::new(holder))
    }

    /// Gives memory of a mapped file back to the system; what is read again is loaded again. Nothing else changes, and
    /// nothing at all where the bytes are not mapped.
    pub fn release(&self, range: Range<usize>) {
        self.0.release(range);
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
