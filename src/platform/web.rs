//! The browser.

use std::path::Path;

use super::Bytes;

/// A browser has no such layer.
pub fn quiet_vulkan() {}

/// There are no files to map in a browser: models arrive as bytes.
///
/// # Errors
/// Always.
pub fn map_file(_path: &Path) -> std::io::Result<Bytes> {
    Err(std::io::Error::new(
        std::io::ErrorKind::Unsupported,
        "a web page cannot open files by path",
    ))
}
