//! The tests of the Python package, in a virtual environment below the target directory: what users install is tested,
//! not the sources.

use crate::{run, succeeds, target_folder};

/// Whether Python is there and can make virtual environments, which is a package of its own on Debian.
pub(crate) fn is_there() -> bool {
    succeeds("python3", &["-c", "import ensurepip, venv"])
}

/// Installs the package as users do and runs its tests.
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
    run(program, &["-m", "pytest", "-q", "python"], &[])
}
