//! The command line tool as a user meets it: what it writes, and what it says when something is wrong.

mod command;

use std::path::{Path, PathBuf};

use command::{diffmoe, draw, fixture, refused, succeeds};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

#[test]
fn the_same_seed_writes_the_same_bytes_and_another_seed_does_not() {
    let folder = Folder::new();
    let drawn = |name: &str, more: &[&str]| {
        let [stdout, _] = draw(&[&["--out", &folder.text(name)], more].concat());
        assert!(stdout.contains("capacity C ="), "{stdout}");
        std::fs::read(folder.path(name)).expect("an image")
    };
    let first = drawn("a.png", &[]);
    assert_eq!(first, drawn("b.png", &[]));
    assert_ne!(first, drawn("c.png", &["--cfg", "4"]));
    let image = image::load_from_memory(&first).expect("a PNG");
    assert_eq!((image.width(), image.height()), (128 + 4 + 128, 128));
    let left_over = std::fs::read_dir(folder.0.path()).expect("the folder").count();
    assert_eq!(left_over, 3, "no partial files are left behind");
}

#[test]
fn batches_do_not_change_images_under_the_token_rule() {
    let folder = Folder::new();
    let drawn = |batch: &str| {
        let out = folder.text(&format!("{batch}.png"));
        let trace = folder.text(&format!("{batch}.json"));
        let images = ["--model", "eurosat", "--class", "Forest,River", "--count", "3"];
        draw(&[&images[..], &["--batch", batch, "--out", &out, "--trace", &trace]].concat());
        let image = image::open(&out).expect("a PNG").to_rgb8();
        let trace: serde_json::Value =
            serde_json::from_slice(&std::fs::read(trace).expect("a trace")).expect("JSON");
        (image, trace)
    };
    let (whole, trace) = drawn("3");
    let (parts, joined) = drawn("2");
    let worst = whole.iter().zip(parts.iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "{worst:?}");
    assert_eq!(trace["labels"], joined["labels"]);
    assert_eq!(trace["labels"][0], serde_json::json!(["Forest", "River", "Forest"]));
    let forwards = trace["forwards"].as_array().expect("passes");
    assert_eq!(forwards.len(), joined["forwards"].as_array().expect("passes").len());
    let layer = &forwards[0]["layers"][0];
    let taken: u64 = layer["masks"]
        .as_array()
        .expect("masks")
        .iter()
        .map(|m| u64::from(m.as_u64().expect("a mask").count_ones()))
        .sum();
    let counted: u64 = layer["counts"]
        .as_array()
        .expect("counts")
        .iter()
        .filter_map(serde_json::Value::as_u64)
        .sum();
    assert_eq!(taken, counted);
}

#[test]
fn the_adaptive_solver_draws_an_image_close_to_many_small_steps() {
    let folder = Folder::new();
    let drawn = |more: &[&str]| {
        let out = folder.text(&format!("{}.png", more[1]));
        let common = ["--model", "eurosat", "--class", "River", "--cfg", "1", "--out", &out];
        draw(&[more, &common].concat());
        image::open(&out).expect("a PNG").to_rgb8()
    };
    let adaptive = drawn(&["--scheduler", "dopri5", "--rtol", "1e-4", "--atol", "1e-4"]);
    let many = drawn(&["--scheduler", "heun", "--steps", "80"]);
    let sum: u64 = adaptive.iter().zip(many.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = sum as f64 / adaptive.len() as f64;
    // Routing jumps, so neither is exact: they differ by 3, 200 steps of Euler from 80 of Heun by 0.5, and
    // other noise by 23.
    assert!(mean < 6.0, "{mean} of 255");
}

#[test]
fn a_lower_threshold_gives_every_token_more_experts() {
    let folder = Folder::new();
    let capacity = |gamma: &str| {
        let (out, trace) = (folder.text("g.png"), folder.text("g.json"));
        draw(&["--gamma", gamma, "--out", &out, "--trace", &trace]);
        let trace: serde_json::Value =
            serde_json::from_slice(&std::fs::read(trace).expect("a trace")).expect("JSON");
        (trace["capacity"].as_f64().expect("C"), trace["experts"].as_f64().expect("E"))
    };
    let (all, experts) = capacity("0");
    assert!((all - experts).abs() < 1e-6, "threshold 0 lets every expert work on every token");
    assert!(capacity("0.1").0 > capacity("0.6").0);
    assert!(capacity("1").0 < 1e-6, "no probability exceeds 1");
}

#[test]
fn impossible_requests_are_refused_in_one_sentence() {
    let folder = Folder::new();
    let out = folder.text("x.png");
    let sample = |more: &[&str], expected: &str| {
        let model = ["sample", "--model", "eurosat", "--backend", "cpu", "--out", &out];
        // A second --model would be a mistake of its own.
        let model =
            if more[0] == "--model" { &[&model[..1], &model[3..]].concat() } else { &model[..] };
        refused(&[model, more].concat(), expected);
    };
    sample(&["--class", "99999"], "unknown class \"99999\"");
    sample(&["--class", "Volcano"], "Forest");
    sample(&["--style", "noto"], "has no styles; remove --style");
    sample(&["--steps", "0"], "steps must be 1–10000, got 0");
    sample(&["--guidance", "NaN"], "guidance must be 0–100 (1 switches it off), got NaN");
    sample(&["--cfg", "-3"], "off), got -3");
    sample(&["--guidance-interval", "0.7,0.1"], "with 0 ≤ LOW < HIGH ≤ 1");
    sample(&["--guidance-interval", "0.5"], "such as 0.1,0.7; got 0.5");
    sample(&["--gamma", "7"], "gamma must be 0–1");
    sample(&["--count", "0"], "count must be 1–");
    sample(&["--count", "9999999"], "count must be 1–");
    sample(&["--batch", "0"], "batch must be 1–256, got 0");
    sample(&["--scale", "0"], "scale must be 1–64, got 0");
    sample(&["--scheduler", "rk4"], "possible values: euler, heun");
    sample(&["--solver", "ddpm"], "ddpm does not support flow models: choose euler, heun,");
    sample(&["--solver", "dopri5", "--rtol", "0"], "rtol must be");
    sample(&["--solver", "dopri5", "--count", "3", "--batch", "2"], "chooses its steps per batch");
    sample(&["--eta", "0.5"], "eta is not an option of heun");
    sample(&["--model", "nosuch"], "unknown model");
    sample(&["--model", &folder.text("nosuch.safetensors")], "cannot read");
    sample(&["--model", &fixture("diffmoe_flow/model.safetensors")], "generates latents");
    std::fs::create_dir(folder.path("folder.png")).expect("a folder");
    refused(&["sample", "--out", &folder.text("folder.png")], "it is a folder");
    refused(&["sample", "--out", &folder.text("no/such/folder/x.png")], "cannot write");
    refused(&["sample", "--out", &folder.text("x.bmp")], "must end in .png");
    refused(&["verify", &folder.text("nosuch")], "a case needs");
    assert!(!folder.path("x.png").exists(), "a refused request writes nothing");
}

#[test]
fn damaged_models_are_refused_with_the_reason() {
    let folder = Folder::new();
    let whole = std::fs::read(fixture("diffmoe_flow/model.safetensors")).expect("the fixture");
    std::fs::copy(fixture("diffmoe_flow/case.json"), folder.path("case.json")).expect("a copy");
    let broken = |name: &str, bytes: &[u8], expected: &str| {
        std::fs::write(folder.path(name), bytes).expect("a file");
        refused(&["info", &folder.text(name)], expected);
    };
    broken("empty.safetensors", &[], "not a complete safetensors file");
    broken("short.safetensors", &whole[..whole.len() / 2], "ends too early");
    broken(
        "text.safetensors",
        b"this is no model, only some text",
        "not a complete safetensors file",
    );
    std::fs::write(folder.path("case.json"), "{}").expect("a file");
    broken("unknown.safetensors", &whole, "configuration");
    std::fs::remove_file(folder.path("case.json")).expect("gone");
    broken("bare.safetensors", &whole, "has no model description");
    // The wrong model: four experts where the file has other shapes.
    let config = std::fs::read_to_string(fixture("diffmoe_flow/case.json")).expect("the fixture");
    std::fs::write(
        folder.path("case.json"),
        config.replace("\"num_experts\": 4", "\"num_experts\": 5"),
    )
    .expect("a file");
    broken("other.safetensors", &whole, "experts.4.fc1.weight");
}

#[test]
fn a_weight_that_is_no_number_is_found() {
    let folder = Folder::new();
    let mut bytes = std::fs::read(fixture("diffmoe_flow/model.safetensors")).expect("the fixture");
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    for file in ["case.json", "io.safetensors"] {
        std::fs::copy(fixture(&format!("diffmoe_flow/{file}")), folder.path(file)).expect("a copy");
    }
    std::fs::write(folder.path("model.safetensors"), bytes).expect("a file");
    refused(&["verify", &folder.text(""), "--backend", "cpu"], "contains NaN");
}

#[test]
fn a_sharded_checkpoint_is_the_same_model() {
    let folder = Folder::new();
    let whole = std::fs::read(fixture("diffmoe_flow/model.safetensors")).expect("the fixture");
    let file = safetensors::SafeTensors::deserialize(&whole).expect("safetensors");
    let mut map = serde_json::Map::new();
    let mut shards = [Vec::new(), Vec::new()];
    for (i, (name, view)) in file.tensors().into_iter().enumerate() {
        map.insert(name.clone(), format!("part-{}.safetensors", i % 2).into());
        shards[i % 2].push((name, view));
    }
    for (i, shard) in shards.into_iter().enumerate() {
        let bytes = safetensors::serialize(shard, None).expect("safetensors");
        std::fs::write(folder.path(&format!("part-{i}.safetensors")), bytes).expect("a file");
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    std::fs::write(folder.path("model.safetensors.index.json"), index).expect("a file");
    std::fs::copy(fixture("diffmoe_flow/case.json"), folder.path("case.json")).expect("a copy");
    let [stdout, _] = succeeds(&["info", &folder.text("model.safetensors.index.json")]);
    let [one_file, _] = succeeds(&["info", &fixture("diffmoe_flow/model.safetensors")]);
    assert_eq!(stdout, one_file);
    std::fs::remove_file(folder.path("part-1.safetensors")).expect("gone");
    refused(&["info", &folder.text("model.safetensors.index.json")], "part-1.safetensors");
}

/// Recorded answers of the official code, with both backends; more of them where the full set is at hand.
#[test]
fn recorded_answers_are_met_by_both_backends() {
    let names = [
        "diffmoe_flow",
        "diffmoe_swiglu_shared",
        "diffmoe_ddpm",
        "dense_flow",
        "tc_flow",
        "ec_flow",
        "dit_moe",
        "dit_moe_flow",
        "dsmoe",
        "jit_moe",
        "promoe",
        "promoe_ec",
        "detail_head",
    ];
    let mut cases: Vec<_> = names.map(fixture).into();
    let full = std::env::var("DIFFMOE_FIXTURES").map_or_else(
        |_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures"),
        PathBuf::from,
    );
    let larger = names.map(|name| full.join(name)).into_iter().filter(|case| case.is_dir());
    cases.extend(larger.map(|case| case.display().to_string()));
    for case in &cases {
        for backend in ["cpu", "gpu"] {
            let [stdout, _] = succeeds(&["verify", case, "--backend", backend]);
            assert!(stdout.trim_end().ends_with(" passed, 0 failed"), "{stdout}");
            assert!(!stdout.contains("no results for"), "{stdout}");
        }
    }
}

/// The shipped weights, int8 or int4 and f16, mean the same to the trainer and to both backends.
#[test]
fn the_shipped_models_compute_what_the_trainer_computed() {
    let prompts = r#"{"kind":"diffmoe","heun_steps":2,"cfg_scale":2,"prompts":["a robot, noto","a fox, blob",""]}"#;
    let plain = r#"{"kind":"diffmoe","heun_steps":2,"cfg_scale":2}"#;
    for (model, part, answers, case) in [
        ("emoji", &[][..], "emoji", plain),
        ("emoji_256", &["--only", "refiner"], "emoji_256", plain),
        ("emoji_256", &["--only", "model"], "emoji_256_model", plain),
        ("emoji_text", &[], "emoji_text", prompts),
        ("eurosat", &[], "eurosat", plain),
    ] {
        let folder = Folder::new();
        let weights =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../assets/{model}.safetensors"));
        let copy = folder.text("model.safetensors");
        let weights = weights.display().to_string();
        succeeds(&[&["convert", &weights, "-o", &copy], part].concat());
        let answers = fixture(&format!("trained/{answers}.safetensors"));
        std::fs::copy(answers, folder.path("io.safetensors")).expect("a copy");
        std::fs::write(folder.path("case.json"), case).expect("a file");
        for backend in ["cpu", "gpu"] {
            let [stdout, _] = succeeds(&["verify", &folder.text(""), "--backend", backend]);
            assert!(stdout.contains("ok    blocks.1.selected"), "{model}: {stdout}");
        }
    }
}

#[test]
fn a_wrong_answer_fails_verification() {
    let folder = Folder::new();
    for file in ["case.json", "model.safetensors"] {
        std::fs::copy(fixture(&format!("diffmoe_flow/{file}")), folder.path(file)).expect("a copy");
    }
    let bytes = std::fs::read(fixture("diffmoe_flow/io.safetensors")).expect("the fixture");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut raw: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    for (name, _, _, data) in &mut raw {
        match name.as_str() {
            // One token moves, and one number of the output is off by 0.001.
            "blocks.1.selected" => data[0] ^= 1,
            "out" => {
                let value = f32::from_le_bytes(data[..4].try_into().expect("four bytes"));
                data[..4].copy_from_slice(&(value + 1e-3).to_le_bytes());
            }
            _ => {}
        }
    }
    let views = raw.iter().map(|(name, dtype, shape, data)| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).expect("a view"))
    });
    let changed = safetensors::serialize(views, None).expect("safetensors");
    std::fs::write(folder.path("io.safetensors"), changed).expect("a file");
    let (code, stdout, _) = diffmoe(&["verify", &folder.text(""), "--backend", "cpu"]);
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.contains("FAIL  blocks.1.selected"), "{stdout}");
    assert!(stdout.contains("FAIL  out"), "{stdout}");
    assert!(stdout.contains(", 2 failed"), "{stdout}");
}

#[test]
fn bench_reports_both_backends_and_one_submission_a_step() {
    let folder = Folder::new();
    let json = folder.text("bench.json");
    let [stdout, _] = succeeds(&["bench", "--batch", "1", "--steps", "1", "--json", &json]);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(json).expect("a report")).expect("JSON");
    let devices = report["devices"].as_array().expect("devices");
    assert_eq!(devices.len(), 2, "{stdout}");
    assert!(devices.iter().all(|d| d["step_ms"]["median"].as_f64() > Some(0.0)), "{stdout}");
    assert_eq!(devices[1]["submissions_per_step"], 1.0, "{stdout}");
}

#[test]
fn bench_measures_single_kernels() {
    let folder = Folder::new();
    let json = folder.text("micro.json");
    let [stdout, _] = succeeds(&["bench", "--micro", "--json", &json]);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(json).expect("a report")).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    for kind in ["dispatch", "product", "dense", "16 experts", "attention"] {
        let of_kind =
            |row: &&serde_json::Value| row["what"].as_str().is_some_and(|w| w.starts_with(kind));
        let mut of_kind = rows.iter().filter(of_kind).peekable();
        assert!(of_kind.peek().is_some(), "{kind}: {stdout}");
        assert!(of_kind.all(|row| row["us"]["median"].as_f64() > Some(0.0)), "{kind}: {stdout}");
    }
    refused(&["bench", "--micro", "--backend", "cpu"], "--micro measures kernels of a GPU");
}

#[test]
fn a_gpu_draws_the_image_that_the_cpu_draws() {
    let folder = Folder::new();
    let drawn = |backend: &str| {
        let out = folder.text(&format!("{backend}.png"));
        let image = ["--model", "eurosat", "--class", "Residential", "--seed", "11"];
        let run = ["--steps", "3", "--solver", "euler", "--count", "1"];
        draw(&[&image[..], &run, &["--backend", backend, "--out", &out]].concat());
        image::open(&out).expect("a PNG").to_rgb8()
    };
    let worst = drawn("cpu").iter().zip(drawn("gpu").iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(2), "{worst:?} of 255");
}

#[test]
fn a_build_without_the_window_says_where_it_is() {
    refused(&["window", "--model", "eurosat"], "cargo run --release -p diffmoe-viewer");
}
