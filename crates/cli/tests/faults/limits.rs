//! Memory that does not grow with the work, outputs of which one fails, names that are not UTF-8, and the width of help.
#![cfg(unix)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use super::command::diffmoe;
use super::model::{config, tensors, write};

/// A small model of pixels with experts.
fn model(path: &std::path::Path) {
    let experts = r#","MoE_config":{"num_experts":4,"capacity":1,"interleave":false}"#;
    let text = config("diffmoe", 16, 2, &format!(r#","learn_sigma":false{experts}"#));
    let text =
        text.replace(r#""input_size":4,"in_channels":1"#, r#""input_size":8,"in_channels":3"#);
    let text = text.replace(r#""t_kind":"flow""#, r#""t_kind":"flow","space":"pixels""#);
    write(path, &tensors(&text), Some(&text));
}

/// The most memory that the tool takes for some images, in kB.
#[cfg(target_os = "linux")]
fn peak(folder: &std::path::Path, count: usize, trace: bool) -> u64 {
    let [out, routing] = ["x.png", "x.json"].map(|name| folder.join(name).display().to_string());
    let path = folder.join("m.safetensors");
    model(&path);
    let (model, count) = (path.display().to_string(), count.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_diffmoe"));
    command.args(["sample", "--model", &model, "--backend", "cpu", "--seed", "1", "--out", &out]);
    command.args(["--count", &count, "--steps", "60", "--scale", "1", "--guidance", "2"]);
    if trace {
        command.args(["--trace", &routing]);
    }
    let mut child = command
        .env("RAYON_NUM_THREADS", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the tool starts");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().expect("a state").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        most = most.max(kilobytes.unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().expect("an end").success());
    most
}

/// The routing of finished batches is kept for `--trace` only.
#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_number_of_batches() {
    let folder = tempfile::tempdir().expect("a folder");
    let peak = |count, trace| peak(folder.path(), count, trace);
    let (few, many) = (peak(16, false), peak(480, false));
    let traced = peak(480, true);
    assert!(many < few + 4_000, "{few} kB for 16 images, {many} kB for 480");
    // It would have been seen.
    assert!(traced > many + 4_000, "{many} kB without a trace, {traced} kB with one");
}

/// Latents that do not fit on the disk do not cost the image and the trace.
#[test]
fn an_output_that_fails_leaves_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let [out, latents, trace] = ["x.png", "z.safetensors", "t.json"].map(path);
    // Files end at 64 or 128 kB, as on a full disk; without the trap, the system ends the program.
    let limited = r#"trap "" XFSZ; ulimit -f 128; exec "$0" "$@""#;
    let output = Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_diffmoe")])
        .args(["sample", "--model", "eurosat", "--backend", "cpu", "--steps", "1", "--seed", "5"])
        .args(["--count", "4", "--scale", "1", "--out", &out, "--latents", &latents])
        .args(["--trace", &trace])
        .output()
        .expect("a shell");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{stdout}{stderr}");
    assert!(stderr.contains("z.safetensors") && !stderr.contains("panicked"), "{stderr}");
    assert!(stdout.contains("x.png") && stdout.contains("t.json"), "{stdout}");
    let image = image::open(&out).expect("an image");
    assert_eq!((image.width(), image.height()), (132, 132), "four of 64 pixels with gaps");
    assert!(std::fs::read_to_string(&trace).expect("a trace").ends_with('}'));
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["t.json", "x.png"], "no part of a file");
}

#[test]
#[cfg(target_os = "linux")]
fn names_of_files_need_not_be_utf_8() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = |bytes: &[u8]| folder.path().join(OsStr::from_bytes(bytes));
    let (model, out) = (name(b"m\xff\xfe.safetensors"), name(b"\xc3(.png"));
    self::model(&model);
    let run = |arguments: &[&OsStr]| {
        let output = Command::new(env!("CARGO_BIN_EXE_diffmoe")).args(arguments).output();
        let output = output.expect("the tool starts");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    };
    let text = OsStr::new;
    run(&[text("info"), model.as_os_str()]);
    let fixed = "sample --backend cpu --steps 1 --count 1 --seed 1".split(' ').map(text);
    let files = [text("--model"), model.as_os_str(), text("--out"), out.as_os_str()];
    run(&fixed.chain(files).collect::<Vec<_>>());
    assert!(out.exists());
    run(&[
        text("bench"),
        text("--backend"),
        text("cpu"),
        text("--steps"),
        text("1"),
        text("--model"),
        model.as_os_str(),
    ]);
}

#[test]
fn help_is_no_wider_than_a_hundred_columns() {
    let (_, main, _) = diffmoe(&["--help"]);
    let commands = main.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let commands: Vec<_> =
        commands.map_while(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    // Lines that go on with a description begin with more blanks.
    let commands: Vec<_> = commands.into_iter().filter(|name| !name.is_empty()).collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        let (code, text, _) = diffmoe(&[command, "--help"]);
        assert_eq!(code, 0, "{command}");
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{command}: {line}");
        }
    }
}
