//! The tests of the Python package, run on the installed package in a virtual environment in the target directory.

use crate::{run, succeeds, target_folder, text, tool};

/// Whether Python can make virtual environments; on Debian this needs a separate package.
pub(crate) fn is_there() -> bool {
    succeeds("python3", &["-c", "import ensurepip, venv"])
}

/// Installs the package and runs its tests; those of the trainer and of the folder for diffusers where PyTorch is installed
/// already, because it takes gigabytes.
pub(crate) fn python_tests() -> Result<(), String> {
    // The models are small: more threads would only wait for each other.
    let threads = ("OMP_NUM_THREADS", "1");
    let program = environment("python", &[], &["./python[test]"])?;
    run(&program, &["-m", "pytest", "-q", "python"], &[threads])?;
    if !succeeds("python3", &["-c", "import numpy, torch"]) {
        println!(
            "\nPyTorch is not installed: the trainer and the folder for diffusers are not tested, and the PyTorch reader \
            is not compared"
        );
        return Ok(());
    }
    // The tests have built the program.
    compare("dev", &["--count", "600"])?;
    let program = environment(
        "python-diffusers",
        &["--system-site-packages"],
        &["./python[train,test]", "diffusers>=0.35"],
    )?;
    run(&program, &["-m", "pytest", "-q", "training/tests"], &[threads])?;
    let tool = tool("debug");
    // diffusers copies the code of pipelines there.
    let cache = target_folder().join("python-diffusers").join("cache");
    let tests =
        ["-m", "pytest", "-q", "python/tests/test_hub.py", "python/tests/test_hub_modules.py"];
    run(&program, &tests, &[threads, ("DIFFMOE", text(&tool)?), ("HF_HOME", text(&cache)?)])
}

/// Compares the PyTorch reader with PyTorch on generated files: `cargo xtask fuzz pytorch`.
pub(crate) fn against_pytorch(profile: &str, arguments: &[String]) -> Result<(), String> {
    if !succeeds("python3", &["-c", "import numpy, torch"]) {
        return Err("PyTorch and NumPy are needed: pip install torch numpy".into());
    }
    let build = ["build", "--quiet", "--profile", profile, "--package", "diffmoe-fuzz"];
    run("cargo", &build, &[])?;
    compare(profile, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn compare(profile: &str, arguments: &[&str]) -> Result<(), String> {
    let folder = if profile == "dev" { "debug" } else { profile };
    let name = format!("diffmoe-fuzz{}", std::env::consts::EXE_SUFFIX);
    let reader = target_folder().join(folder).join(name);
    let script = ["fuzz/pytorch.py", "--reader", text(&reader)?];
    run("python3", &[&script[..], arguments].concat(), &[("OMP_NUM_THREADS", "1")])
}

/// A virtual environment in the target directory with these packages; the path of its Python.
fn environment(name: &str, options: &[&str], packages: &[&str]) -> Result<String, String> {
    let folder = target_folder().join(name);
    let python = folder.join(if cfg!(windows) { r"Scripts\python.exe" } else { "bin/python" });
    let program = text(&python)?;
    if !python.exists() {
        run("python3", &[&["-m", "venv"], options, &[text(&folder)?]].concat(), &[])?;
    }
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(program, &[&install[..], packages].concat(), &[])?;
    Ok(program.to_owned())
}
