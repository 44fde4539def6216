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

/// Calls `job` with each number below `count`, on a few threads, and waits for all of them.
pub(crate) fn share_out(count: usize, job: impl Fn(usize) + Sync) {
    // Compilers of shaders take memory, too: more threads than this gain little.
    const MOST: usize = 4;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        while let Some(i) =
            Some(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).filter(|&i| i < count)
        {
            job(i);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(MOST).min(count) {
            // Without another thread, this one does all of it.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}

/// A job on another thread.
pub(crate) struct Beside(Option<std::thread::JoinHandle<()>>);

impl Beside {
    /// Waits until the job is done.
    pub(crate) fn wait(mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.0.take() {
            // A failure shows up where its result is needed.
            let _ = thread.join();
        }
    }
}

/// Does something on another thread.
pub(crate) fn beside(job: impl FnOnce() + Send + 'static) -> Beside {
    // Without a thread it is done later, by whoever needs it.
    Beside(std::thread::Builder::new().spawn(job).ok())
}

/// Callers that return early wait as well.
impl Drop for Beside {
    fn drop(&mut self) {
        self.join();
    }
}
