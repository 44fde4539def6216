//! A copy of the repository with all mutants in it, and the program of its tests.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::switches::{Mutant, Switches};

/// How often what does not compile is taken out.
const MOST_BUILDS: usize = 12;

/// Decides which mutant is there. `MUTANT` is its number; the largest one means none, and that switches that are
/// reached are written to a file.
const SWITCH: &str = r#"
/// Mutants.
pub mod mutant_switch {
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, Ordering};

    static WHICH: OnceLock<u32> = OnceLock::new();
    static REACHED: [AtomicBool; 1 << 16] = [const { AtomicBool::new(false) }; 1 << 16];

    /// Which of `count` mutants from `first` is there, from 1.
    pub fn at(first: u32, count: u32) -> u32 {
        let number = || std::env::var("MUTANT").ok()?.parse().ok();
        let which = *WHICH.get_or_init(|| number().unwrap_or(0));
        if which == u32::MAX && !REACHED[first as usize].swap(true, Ordering::Relaxed) {
            let path = std::env::var("MUTANTS_REACHED").unwrap();
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(format!("{first}\n").as_bytes()).unwrap();
        }
        if which >= first && which < first + count { which - first + 1 } else { 0 }
    }
}
"#;

/// The program of the tests with all mutants.
pub(crate) struct Built {
    pub(crate) mutants: Vec<Mutant>,
    /// Mutants that do not compile.
    pub(crate) unviable: usize,
    /// The copy, in which tests run.
    pub(crate) folder: PathBuf,
    pub(crate) program: PathBuf,
}

pub(crate) fn build(paths: &[&Path], selection: &[String]) -> Result<Built, String> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let target = std::path::absolute(target).map_err(|error| error.to_string())?;
    let folder = target.join("mutants");
    let files = sources(paths)?;
    copy(&folder, &files)?;
    // Of the last run: what does not compile costs a build each time.
    let known = folder.join("unviable").with_extension(list_name(&files));
    let mut unviable: HashSet<u32> = std::fs::read_to_string(&known)
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default();
    for _ in 0..MOST_BUILDS {
        let mut switches = Switches::new(&unviable);
        let mut texts = Vec::new();
        for name in &files {
            let text = read(Path::new(name))?;
            let text = switches.insert(name, &text).map_err(|error| format!("{name}: {error}"))?;
            write(&folder.join(name), &text)?;
            texts.push((name.clone(), text));
        }
        let root = read(Path::new("src/lib.rs"))?;
        write(&folder.join("src/lib.rs"), root + SWITCH)?;
        let mutants = switches.mutants;
        let output = Command::new("cargo")
            .args(["test", "--no-run", "--lib", "--message-format", "json"])
            .args(selection)
            .current_dir(&folder)
            .env("CARGO_TARGET_DIR", &target)
            .output()
            .map_err(|error| format!("cannot run cargo: {error}"))?;
        let messages = String::from_utf8_lossy(&output.stdout);
        let messages: Vec<Value> =
            messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if output.status.success() {
            let lines: Vec<_> = unviable.iter().map(u32::to_string).collect();
            write(&known, lines.join("\n"))?;
            let program = messages.iter().find_map(program).ok_or("cargo built no tests")?;
            return Ok(Built { mutants, unviable: unviable.len(), folder, program });
        }
        let before = unviable.len();
        let errors: Vec<_> = messages.iter().filter(|m| m["message"]["level"] == "error").collect();
        for error in &errors {
            unviable.extend(culprits(error, &texts, &mutants));
        }
        println!("{} mutants do not compile", unviable.len());
        if unviable.len() == before {
            let texts = errors.iter().filter_map(|error| error["message"]["rendered"].as_str());
            let all: String =
                texts.map(|text| text.chars().take(2000).collect::<String>()).collect();
            return Err(format!(
                "the code with mutants does not compile:\n{all}{}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    Err(format!("after {MOST_BUILDS} builds there are still mutants that do not compile"))
}

/// Mutants without a build.
pub(crate) fn list(paths: &[&Path]) -> Result<Vec<Mutant>, String> {
    let none = HashSet::new();
    let mut switches = Switches::new(&none);
    for name in sources(paths)? {
        let text = read(Path::new(&name))?;
        switches.insert(&name, &text).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(switches.mutants)
}

/// A name for these files as they are.
fn list_name(files: &[String]) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    for name in files {
        (name, std::fs::read(name).unwrap_or_default()).hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// Copies the files that Git knows, where they differ; those that are changed anyway are left out, so that Cargo sees the
/// same files when nothing is new.
fn copy(folder: &Path, changed: &[String]) -> Result<(), String> {
    let list = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output();
    let list = list.map_err(|error| format!("cannot run git: {error}"))?;
    let list = String::from_utf8_lossy(&list.stdout);
    let is_copied = |name: &&str| {
        !name.is_empty() && *name != "src/lib.rs" && !changed.iter().any(|other| other == name)
    };
    for name in list.split('\0').filter(is_copied) {
        // A file that is deleted, but not in Git.
        let Ok(bytes) = std::fs::read(name) else { continue };
        let path = folder.join(name);
        write(&path, &bytes)?;
    }
    Ok(())
}

/// The Rust files in these places, tests left out.
fn sources(paths: &[&Path]) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).map_err(|error| error.to_string())?;
            left.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
            continue;
        }
        let name = path.to_str().unwrap_or_default();
        let is_test = name.ends_with("tests.rs") || name.ends_with("testing.rs");
        if path.extension().is_some_and(|e| e == "rs") && !is_test {
            found.push(name.to_owned());
        }
    }
    if found.is_empty() {
        return Err("there are no Rust files to change".into());
    }
    found.sort();
    Ok(found)
}

/// The program with the library's tests.
fn program(message: &Value) -> Option<PathBuf> {
    let is_it = message["target"]["name"] == "diffmoe" && message["profile"]["test"] == true;
    message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
}

/// The mutants that an error of the compiler is about: those behind the last switch before it, or, where these are gone
/// already, the next one.
fn culprits(error: &Value, texts: &[(String, String)], mutants: &[Mutant]) -> Vec<u32> {
    const CALL: &str = "mutant_switch :: at (";
    let spans = error["message"]["spans"].as_array().into_iter().flatten();
    let Some(span) = spans.into_iter().find(|span| span["is_primary"] == true) else {
        return Vec::new();
    };
    let of = |(name, _): &&(String, String)| span["file_name"] == **name;
    let (Some((_, text)), Some(at)) = (texts.iter().find(of), span["byte_start"].as_u64()) else {
        return Vec::new();
    };
    let (before, after) = text.split_at(at as usize);
    let number = |text: &str| text.split("u32").next()?.trim().parse::<u32>().ok();
    let last = before.rfind(CALL).and_then(|at| number(&before[at + CALL.len()..]));
    let next = after.find(CALL).and_then(|at| number(&after[at + CALL.len()..]));
    let behind = |group: Option<u32>| -> Vec<u32> {
        mutants.iter().filter(|m| Some(m.group) == group).map(|m| m.id).collect()
    };
    let found = behind(last);
    if found.is_empty() { behind(next) } else { found }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a file where it differs.
fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), String> {
    let contents = contents.as_ref();
    if std::fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, contents))
        .map_err(|error| format!("{}: {error}", path.display()))
}
