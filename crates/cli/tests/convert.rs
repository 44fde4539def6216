//! `diffmoe convert` as a user meets it: PyTorch files in, model files out, hostile files refused.

mod command;

use std::path::{Path, PathBuf};

use command::{diffmoe, succeeds};
use diffmoe::checkpoint::{Checkpoint, TorchFile};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Every tensor of two checkpoints, with the largest difference relative to the largest number of each tensor.
fn largest_difference(got: &Path, want: &Path) -> f32 {
    let [got, want] = [got, want].map(|path| Checkpoint::open(path).expect("a checkpoint"));
    assert_eq!(got.config().tensors(), want.config().tensors());
    let mut worst = 0.0_f32;
    for info in want.list() {
        let [a, b] = [&got, &want].map(|c| c.read(&info.name).expect("numbers"));
        let size = b.iter().fold(1e-6_f32, |m, v| m.max(v.abs()));
        let difference = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        worst = worst.max(difference / size);
    }
    worst
}

/// The tiny checkpoint of `tests/fixtures/torch`: a dense model in the official form, whose `ema` weights are twice
/// its `model` weights, with a transposed tensor, one in half precision and one that shares its storage.
#[test]
fn a_training_run_becomes_a_model_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = root().join("tests/fixtures/torch");
    let mut sizes = Vec::new();
    // int4 loses up to a step of 1/8 of the largest number, opposite that number.
    for (dtype, allowed) in [("f32", 0.0), ("f16", 1e-3), ("int8", 5e-3), ("int4", 0.126)] {
        let out = folder.path().join(format!("{dtype}.safetensors"));
        let [stdout, _] = succeeds(&["convert", &text(&run), "-o", &text(&out), "--dtype", dtype]);
        assert!(stdout.contains("ema weights"), "{stdout}");
        let difference = largest_difference(&out, &run.join("expected.safetensors"));
        assert!(difference <= allowed, "{dtype}: {difference}");
        sizes.push(std::fs::metadata(&out).expect("the file").len());
        let [stdout, _] = succeeds(&["info", &text(&out)]);
        assert!(stdout.contains("dense DiT, 1 blocks, hidden size 16, 2 heads of 8"), "{stdout}");
        // What is stored this way already stays what it is.
        let again = folder.path().join("again.safetensors");
        for given in [&[][..], &["--dtype", dtype]] {
            succeeds(&[&["convert", &text(&out), "-o", &text(&again)], given].concat());
            let [got, want] = [&again, &out].map(|path| std::fs::read(path).expect("the file"));
            assert!(got == want, "{dtype}, {given:?}");
        }
    }
    assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
    let model = TorchFile::open(&run.join("checkpoints/0000002.pt"), "model").expect("the file");
    let ema = TorchFile::open(&run.join("checkpoints/0000002.pt"), "ema").expect("the file");
    let name = "blocks.0.attn.qkv.weight";
    let [model, ema] = [model, ema].map(|f| f.read(name).expect("numbers"));
    assert!(model.iter().zip(&ema).all(|(m, e)| (2.0 * m - e).abs() < 1e-6));
    let one = TorchFile::open(&run.join("checkpoints/0000002.pt"), "best").unwrap_err().to_string();
    assert!(one.contains("no weights \"best\"; available: model, ema"), "{one}");
}

#[test]
fn a_bare_state_dict_needs_to_be_told_what_shapes_do_not_tell() {
    let folder = tempfile::tempdir().expect("a folder");
    let bare = folder.path().join("bare.pt");
    std::fs::copy(root().join("tests/fixtures/torch/bare.pt"), &bare).expect("a copy");
    let out = text(&folder.path().join("out.safetensors"));
    let convert = |more: &[&str]| diffmoe(&[&["convert", &text(&bare), "-o", &out], more].concat());
    let (code, _, stderr) = convert(&[]);
    assert!(code == 2 && stderr.contains("--heads"), "{stderr}");
    let (code, _, stderr) = convert(&["--heads", "2"]);
    assert!(code == 2 && stderr.contains("--time"), "{stderr}");
    let (code, _, stderr) = convert(&["--heads", "3", "--time", "ddpm"]);
    assert!(code == 2 && !Path::new(&out).exists(), "{stderr}");
    let (code, _, stderr) = convert(&["--heads", "2", "--time", "ddpm"]);
    assert_eq!(code, 0, "{stderr}");
    let difference = largest_difference(
        Path::new(&out),
        &root().join("tests/fixtures/torch/expected.safetensors"),
    );
    assert!(difference <= 0.0, "{difference}");
}

/// An official checkpoint of several megabytes; the small one in tests/fixtures/torch has the same form.
#[test]
#[ignore = "needs the recorded cases with their checkpoint: set DIFFMOE_FIXTURES"]
fn an_official_checkpoint_gives_the_official_tensors() {
    let root = std::env::var_os("DIFFMOE_FIXTURES").expect("DIFFMOE_FIXTURES names a folder");
    let case = PathBuf::from(root).join("diffmoe_flow");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("model.safetensors");
    succeeds(&["convert", &text(&case), "-o", &text(&out)]);
    let difference = largest_difference(&out, &case.join("model.safetensors"));
    assert!(difference <= 0.0, "{difference}");
}

#[test]
fn files_that_are_no_checkpoints_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = text(&folder.path().join("out.safetensors"));
    let refused = |source: &Path, expected: &str| {
        let (code, _, stderr) = diffmoe(&["convert", &text(source), "-o", &out, "--time", "flow"]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(expected) && !stderr.contains("panicked"), "{stderr}");
        assert!(!Path::new(&out).exists(), "nothing is written");
    };
    refused(&root().join("tests/fixtures/torch/hostile.pt"), "posix.system");
    let whole = std::fs::read(root().join("tests/fixtures/torch/bare.pt")).expect("the file");
    let file = folder.path().join("x.pt");
    for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..cut]).expect("a file");
        refused(&file, "not a PyTorch archive");
    }
    // A byte flipped anywhere is a refusal or other numbers, never a crash.
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&file, &bytes).expect("a file");
        if let Ok(file) = TorchFile::open(&file, "ema") {
            for name in file.shapes().unwrap_or_default().keys() {
                drop(file.read(name));
            }
        }
    }
    refused(folder.path().join("nosuch.pt").as_path(), "cannot read");
    std::fs::create_dir(folder.path().join("empty")).expect("a folder");
    refused(&folder.path().join("empty"), "there is no .pt or .pth file in");
    let (code, _, stderr) = diffmoe(&["convert", &text(&file), "-o", "x.bin"]);
    assert!(code == 2 && stderr.contains("end in .safetensors"), "{stderr}");
}

#[test]
fn random_models_of_the_paper_s_shapes_load_in_parts() {
    let folder = tempfile::tempdir().expect("a folder");
    let stem = folder.path().join("small.safetensors");
    for (dtype, stored, kinds) in [("int8", "I8", "int8"), ("int4", "I4", "int4")] {
        let make = ["make-random", "S-128", "-o", &text(&stem), "--dtype", dtype];
        let [stdout, _] = succeeds(&[&make[..], &["--part-mb", "10"]].concat());
        assert!(stdout.contains("small.safetensors.index.json"), "{stdout}");
        let index = folder.path().join("small.safetensors.index.json");
        let [stdout, _] = succeeds(&["info", &text(&index)]);
        assert!(stdout.contains("Dense-S-128-Flow") && stdout.contains(stored), "{stdout}");
        assert!(stdout.contains(&format!("on a GPU with {kinds} weights")), "{stdout}");
    }
    let (code, _, stderr) = diffmoe(&["make-random", "M-E8", "-o", &text(&stem)]);
    assert!(code == 2 && stderr.contains("names are like"), "{stderr}");
}

/// A name is all that changes: the styles keep the order that the file gives them.
#[test]
fn a_new_name_leaves_the_rest_of_the_description_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = root().join("assets/emoji_text.safetensors");
    let out = folder.path().join("named.safetensors");
    succeeds(&["convert", &text(&source), "--name", "other", "-o", &text(&out)]);
    let [new, old] = [&out, &source].map(|path| Checkpoint::open(path).expect("a checkpoint"));
    assert_eq!(new.config().name, "other");
    let styles = |of: &Checkpoint| {
        let (_, styles) = of.config_text().split_once("\"styles\":").expect("styles");
        styles.split_once('}').expect("an object").0.trim().to_owned()
    };
    assert!(styles(&old).starts_with("{\"noto\""), "not in alphabetical order: {}", styles(&old));
    assert_eq!(styles(&new), styles(&old));
}

#[test]
fn presets_say_what_they_need_and_whether_it_is_here() {
    let [stdout, _] = succeeds(&["info", "--preset", "S-E16"]);
    for part in ["140,265,344", "activated", "file, int4", "cpu, int8", "gpu"] {
        assert!(stdout.contains(part), "{stdout}");
    }
    if !stdout.contains("no graphics adapter") {
        let lines = ["f32", "f16", "int8", "int4"].map(|name| {
            let line =
                stdout.lines().find(|line| line.trim().starts_with(&format!("gpu, {name} ")));
            let words: Vec<_> = line.expect(&stdout).split_whitespace().collect();
            words[2].parse::<f64>().expect("megabytes")
        });
        assert!(lines.is_sorted_by(|a, b| a > b), "{stdout}");
    }
    // 2.9 thousand million parameters with 256 images at once: no working memory holds that.
    let (code, stdout, stderr) = diffmoe(&["info", "--preset", "XL-E16", "--batch", "256"]);
    if stdout.contains("cpu, f32") && !stdout.contains(": fits") {
        assert!(code == 2 && stderr.contains("choose fewer experts"), "{stdout}{stderr}");
    }
}
