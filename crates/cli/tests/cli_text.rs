//! Prompts on the command line.

mod command;

use command::{fixture, refused, succeeds};

fn model() -> String {
    fixture("t2i_tiny/model.safetensors")
}

/// Draws into a new folder; gives the image's bytes, the labels of the trace, and what was said.
fn drawn(more: &[&str]) -> (Vec<u8>, serde_json::Value, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let [out, trace] =
        ["a.png", "a.json"].map(|name| folder.path().join(name).display().to_string());
    let model = model();
    let fixed = ["--model", &model, "--seed", "1", "--out", &out, "--trace", &trace];
    let [_, stderr] = command::draw(&[&fixed[..], more].concat());
    let trace: serde_json::Value =
        serde_json::from_slice(&std::fs::read(trace).expect("a trace")).expect("JSON");
    (std::fs::read(out).expect("an image"), trace["labels"].clone(), stderr)
}

#[test]
fn prompts_are_drawn_in_turn_and_the_negative_prompt_counts() {
    let ask =
        ["--prompt", "a red fox", "--prompt", "robot, flat style", "--count", "3", "--cfg", "2"];
    let (plain, labels, stderr) = drawn(&ask);
    let turn = ["a red fox", "robot, flat style", "a red fox"];
    assert_eq!(labels, serde_json::json!([turn]));
    assert!(!stderr.contains("note: the prompt is too long"), "{stderr}");
    assert_eq!(plain, drawn(&ask).0, "the same again");
    let avoiding = drawn(&[&ask[..], &["--negative", "blob"]].concat()).0;
    assert_ne!(plain, avoiding);
    // One image at a time changes nothing but rounding.
    let (_, labels, _) = drawn(&[&ask[..], &["--batch", "2"]].concat());
    assert_eq!(labels, serde_json::json!([turn]));
}

#[test]
fn without_a_prompt_the_examples_are_drawn_and_long_prompts_are_noted() {
    let (_, labels, _) = drawn(&["--count", "2"]);
    assert_eq!(labels, serde_json::json!([["A Robot, fluent 3D", "A Robot, fluent 3D"]]));
    let long = "robot ".repeat(40);
    let (_, _, stderr) = drawn(&["--count", "1", "--prompt", &long]);
    assert!(stderr.contains("the prompt is too long and was truncated"), "{stderr}");
}

#[test]
fn prompts_and_classes_go_to_the_models_that_know_them() {
    let model = model();
    refused(&["sample", "--model", "emoji", "--prompt", "a fox"], "does not take prompts");
    refused(&["sample", "--model", "emoji", "--negative", "blob"], "does not take prompts");
    refused(&["sample", "--model", &model, "--class", "fox"], "--prompt");
    refused(&["sample", "--model", &model, "--style", "blob"], "has no styles; remove --style");
    let [stdout, _] = succeeds(&["info", &model]);
    assert!(stdout.contains("prompts of up to 9 tokens out of 85"), "{stdout}");
}

#[test]
fn recorded_answers_are_met_by_both_backends_and_after_a_conversion() {
    let folder = tempfile::tempdir().expect("a folder");
    let converted = folder.path().join("model.safetensors").display().to_string();
    succeeds(&["convert", &model(), "-o", &converted, "--dtype", "f32"]);
    for file in ["case.json", "io.safetensors"] {
        std::fs::copy(fixture(&format!("t2i_tiny/{file}")), folder.path().join(file))
            .expect("a copy");
    }
    let original = fixture("t2i_tiny");
    let copy = folder.path().display().to_string();
    for (case, backend) in [(&original, "cpu"), (&original, "gpu"), (&copy, "cpu")] {
        let [stdout, _] = succeeds(&["verify", case, "--backend", backend]);
        assert!(stdout.trim_end().ends_with("17 passed, 0 failed"), "{stdout}");
        assert!(!stdout.contains("no results for"), "{stdout}");
    }
}
