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
