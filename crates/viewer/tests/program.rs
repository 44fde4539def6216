//! The viewer as a program: what it says where it cannot open a window.

use std::process::{Command, Output};

/// Runs the program without a display; returns its exit code and stderr.
fn viewer(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diffmoe-viewer"));
    for variable in ["DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"] {
        command.env_remove(variable);
    }
    let Output { status, stderr, .. } =
        command.args(arguments).output().expect("the viewer starts");
    (status.code(), String::from_utf8(stderr).expect("UTF-8"))
}

#[test]
#[cfg(target_os = "linux")]
fn without_a_display_it_says_what_works_instead() {
    for arguments in [&[][..], &["--model", "eurosat"]] {
        let (code, stderr) = viewer(arguments);
        assert_eq!(code, Some(2), "{stderr}");
        for expected in ["there is no display", "diffmoe sample", "cargo xtask web"] {
            assert!(stderr.contains(expected), "{stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn no_window_opens_for_a_wrong_model_or_link() {
    for (arguments, expected) in [
        (["--model", "nowhere"], "unknown model"),
        (["--share", "#seed=one&steps=3&guidance=2&labels=any"], "a whole number"),
    ] {
        let (code, stderr) = viewer(&arguments);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(expected), "{arguments:?} should speak of {expected:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}
