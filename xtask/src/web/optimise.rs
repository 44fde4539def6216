//! wasm-opt makes the WebAssembly smaller for the browser's compiler where it is installed. Nothing depends on it.

use std::path::Path;

use super::programs::Programs;
use crate::{run, succeeds, text};

/// Features that Rust emits for this target, besides SIMD.
const FEATURES: [&str; 9] = [
    "--enable-simd",
    "--enable-relaxed-simd",
    "--enable-bulk-memory",
    "--enable-bulk-memory-opt",
    "--enable-nontrapping-float-to-int",
    "--enable-sign-ext",
    "--enable-mutable-globals",
    "--enable-reference-types",
    "--enable-multivalue",
];

/// Runs wasm-opt over both forms of the program, if there is one.
pub(super) fn shrink(
    programs: Programs,
    install: bool,
    target_folder: &Path,
) -> Result<Programs, String> {
    let Some(program) = find(install, target_folder)? else {
        println!(
            "\nwasm-opt is not installed; the page works without it (`--optimise` gets it from \
                npm)"
        );
        return Ok(programs);
    };
    programs.map(|wasm| optimised(&program, &wasm, target_folder))
}

fn optimised(program: &str, wasm: &[u8], target_folder: &Path) -> Result<Vec<u8>, String> {
    let (before, after) = (target_folder.join("before.wasm"), target_folder.join("after.wasm"));
    let paths = [text(&before)?, text(&after)?];
    std::fs::write(&before, wasm).map_err(|e| format!("cannot write {}: {e}", before.display()))?;
    // Higher levels take many minutes for a few percent.
    let mut arguments = vec!["-Os", paths[0], "-o", paths[1]];
    arguments.extend(FEATURES);
    run(program, &arguments, &[])?;
    std::fs::read(&after).map_err(|e| format!("cannot read {}: {e}", after.display()))
}

fn find(install: bool, target_folder: &Path) -> Result<Option<String>, String> {
    let folder = target_folder.join("npm");
    let (here, there) = ("node_modules/.bin/wasm-opt", folder.join("node_modules/.bin/wasm-opt"));
    let candidates = ["wasm-opt", here, text(&there)?];
    let find = || candidates.iter().find(|program| succeeds(program, &["--version"]));
    if let Some(program) = find() {
        return Ok(Some((*program).to_owned()));
    }
    if !install {
        return Ok(None);
    }
    std::fs::create_dir_all(&folder)
        .map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    run(
        "npm",
        &[
            "install",
            "--no-package-lock",
            "--no-audit",
            "--no-fund",
            "--prefix",
            text(&folder)?,
            "binaryen@132.0.0",
        ],
        &[],
    )
    .map_err(|error| format!("{error}; install Node.js with npm, or remove --optimise"))?;
    Ok(find().map(|program| (*program).to_owned()))
}
