//! Rules of ARCHITECTURE.md that reviewers should not have to check: imports between the floors of the library go
//! one way, files do not import each other in circles, only `platform` files depend on the target, and unsafe code is in
//! the few places that were audited.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules of the library from the bottom up; each may import from those before it, and from itself.
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

/// Folders of sources, one for each package.
const PACKAGES: [&str; 9] = [
    "src",
    "crates/cli/src",
    "crates/models/src",
    "crates/viewer/src",
    "crates/web/src",
    "fuzz/src",
    "xtask/src",
    "xtask/isa/src",
    "xtask/mutants/src",
];

/// The page's package is empty for other targets; its root says so.
const KNOWS_THE_TARGET: [&str; 1] = ["crates/web/src/lib.rs"];

/// A module: the names of its path, `["scheduler", "euler"]`; the root of a package is empty.
type Module = Vec<String>;

struct Source {
    file: String,
    module: Module,
    /// Without comments and tests.
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources(package: &str) -> Vec<Source> {
    let mut found = Vec::new();
    rust_files(&root().join(package), &mut found);
    found.sort();
    let read = |path: &PathBuf| {
        let inside = path.strip_prefix(root().join(package)).expect("below the package");
        let mut module: Module = inside
            .iter()
            .map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned())
            .collect();
        if ["mod", "lib", "main"].contains(&module.last().map_or("", String::as_str)) {
            module.pop();
        }
        let text = std::fs::read_to_string(path).expect("a source");
        let text = text.split("#[cfg(test)]\n").next().unwrap_or_default();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let text = lines.collect::<Vec<_>>().join("\n");
        Source { file: format!("{package}/{}", inside.display()), module, text }
    };
    let is_test = |source: &Source| {
        source
            .module
            .iter()
            .any(|part| part == "testing" || part == "tests" || part.ends_with("_tests"))
    };
    found.iter().map(read).filter(|source| !is_test(source)).collect()
}

/// The paths of a `use` tree, such as `a::{b, c::{d}}`, with the name under which each is known afterwards.
fn paths(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let before: Vec<String> = segments(&tree[..open]);
        let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
        let mut parts = vec![String::new()];
        let mut depth = 0;
        for c in inner.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(String::new());
                    continue;
                }
                _ => {}
            }
            parts.last_mut().expect("a part").push(c);
        }
        let inner =
            parts.iter().filter(|part| !part.trim().is_empty()).flat_map(|part| paths(part));
        return inner.map(|(path, name)| ([before.clone(), path].concat(), name)).collect();
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let path = segments(path);
    let name = if alias.is_empty() {
        path.last().cloned().unwrap_or_default()
    } else {
        alias.trim().to_owned()
    };
    vec![(path, name)]
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// The `use` statements of a file: whether others see it, and its tree.
fn uses(text: &str) -> impl Iterator<Item = (bool, &str)> {
    text.match_indices("use ").filter_map(|(at, _)| {
        let line = text[..at].rsplit('\n').next().unwrap_or_default().trim();
        let is_public = line.starts_with("pub");
        let is_statement =
            line.is_empty() || is_public && !line.contains(' ') || line.ends_with(')');
        let end = text[at..].find(';')?;
        is_statement.then(|| (is_public, &text[at + 4..at + end]))
    })
}

/// A path from the root of the package; `None` for other packages.
fn absolute(path: &[String], module: &Module, children: &BTreeSet<Module>) -> Option<Module> {
    let mut here = module.clone();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => {
            here.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                here.pop();
                rest = &rest[1..];
            }
        }
        first => {
            let child = [here.as_slice(), &[first.to_owned()]].concat();
            if !children.contains(&child) {
                return None;
            }
        }
    }
    Some([here.as_slice(), rest].concat())
}

/// For each file, the files that it imports, through re-exports to where a name stands. What a module takes from the
/// files inside it does not count: they are its parts.
fn imports(all: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeSet<Module> = all.iter().map(|source| source.module.clone()).collect();
    let file: BTreeMap<&Module, &str> =
        all.iter().map(|source| (&source.module, source.file.as_str())).collect();
    let mut exports: BTreeMap<Module, Module> = BTreeMap::new();
    for source in all {
        for (_, tree) in uses(&source.text).filter(|(is_public, _)| *is_public) {
            for (path, name) in paths(tree) {
                if let Some(target) = absolute(&path, &source.module, &modules) {
                    exports.insert([source.module.as_slice(), &[name]].concat(), target);
                }
            }
        }
    }
    let resolve = |mut path: Module| -> Option<&str> {
        for _ in 0..8 {
            let known = (0..=path.len()).rev().find(|&n| modules.contains(&path[..n]))?;
            let name = path.get(..=known).map(<[String]>::to_vec);
            match name.and_then(|name| exports.get(&name)) {
                Some(target) if known < path.len() => {
                    path = [target.as_slice(), &path[known + 1..]].concat();
                }
                _ => return file.get(&path[..known].to_vec()).copied(),
            }
        }
        None
    };
    let of = |source: &Source| {
        let private = uses(&source.text).filter(|(is_public, _)| !is_public);
        let mut found: Vec<Vec<String>> =
            private.flat_map(|(_, tree)| paths(tree)).map(|(path, _)| path).collect();
        // Paths inside code.
        for start in ["crate::", "super::"] {
            for (at, _) in source.text.match_indices(start) {
                let rest = &source.text[at..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
                found.push(segments(&rest[..end.unwrap_or(rest.len())]));
            }
        }
        let absolute = found.iter().filter_map(|path| absolute(path, &source.module, &modules));
        let is_inside = |target: &Module| {
            target.len() > source.module.len() && target.starts_with(&source.module)
        };
        let outside = absolute
            .filter(|path| !is_inside(path) || !modules.contains(&path[..=source.module.len()]));
        let targets = outside.filter_map(&resolve).filter(|target| *target != source.file);
        (source.file.clone(), targets.map(str::to_owned).collect())
    };
    all.iter().map(of).collect()
}

/// Groups of files that import each other, each sorted.
fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reach = |start: &String| {
        let mut open: Vec<&String> = imports.get(start).into_iter().flatten().collect();
        let mut seen = BTreeSet::new();
        while let Some(file) = open.pop() {
            if seen.insert(file.clone()) {
                open.extend(imports.get(file).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        imports.keys().map(|file| (file, reach(file))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for (file, seen) in &reached {
        if seen.contains(*file) && !found.iter().any(|circle| circle.contains(*file)) {
            let back = |other: &&String| reached[other].contains(*file);
            found.push(
                seen.iter()
                    .filter(|other| reached.contains_key(other))
                    .filter(back)
                    .cloned()
                    .collect(),
            );
        }
    }
    found
}

#[test]
fn imports_go_one_way() {
    let floor = |file: &str| {
        let module = file.strip_prefix("src/")?.split(['/', '.']).next()?;
        ORDER.iter().position(|name| *name == module)
    };
    let all = sources("src");
    assert!(all.len() > 40, "the sources were not found");
    let mut wrong = Vec::new();
    for (file, targets) in imports(&all) {
        for target in targets {
            if floor(&file).zip(floor(&target)).is_some_and(|(from, to)| to > from) {
                wrong.push(format!("{file} imports {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let unknown: Vec<_> = all
        .iter()
        .filter_map(|s| s.module.first())
        .filter(|m| !ORDER.contains(&m.as_str()))
        .collect();
    assert!(unknown.is_empty(), "modules without a floor: {unknown:?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut found = Vec::new();
    for package in PACKAGES {
        found.extend(circles(&imports(&sources(package))));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn circles_are_found_through_re_exports() {
    let source = |file: &str, module: &[&str], text: &str| Source {
        file: file.to_owned(),
        module: module.iter().map(|part| (*part).to_owned()).collect(),
        text: text.to_owned(),
    };
    let all = [
        source("lib.rs", &[], "pub mod a;\npub mod b;"),
        source("a/mod.rs", &["a"], "mod inner;\npub use inner::{X, Y as Z};"),
        source("a/inner.rs", &["a", "inner"], "use crate::b::B;"),
        source("b.rs", &["b"], "use crate::{\n    a::{Z},\n};"),
    ];
    let imports = imports(&all);
    assert!(imports["b.rs"].contains("a/inner.rs"), "{imports:?}");
    let circle = circles(&imports);
    assert_eq!(circle.len(), 1);
    assert_eq!(circle[0].iter().map(String::as_str).collect::<Vec<_>>(), ["a/inner.rs", "b.rs"]);
}

#[test]
fn only_the_platform_knows_the_target() {
    let knows = |text: &str| text.contains("target_arch") || text.contains("target_family");
    let mut wrong = Vec::new();
    for source in PACKAGES.into_iter().flat_map(sources) {
        let allowed = source.module.iter().any(|module| module == "platform")
            || KNOWS_THE_TARGET.contains(&source.file.as_str());
        if !allowed && knows(&source.text) {
            wrong.push(source.file);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// All files with unsafe code, and how often it occurs: memory maps and the environment of the process; instructions of a
/// processor; and in tools for developers an allocator that counts, and Vulkan without wgpu. Whoever changes a number has
/// read the file again.
const UNSAFE: [(&str, usize); 4] = [
    ("src/platform/native.rs", 3),
    ("src/simd/platform/x86.rs", 4),
    ("fuzz/src/allocation.rs", 9),
    ("xtask/isa/src/driver.rs", 4),
];

#[test]
fn unsafe_code_is_where_it_was_audited() {
    let occurs = |text: &str| {
        ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
            .iter()
            .map(|form| text.matches(form).count())
            .sum::<usize>()
    };
    let found: Vec<_> = PACKAGES
        .into_iter()
        .flat_map(sources)
        .map(|source| (occurs(&source.text), source.file))
        .filter(|(count, _)| *count > 0)
        .map(|(count, file)| (file, count))
        .collect();
    assert_eq!(found, UNSAFE.map(|(file, count)| (file.to_owned(), count)));
}

/// Functions of `f32` and `f64` that the C library computes, differently from one system to the next. What draws an image
/// takes those of the package `libm`.
const OF_THE_SYSTEM: [&str; 12] = [
    ".sin()",
    ".cos()",
    ".sin_cos()",
    ".tanh()",
    ".exp()",
    ".exp2()",
    ".exp_m1()",
    ".ln()",
    ".ln_1p()",
    ".log10()",
    ".log2()",
    ".powf(",
];

#[test]
fn every_machine_computes_the_same_functions() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let draws = ["engine", "model", "scheduler", "simd", "vae"];
        let is_test = ["tests.rs", "testing.rs"].iter().any(|end| source.file.ends_with(end));
        if is_test || !source.module.first().is_some_and(|first| draws.contains(&first.as_str())) {
            continue;
        }
        if OF_THE_SYSTEM.iter().any(|function| source.text.contains(function)) {
            wrong.push(source.file);
        }
    }
    assert!(wrong.is_empty(), "use the functions of `libm`: {wrong:#?}");
}
