//! Output files of a command: tried before the work, so that an unwritable path fails before minutes of computing, and
//! renamed into place only when they are complete.
//!
//! A file is written under a temporary name that no other process uses, and locked. Temporary files of killed processes
//! are not locked; the next process removes them.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Prefix of temporary files.
const PART: &str = ".part-";

/// A file to be written at the end.
pub(super) struct Output {
    path: PathBuf,
}

/// A temporary file; removed unless it was renamed into place.
struct Part {
    path: PathBuf,
    /// Keeps the lock.
    file: File,
}

impl Output {
    /// Makes sure that a file can be written at `path`.
    pub(super) fn reserve(path: &Path) -> Result<Self, String> {
        let refuse = |reason: &str| {
            format!("cannot write {}: {reason}; choose another path", path.display())
        };
        if path.is_dir() {
            return Err(refuse("it is a folder"));
        }
        if path.file_name().is_none() {
            return Err(refuse("it has no file name"));
        }
        // Created and removed at once, so that a process killed while it computes leaves nothing behind.
        drop(Part::create(path).map_err(|error| refuse(&error.to_string()))?);
        sweep(path);
        Ok(Self { path: path.to_owned() })
    }

    /// Writes the file with `write`, which gets the path to write to, and puts it in place.
    pub(super) fn write<E: std::fmt::Display>(
        self,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), String> {
        let fail = |error: String| format!("cannot write {}: {error}", self.path.display());
        let part = Part::create(&self.path).map_err(|error| fail(error.to_string()))?;
        write(&part.path).map_err(|error| fail(error.to_string()))?;
        // On the disk before it has its name: also a machine that loses power leaves no part of it there.
        let written = part.file.sync_all().and_then(|()| std::fs::rename(&part.path, &self.path));
        written.map_err(|error| fail(error.to_string()))
    }
}

impl Part {
    /// An empty file beside `path`.
    fn create(path: &Path) -> std::io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The extension stays last: some writers choose the format by it.
        let ending = path.extension().map_or_else(String::new, |e| format!(".{}", e.display()));
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let (process, time) = (std::process::id(), now.subsec_nanos());
            let path = path.with_file_name(format!("{PART}{process:x}-{time:x}-{count:x}{ending}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    if cfg!(unix) {
                        // Windows locks would block the writer too. Some file systems have no locks.
                        drop(file.try_lock());
                    }
                    return Ok(Self { path, file });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Gone already when the file was put in place.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Removes temporary files of killed processes in the folder of `path`, once per folder.
fn sweep(path: &Path) {
    static DONE: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).to_owned();
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !cfg!(unix) || !done.get_or_insert_default().insert(folder.clone()) {
        return;
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PART.as_bytes()) && is_abandoned(&entry)
        {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

/// Whether no process writes a temporary file any more. A new one may not be locked yet.
fn is_abandoned(entry: &std::fs::DirEntry) -> bool {
    const YOUNG: Duration = Duration::from_secs(10);
    let age = entry.metadata().ok().filter(std::fs::Metadata::is_file);
    let age = age.and_then(|data| data.modified().ok()?.elapsed().ok());
    age.is_some_and(|age| age > YOUNG)
        && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
}

/// Rejects two outputs with one path, and outputs that overwrite an input. `places` are options with their paths; the
/// first `written` of them are outputs.
pub(super) fn distinct(places: &[(&str, &Path)], written: usize) -> Result<(), String> {
    for (i, (option, path)) in places.iter().enumerate().take(written) {
        let other = places[i + 1..].iter().find(|(_, other)| is_same(path, other));
        if let Some((other, _)) = other {
            return Err(format!(
                "{option} and {other} are the same file, {}; choose different files",
                path.display()
            ));
        }
    }
    Ok(())
}

/// Whether two paths lead to the same file, which need not exist.
fn is_same(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| {
        let path = std::path::absolute(path).ok()?;
        let folder = path.parent()?;
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        Some(folder.join(path.file_name()?))
    };
    whole(a).is_some_and(|a| whole(b) == Some(a))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn two_writers_of_one_file_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.txt");
        let [first, second] = [(); 2].map(|()| Output::reserve(&path).unwrap());
        assert!(names(folder.path()).is_empty(), "no file while a command computes");
        first
            .write(|part| {
                std::fs::write(part, "first")?;
                second
                    .write(|other| {
                        assert!(part != other && part.extension() == other.extension());
                        std::fs::write(other, "second")
                    })
                    .unwrap();
                assert_eq!(std::fs::read_to_string(&path)?, "second");
                Ok::<_, std::io::Error>(())
            })
            .unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first");
        let failed = Output::reserve(&path).unwrap().write(|_| Err("no numbers"));
        assert!(failed.unwrap_err().ends_with("no numbers"));
        assert_eq!(names(folder.path()), ["x.txt"]);
    }

    #[test]
    fn temporary_files_of_killed_processes_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - Duration::from_mins(1);
        let make = |name: &str| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        drop(make(".part-1-2-3.png"));
        drop(make(".partial"));
        let working = make(".part-4-5-6.png");
        working.lock().unwrap();
        File::create(folder.path().join(".part-7-8-9.png")).unwrap();
        drop(Output::reserve(&folder.path().join("x.png")).unwrap());
        let kept = [".part-4-5-6.png", ".part-7-8-9.png", ".partial"];
        assert_eq!(names(folder.path()), kept, "one is locked, one is new, one has another name");
    }

    #[test]
    fn one_file_has_one_use() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a.png", "b.png"].map(|name| folder.path().join(name));
        let roundabout = folder.path().join("./a.png");
        assert!(distinct(&[("--out", &a), ("--trace", &b)], 2).is_ok());
        let error = distinct(&[("--out", &a), ("--trace", &b), ("--vae", &roundabout)], 2);
        assert!(error.unwrap_err().contains("--out and --vae are the same file"));
        assert!(
            distinct(&[("--out", &a), ("--model", &b), ("--vae", &b)], 1).is_ok(),
            "read twice"
        );
    }
}
