//! `cargo xtask test`: all checks required before a change lands, quick ones first.

use std::path::Path;
use std::process::Command;

use crate::{WASM, python, run, succeeds, text, tool};

/// Where Vulkan drivers announce themselves on Linux.
const DRIVER_FOLDERS: [&str; 3] =
    ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];

/// Names under which Chromium is installed.
const BROWSERS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

const BROWSER_TESTS: &str = "tests/browser";

/// A browser engine besides Chromium.
struct Engine {
    name: &'static str,
    is_there: fn() -> bool,
    /// Its packages on Debian.
    packages: &'static [&'static str],
}

const ENGINES: [Engine; 2] = [
    Engine {
        name: "Firefox",
        is_there: || has("firefox-esr") || has("firefox"),
        packages: &["firefox-esr"],
    },
    Engine {
        name: "WebKit",
        is_there: || has("WebKitWebDriver") && has("xvfb-run"),
        packages: &["webkit2gtk-driver", "xvfb", "xauth"],
    },
];

pub(crate) fn all() -> Result<(), String> {
    ensure_vulkan()?;
    let browser = ensure_browser()?;
    let missing = other_engines();
    ensure_npm()?;
    ensure_python()?;
    run("cargo", &["fmt", "--all", "--check"], &[])?;
    kernels_are_formatted()?;
    // One selection of packages for lints, documentation and tests: another selection unifies features differently, and
    // then Cargo compiles most dependencies again.
    clippy(&["--workspace", "--all-targets", "--features", "xtask/web,diffmoe-cli/window"])?;
    let doc = ["doc", "--workspace", "--no-deps", "--features", "xtask/web,diffmoe-cli/window"];
    run("cargo", &doc, &[("RUSTDOCFLAGS", "-D warnings")])?;
    run("cargo", &["test", "--workspace", "--no-fail-fast", "--features", "xtask/web"], &[])?;
    python::python_tests()?;
    // The library's features, alone and together; those of the other packages are in the selection above. CI checks the rest.
    for features in ["", "import", "blocking", "compact", "jpeg", "import,blocking,compact,jpeg"] {
        clippy(&[
            "--package",
            "diffmoe",
            "--lib",
            "--no-default-features",
            "--features",
            features,
        ])?;
    }
    if !succeeds("rustup", &["target", "add", WASM]) {
        println!(
            "\n`rustup target add {WASM}` failed; continuing in case the target is \
            installed"
        );
    }
    clippy(&["--package", "diffmoe-web", "--target", WASM])?;
    in_a_browser(&browser)?;
    println!("\nall checks passed");
    for engine in missing {
        println!("but not in {engine}");
    }
    Ok(())
}

fn clippy(arguments: &[&str]) -> Result<(), String> {
    run("cargo", &[&["clippy"], arguments, &["--", "-D", "warnings"]].concat(), &[])
}

/// rustfmt does not find the modules that the macro `kernels!` declares.
fn kernels_are_formatted() -> Result<(), String> {
    let folder =
        std::fs::read_dir("src/kernels").map_err(|error| format!("src/kernels: {error}"))?;
    let paths = folder.filter_map(|entry| Some(entry.ok()?.path().to_str()?.to_owned()));
    let files: Vec<_> = paths.filter(|path| path.ends_with(".rs")).collect();
    let mut arguments = vec!["--check", "--edition", "2024"];
    arguments.extend(files.iter().map(String::as_str));
    run("rustfmt", &arguments, &[])
}

/// Builds the page, checks its size, and visits it.
fn in_a_browser(browser: &str) -> Result<(), String> {
    run("cargo", &["xtask", "web", "--offline"], &[])?;
    let folder = Path::new(BROWSER_TESTS).join("node_modules");
    if ["playwright-core", "puppeteer-core", "vite", "webpack"]
        .iter()
        .any(|name| !folder.join(name).exists())
    {
        // What the lockfile names, with its checksums.
        let install = ["ci", "--no-audit", "--no-fund", "--prefix", BROWSER_TESTS];
        run("npm", &install, &[])?;
    }
    // The tests of the command line tool have built it; it draws the images that the page's are compared with.
    let tool = tool("debug");
    let tests = format!("{BROWSER_TESTS}/all.mjs");
    run(
        "node",
        &["--test", "--test-reporter=spec", &tests],
        &[("CHROMIUM", browser), ("DIFFMOE", text(&tool)?)],
    )
}

/// The GPU tests need some Vulkan driver; Mesa's software driver does.
fn ensure_vulkan() -> Result<(), String> {
    if !cfg!(target_os = "linux") || has_driver() {
        return Ok(());
    }
    let package = "mesa-vulkan-drivers";
    install("the GPU tests need a Vulkan driver", package)?;
    if has_driver() { Ok(()) } else { Err(format!("{package} installed no Vulkan driver")) }
}

/// The browser that runs the tests of the page: `$CHROMIUM`, else one that is installed.
fn ensure_browser() -> Result<String, String> {
    if let Ok(browser) = std::env::var("CHROMIUM") {
        return Ok(browser);
    }
    let find = || BROWSERS.into_iter().find_map(path_of);
    if let Some(browser) = find() {
        return Ok(browser);
    }
    install("the tests of the page need Chromium (set $CHROMIUM to use another path)", "chromium")?;
    find().ok_or_else(|| "chromium was installed, but is not on the PATH".into())
}

/// Gets the other two browser engines where that is possible; names those that are missing, with the reason. Their
/// tests are skipped then.
fn other_engines() -> Vec<String> {
    let mut missing = Vec::new();
    for Engine { name: engine, is_there, packages } in ENGINES {
        let reason = format!("the tests of the page in {engine} need it");
        let got = packages
            .iter()
            .filter(|_| !is_there())
            .try_for_each(|package| install(&reason, package));
        if !is_there() {
            let reason = got.err().unwrap_or_else(|| "it is not on the PATH".to_owned());
            missing.push(format!("{engine}: {reason}"));
        }
    }
    missing
}

fn ensure_npm() -> Result<(), String> {
    if succeeds("npm", &["--version"]) && succeeds("node", &["--version"]) {
        return Ok(());
    }
    install("the tests of the page need Node.js with npm", "npm")
}

fn ensure_python() -> Result<(), String> {
    if python::is_there() {
        return Ok(());
    }
    install("the tests of the Python package need Python with venv", "python3-venv")
}

/// Whether a program is installed.
fn has(program: &str) -> bool {
    path_of(program).is_some()
}

/// Where a program is.
fn path_of(program: &str) -> Option<String> {
    let folders = std::env::var_os("PATH")?;
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|p| p.is_file())?;
    found.to_str().map(str::to_owned)
}

/// Installs a package where possible; elsewhere prints how to do it.
fn install(reason: &str, package: &str) -> Result<(), String> {
    if !Path::new("/etc/debian_version").exists() || !is_root() {
        return Err(format!(
            "{reason}; install it, on Debian and Ubuntu with: sudo apt-get install {package}"
        ));
    }
    run("apt-get", &["update", "-q"], &[])?;
    let quiet = [("DEBIAN_FRONTEND", "noninteractive")];
    run("apt-get", &["install", "-y", "-q", "--no-install-recommends", package], &quiet)
}

fn has_driver() -> bool {
    DRIVER_FOLDERS
        .iter()
        .any(|folder| std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some()))
        && has_loader()
}

/// The loader library is a package of its own.
fn has_loader() -> bool {
    Command::new("ldconfig")
        .arg("-p")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("libvulkan.so.1"))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
