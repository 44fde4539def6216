//! Linux, macOS, Windows.

use std::path::Path;

use super::Bytes;

/// Keeps a Vulkan layer of Mesa quiet on machines without a desktop, where it complains on stderr, with the
/// word "error", that it cannot ask the desktop which adapter is preferred. To be called before anything else.
pub fn quiet_vulkan() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        #[expect(
            unsafe_code,
            reason = "changing the environment is unsafe while other threads may read it"
        )]
        // SAFETY: called at the start of `main`, when there is no other thread.
        unsafe {
            std::env::set_var("NODEVICE_SELECT", "1");
        }
    }
}

/// Maps a file into memory, so that only the pages that are read take room. Reads it instead if the file system does not
/// support maps (some shared folders and network drives).
///
/// # Errors
/// The system's error.
pub fn map_file(path: &Path) -> std::io::Result<Bytes> {
    let file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    #[expect(
        unsafe_code,
        reason = "memory maps are unsafe because another process may change the file"
    )]
    // SAFETY: we only read; a file that changes under us yields wrong numbers, which the checks for
    // finite weights catch, and a file that shrinks ends the process, as it does for every reader of weights.
    let map = unsafe { memmap2::Mmap::map(&file) };
    match map {
        Ok(map) => Ok(Bytes::new(map)),
        // If reading fails too, its error is the relevant one.
        Err(_) => Ok(Bytes::new(std::fs::read(path)?)),
    }
}

/// Free memory in bytes, if the system reports it (Linux).
pub fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Nothing waits for this thread.
pub async fn yield_now() {}

/// The browser's description of its graphics adapter: none here, drivers give names.
pub async fn adapter_name() -> Option<String> {
    None
}
