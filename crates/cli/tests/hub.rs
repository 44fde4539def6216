//! The layout of model hubs, and files of other projects: what `convert` writes for diffusers opens everywhere, and comes
//! back as it was; `info` says what an unknown file is most like.

mod command;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use command::{diffmoe, draw, refused, succeeds};
use diffmoe::checkpoint::{Checkpoint, TensorFile, TensorOut, write_safetensors};
use safetensors::{Dtype, SafeTensors};

fn fixture(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    root.join(name).join("model.safetensors")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_model_comes_back_from_the_layout_of_diffusers_byte_for_byte() {
    let folder = tempfile::tempdir().expect("a folder");
    let [file, hub, parts, back] =
        ["model.safetensors", "hub", "parts", "back.safetensors"].map(|n| folder.path().join(n));
    succeeds(&["convert", &text(&fixture("diffmoe_flow")), "-o", &text(&file)]);
    let layout = ["--layout", "diffusers"];
    let [stdout, _] =
        succeeds(&[&["convert", &text(&file), "-o", &text(&hub)], &layout[..]].concat());
    assert!(stdout.contains("wrote "), "{stdout}");
    for name in [
        "model_index.json",
        "pipeline.py",
        "README.md",
        "scheduler/scheduler_config.json",
        "transformer/config.json",
        "transformer/transformer_diffmoe.py",
        "transformer/layers_diffmoe.py",
        "transformer/diffusion_pytorch_model.safetensors",
    ] {
        assert!(hub.join(name).is_file(), "{name}");
    }
    let wanted = std::fs::read(&file).expect("the file");
    let again = |source: &Path| {
        succeeds(&["convert", &text(source), "-o", &text(&back)]);
        std::fs::read(&back).expect("the file")
    };
    assert!(again(&hub) == wanted, "the same bytes");
    // Without the header entry, as after a visit to diffusers, the configuration is that of config.json.
    let weights = hub.join("transformer/diffusion_pytorch_model.safetensors");
    let checkpoint = Checkpoint::open(&weights).expect("a model");
    let tensors = checkpoint.list();
    let bare = tensors
        .iter()
        .map(|t| TensorOut::f32(&t.name, &t.shape, &checkpoint.read(&t.name).expect("numbers")));
    let bare: Vec<_> = bare.collect();
    drop(checkpoint);
    write_safetensors(&weights, &bare, []).expect("a file");
    succeeds(&["convert", &text(&hub), "-o", &text(&back)]);
    let [got, want] = [&back, &file].map(|path| Checkpoint::open(path).expect("a model"));
    assert_eq!(got.config(), want.config());
    for tensor in want.list() {
        let [a, b] = [&got, &want].map(|c| c.read(&tensor.name).expect("numbers"));
        assert_eq!(a, b, "{}", tensor.name);
    }
    // In parts.
    let stem = folder.path().join("random.safetensors");
    succeeds(&["make-random", "S-128", "-o", &text(&stem), "--dtype", "f32"]);
    let more = ["--layout", "diffusers", "--part-mb", "60"];
    succeeds(&[&["convert", &text(&stem), "-o", &text(&parts)], &more[..]].concat());
    let index = "transformer/diffusion_pytorch_model.safetensors.index.json";
    assert!(parts.join(index).is_file(), "an index");
    let whole = std::fs::read(&stem).expect("the file");
    assert!(again(&parts) == whole, "the same bytes from parts");
}

/// Data of every tensor by name, with type and shape.
type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn stored(files: &[PathBuf]) -> Stored {
    let mut all = Stored::new();
    for file in files {
        let bytes = std::fs::read(file).expect("a file");
        let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
        all.extend(
            tensors
                .tensors()
                .into_iter()
                .map(|(name, t)| (name, (t.dtype(), t.shape().to_vec(), t.data().to_vec()))),
        );
    }
    all
}

/// The shipped files are int8 and f16 and come from the trainer; the others are as `convert` writes them.
#[test]
fn integers_keep_their_bits_in_the_layout_of_diffusers() {
    let folder = tempfile::tempdir().expect("a folder");
    let [int8, int4] = ["int8", "int4"].map(|dtype| {
        let file = folder.path().join(format!("{dtype}.safetensors"));
        succeeds(&["make-random", "S-128", "-o", &text(&file), "--dtype", dtype]);
        file
    });
    let assets = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    let shipped = ["emoji", "eurosat", "emoji_text"]
        .map(|name| assets.join(name).with_extension("safetensors"));
    for (i, file) in [int8, int4].iter().chain(&shipped).enumerate() {
        let [hub, back] =
            ["hub", "back.safetensors"].map(|n| folder.path().join(format!("{i}{n}")));
        let given = ["convert", &text(file), "-o", &text(&hub), "--layout", "diffusers"];
        succeeds(&[&given[..], &["--part-mb", "4"]].concat());
        let parts: Vec<_> = hub.join("transformer").read_dir().expect("a folder").collect();
        let parts: Vec<_> =
            parts.into_iter().map(|entry| entry.expect("an entry").path()).collect();
        let is_part = |path: &&PathBuf| path.extension().is_some_and(|e| e == "safetensors");
        let parts: Vec<_> = parts.iter().filter(is_part).cloned().collect();
        let (own, theirs) = (stored(std::slice::from_ref(file)), stored(&parts));
        let renamed = own.iter().map(|(name, of)| {
            let module = name.strip_suffix(".scale").map(|matrix| format!("{matrix}_scale"));
            (module.unwrap_or_else(|| name.clone()), of.clone())
        });
        assert!(renamed.collect::<Stored>() == theirs, "{}", file.display());
        let given = ["convert", &text(&hub), "-o", &text(&back)];
        succeeds(&given);
        assert!(stored(std::slice::from_ref(&back)) == own, "{}", file.display());
        let [a, b] = [file, &back].map(|path| Checkpoint::open(path).expect("a model"));
        assert_eq!(a.config_text(), b.config_text());
        assert_eq!(Checkpoint::open(&hub).expect("a model").list(), a.list());
        // A format that is asked for is another one.
        succeeds(&[&given[..], &["--dtype", "f32"]].concat());
        assert!(stored(&[back]).values().all(|(dtype, ..)| *dtype == Dtype::F32));
    }
}

#[test]
fn a_folder_of_diffusers_opens_everywhere_and_draws_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let [file, hub] = ["model.safetensors", "hub"].map(|name| folder.path().join(name));
    succeeds(&["convert", &text(&fixture("diffmoe_flow")), "-o", &text(&file)]);
    let layout = ["--layout", "diffusers"];
    succeeds(&[&["convert", &text(&file), "-o", &text(&hub)], &layout[..]].concat());
    let [stdout, _] = succeeds(&["info", &text(&hub)]);
    assert!(stdout.contains("DiffMoE, "), "{stdout}");
    let latents = [&file, &hub].map(|model| {
        let out = model.with_extension("latents.safetensors");
        let [png, vae] = [text(&model.with_extension("png")), text(&fixture("vae_tiny_mini"))];
        let given = ["--model", &text(model), "--vae", &vae, "--out", &png];
        draw(&[&given[..], &["--latents", &text(&out)]].concat());
        let file = TensorFile::open(&out).expect("latents");
        let names: Vec<_> = file.names().map(str::to_owned).collect();
        names.iter().map(|name| file.read(name).expect("numbers")).collect::<Vec<_>>()
    });
    assert!(!latents[0].is_empty() && latents[0] == latents[1], "the same sample");
}

#[test]
fn what_the_layout_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = text(&folder.path().join("hub"));
    let model = text(&fixture("diffmoe_flow"));
    let is_refused = |source: &str, expected: &str| {
        refused(&["convert", source, "-o", &out, "--layout", "diffusers"], expected);
        assert!(!folder.path().join("hub/model_index.json").exists());
    };
    is_refused(&text(&fixture("vae_tiny_mini")), "is for models; image decoders have it already");
    std::fs::create_dir(folder.path().join("hub")).expect("a folder");
    std::fs::write(folder.path().join("hub/mine.txt"), "x").expect("a file");
    is_refused(&model, "is not empty");
}

#[test]
fn converted_files_say_what_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("model.safetensors");
    succeeds(&["convert", &text(&fixture("diffmoe_flow")), "-o", &text(&out)]);
    let bytes = std::fs::read(&out).expect("the file");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
    let entries = &header["__metadata__"];
    assert_eq!(entries["format"], "pt");
    assert_eq!(entries["modelspec.sai_model_spec"], "1.0.0");
    assert_eq!(entries["modelspec.architecture"], "diffmoe");
    assert!(entries["diffmoe"].is_string() && entries["modelspec.title"].is_string());
}

#[test]
fn info_names_the_nearest_family_and_what_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.safetensors");
    let known = Checkpoint::open(&fixture("diffmoe_flow")).expect("a model");
    let mut tensors = Vec::new();
    for tensor in known.list() {
        if !tensor.name.ends_with("expert_threshold") {
            let values = known.read(&tensor.name).expect("numbers");
            tensors.push(TensorOut::f32(&tensor.name, &tensor.shape, &values));
        }
    }
    tensors.push(TensorOut::f32("blocks.0.attn.rope.freqs", &[4], &[0.0; 4]));
    write_safetensors(&file, &tensors, []).expect("a file");
    let (code, stdout, stderr) = diffmoe(&["info", &text(&file)]);
    assert_eq!(code, 2, "it is no model: {stderr}");
    assert!(stdout.contains("nearest       DiffMoE: "), "{stdout}");
    assert!(stdout.contains("missing       blocks.N.mlp.expert_threshold ["), "{stdout}");
    assert!(stdout.contains("not part      blocks.N.attn.rope.freqs [4]"), "{stdout}");
    assert!(!stdout.contains("other shape"), "{stdout}");
    // A text model is none.
    let other = [TensorOut::f32("lm_head.weight", &[2, 2], &[0.0; 4])];
    write_safetensors(&file, &other, []).expect("a file");
    let (code, stdout, _) = diffmoe(&["info", &text(&file)]);
    assert!(code == 2 && !stdout.contains("nearest"), "{stdout}");
}

#[test]
fn published_models_are_described_converted_and_traced() {
    is_described_converted_and_traced(
        "dit_moe",
        ["token-choice MoE DiT,", "blocks 0, 1"],
        (2, 2.0),
    );
    let flow = ["predicts the opposite velocity", "blocks 0, 1"];
    is_described_converted_and_traced("dit_moe_flow", flow, (2, 2.0));
    let dsmoe =
        ["token-choice MoE DiT (DSMoE)", "with 2-D RoPE, SiLU, 6 experts in 1 layers (blocks 1)"];
    is_described_converted_and_traced("dsmoe", dsmoe, (1, 2.0));
    let jit = ["token-choice MoE DiT (JiTMoE)", "class tokens  3, from block 1 on"];
    is_described_converted_and_traced("jit_moe", jit, (2, 2.0));
    let promoe = ["token-choice MoE DiT (ProMoE)", "predicts the opposite velocity"];
    is_described_converted_and_traced("promoe", promoe, (1, 1.0));
    // In a guided step, three experts take five of sixteen tokens each, and then one takes all of them.
    let chosen = ["expert-choice MoE DiT (ProMoE)", "predicts the opposite velocity"];
    is_described_converted_and_traced("promoe_ec", chosen, (1, 31.0 / 32.0));
}

#[test]
fn jit_is_converted_from_its_own_layout() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("model.safetensors");
    let published = fixture("jit_moe").with_file_name("published.safetensors");
    let (code, _, stderr) = diffmoe(&["info", &text(&published)]);
    assert!(code == 2 && stderr.contains("diffmoe convert"), "{stderr}");
    // Its configuration is in case.json, beside it.
    succeeds(&["convert", &text(&published), "-o", &text(&out)]);
    let paths = [out, fixture("jit_moe")];
    let [got, want] = paths.map(|path| Checkpoint::open(&path).expect("a model"));
    assert_eq!(got.list().len(), want.list().len());
    for tensor in want.list() {
        let [a, b] = [&got, &want].map(|c| c.read(&tensor.name).expect("numbers"));
        let pairs = a.iter().zip(&b);
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Both multiply in f64 and round once, in another order.
        assert!(worst < 1e-6, "{} is off by {worst}", tensor.name);
    }
}

/// With as many MoE layers, and experts for every token.
fn is_described_converted_and_traced(
    name: &str,
    described: [&str; 2],
    (layers, experts): (usize, f32),
) {
    let folder = tempfile::tempdir().expect("a folder");
    let [out, trace] = ["model.safetensors", "routing.json"].map(|name| folder.path().join(name));
    let source = text(&fixture(name));
    let [stdout, _] = succeeds(&["info", &source]);
    assert!(described.iter().all(|part| stdout.contains(part)), "{stdout}");
    succeeds(&["convert", &source, "-o", &text(&out)]);
    let [got, want] = [&out, &fixture(name)].map(|path| Checkpoint::open(path).expect("a model"));
    for tensor in want.list() {
        let [a, b] = [&got, &want].map(|c| c.read(&tensor.name).expect("numbers"));
        assert!(a == b, "{}", tensor.name);
    }
    let [png, vae] = [text(&folder.path().join("out.png")), text(&fixture("vae_tiny_mini"))];
    let decoder = ["--vae", &vae];
    // Images as they are need no decoder.
    let decoder = if want.config().makes_pixels() { &[][..] } else { &decoder };
    let given = ["--model", &text(&out), "--out", &png, "--trace", &text(&trace)];
    draw(&[&given[..], decoder].concat());
    let [stdout, _] = succeeds(&["trace", &text(&trace)]);
    assert!(stdout.contains("whole run"), "{stdout}");
    let [rows, _] = succeeds(&["trace", &text(&trace), "--csv"]);
    // A row for each of two steps and each layer, below the titles.
    let mut lines = rows.lines();
    let titles: Vec<_> = lines.next().expect("titles").split(',').collect();
    let at = titles.iter().position(|&title| title == "capacity").expect("a column");
    let capacity: Vec<_> = lines.map(|line| line.split(',').nth(at)).collect();
    assert!(capacity.len() >= 2 * layers, "{rows}");
    for value in capacity {
        let value: f32 = value.expect("a value").parse().expect("a number");
        assert!((value - experts).abs() < 1e-3, "{rows}");
    }
}
