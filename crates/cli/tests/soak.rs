//! Sets of images whose processes are killed, share a folder, or find the disk full. Some minutes: `cargo xtask soak`.
#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const IMAGES: &str = "24";

fn set(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diffmoe"));
    command
        .args(["sample", "--model", "eurosat", "--backend", "cpu", "--steps", "2", "--seed", "5"])
        .args(["--count", IMAGES, "--batch", "2", "--set"])
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Names and bytes of all files.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(path).expect("a file"))
        })
        .collect();
    files.sort();
    files
}

/// The set, drawn without interruption, and the time it takes.
fn whole(folder: &Path) -> (Vec<(String, Vec<u8>)>, Duration) {
    let begin = Instant::now();
    assert!(set(folder).status().expect("the tool starts").success());
    (files(folder), begin.elapsed())
}

/// The generator xorshift64, so that a failure can be repeated.
fn random(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state as f64 / u64::MAX as f64
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn a_set_that_is_killed_fifty_times_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (want, time) = whole(&folder.path().join("whole"));
    let (mut kills, mut sets, mut state) = (0, 0, 0x1234_5678_9abc_def1);
    while kills < 50 {
        let path = folder.path().join(format!("set-{sets}"));
        sets += 1;
        loop {
            let mut child = set(&path).spawn().expect("the tool starts");
            // At any moment: while it starts, computes, writes, and shortly before its end.
            std::thread::sleep(time.mul_f64(0.6 * random(&mut state)));
            if let Some(status) = child.try_wait().expect("a state") {
                assert!(status.success());
                break;
            }
            child.kill().expect("it runs");
            child.wait().expect("an end");
            kills += 1;
            if kills % 10 == 9 {
                // In the end somebody lets it finish.
                assert!(set(&path).status().expect("the tool starts").success());
                break;
            }
        }
        let got = files(&path);
        let names = |files: &[(String, Vec<u8>)]| {
            // What a killed process was writing may lie there until the next one finds it old enough to remove.
            let kept = files.iter().filter(|(name, _)| !name.starts_with(".part-"));
            kept.cloned().collect::<Vec<_>>()
        };
        assert!(names(&got) == want, "set {sets} after {kills} kills");
    }
    println!("{kills} kills of {sets} sets of {IMAGES} images, each {time:?} when left alone");
}

#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn two_processes_draw_one_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let (want, _) = whole(&folder.path().join("whole"));
    for round in 0..10 {
        let path = folder.path().join(format!("shared-{round}"));
        let children = [(); 2].map(|()| set(&path).spawn().expect("the tool starts"));
        for mut child in children {
            assert!(child.wait().expect("an end").success());
        }
        assert!(files(&path) == want, "round {round}");
    }
}

/// Files end at some size, as on a full disk; then there is room again.
#[test]
#[ignore = "takes minutes: cargo xtask soak"]
fn a_full_disk_ends_a_set_with_a_sentence_and_it_goes_on_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let (want, _) = whole(&folder.path().join("whole"));
    let smallest = want.iter().map(|(_, bytes)| bytes.len()).min().expect("files");
    for part in 1..=4 {
        let path = folder.path().join(format!("full-{part}"));
        // In blocks of 512 bytes, or of 1024 in some shells.
        let blocks = smallest * part / 5 / 1024;
        let limited = format!(r#"trap "" XFSZ; ulimit -f {blocks}; exec "$0" "$@""#);
        let inner = set(&path);
        let output = Command::new("sh")
            .arg("-c")
            .arg(limited)
            .arg(inner.get_program())
            .args(inner.get_args())
            .output()
            .expect("a shell");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("error: cannot write") && !stderr.contains("panicked"), "{stderr}");
        assert!(files(&path).is_empty(), "no part of a file is left");
        assert!(set(&path).status().expect("the tool starts").success());
        assert!(files(&path) == want);
    }
}
