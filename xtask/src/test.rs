//! `cargo xtask test`: everything that has to hold before a change lands, the quick checks first.

use std::path::Path;

use crate::{WASM, run, succeeds};

/// Where Vulkan drivers announce themselves on Linux.
const DRIVER_FOLDERS: [&str; 3] =
    ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];

pub(crate) fn all() -> Result<(), String> {
    ensure_vulkan()?;
    run("cargo", &["fmt", "--all", "--check"], &[])?;
    run("cargo", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    // The library has to build without the command line tool, and for the browser.
    run("cargo", &["clippy", "--lib", "--no-default-features", "--", "-D", "warnings"], &[])?;
    if succeeds("rustup", &["target", "add", WASM]) {
        run("cargo", &["check", "--lib", "--no-default-features", "--target", WASM], &[])?;
    } else {
        println!("\nskipped: the check for the browser, because `rustup target add {WASM}` failed");
    }
    run("cargo", &["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    run("cargo", &["test", "--workspace", "--no-fail-fast"], &[])?;
    println!("\nall checks passed");
    Ok(())
}

/// The GPU tests need some Vulkan driver; Mesa's software driver does.
fn ensure_vulkan() -> Result<(), String> {
    if !cfg!(target_os = "linux") || has_driver() {
        return Ok(());
    }
    let package = "mesa-vulkan-drivers";
    if !Path::new("/etc/debian_version").exists() || !is_root() {
        return Err(format!(
            "the GPU tests need a Vulkan driver; install one, on Debian and Ubuntu with: sudo apt-get install {package}"
        ));
    }
    run("apt-get", &["update", "-q"], &[])?;
    let quiet = [("DEBIAN_FRONTEND", "noninteractive")];
    run("apt-get", &["install", "-y", "-q", "--no-install-recommends", package], &quiet)?;
    if has_driver() { Ok(()) } else { Err(format!("{package} brought no Vulkan driver")) }
}

fn has_driver() -> bool {
    DRIVER_FOLDERS
        .iter()
        .any(|folder| std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some()))
        && has_loader()
}

/// The loader library is a package of its own.
fn has_loader() -> bool {
    std::process::Command::new("ldconfig")
        .arg("-p")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("libvulkan.so.1"))
}

fn is_root() -> bool {
    std::process::Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
