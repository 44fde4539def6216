//! From Rust to WebAssembly and the script that loads it.

use std::path::{Path, PathBuf};
use std::process::Command;

use wasm_bindgen_cli_support::Bindgen;

use super::programs::Programs;
use crate::{WASM, run, succeeds};

/// What the compiler and wasm-bindgen made.
pub(super) struct Built {
    pub(super) js: String,
    pub(super) programs: Programs,
    pub(super) target_folder: PathBuf,
}

/// Compiles the library with its page, and writes the script that goes with it.
pub(super) fn wasm(dev: bool) -> Result<Built, String> {
    check_versions()?;
    ensure_target()?;
    let target_folder = target_folder()?;
    let profile = if dev { "web-dev" } else { "web" };
    let arguments = ["build", "--package", "diffmoe-web", "--target", WASM, "--profile", profile];
    // Vectors of four: every browser with WebGPU has them, and all others since 2023. Multiply-adds are taken out again
    // for those that lack them.
    let flags = format!("-C target-feature=+simd128,+relaxed-simd{}", without_registries());
    run("cargo", &arguments, &[("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", &flags)])?;
    let compiled = target_folder.join(WASM).join(profile).join("diffmoe_web.wasm");
    let failed = |error: &dyn std::fmt::Display| format!("wasm-bindgen failed: {error}");
    let mut bindgen = Bindgen::new();
    bindgen
        .input_path(&compiled)
        .out_name("diffmoe")
        .typescript(false)
        .remove_producers_section(true);
    // So that `init()` without arguments finds the WebAssembly in the script's folder.
    bindgen.omit_default_module_path(false);
    bindgen.remove_name_section(!dev);
    bindgen.web(true).map_err(|e| failed(&e))?;
    let mut output = bindgen.generate_output().map_err(|e| failed(&e))?;
    let inline =
        output.snippets().iter().filter(|(_, texts)| !texts.is_empty()).map(|(name, _)| name);
    let snippets: Vec<_> = inline.chain(output.local_modules().keys()).cloned().collect();
    if !snippets.is_empty() {
        return Err(format!(
            "these packages include JavaScript files, which the page does not support: {}",
            snippets.join(", ")
        ));
    }
    let programs = Programs::from_relaxed(output.wasm_mut())?;
    let js = script(output.js())?;
    Ok(Built { js, programs, target_folder })
}

/// Compiler options that remove the folder of downloaded packages from panic locations, so that the page has the same bytes
/// on every machine and is 20 kB smaller. A folder with a space stays, because cargo would split the option there.
fn without_registries() -> String {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let home = variable("CARGO_HOME").or_else(|| {
        variable("HOME").or_else(|| variable("USERPROFILE")).map(|home| home.join(".cargo"))
    });
    let registries = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    let folders = registries.into_iter().flatten().flatten();
    let mut folders: Vec<_> = folders.map(|entry| entry.path().display().to_string()).collect();
    folders.retain(|folder| !folder.contains(char::is_whitespace));
    folders.sort();
    folders.iter().map(|folder| format!(" --remap-path-prefix={folder}=")).collect()
}

/// The script around the program: wasm-bindgen's, which loads the form for this browser, and how workers are made.
fn script(generated: &str) -> Result<String, String> {
    let default = "new URL('diffmoe_bg.wasm', import.meta.url)";
    if generated.matches(default).count() != 1 {
        return Err(format!("wasm-bindgen's script should contain `{default}` once"));
    }
    // Bundlers look for just this form.
    let chosen = format!(
        "hasRelaxedSimd() ? new URL('diffmoe_relaxed_bg.wasm', import.meta.url) : {default}"
    );
    let read = |path: &str| {
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
    };
    let generated = generated.replace(default, &chosen);
    Ok([generated, read("web/program.js")?, read("web/worker.js")?].join("\n\n"))
}

/// wasm-bindgen's two halves talk to each other in a format that changes with every version.
fn check_versions() -> Result<(), String> {
    let lock = std::fs::read_to_string("Cargo.lock")
        .map_err(|e| format!("cannot read Cargo.lock: {e}"))?;
    let (library, tool) =
        (locked(&lock, "wasm-bindgen"), locked(&lock, "wasm-bindgen-cli-support"));
    match (library, tool) {
        (Some(library), Some(tool)) if library == tool => Ok(()),
        (Some(library), Some(tool)) => Err(format!(
            "Cargo.lock has wasm-bindgen {library} and wasm-bindgen-cli-support {tool}, which \
             must be the same: write `wasm-bindgen-cli-support = \"={library}\"` in \
             xtask/Cargo.toml, or run `cargo update -p wasm-bindgen --precise {tool}`"
        )),
        _ => {
            Err("Cargo.lock does not name wasm-bindgen; run `cargo update -w` and try again".into())
        }
    }
}

/// The version of a package in a lock file.
fn locked<'l>(lock: &'l str, package: &str) -> Option<&'l str> {
    let after = lock.split(&format!("name = \"{package}\"\n")).nth(1)?;
    after.strip_prefix("version = \"")?.split('"').next()
}

fn ensure_target() -> Result<(), String> {
    if has_target() || succeeds("rustup", &["target", "add", WASM]) && has_target() {
        return Ok(());
    }
    Err(format!(
        "the page needs Rust's standard library for browsers. With rustup: `rustup target add {WASM}` (it needs the \
         network once). Without rustup: install your distribution's package for it, such as \
         libstd-rust-dev-wasm32 on Debian"
    ))
}

fn has_target() -> bool {
    let output =
        Command::new("rustc").args(["--print", "target-libdir", "--target", WASM]).output();
    output.is_ok_and(|output| {
        output.status.success()
            && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir()
    })
}

/// Where cargo puts what it builds.
fn target_folder() -> Result<PathBuf, String> {
    let output =
        Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).output();
    let output = output.map_err(|e| format!("cannot run cargo: {e}"))?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let folder = metadata["target_directory"].as_str().ok_or("cargo names no target directory")?;
    Ok(folder.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_by_the_whole_name() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"2.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n";
        assert_eq!((locked(lock, "a"), locked(lock, "a-b")), (Some("1.2.3"), Some("2.0.0")));
        assert_eq!(locked(lock, "b"), None);
    }
}
