//! `diffmoe trace`, `--trace-scores` and `--mute` as a user meets them: the summary is what the trace says.

mod command;

use std::path::Path;

use command::{refused, succeeds};
use serde_json::Value;

/// Draws two images; gives what was said.
fn draw(folder: &Path, trace: &str, more: &[&str]) -> String {
    let [out, trace] = ["x.png", trace].map(|name| folder.join(name).display().to_string());
    let files = ["--model", "eurosat", "--out", &out, "--trace", &trace];
    let [stdout, _] = command::draw(&[&files[..], more].concat());
    stdout
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a trace")).expect("JSON")
}

/// What `diffmoe trace` prints.
fn summary(path: &Path, more: &[&str]) -> String {
    let path = path.display().to_string();
    let [stdout, _] = succeeds(&[&["trace", &path][..], more].concat());
    stdout
}

/// The five numbers of a layer at a step, computed from the masks of the JSON alone.
fn from_masks(trace: &Value, step: u64, layer: usize) -> [f64; 5] {
    let experts = trace["experts"].as_u64().expect("E") as usize;
    let passes = trace["forwards"].as_array().expect("passes").iter();
    let masks: Vec<u64> = passes
        .filter(|pass| pass["step"] == step)
        .flat_map(|pass| pass["layers"][layer]["masks"].as_array().expect("masks").clone())
        .map(|mask| mask.as_u64().expect("a mask"))
        .collect();
    let loads: Vec<f64> = (0..experts)
        .map(|e| masks.iter().filter(|mask| *mask >> e & 1 == 1).count() as f64)
        .collect();
    let total: f64 = loads.iter().sum();
    let shares = loads.iter().filter(|load| **load > 0.0).map(|load| load / total);
    let entropy: f64 = shares.map(|share| -share * share.ln()).sum();
    let largest = loads.iter().copied().fold(0.0, f64::max);
    let share = |count: usize, of: usize| count as f64 / of as f64;
    [
        total / masks.len() as f64,
        entropy.exp() / experts as f64,
        largest * experts as f64 / total,
        share(loads.iter().filter(|load| **load == 0.0).count(), experts),
        share(masks.iter().filter(|mask| **mask == 0).count(), masks.len()),
    ]
}

#[test]
fn the_summary_is_what_the_masks_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = draw(folder.path(), "t.json", &[]);
    let path = folder.path().join("t.json");
    let trace = json(&path);
    let layers = trace["forwards"][0]["layers"].as_array().expect("layers");

    let csv = summary(&path, &["--csv"]);
    let mut lines = csv.lines();
    let header = "step,time,block,capacity,effective_experts,largest_load,dead,skipped";
    assert_eq!(lines.next(), Some(header));
    for step in 0..2 {
        for (i, layer) in layers.iter().enumerate() {
            let line = lines.next().expect("a line for each step and layer");
            let cells: Vec<f64> =
                line.split(',').map(|cell| cell.parse().expect("numbers")).collect();
            assert_eq!(
                (cells[0], cells[2]),
                (step as f64, layer["block"].as_f64().expect("block"))
            );
            for (got, want) in cells[3..].iter().zip(from_masks(&trace, step, i)) {
                assert!((got - want).abs() < 1e-9, "{line}: {want}");
            }
        }
    }
    assert_eq!(lines.next(), None);

    // The first row of the table has the C that `sample` reported.
    let capacity = trace["capacity"].as_f64().expect("C");
    assert!(said.contains(&format!("capacity C = {capacity:.2}")), "{said}");
    let table = summary(&path, &[]);
    let row = table.lines().find(|line| line.starts_with("whole run")).expect("a row");
    assert_eq!(row.split_whitespace().nth(2), Some(&*format!("{capacity:.2}")), "{table}");
    let blocks = table.lines().filter(|line| line.starts_with("block ")).count();
    let steps = table.lines().filter(|line| line.starts_with("step ")).count();
    assert_eq!((blocks, steps), (layers.len(), 2), "{table}");
}

#[test]
fn scores_explain_the_masks_in_both_forms_and_change_no_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = || std::fs::read(folder.path().join("x.png")).expect("an image");
    draw(folder.path(), "plain.json", &[]);
    let plain = image();
    // Two batches, so that tokens are appended.
    draw(folder.path(), "t.json", &["--trace-scores", "--batch", "1"]);
    assert_eq!(image(), plain);
    draw(folder.path(), "t.safetensors", &["--trace-scores", "--batch", "1"]);

    let trace = json(&folder.path().join("t.json"));
    assert_eq!(
        (&trace["format"], &json(&folder.path().join("plain.json"))["format"]),
        (&2.into(), &1.into())
    );
    let experts = trace["experts"].as_u64().expect("E") as usize;
    let floats = |value: &Value| -> Vec<f64> {
        value.as_array().expect("numbers").iter().map(|n| n.as_f64().expect("a number")).collect()
    };
    let mut sure = 0;
    for pass in trace["forwards"].as_array().expect("passes") {
        for layer in pass["layers"].as_array().expect("layers") {
            let (need, thresholds) = (floats(&layer["need"]), floats(&layer["thresholds"]));
            assert_eq!(floats(&layer["gate"]).len(), need.len());
            for (i, need) in need.into_iter().enumerate() {
                let threshold = thresholds[i % experts];
                let margin = need - (threshold / (1.0 - threshold)).ln();
                let mask = layer["masks"][i / experts].as_u64().expect("a mask");
                if margin.abs() > need.abs() / 1024.0 + 1e-3 {
                    sure += 1;
                    assert_eq!(margin > 0.0, mask >> (i % experts) & 1 == 1, "{margin}");
                }
            }
        }
    }
    assert!(sure > 1000, "{sure}");
    // Both forms tell the same.
    let [json, tensors] =
        ["t.json", "t.safetensors"].map(|name| summary(&folder.path().join(name), &["--csv"]));
    assert_eq!(json, tensors);
    assert!(summary(&folder.path().join("t.safetensors"), &[]).contains("with scores"));
}

#[test]
fn a_muted_expert_has_no_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    draw(folder.path(), "t.json", &[]);
    let trace = json(&folder.path().join("t.json"));
    let layer = &trace["forwards"][0]["layers"][0];
    let counts = layer["counts"].as_array().expect("counts");
    let busiest = (0..counts.len()).max_by_key(|&e| counts[e].as_u64()).expect("an expert");
    let muted = format!("{}:{busiest}", layer["block"]);
    for rule in ["token", "pool"] {
        draw(folder.path(), "m.json", &["--mute", &muted, "--routing", rule]);
        let trace = json(&folder.path().join("m.json"));
        for pass in trace["forwards"].as_array().expect("passes") {
            assert_eq!(pass["layers"][0]["counts"][busiest], 0, "{rule}");
        }
        assert!(trace["capacity"].as_f64() > Some(0.0));
    }
    draw(folder.path(), "s.json", &["--solo", &muted]);
    let trace = json(&folder.path().join("s.json"));
    for pass in trace["forwards"].as_array().expect("passes") {
        let counts = pass["layers"][0]["counts"].as_array().expect("counts");
        assert!((0..counts.len()).all(|e| e == busiest || counts[e] == 0), "{counts:?}");
        assert!(counts[busiest].as_u64() > Some(0));
    }
    refused(&["sample", "--model", "eurosat", "--solo", "1:99"], "block 1 has no expert 99");
    let sample = |muted: &str, expected: &str| {
        refused(&["sample", "--model", "eurosat", "--mute", muted], expected);
    };
    sample("0:1", "block 0 has no experts; the blocks with experts are 1, 3");
    sample("1:99", "block 1 has no expert 99; it has 8, numbered from 0");
    sample("1", "BLOCK:EXPERT");
    refused(&["sample", "--trace-scores"], "--trace");
}

#[test]
fn shifted_thresholds_take_more_or_fewer_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    draw(folder.path(), "t.json", &[]);
    // The first layer with experts of the first pass, which sees the same in all these runs.
    let first = |trace: &Value| trace["forwards"][0]["layers"][0].clone();
    let layer = first(&json(&folder.path().join("t.json")));
    let (block, before) = (layer["block"].to_string(), layer["counts"][2].as_u64());
    let count = |shift: &str| {
        draw(folder.path(), "s.json", &["--shift", &format!("{block}:2={shift}")]);
        let shifted = first(&json(&folder.path().join("s.json")));
        for expert in (0..8).filter(|&expert| expert != 2) {
            assert_eq!(shifted["counts"][expert], layer["counts"][expert], "{shift}");
        }
        shifted["counts"][2].as_u64()
    };
    assert!(count("4") < before && before < count("-4"), "{before:?}");
    let capacity = |shift: &[&str]| {
        draw(folder.path(), "s.json", shift);
        json(&folder.path().join("s.json"))["capacity"].as_f64().expect("C")
    };
    let whole = capacity(&[]);
    let all = capacity(&["--log-odds", "2"]);
    let one = capacity(&["--shift", &format!("{block}=2")]);
    assert!(all < one && one < whole, "{all} {one} {whole}");
    refused(&["sample", "--model", "eurosat", "--shift", "1:99=1"], "block 1 has no expert 99");
    refused(&["sample", "--model", "eurosat", "--shift", "1"], "BLOCK:EXPERT=LOG_ODDS");
    refused(&["sample", "--model", "eurosat", "--log-odds", "99"], "log-odds, got 99");
}

#[test]
fn what_is_no_trace_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |text: &[u8]| {
        let path = folder.path().join("x.json");
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    refused(&["trace", &folder.path().join("none.json").display().to_string()], "cannot read");
    refused(&["trace", &write(b"hello")], "not a trace");
    refused(&["trace", &write(br#"{"format":9}"#)], "format 9");
    refused(
        &[
            "trace",
            &write(
                br#"{"format":1,"model":"x","experts":8,"grid":[0,0],"labels":[],"forwards":[]}"#,
            ),
        ],
        "damaged",
    );
}
