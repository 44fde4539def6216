//! Files with a refiner: made of two models, taken apart again, described and sampled.

mod command;

use std::path::{Path, PathBuf};

use command::{diffmoe, succeeds};
use diffmoe::checkpoint::{Checkpoint, random_tensor, write_model};
use diffmoe::model::{Config, Storage};
use diffmoe::trace::Trace;

fn document(patch: usize, classes: usize, more: &str) -> String {
    format!(
        r#"{{"name":"patch {patch}","kind":"diffmoe","t_kind":"flow","space":"pixels","train_images":{patch}000,
        "params":{{"input_size":8,"in_channels":3,"num_classes":{classes},"patch_size":{patch},"depth":2,"hidden_size":32,
        "num_heads":2,"learn_sigma":false,"prediction":"data"{more},"MoE_config":{{"num_experts":4,"capacity":1}}}},
        "defaults":{{"steps":4,"guidance":1.5,"solver":"heun"}}}}"#
    )
}

fn write(path: &Path, text: &str, storage: Storage) -> String {
    let config = Config::from_json(text).expect("a configuration");
    let read = |spec: &_| Ok(random_tensor(&config, spec, 3));
    write_model(path, text, &config.tensors(), storage, None, &read).expect("a file");
    path.display().to_string()
}

/// Compares two files: configurations, and every tensor with its format.
fn assert_same(got: &str, want: &str) {
    let [got, want] = [got, want].map(|path| Checkpoint::open(Path::new(path)).expect("a model"));
    assert_eq!(got.config(), want.config());
    assert_eq!(got.list(), want.list());
    for info in want.list() {
        let [a, b] = [&got, &want].map(|of| of.read(&info.name).expect("numbers"));
        assert_eq!(a, b, "{}", info.name);
    }
}

#[test]
fn two_models_become_one_file_and_two_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let text = |name: &str| path(name).display().to_string();
    let coarse = write(&path("coarse.safetensors"), &document(4, 5, ""), Storage::F16);
    let head = r#","detail_head":{"channels":4}"#;
    let fine = write(&path("fine.safetensors"), &document(2, 5, head), Storage::Int8);
    let both = text("both.safetensors");
    let join = ["convert", &coarse, "--refiner", &fine, "--refiner-from", "0.25", "-o", &both];
    succeeds(&join);
    let [stdout, _] = succeeds(&["info", &both]);
    assert!(stdout.contains("refiner       from t = 0.25 on: 16 tokens of 2×2"), "{stdout}");
    assert!(stdout.contains(" of the refiner\n"), "{stdout}");
    // The card of the refiner comes along.
    let checkpoint = Checkpoint::open(&path("both.safetensors")).expect("a model");
    let card: serde_json::Value = serde_json::from_str(checkpoint.config_text()).expect("JSON");
    assert_eq!(
        (&card["train_images"], &card["refiner"]["train_images"]),
        (&4000.into(), &2000.into())
    );
    let report = text("bench.json");
    let arguments = ["--steps", "1", "--backend", "cpu", "--json", &report];
    let [stdout, _] = succeeds(&[&["bench", "--model", &both][..], &arguments].concat());
    assert!(stdout.contains("refiner: ") && stdout.contains(" of 16 tokens"), "{stdout}");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(report).expect("a report")).expect("JSON");
    assert_eq!((&report["tokens"], &report["refiner"]["tokens"]), (&4.into(), &16.into()));
    assert!(report["refiner"]["devices"][0]["step_ms"]["median"].as_f64() > Some(0.0), "{report}");
    for (part, want) in [("model", &coarse), ("refiner", &fine)] {
        let out = text("part.safetensors");
        succeeds(&[
            "convert",
            &both,
            "--only",
            part,
            "--name",
            &part.replace("model", "patch 4").replace("refiner", "patch 2"),
            "-o",
            &out,
        ]);
        assert_same(&out, want);
    }
    // Another format for both.
    let small = text("small.safetensors");
    succeeds(&["convert", &both, "--dtype", "int4", "-o", &small]);
    let small = Checkpoint::open(Path::new(&small)).expect("a model");
    assert_eq!(small.storage("refiner.blocks.0.attn.qkv.weight").unwrap(), Storage::Int4);
    let (image, trace) = (text("image.png"), text("trace.json"));
    succeeds(&[
        "sample",
        "--model",
        &both,
        "--count",
        "2",
        "--seed",
        "1",
        "--backend",
        "cpu",
        "--out",
        &image,
        "--trace",
        &trace,
    ]);
    let trace = Trace::from_bytes(&std::fs::read(trace).expect("a trace")).expect("a trace");
    assert_eq!((trace.grid(), trace.grid_at(0), trace.grid_at(1)), ([4, 4], [2, 2], [4, 4]));
}

#[test]
fn what_does_not_go_together_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let coarse = write(&path("coarse.safetensors"), &document(4, 5, ""), Storage::F32);
    let fine = write(&path("fine.safetensors"), &document(2, 5, ""), Storage::F32);
    let other = write(&path("other.safetensors"), &document(2, 6, ""), Storage::F32);
    let both = path("both.safetensors").display().to_string();
    let out = path("out.safetensors").display().to_string();
    succeeds(&["convert", &coarse, "--refiner", &fine, "-o", &both]);
    let refused = |arguments: &[&str], reason: &str| {
        let (code, _, stderr) = diffmoe(&[&["convert"], arguments, &["-o", &out]].concat());
        assert!(code != 0 && stderr.contains(reason), "{stderr}");
        assert!(!Path::new(&out).exists());
    };
    refused(&[&coarse, "--refiner", &other], "both need the same kind, labels");
    refused(&[&fine, "--refiner", &coarse], "which do not divide those of 2");
    refused(&[&coarse, "--refiner", &both], "has a refiner of its own");
    refused(&[&both, "--refiner", &fine], "has a refiner already");
    refused(&[&coarse, "--refiner", &fine, "--refiner-from", "1"], "a time between 0 and 1");
    refused(&[&coarse, "--only", "refiner"], "has no refiner; remove --only");
}

/// In parts, in one file for each, and with integers.
#[test]
fn a_folder_of_diffusers_has_a_transformer_for_each() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let text = |name: &str| path(name).display().to_string();
    let coarse = write(&path("coarse.safetensors"), &document(4, 5, ""), Storage::F32);
    let head = r#","detail_head":{"channels":4}"#;
    let fine = write(&path("fine.safetensors"), &document(2, 5, head), Storage::Int8);
    let both = text("both.safetensors");
    succeeds(&["convert", &coarse, "--refiner", &fine, "-o", &both]);
    let [hub, again] = [text("hub"), text("again.safetensors")];
    succeeds(&["convert", &both, "--layout", "diffusers", "-o", &hub]);
    assert_same(&hub, &both);
    let read = |name: &str| -> serde_json::Value {
        let file = std::fs::File::open(path("hub").join(name)).expect("a file");
        serde_json::from_reader(file).expect("JSON")
    };
    let index = read("model_index.json");
    assert_eq!(index["transformer_2"], index["transformer"]);
    let [model, refiner] =
        ["transformer", "transformer_2"].map(|part| read(&format!("{part}/config.json")));
    assert_eq!((&model["refiner"]["from"], &refiner["refiner"]), (&0.5.into(), &().into()));
    assert_eq!(refiner["params"], model["refiner"]["params"]);
    let integers = &refiner["integers"]["int8"];
    assert!(
        integers.as_array().is_some_and(|names| names.contains(&"blocks.0.attn.qkv.weight".into()))
    );
    assert!(model["integers"].is_null(), "those of the refiner are not its own");
    succeeds(&["convert", &hub, "-o", &again]);
    assert_same(&again, &both);
    // What diffusers saves has no header entries of others.
    for part in ["transformer", "transformer_2"] {
        let weights = path("hub").join(part).join("diffusion_pytorch_model.safetensors");
        let bytes = std::fs::read(&weights).expect("weights");
        let views = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let bare = safetensors::serialize(views.tensors(), None).expect("safetensors");
        std::fs::write(&weights, bare).expect("weights");
    }
    let saved = text("saved.safetensors");
    succeeds(&["convert", &hub, "-o", &saved]);
    assert_same(&saved, &both);
    // A model alone is one without a refiner.
    std::fs::remove_dir_all(path("hub").join("transformer_2")).expect("gone");
    let (code, _, stderr) = diffmoe(&["info", &hub]);
    assert!(code != 0 && stderr.contains("refiner."), "{stderr}");
}
