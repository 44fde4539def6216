//! Models that were once read as others than they are, or refused for a reason that was not so.

use std::path::Path;
use std::process::Command;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::model::Config;

use super::command::{diffmoe, fixture, refused, succeeds};
use super::model::{Tensor, config, tensors, write};
use super::torch::{self, bare};

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn read_config(path: &Path) -> Config {
    Checkpoint::open(path).expect("a model").config().clone()
}

/// Replaces the shape and the numbers of a tensor.
fn with(tensors: &[Tensor], name: &str, shape: &[usize]) -> Vec<Tensor> {
    let mut tensors = tensors.to_vec();
    let tensor = tensors.iter_mut().find(|(n, ..)| n == name).expect("the tensor");
    tensor.1 = shape.to_vec();
    tensor.2.truncate(shape.iter().product());
    tensors
}

/// `info` and `convert` look at the same things, whatever the precision.
#[test]
fn converting_a_model_file_checks_its_tensors() {
    let folder = tempfile::tempdir().expect("a folder");
    let [source, out] = ["a.safetensors", "b.safetensors"].map(|name| folder.path().join(name));
    let config = config("dense", 4, 1, "");
    let whole = tensors(&config);
    let name = "blocks.0.attn.qkv.weight";
    let mut extra = whole.clone();
    extra.push(("rope".into(), vec![1], vec![0.0]));
    let short = with(&whole, name, &[6, 4]);
    let transposed = with(&whole, name, &[4, 12]);
    let cases = [
        (short, "has shape [6, 4], expected [12, 4]"),
        (transposed, "has shape [4, 12], expected [12, 4]"),
        (extra, "rope is not part of this model"),
        (whole[1..].to_vec(), "pos_embed [1, 4, 4] is missing"),
    ];
    for (tensors, expected) in cases {
        write(&source, &tensors, Some(&config));
        refused(&["info", &text(&source)], expected);
        for dtype in ["f32", "f16", "int8", "int4"] {
            refused(&["convert", &text(&source), "-o", &text(&out), "--dtype", dtype], expected);
            assert!(!out.exists(), "nothing is written");
        }
    }
    // The same with the configuration beside the file.
    write(&source, &with(&whole, name, &[4, 12]), None);
    std::fs::write(folder.path().join("case.json"), &config).expect("a file");
    refused(&["convert", &text(&source), "-o", &text(&out)], "expected [12, 4]");
    std::fs::remove_file(folder.path().join("case.json")).expect("gone");
    write(&source, &whole, Some(&config));
    succeeds(&["convert", &text(&source), "-o", &text(&out)]);
    let [before, after] = [&source, &out].map(|path| Checkpoint::open(path).expect("a model"));
    for (name, ..) in &whole {
        assert_eq!(before.read(name).expect("numbers"), after.read(name).expect("numbers"));
    }
}

/// One model has one number of heads, in whatever folder one stands.
#[test]
fn the_yaml_of_a_run_is_found_from_anywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let more = r#","mlp_ratio":0.125"#;
    let weights = tensors(&config("dense", 384, 16, more));
    let file = folder.path().join("run/checkpoints/0050000.pt");
    torch::write(&file, &bare(&weights));
    let out = folder.path().join("out.safetensors");
    let convert = |from: &Path, source: &str, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_diffmoe"))
            .args(["convert", source, "-o", &text(&out)])
            .args(more)
            .current_dir(from)
            .output()
            .expect("the tool starts");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), stderr)
    };
    // A width that models with 6 and with 16 heads have is not guessed.
    let checkpoints = file.parent().expect("a folder");
    let (code, stderr) = convert(checkpoints, "0050000.pt", &["--time", "flow"]);
    assert!(code == Some(2) && stderr.contains("add --heads N"), "{stderr}");
    let (code, stderr) = convert(checkpoints, "0050000.pt", &["--time", "flow", "--heads", "6"]);
    assert!(code == Some(0) && read_config(&out).num_heads == 6, "{stderr}");
    let yaml = "basic:\n  rf: true\nmodel:\n  params:\n    input_size: 4\n    in_channels: 1\n    num_classes: 2\n    \
                patch_size: 2\n    depth: 2\n    hidden_size: 384\n    num_heads: 16\n    mlp_ratio: 0.125\n";
    std::fs::write(folder.path().join("run/c.yaml"), yaml).expect("a file");
    for (from, source) in [
        (folder.path(), "run"),
        (folder.path(), "./run/checkpoints/0050000.pt"),
        (&folder.path().join("run"), "checkpoints/0050000.pt"),
        (checkpoints, "0050000.pt"),
        (checkpoints, "./0050000.pt"),
    ] {
        let (code, stderr) = convert(from, source, &[]);
        assert_eq!(code, Some(0), "{source}: {stderr}");
        assert_eq!(read_config(&out).num_heads, 16, "{source}");
        assert!(stderr.contains("c.yaml"), "it is said what was used: {stderr}");
    }
    // What is given goes before what the file says.
    let (code, stderr) = convert(checkpoints, "0050000.pt", &["--heads", "12"]);
    assert!(code == Some(0) && read_config(&out).num_heads == 12, "{stderr}");
    let other = text(&folder.path().join("other.yaml"));
    std::fs::write(&other, yaml.replace("num_heads: 16", "num_heads: 8")).expect("a file");
    let (code, stderr) = convert(checkpoints, "0050000.pt", &["--yaml", &other]);
    assert!(code == Some(0) && read_config(&out).num_heads == 8, "{stderr}");
}

/// Repositories have an `environment.yml` in their root and weights in a folder below it.
#[test]
fn yaml_files_of_other_programs_do_not_count() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("DiT/pretrained_models/model.pt");
    torch::write(&file, &bare(&tensors(&config("dense", 8, 2, ""))));
    let environment = "name: DiT\nchannels:\n  - pytorch\ndependencies:\n  - python >= 3.8\n";
    std::fs::write(folder.path().join("DiT/environment.yml"), environment).expect("a file");
    let out = folder.path().join("out.safetensors");
    let line = ["convert", &text(&file), "-o", &text(&out), "--time", "ddpm", "--heads", "2"];
    succeeds(&line);
    assert_eq!(read_config(&out).num_heads, 2);
    let yaml = text(&folder.path().join("DiT/environment.yml"));
    refused(&[&line[..], &["--yaml", &yaml]].concat(), "environment.yml: the YAML file");
}

/// Token choice and expert choice with another capacity are other models with the same tensors.
#[test]
fn the_capacity_of_a_bare_model_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, out) = (folder.path().join("bare.pt"), folder.path().join("out.safetensors"));
    for kind in ["tc", "ec"] {
        let moe = r#","MoE_config":{"num_experts":4,"capacity":2,"interleave":true}"#;
        torch::write(&file, &bare(&tensors(&config(kind, 8, 2, moe))));
        let line = ["convert", &text(&file), "-o", &text(&out), "--time", "flow", "--heads", "2"];
        refused(&line, "add --capacity N");
        succeeds(&[&line[..], &["--capacity", "2"]].concat());
        assert!((read_config(&out).capacity - 2.0).abs() < 1e-9);
    }
    // What a sampler does not need is assumed, and said.
    let moe = r#","MoE_config":{"num_experts":4,"capacity":1,"interleave":true}"#;
    torch::write(&file, &bare(&tensors(&config("diffmoe", 8, 2, moe))));
    let line = ["convert", &text(&file), "-o", &text(&out), "--time", "flow", "--heads", "2"];
    let (code, _, stderr) = diffmoe(&line);
    assert!(code == 0 && stderr.contains("assumed a training capacity of 1"), "{stderr}");
}

/// A part that replaces a tensor of another one: the index decides, not the names of the files.
#[test]
fn tensors_come_from_the_part_that_the_index_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let config = config("dense", 4, 1, "");
    let whole = tensors(&config);
    let half = whole.len() / 2;
    write(&path("m-1.safetensors"), &whole[..half], Some(&config));
    write(&path("m-2.safetensors"), &whole[half..], None);
    let bias = "blocks.0.attn.qkv.bias";
    let new: Vec<Tensor> =
        vec![(bias.into(), vec![12], vec![9.0; 12]), ("stray".into(), vec![1], vec![1.0])];
    let index = |part: &str, more: &[(&str, &str)]| {
        let base = whole.iter().enumerate().map(|(i, (name, ..))| {
            (name.as_str(), if i < half { "m-1.safetensors" } else { "m-2.safetensors" })
        });
        let all = base.chain([(bias, part)]).chain(more.iter().copied());
        let map: serde_json::Map<_, _> =
            all.map(|(name, part)| (name.to_owned(), part.into())).collect();
        let path = path("model.safetensors.index.json");
        std::fs::write(&path, serde_json::json!({ "weight_map": map }).to_string())
            .expect("a file");
        path
    };
    for part in ["a-overlay.safetensors", "z-overlay.safetensors"] {
        write(&path(part), &new, None);
        let model = Checkpoint::open(&index(part, &[])).expect("a model");
        assert_eq!(model.read(bias).expect("numbers"), [9.0; 12], "{part}");
        assert_eq!(
            model.list().len(),
            whole.len(),
            "what the index does not name is no part of it"
        );
        // A conversion reads it the same way.
        let out = path("out.safetensors");
        let source = text(&path("model.safetensors.index.json"));
        succeeds(&["convert", &source, "-o", &text(&out)]);
        let model = Checkpoint::open(&out).expect("a model");
        assert_eq!(model.read(bias).expect("numbers"), [9.0; 12], "{part}");
    }
    let wrong = index("m-2.safetensors", &[("never.there", "m-1.safetensors")]);
    let error = Checkpoint::open(&wrong).unwrap_err().to_string();
    for part in [
        "m-2.safetensors has no tensor blocks.0.attn.qkv.bias",
        "m-1.safetensors has no tensor never.there",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let other = super::model::config("dense", 4, 2, "");
    write(&path("a-overlay.safetensors"), &new, Some(&other));
    let error = Checkpoint::open(&index("a-overlay.safetensors", &[])).unwrap_err().to_string();
    assert!(error.contains("its configuration differs from that of the other parts"), "{error}");
}

/// 361 bytes that describe eight million tensors.
#[test]
fn a_configuration_cannot_take_all_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bomb.safetensors");
    let deep = config("diffmoe", 4, 1, r#","MoE_config":{"num_experts":32,"interleave":false}"#)
        .replace("\"depth\":2", "\"depth\":65536");
    write(&file, &[("w".into(), vec![1], vec![0.0])], Some(&deep));
    let started = std::time::Instant::now();
    refused(&["info", &text(&file)], "describes more than 1002 tensors, the file contains 1");
    refused(
        &["convert", &text(&file), "-o", &text(&folder.path().join("x.safetensors"))],
        "describes more than",
    );
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

/// 52 of 44, whose ratio in f32 gives 51.
#[test]
fn the_width_of_the_network_is_that_of_the_tensors() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, out) = (folder.path().join("bare.pt"), folder.path().join("out.safetensors"));
    let more = format!(r#","mlp_ratio":{}"#, 52.0_f64 / 44.0);
    torch::write(&file, &bare(&tensors(&config("dense", 44, 1, &more))));
    let line = ["convert", &text(&file), "-o", &text(&out), "--time", "flow", "--heads", "1"];
    succeeds(&line);
    assert_eq!(read_config(&out).ffn_hidden, 52);
}

#[test]
fn options_that_would_be_ignored_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let [source, out] = ["a.safetensors", "b.safetensors"].map(|name| folder.path().join(name));
    let config = config("dense", 4, 1, "");
    write(&source, &tensors(&config), Some(&config));
    let line = ["convert", &text(&source), "-o", &text(&out)];
    for (option, value) in [
        ("--heads", "2"),
        ("--time", "ddpm"),
        ("--size", "8x8"),
        ("--capacity", "2"),
        ("--yaml", "x"),
    ] {
        refused(&[&line[..], &[option, value]].concat(), &format!("remove {option}"));
    }
    succeeds(&[&line[..], &["--name", "other"]].concat());
    assert_eq!(read_config(&out).name, "other");
}

#[test]
fn numbers_that_f16_cannot_hold_are_spoken_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let [source, out] = ["a.safetensors", "b.safetensors"].map(|name| folder.path().join(name));
    let config = config("dense", 4, 1, "");
    let mut all = tensors(&config);
    let large = all.iter_mut().find(|(name, ..)| name == "blocks.1.attn.proj.weight");
    large.expect("the tensor").2[3] = -70_000.0;
    write(&source, &all, Some(&config));
    let convert = |dtype: &str| {
        let line = ["convert", &text(&source), "-o", &text(&out), "--dtype", dtype];
        let [_, stderr] = succeeds(&line);
        stderr
    };
    let said = convert("f16");
    assert!(said.contains("values of 1 tensors exceed the range of f16"), "{said}");
    assert!(said.contains("blocks.1.attn.proj.weight"), "{said}");
    assert!(!convert("f32").contains("exceed") && !convert("int8").contains("exceed"));
}

#[test]
fn files_that_are_no_models_are_called_what_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    refused(&["info", &fixture("torch/bare.pt")], "as PyTorch checkpoints (.pt) are; convert it");
    let config = config("dense", 4, 1, "");
    write(&path("a.safetensors"), &tensors(&config), Some(&config));
    let mut bytes = std::fs::read(path("a.safetensors")).expect("the file");
    bytes.extend([0; 16]);
    std::fs::write(path("long.safetensors"), bytes).expect("a file");
    refused(&["info", &text(&path("long.safetensors"))], "has 16 bytes after its last tensor");
    // Layouts of the original programs, which have some names in common with diffusers.
    let named = |names: &[&str]| -> Vec<Tensor> {
        names.iter().map(|name| ((*name).to_owned(), vec![1], vec![0.0])).collect()
    };
    for (names, expected) in [
        (
            &[
                "decoder.conv_in.weight",
                "decoder.mid.block_1.norm1.weight",
                "decoder.up.0.block.0.x",
            ][..],
            "layout of the original code (LDM)",
        ),
        (
            &["first_stage_model.decoder.conv_in.weight", "model.x"],
            "a whole Stable Diffusion model",
        ),
        (&["1.weight", "3.conv.0.weight"], "the original layout of TAESD"),
    ] {
        write(&path("vae.safetensors"), &named(names), None);
        let vae = text(&path("vae.safetensors"));
        let model = fixture("diffmoe_flow/model.safetensors");
        let line = ["sample", "--model", &model, "--vae", &vae, "--out", &text(&path("x.png"))];
        refused(&line, expected);
        let (_, _, stderr) = diffmoe(&line);
        assert!(!stderr.contains("--backend cpu"), "no device is at fault: {stderr}");
    }
}

#[test]
fn a_decoder_with_its_configuration_can_be_converted_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let [once, twice] =
        ["once.safetensors", "twice.safetensors"].map(|name| folder.path().join(name));
    let vae = fixture("vae_tiny_mini/model.safetensors");
    for (from, to) in [(vae.as_str(), &once), (&text(&once), &twice)] {
        succeeds(&["convert", from, "-o", &text(to)]);
    }
    assert_eq!(std::fs::read(once).expect("a file"), std::fs::read(twice).expect("a file"));
}
