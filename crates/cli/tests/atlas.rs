//! `diffmoe atlas` as a user meets it: the counts are those of the traces, and a survey that was killed goes on.

mod command;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command::{draw, refused, succeeds};
use serde_json::Value;

/// A survey of three classes, two images each.
fn survey<'a>(path: &'a str, steps: &'a str, batch: &'a str) -> Vec<&'a str> {
    let fixed = ["atlas", "eurosat", "--backend", "cpu", "--class", "Forest,River,SeaLake"];
    let changed =
        ["--seeds", "2", "--seed", "5", "--steps", steps, "--batch", batch, "--out", path];
    [&fixed[..], &changed].concat()
}

fn measure(path: &Path, steps: &str, batch: &str, more: &[&str]) -> String {
    let path = path.display().to_string();
    succeeds(&[&survey(&path, steps, batch)[..], more].concat()).concat()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

/// Beside an atlas: what is measured so far.
fn part(path: &Path) -> std::path::PathBuf {
    path.with_extension("json.part")
}

#[test]
fn the_counts_are_those_of_the_traces_of_the_same_images() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.json");
    let said = measure(&path, "2", "4", &["--guidance", "1"]);
    assert!(said.contains("largest C") && said.contains("mean |log₂ lift|"), "{said}");
    let atlas = json(&path);
    let table = &atlas["tables"][0];
    assert_eq!((&atlas["atlas"], &atlas["images"]), (&1.into(), &6.into()));
    assert_eq!(table["labels"], serde_json::json!(["Forest", "River", "SeaLake"]));
    assert_eq!(atlas["passes"], serde_json::json!([1, 0, 1, 0]), "noise 1 and 0.5");
    assert!(atlas["thumbnails"]["png"].as_str().is_some_and(|png| png.len() > 500));

    // The same six images, drawn by `sample`.
    let [trace, image] = ["t.json", "x.png"].map(|name| folder.path().join(name));
    let [trace_name, image] = [&trace, &image].map(|path| path.display().to_string());
    let images = ["--model", "eurosat", "--class", "Forest,River,SeaLake", "--count", "6"];
    let settings = ["--scheduler", "euler", "--guidance", "1"];
    draw(&[&images[..], &settings, &["--trace", &trace_name, "--out", &image]].concat());
    let trace = json(&trace);
    let tokens = trace["tokens_per_picture"].as_u64().expect("T") as usize;
    assert_eq!(atlas["tokens"], tokens);
    let layers = atlas["blocks"].as_array().expect("blocks").len();
    for (step, band) in [(0, 0), (1, 2)] {
        for layer in 0..layers {
            let masks =
                trace["forwards"][step]["layers"][layer]["masks"].as_array().expect("masks");
            for label in 0..3 {
                for expert in 0..8 {
                    let of_image = |p: usize| {
                        let masks = &masks[p * tokens..(p + 1) * tokens];
                        masks
                            .iter()
                            .filter(|m| m.as_u64().expect("a mask") >> expert & 1 == 1)
                            .count()
                    };
                    let brute = of_image(label) + of_image(label + 3);
                    assert_eq!(table["taken"][label][band][layer][expert], brute);
                }
            }
        }
    }

    let path = path.display().to_string();
    let [csv, _] = succeeds(&["atlas", &path, "--csv"]);
    assert_eq!(csv.lines().count(), 1 + 3 * 4 * layers * 8);
    let taken = table["taken"][1][2][0][3].to_string();
    let line = csv.lines().find(|line| line.starts_with("class,River,2,0.5,0.25,1,3,"));
    assert_eq!(line.and_then(|line| line.split(',').nth(7)), Some(&*taken), "{line:?}");
}

#[test]
fn a_survey_that_was_killed_goes_on_and_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let [whole, cut] = ["whole.json", "cut.json"].map(|name| folder.path().join(name));
    measure(&whole, "2", "1", &[]);
    assert!(!part(&whole).exists(), "deleted when the atlas is there");

    let mut child = Command::new(env!("CARGO_BIN_EXE_diffmoe"))
        .args(survey(&cut.display().to_string(), "2", "1"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the tool starts");
    let end = Instant::now() + Duration::from_mins(2);
    let lines = || std::fs::read_to_string(part(&cut)).map_or(0, |text| text.lines().count());
    while lines() < 3 {
        assert!(Instant::now() < end, "two images and the header");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
    assert!(!cut.exists(), "nothing has the atlas's name before it is whole");
    // As if it had been killed while it wrote a line.
    let mut text = std::fs::read_to_string(part(&cut)).expect("lines");
    text.truncate(text.len() - 40);
    std::fs::write(part(&cut), &text).expect("a file");

    let name = cut.display().to_string();
    let other = [&survey(&name, "2", "1")[..], &["--guidance", "3"]].concat();
    refused(&other, "begun with other settings");
    let said = measure(&cut, "2", "2", &[]);
    assert!(said.contains("of 6 images are there already"), "{said}");
    let [whole, cut] = [&whole, &cut].map(|path| std::fs::read(path).expect("an atlas"));
    assert_eq!(whole, cut);
}

#[test]
fn an_atlas_that_is_there_is_not_measured_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.json");
    measure(&path, "2", "4", &[]);
    assert!(measure(&path, "2", "2", &[]).contains("is complete"));
    let said = measure(&path, "1", "4", &[]);
    assert!(said.contains("wrote "), "{said}");
}

#[test]
fn what_cannot_be_measured_is_refused_in_one_sentence() {
    refused(&["atlas", "eurosat", "--class", "Forest"], "name at least two");
    refused(&["atlas", "eurosat", "--class", "Forest,Moon"], "unknown class \"Moon\"");
    refused(&["atlas", "eurosat", "--style", "noto"], "has no styles");
    refused(&["atlas", "eurosat", "--scheduler", "dopri5"], "take another scheduler");
    refused(&["atlas", "eurosat", "--seeds", "0"], "0 images");
    refused(&["atlas", "nowhere.safetensors", "--csv"], "measure it with");
}
