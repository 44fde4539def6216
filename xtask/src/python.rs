//! The tests of the Python package, run on the installed package in a virtual environment in the target directory.

use crate::{run, succeeds, target_folder};

/// Whether Python can make virtual environments; on Debian this needs a separate package.
pub(crate) fn is_there() -> bool {
    succeeds("python3", &["-c", "import ensurepip, venv"])
}

/// Installs the package and runs its tests.
pub(crate) fn python_tests() -> Result<(), String> {
    let folder = target_folder().join("python");
    let python = folder.join(if cfg!(windows) { r"Scripts\python.exe" } else { "bin/python" });
    let [Some(folder), Some(program)] = [folder.to_str(), python.to_str()] else {
        return Err("the path of the target directory is not valid Unicode".into());
    };
    if !python.exists() {
        run("python3", &["-m", "venv", folder], &[])?;
    }
    let install =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "./python[test]"];
    run(program, &install, &[])?;
    // The models are small: more threads would only wait for each other.
    run(program, &["-m", "pytest", "-q", "python"], &[("OMP_NUM_THREADS", "1")])
}
