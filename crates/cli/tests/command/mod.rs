//! The command line tool, run as a user runs it.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::path::Path;
use std::process::{Command, Output};

/// Runs the tool; returns exit code, stdout, stderr.
pub fn diffmoe(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_diffmoe"))
        .args(arguments)
        .output()
        .expect("the tool starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("an exit code, not a signal"), text(stdout), text(stderr))
}

/// Runs the tool, asserts that it succeeds; returns stdout and stderr.
pub fn succeeds(arguments: &[&str]) -> [String; 2] {
    let (code, stdout, stderr) = diffmoe(arguments);
    assert_eq!(code, 0, "{arguments:?}:\n{stdout}{stderr}");
    [stdout, stderr]
}

/// The arguments of a quick `diffmoe sample`: on the CPU, two steps, two images, seed 5, unless `more` says otherwise.
pub fn sample<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let quick = [["--backend", "cpu"], ["--steps", "2"], ["--count", "2"], ["--seed", "5"]];
    let missing = quick.into_iter().filter(|[name, _]| !more.contains(name));
    ["sample"].into_iter().chain(missing.flatten()).chain(more.iter().copied()).collect()
}

/// Runs such a `diffmoe sample`; returns stdout and stderr.
pub fn draw(more: &[&str]) -> [String; 2] {
    succeeds(&sample(more))
}

/// Asserts that a request is refused with exit code 2, one sentence and no panic.
pub fn refused(arguments: &[&str], expected: &str) {
    let (code, _, stderr) = diffmoe(arguments);
    assert_eq!(code, 2, "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    assert!(stderr.contains(expected), "{arguments:?} should speak of {expected:?}: {stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error:")).count();
    assert_eq!(errors, 1, "{arguments:?}: {stderr}");
}

/// A file or folder of the fixtures.
pub fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(name)
        .display()
        .to_string()
}
