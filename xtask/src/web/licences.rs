//! The licences of everything that is compiled into the page, as their authors ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::WASM;

/// Names of files that hold a licence, or a part of one.
const FILES: [&str; 7] = ["licen", "copying", "copyright", "notice", "unlicense", "ofl", "ufl"];

/// One text: the packages with their licences, then each licence file once.
pub(super) fn collect() -> Result<String, String> {
    let arguments =
        ["metadata", "--format-version", "1", "--filter-platform", WASM, "--no-default-features"];
    let output = Command::new("cargo").args(arguments).output();
    let output = output.map_err(|e| format!("cannot run cargo: {e}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let used = reachable(&metadata["resolve"]["nodes"]);
    let none = Vec::new();
    let mut list = String::from("This program contains the following packages.\n\n");
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap_or(&none) {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        if !used.contains(text("id")) {
            continue;
        }
        let folder = Path::new(text("manifest_path")).parent().unwrap_or(Path::new("."));
        let mut add = |folder: &Path, name: &str| {
            for licence in licence_files(folder) {
                texts.entry(licence).or_default().insert(name.to_owned());
            }
        };
        add(&folder.join("fonts"), &format!("{}'s font", text("name")));
        if text("name").starts_with("diffmoe") {
            continue;
        }
        add(folder, text("name"));
        let _ = writeln!(
            list,
            "{} {}: {} {}",
            text("name"),
            text("version"),
            text("license"),
            text("repository")
        );
    }
    for (licence, packages) in texts {
        let names = packages.into_iter().collect::<Vec<_>>().join(", ");
        let _ = write!(list, "\n{}\n{names}\n{}\n\n{licence}\n", "=".repeat(80), "-".repeat(80));
    }
    Ok(list)
}

/// The packages that the page needs to run; what is needed only to build or to test is no part of the page.
fn reachable(nodes: &Value) -> BTreeSet<String> {
    let none = Vec::new();
    let nodes = nodes.as_array().unwrap_or(&none);
    let id = |node: &Value| node["id"].as_str().unwrap_or_default().to_owned();
    // Cargo names a package of a workspace by its folder, which may have any name.
    let is_ours = |id: &String| id.starts_with("path+") && id.contains("/web#");
    let mut open: Vec<_> = nodes.iter().map(id).filter(is_ours).collect();
    let mut found = BTreeSet::new();
    while let Some(package) = open.pop() {
        let node = nodes.iter().find(|node| id(node) == package);
        if !found.insert(package) {
            continue;
        }
        for dependency in node.and_then(|node| node["deps"].as_array()).unwrap_or(&none) {
            let kinds = dependency["dep_kinds"].as_array().unwrap_or(&none);
            if kinds.iter().any(|kind| kind["kind"].is_null()) {
                open.extend(dependency["pkg"].as_str().map(str::to_owned));
            }
        }
    }
    found
}

/// The texts of the licence files in a folder.
fn licence_files(folder: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).ok().into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let is_text = !name.ends_with(".rs") && !name.ends_with(".ttf");
        if is_text
            && FILES.iter().any(|start| {
                name.starts_with(start) || name.ends_with(".txt") && name.contains(start)
            })
        {
            texts.extend(
                std::fs::read_to_string(entry.path())
                    .ok()
                    .map(|text| text.trim().replace('\r', "")),
            );
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_is_listed() {
        let nodes = serde_json::json!([
            { "id": "path+file:///x/crates/web#diffmoe-web@0.1.0", "deps": [
                { "pkg": "a", "dep_kinds": [{ "kind": null }] },
                { "pkg": "b", "dep_kinds": [{ "kind": "dev" }, { "kind": "build" }] }] },
            { "id": "a", "deps": [{ "pkg": "c", "dep_kinds": [{ "kind": "dev" }, { "kind": null }] }] },
            { "id": "b", "deps": [] },
            { "id": "c", "deps": [] },
        ]);
        let found = reachable(&nodes);
        assert_eq!(found.len(), 3);
        assert!(found.contains("a") && found.contains("c"));
    }
}
