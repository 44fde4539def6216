//! `diffmoe sweep`, and runs that start from an image: what they write is what `sample` draws.

mod command;

use std::path::Path;

use command::{diffmoe, refused};
use image::{GenericImageView, RgbImage};

const QUICK: [&str; 6] = ["--backend", "cpu", "--seed", "5", "--style", "noto"];

fn run(arguments: &[&str]) {
    let (code, _, stderr) = diffmoe(arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
}

fn sample(out: &Path, more: &[&str]) -> RgbImage {
    let out = out.display().to_string();
    run(&[&["sample", "--count", "1", "--out", &out], &QUICK[..], more].concat());
    image::open(out).expect("a PNG").to_rgb8()
}

#[test]
fn the_cells_of_a_sweep_are_the_images_of_sample() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (out, csv) = (path("table.png"), path("c.csv"));
    let (out, csv) = (out.display().to_string(), csv.display().to_string());
    let axes = ["--class", "fox", "--x", "cfg=1,2.5", "--y", "steps=1,2", "--scale", "1"];
    run(&[&["sweep", "--out", &out, "--csv", &csv], &QUICK[..], &axes].concat());
    let table = image::open(&out).expect("a PNG").to_rgb8();
    // Captions: "steps 1" is seven letters of twelve pixels, less the last gap.
    let (left, top) = (7 * 12 - 2 + 12, 14 + 12);
    assert_eq!(table.dimensions(), (left + 2 * 68, top + 2 * 68));
    for (row, steps) in [(0, "1"), (1, "2")] {
        for (column, guidance) in [(0, "1"), (1, "2.5")] {
            let more = ["--class", "fox", "--steps", steps, "--guidance", guidance];
            let want = sample(&path("one.png"), &more);
            let cell = table.view(left + column * 68, top + row * 68, 64, 64).to_image();
            assert!(cell == want, "{steps} steps, guidance {guidance}");
        }
    }
    let text = std::fs::read_to_string(&csv).expect("a table");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (5, "steps,guidance,C"));
    assert!(lines[4].starts_with("2,2.5,"), "{text}");
    let capacity: f32 = lines[4].rsplit(',').next().expect("C").parse().expect("a number");
    assert!((0.1..8.0).contains(&capacity), "{text}");
}

#[test]
fn a_strip_between_two_labels_begins_and_ends_with_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let out = path("strip.png").display().to_string();
    let of = ["--steps", "2", "--class", "fox", "--mix-class", "cat"];
    let axis = ["--x", "mix-strength=0,0.4,1", "--scale", "1"];
    run(&[&["sweep", "--out", &out], &QUICK[..], &of, &axis].concat());
    let strip = image::open(&out).expect("a PNG").to_rgb8();
    let width = strip.width() / 3;
    let cells = [["--class", "fox"], ["--class", "cat"]]
        .map(|class| sample(&path("one.png"), &[&["--steps", "2"], &class[..]].concat()));
    let between = sample(&path("half.png"), &[&of[..], &["--mix-strength", "0.4"]].concat());
    // The captions are above the cells.
    let top = strip.height() - 64 - 4;
    for (column, want) in [&cells[0], &between, &cells[1]].into_iter().enumerate() {
        let found = (column as u32 * width..(column as u32 + 1) * width).any(|x| {
            let x = x.min(strip.width() - 64);
            (0..=4).any(|y| {
                strip.view(x, (top + y).min(strip.height() - 64), 64, 64).to_image() == *want
            })
        });
        assert!(found, "cell {column}");
    }
    assert!(between != cells[0] && between != cells[1]);
    // The file has the blend inside; another strength may be asked for.
    let half = path("half.png").display().to_string();
    let again = path("again.png").display().to_string();
    let like = ["sample", "--like", &half, "--backend", "cpu", "--out", &again];
    run(&like);
    assert!(image::open(&again).expect("a PNG").to_rgb8() == between);
    run(&[&like[..], &["--mix-strength", "1"]].concat());
    assert!(image::open(&again).expect("a PNG").to_rgb8() == cells[1]);
}

#[test]
fn a_sweep_that_cannot_be_drawn_is_refused_before_the_first_image() {
    let of = |more: &[&str], expected: &str| refused(&[&["sweep"], more].concat(), expected);
    of(&["--x", "colour=1,2"], "colour is not a setting of this model");
    of(&["--x", "subject=fox,unicorns"], "unknown subject \"unicorns\"");
    of(&["--x", "guidance=1", "--y", "steps=0"], "from 1 to 10000");
    of(&["--x", "strength=0.5"], "--init-image, which is missing");
    of(&["--x", "guidance=1", "--trace", "t.json"], "--trace has no meaning");
}

#[test]
fn a_run_from_an_image_keeps_what_the_mask_keeps() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let first = sample(&path("first.png"), &["--class", "fox", "--steps", "3"]);
    let mask = RgbImage::from_fn(64, 64, |x, _| image::Rgb([if x < 32 { 0 } else { 255 }; 3]));
    mask.save(path("mask.png")).expect("a mask");
    let (image, mask) = (path("first.png"), path("mask.png"));
    let (image, mask) = (image.display().to_string(), mask.display().to_string());
    let from = ["--init-image", &image, "--steps", "4", "--class", "pizza"];
    let half = sample(&path("half.png"), &[&from[..], &["--mask", &mask]].concat());
    for (x, y, pixel) in half.enumerate_pixels().filter(|(x, ..)| *x < 32) {
        assert_eq!(pixel, first.get_pixel(x, y), "{x} {y}");
    }
    let distance = |image: &RgbImage| -> u64 {
        image.pixels().zip(first.pixels()).map(|(a, b)| u64::from(a[1].abs_diff(b[1]))).sum()
    };
    let near = sample(&path("near.png"), &[&from[..], &["--strength", "0.25"]].concat());
    let far = sample(&path("far.png"), &[&from[..], &["--strength", "1"]].concat());
    assert!(0 < distance(&near) && distance(&near) < distance(&far));
    // A saved file knows its strength, and that the image is missing.
    let near_file = path("near.png").display().to_string();
    let again = path("again.png").display().to_string();
    let like = ["sample", "--like", &near_file, "--backend", "cpu", "--out", &again];
    let (_, _, stderr) = diffmoe(&like);
    assert!(stderr.contains("drawn from an image, which it does not contain"), "{stderr}");
    run(&[&like[..], &["--init-image", &image]].concat());
    assert!(image::open(&again).expect("a PNG").to_rgb8() == near);
}

#[test]
fn images_to_start_from_are_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("a.png");
    std::fs::write(&text, "no image").expect("a file");
    let text = text.display().to_string();
    refused(&["sample", "--init-image", &text], "not an image file; convert it to PNG or JPEG");
    let photos = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/photos/");
    let webp = format!("{photos}lossy.webp");
    refused(&["sample", "--init-image", &webp], "WebP files are not read here");
    // A photo, as it is: nearly nothing of the way is taken.
    let photo = format!("{photos}baseline.jpg");
    let near = ["--init-image", &photo, "--strength", "0.01", "--steps", "100"];
    let image = sample(&folder.path().join("near.png"), &near);
    let [red, green] = [image.get_pixel(5, 5), image.get_pixel(58, 5)];
    assert!(red[0] > 150 && red[1] < 90 && green[1] > 150 && green[0] < 90, "{red:?} {green:?}");
    refused(&["sample", "--init-image", "nowhere.png"], "cannot read nowhere.png");
    refused(&["sample", "--strength", "0.5"], "--init-image");
    refused(&["sample", "--variation-seed", "3"], "--variation-strength");
    refused(&["sample", "--mix-strength", "0.3"], "mix strength needs a label to blend with");
    refused(&["sample", "--mix-class", "unicorns"], "unknown subject \"unicorns\"");
    refused(&["sample", "--mix-class", "cat", "--mix-strength", "-1"], "got -1");
    refused(&["sample", "--model", "eurosat", "--mix-style", "noto"], "has no styles");
}
