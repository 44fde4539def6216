//! Rules of ARCHITECTURE.md that a reviewer should not have to remember.

use std::path::{Path, PathBuf};

/// Modules from the bottom up; each may import from those before it, and from itself.
const ORDER: [&str; 13] = [
    "platform",
    "tokenizer",
    "model",
    "checkpoint",
    "scheduler",
    "gpu",
    "simd",
    "kernels",
    "engine",
    "vae",
    "trace",
    "pixels",
    "pipeline",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 40, "the sources were not found");
    let name = |path: &PathBuf| path.strip_prefix(&root).expect("below src").display().to_string();
    found.iter().map(|p| (name(p), std::fs::read_to_string(p).expect("a source"))).collect()
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (file, text) in all() {
        let module = file.split(['/', '.']).next().unwrap_or_default();
        let Some(place) = ORDER.iter().position(|m| *m == module) else { continue };
        for above in &ORDER[place + 1..] {
            if text.contains(&format!("crate::{above}")) && !is_only_documentation(&text, above) {
                wrong.push(format!("{file} imports {above}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn is_only_documentation(text: &str, module: &str) -> bool {
    let path = format!("crate::{module}");
    text.lines().filter(|l| l.contains(&path)).all(|l| l.trim_start().starts_with("//"))
}

#[test]
fn only_the_platform_knows_the_target() {
    let knows = |text: &str| text.contains("target_arch") || text.contains("target_family");
    let wrong: Vec<_> = all()
        .into_iter()
        .filter(|(file, text)| !file.starts_with("platform/") && knows(text))
        .map(|(file, _)| file)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
