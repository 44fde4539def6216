//! Pipes that close, full disks, images that would be too large, and outputs in one place.

use std::path::Path;
use std::process::{Command, Stdio};

use diffmoe::checkpoint::{TensorOut, write_safetensors};

use super::command::{diffmoe, draw, fixture, refused, sample, succeeds};
use super::model::{config, tensors, write};

/// The arguments that draw one image in one step.
fn one<'a>(more: &[&'a str]) -> Vec<&'a str> {
    sample(&[&["--model", "eurosat", "--steps", "1", "--count", "1"], more].concat())
}

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diffmoe"));
    command.args(arguments);
    command
}

/// `| head -1`: whoever reads has seen enough.
#[test]
fn nobody_has_to_read_to_the_end() {
    for _ in 0..5 {
        let mut child = tool(&["info", "--tensors"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the tool starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("an end");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(stderr.is_empty(), "{stderr}");
    }
}

/// The image is there, whether or not anybody reads that it is.
#[test]
fn what_is_said_of_the_work_does_not_stop_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("x.png");
    let mut child = tool(&one(&["--out", &out.display().to_string()]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().expect("an end").code(), Some(0));
    assert!(out.exists());
}

/// `> /dev/full`: an error in a sentence, after the work.
#[test]
fn a_full_disk_behind_stdout_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("x.png").display().to_string();
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
        assert!(!Path::new("/dev/full").exists(), "only Linux has it");
        return;
    };
    for arguments in [&["info"][..], &["info", "--tensors"], &one(&["--out", &out])] {
        let stdout = full.try_clone().expect("a handle");
        let output = tool(arguments).stdout(stdout).output().expect("the tool starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("error: cannot write to standard output"), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    assert!(Path::new(&out).exists(), "the image was written");
}

/// Limits on each of number, size and scale are none on their product.
#[test]
fn images_that_are_too_large_are_refused_before_the_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let out = path("big.png");
    let started = std::time::Instant::now();
    let line = ["sample", "--count", "400", "--steps", "1", "--scale", "64", "--model", "eurosat"];
    refused(&[&line[..], &["--out", &out]].concat(), "exceeds 268 million pixels");
    let vae = fixture("vae_tiny_mini/model.safetensors");
    let latents = path("z.safetensors");
    let tensor = TensorOut::f32("z", &[64, 4, 32, 32], &vec![0.0; 64 * 4 * 32 * 32]);
    write_safetensors(Path::new(&latents), &[tensor], []).expect("a file");
    refused(
        &["decode", &latents, "--vae", &vae, "--scale", "64", "--out", &out],
        "64 images of 8192×8192 pixels",
    );
    let model = fixture("diffmoe_flow/model.safetensors");
    refused(
        &[
            "sample", "--model", &model, "--vae", &vae, "--count", "5000", "--scale", "16",
            "--out", &out,
        ],
        "exceeds 268 million pixels",
    );
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    let left = std::fs::read_dir(folder.path()).expect("the folder").count();
    assert_eq!(left, 1, "only the latents");
}

#[test]
fn two_outputs_need_two_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (out, same) = (path("x.png"), path("./x.png"));
    refused(&one(&["--out", &out, "--trace", &same]), "--out and --trace are the same");
    let z = path("z.safetensors");
    let more = ["--out", &out, "--trace", &z, "--latents", &z];
    refused(&one(&more), "--trace and --latents are the same");
    // Nor may the model be overwritten.
    let config = config("dense", 4, 1, "");
    let model = path("model.safetensors");
    write(
        Path::new(&model),
        &tensors(
            &config
                .replace("\"t_kind\"", "\"space\":\"pixels\",\"t_kind\"")
                .replace("\"in_channels\":1", "\"in_channels\":3"),
        ),
        None,
    );
    let before = std::fs::read(&model).expect("the model");
    let (code, _, _) =
        diffmoe(&["sample", "--model", &model, "--latents", &model, "--out", &out, "--steps", "1"]);
    assert_eq!(code, 2);
    assert_eq!(before, std::fs::read(&model).expect("the model"));
}

/// The model's name is printed; it may come from anywhere.
#[test]
fn names_in_files_do_not_steer_the_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.safetensors");
    let config = config("dense", 4, 1, "");
    let hostile = config.replace("\"case\"", "\"\\u001b[31mcase\\u0007\\u202e\"");
    write(&file, &tensors(&config), Some(&hostile));
    let [stdout, _] = succeeds(&["info", &file.display().to_string()]);
    assert!(stdout.starts_with("\u{fffd}[31mcase\u{fffd}\u{fffd}\n"), "{stdout:?}");
}

/// A file of that name stays what it is until the new one is whole, and nothing else is left.
#[test]
fn random_models_replace_a_file_only_when_they_are_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("m.safetensors").display().to_string();
    let make = ["make-random", "S-128", "-o", &out, "--dtype", "int4"];
    succeeds(&make);
    succeeds(&[&make[..], &["--part-mb", "10"]].concat());
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    assert!(names.iter().all(|name| name.starts_with('m')), "{names:?}");
    refused(&["make-random", "S-128", "-o", &format!("{out}/x")], "cannot write");
}

#[test]
fn what_is_not_drawn_or_not_read_is_said_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("x.png").display().to_string();
    let [_, stderr] = succeeds(&one(&["--class", "River,Forest", "--out", &out]));
    assert!(stderr.contains("draws only the first 1 of 2"), "{stderr}");
    let long = "robot ".repeat(2000);
    let text = ["--model", "emoji_text", "--steps", "1", "--count", "1"];
    let [_, stderr] = draw(&[&text[..], &["--prompt", &long, "--out", &out]].concat());
    assert!(stderr.contains("the prompt is too long and was truncated"), "{stderr}");
    assert!(stderr.len() < 1000, "{} bytes", stderr.len());
}
