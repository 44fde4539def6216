//! A saved image holds its settings: `sample --like` draws it again.

mod command;

use std::path::Path;

use command::{refused, succeeds};
use diffmoe::pipeline::{Parameters, Recipe, Saved};
use diffmoe::pixels::{RgbImage, text};

/// Draws quickly into a file.
fn draw(out: &Path, more: &[&str]) {
    let out = out.display().to_string();
    let quick = ["sample", "--backend", "cpu", "--out", &out];
    succeeds(&[&quick[..], more].concat());
}

fn recipe(file: &Path) -> Recipe {
    let saved = Saved::from_png(&std::fs::read(file).expect("a file")).expect("settings");
    let Saved::Recipe(recipe) = saved else { panic!("another program's settings") };
    *recipe
}

fn pixels(file: &Path) -> image::RgbImage {
    image::open(file).expect("a PNG").to_rgb8()
}

#[test]
fn an_image_is_drawn_again_from_its_own_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, again) = (folder.path().join("a.png"), folder.path().join("b.png"));
    let all: [&[&str]; 4] = [
        &["--seed", "5", "--steps", "2", "--count", "2", "--scale", "2"],
        &[
            "--model",
            "eurosat",
            "--seed",
            "6",
            "--steps",
            "3",
            "--class",
            "Forest,River",
            "--count",
            "3",
        ],
        &[
            "--seed",
            "7",
            "--steps",
            "2",
            "--count",
            "3",
            "--routing",
            "pool",
            "--batch",
            "2",
            "--gamma",
            "0.3",
            "--scheduler",
            "unipc",
            "--guidance",
            "1.25",
        ],
        &[
            "--model",
            "emoji_text",
            "--seed",
            "8",
            "--steps",
            "2",
            "--prompt",
            "a red fox",
            "--negative",
            "blob",
        ],
    ];
    for arguments in all {
        draw(&first, arguments);
        draw(&again, &["--like", &first.display().to_string()]);
        assert!(pixels(&first) == pixels(&again), "{arguments:?}");
        assert_eq!(recipe(&again), recipe(&first), "what it says about itself is the same");
    }
    let bytes = std::fs::read(&first).expect("a file");
    let parameters =
        Parameters::parse(&text(&bytes, "parameters").expect("a PNG").expect("a text"));
    let parameters = parameters.expect("settings");
    assert_eq!(parameters.prompt, "a red fox");
    assert_eq!((parameters.negative.as_str(), parameters.seed()), ("blob", Some(8)));
    assert_eq!(
        (parameters.get("Size"), parameters.get("Model")),
        (Some("64x64"), Some("emoji_text"))
    );
}

#[test]
fn what_is_given_beside_a_file_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second, third) =
        (folder.path().join("a.png"), folder.path().join("b.png"), folder.path().join("c.png"));
    draw(&first, &["--seed", "5", "--steps", "2", "--count", "2", "--threshold-shift", "0.1"]);
    let like = first.display().to_string();
    draw(&second, &["--like", &like, "--seed", "6", "--gamma", "0.4", "--mute", "1:2"]);
    draw(
        &third,
        &["--seed", "6", "--steps", "2", "--count", "2", "--gamma", "0.4", "--mute", "1:2"],
    );
    assert_eq!(recipe(&second), recipe(&third));
    assert!(pixels(&second) == pixels(&third));
    assert_eq!(recipe(&second).sampling.steps, 2);
}

#[test]
fn a_file_of_one_image_is_drawn_again_as_that_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, one) = (folder.path().join("a.png"), folder.path().join("b.png"));
    draw(&whole, &["--seed", "5", "--steps", "2", "--count", "2", "--scale", "1"]);
    let wanted = Recipe { image: Some(1), scale: Some(2), ..recipe(&whole) };
    let stand_in = RgbImage::from_raw(1, 1, vec![0; 3]).expect("an image");
    let file = stand_in.to_png(&[("diffmoe", wanted.to_text())]).expect("a PNG");
    let like = folder.path().join("like.png");
    std::fs::write(&like, file).expect("the folder");
    draw(&one, &["--like", &like.display().to_string()]);
    let (whole, one) = (pixels(&whole), pixels(&one));
    assert_eq!(one.dimensions(), (128, 128));
    for (x, y) in [(0, 0), (31, 40), (63, 63)] {
        assert_eq!(one.get_pixel(2 * x, 2 * y), whole.get_pixel(64 + 4 + x, y), "({x}, {y})");
    }
}

#[test]
fn files_of_other_programs_and_files_without_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, keyword: &str, text: &str| {
        let image = RgbImage::from_raw(1, 1, vec![0; 3]).expect("an image");
        let png = image.to_png(&[(keyword, text.to_owned())]).expect("a PNG");
        std::fs::write(path(name), png).expect("the folder");
        path(name).display().to_string()
    };
    let foreign = write(
        "a.png",
        "parameters",
        "a fox\nSteps: 2, Sampler: DDIM, CFG scale: 1.5, Seed: 99, Model: v1-5",
    );
    let out = path("out.png").display().to_string();
    let [_, stderr] = succeeds(&["sample", "--backend", "cpu", "--out", &out, "--like", &foreign]);
    assert!(
        stderr.contains("v1-5") && stderr.contains("\"DDIM\"") && stderr.contains("no prompts"),
        "{stderr}"
    );
    let drawn = recipe(&path("out.png"));
    assert_eq!(
        (drawn.sampling.seed, drawn.sampling.steps, drawn.sampling.guidance, drawn.count),
        (99, 2, 1.5, 1)
    );

    let like = |file: &str| ["sample".to_owned(), "--like".to_owned(), file.to_owned()];
    let refuse = |file: &str, expected: &str| {
        let arguments = like(file);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        refused(&arguments, expected);
    };
    refuse(&write("b.png", "title", "a fox"), "contains no settings");
    refuse(&write("c.png", "diffmoe", "seed=1&steps=0&guidance=1&labels=any,any"), "invalid steps");
    let other = "model=mine.safetensors&hash=0a1b2c3d4e&seed=1&steps=2&guidance=1&labels=any";
    refuse(&write("d.png", "diffmoe", other), "mine.safetensors (SHA-256 0a1b2c3d4e…)");
    refuse(
        &write("e.png", "diffmoe", "model=emoji&seed=1&steps=2&guidance=1&labels=any"),
        "1 label tables",
    );
    std::fs::write(path("f.png"), b"GIF89a").expect("the folder");
    refuse(&path("f.png").display().to_string(), "this is no PNG file");
    refuse(&path("nowhere.png").display().to_string(), "cannot read");
}
