//! Linux, macOS, Windows.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::{Bytes, Holder};

/// Rows of a matrix product that are computed together where vectors have four numbers: by four vectors, their sums fill
/// most of the 32 registers of an ARM processor.
pub(crate) const ROWS_BY_FOUR: usize = 6;

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
        Ok(map) => Ok(Bytes(Box::new(Map(map)))),
        // If reading fails too, its error is the relevant one.
        Err(_) => Ok(Bytes::new(std::fs::read(path)?)),
    }
}

/// A mapped file.
struct Map(memmap2::Mmap);

impl Holder for Map {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(unix)]
    fn release(&self, range: std::ops::Range<usize>) {
        let range = range.start.min(self.0.len())..range.end.min(self.0.len());
        #[expect(unsafe_code, reason = "advice that may change what memory holds")]
        // SAFETY: the map is of a file and read-only: its pages are dropped and read from the file again, so that
        // whoever holds a slice of it sees the same bytes.
        let advised = unsafe {
            self.0.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                range.start,
                range.len(),
            )
        };
        // Advice that the system does not take costs memory, and nothing else.
        let _: std::io::Result<()> = advised;
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

/// Whether a driver can be asked for a GPU.
pub(crate) fn may_have_gpu() -> bool {
    true
}

/// The browser's description of its graphics adapter: none here, drivers give names.
pub async fn adapter_name() -> Option<String> {
    None
}

/// Operating system and processor, for reports.
pub(crate) fn system() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// Holds this thread up for some time.
pub(crate) async fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// The result of a future, or nothing if it takes longer than `limit`. It runs on a thread of its own, because a
/// driver may hang inside a call; that thread is then left behind.
pub(crate) async fn within<T, F>(
    limit: Duration,
    make: impl FnOnce() -> F + Send + 'static,
) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let (done, result) = mpsc::channel();
    let work = move || {
        // Nobody listens any more when it took too long.
        let _ = done.send(finish(make()));
    };
    std::thread::Builder::new().spawn(work).ok()?;
    result.recv_timeout(limit).ok()
}

/// Wakes a thread that waits for a future.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// What was remembered under a key, in this or an earlier run of any program that uses the library.
pub(crate) fn recall(key: &str) -> Option<String> {
    std::fs::read_to_string(notes()?.join(key)).ok()
}

/// Keeps a text in the user's cache folder. It may be lost at any time, and is where the folder cannot be written.
pub(crate) fn remember(key: &str, text: &str) {
    let write = || {
        let folder = notes().ok_or(std::io::ErrorKind::NotFound)?;
        std::fs::create_dir_all(&folder)?;
        // Complete or not at all, whoever else writes it at this moment.
        let part = folder.join(format!(".{key}-{}", std::process::id()));
        std::fs::write(&part, text)?;
        std::fs::rename(&part, folder.join(key))
    };
    // The check is then made again next time.
    let _: std::io::Result<()> = write();
}

/// The folder of [`remember`].
fn notes() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = if cfg!(target_os = "windows") {
        of("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        of("HOME").map(|home| home.join("Library/Caches"))
    } else {
        of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")))
    };
    Some(cache?.join("diffmoe"))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Some file systems know no shared maps; on Linux, `/proc` is one.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_cannot_be_mapped_is_read() {
        let path = Path::new("/proc/version");
        let file = std::fs::File::open(path).unwrap();
        #[expect(unsafe_code, reason = "to see that the system refuses")]
        // SAFETY: nobody changes this file.
        let map = unsafe { memmap2::MmapOptions::new().len(16).map(&file) };
        assert!(map.is_err(), "another file system is needed for this test");
        let bytes = map_file(path).unwrap();
        assert_eq!(*bytes, std::fs::read(path).unwrap());
        assert!(bytes.starts_with(b"Linux"));
        assert!(map_file(Path::new("/proc")).is_err(), "a folder");
    }

    #[test]
    fn a_future_that_never_ends_is_given_up() {
        let begin = std::time::Instant::now();
        let limit = Duration::from_millis(50);
        assert_eq!(finish(within(limit, std::future::pending::<u8>)), None);
        assert!(begin.elapsed() >= limit);
        assert_eq!(finish(within(Duration::from_mins(1), || async { 7 })), Some(7));
        // A driver hangs without giving way.
        let hang = || async { std::thread::sleep(Duration::from_secs(2)) };
        assert_eq!(finish(within(limit, hang)), None);
    }
}
