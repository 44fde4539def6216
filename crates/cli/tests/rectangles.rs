//! Models whose samples are not square, from the command line: images, latents, routing and sets keep their shape.

mod command;

use std::path::{Path, PathBuf};

use command::{draw, fixture, refused, succeeds};
use diffmoe::checkpoint::{TensorFile, random_tensor, write_model};
use diffmoe::model::{Config, Storage};

/// A small model with random weights for samples of `size`, as its file writes it.
fn model(folder: &Path, space: &str, size: &str) -> String {
    let channels = if space == "pixels" { 3 } else { 4 };
    let text = format!(
        r#"{{"name":"wide","kind":"diffmoe","t_kind":"flow","space":"{space}","params":{{"input_size":{size},
        "in_channels":{channels},"num_classes":3,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,
        "learn_sigma":false,"MoE_config":{{"num_experts":4,"interleave":true}}}}}}"#
    );
    let config = Config::from_json(&text).expect("a configuration");
    let path = folder.join("wide.safetensors");
    let read = |spec: &_| Ok(random_tensor(&config, spec, 3));
    write_model(&path, &text, &config.tensors(), Storage::F32, None, &read).expect("a file");
    text_of(&path)
}

fn text_of(path: &Path) -> String {
    path.display().to_string()
}

/// Draws five images; what the tool said on stderr.
fn five(model: &str, more: &[&str]) -> String {
    let [_, stderr] = draw(&[&["--model", model, "--count", "5", "--scale", "1"], more].concat());
    stderr
}

fn open(path: impl AsRef<Path>) -> image::RgbImage {
    image::open(path).expect("a PNG").to_rgb8()
}

#[test]
fn wide_and_high_images_are_drawn_on_both_backends_with_their_routing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| text_of(&folder.path().join(name));
    for (size, [height, width]) in [("[4, 10]", [4, 10]), ("[10, 4]", [10, 4])] {
        let model = model(folder.path(), "pixels", size);
        let [stdout, _] = succeeds(&["info", &model]);
        assert!(stdout.contains(&format!("{width}×{height}, 3 channels of pixels")), "{stdout}");
        assert!(stdout.contains("10 tokens of 2×2"), "{stdout}");

        let [cpu, gpu, trace] = ["cpu.png", "gpu.png", "trace.json"].map(path);
        five(&model, &["--out", &cpu, "--trace", &trace]);
        five(&model, &["--backend", "gpu", "--out", &gpu]);
        let (cpu, gpu) = (open(cpu), open(gpu));
        // Five images, three in a row.
        assert_eq!(cpu.dimensions(), (3 * width + 2 * 4, 2 * height + 4));
        let far = cpu.iter().zip(gpu.iter()).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        assert_eq!((far, gpu.dimensions()), (0, cpu.dimensions()));

        let trace = std::fs::read(trace).expect("a trace");
        let trace: serde_json::Value = serde_json::from_slice(&trace).expect("JSON");
        assert_eq!(trace["grid"], serde_json::json!([height / 2, width / 2]));
        assert_eq!(trace["tokens_per_picture"], 10);
    }
}

#[test]
fn wide_latents_are_kept_and_decoded() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| text_of(&folder.path().join(name));
    let model = model(folder.path(), "latents", "[4, 6]");
    let vae = fixture("vae_tiny_mini/model.safetensors");
    let [first, second, latents] = ["a.png", "b.png", "z.safetensors"].map(path);
    let said = five(&model, &["--vae", &vae, "--out", &first, "--latents", &latents]);
    assert!(said.contains("decoding 5 images of 24×16"), "{said}");
    let kept = TensorFile::open(&PathBuf::from(&latents)).expect("the latents");
    assert_eq!(kept.shape("latents").expect("latents"), [5, 4, 4, 6]);
    assert_eq!(open(&first).dimensions(), (3 * 24 + 2 * 4, 2 * 16 + 4));
    succeeds(&["decode", &latents, "--vae", &vae, "--out", &second, "--backend", "cpu"]);
    assert!(open(first) == open(second), "sampled and decoded in one go and in two");
}

#[test]
fn sets_of_wide_images_are_joined() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| text_of(&folder.path().join(name));
    let model = model(folder.path(), "pixels", "[4, 10]");
    let [set, pngs, one] = ["set", "pngs", "one.png"].map(path);
    let three = ["--model", &model, "--steps", "1", "--count", "3"];
    draw(&[&three[..], &["--set", &set]].concat());
    succeeds(&["join", &set, "--out", &pngs]);
    let second = open(folder.path().join("pngs/00000001.png"));
    assert_eq!(second.dimensions(), (10, 4));
    draw(&[&three[..], &["--out", &one, "--scale", "1"]].concat());
    assert!(open(one).enumerate_pixels().any(|(_, _, p)| p == second.get_pixel(0, 0)));
}

#[test]
fn shapes_of_presets_can_be_changed() {
    let [stdout, _] = succeeds(&["info", "--preset", "S-E16", "--size", "16x24"]);
    assert!(stdout.contains("parameters"), "{stdout}");
    let out = ["-o", "never.safetensors"];
    let make = |size| [&["make-random", "S-128", "--size", size][..], &out].concat();
    refused(&make("16"), "HEIGHTxWIDTH");
    refused(&make("15x16"), "not a multiple of patch_size");
    assert!(!Path::new("never.safetensors").exists());
}
