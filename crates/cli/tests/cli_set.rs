//! Sets of images for evaluation: shards, batches, what a second call does, and joining.

mod command;

use std::io::Read;
use std::path::{Path, PathBuf};

use command::{diffmoe, refused, sample, succeeds};

/// The arguments that draw seven images in batches of three into a folder, unless `more` says otherwise.
fn set<'a>(folder: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let seven = [["--model", "eurosat"], ["--count", "7"], ["--batch", "3"]];
    let missing = seven.into_iter().filter(|[name, _]| !more.contains(name));
    let all: Vec<_> =
        missing.flatten().chain(["--set", folder]).chain(more.iter().copied()).collect();
    sample(&all)
}

/// Draws such a set; returns what the tool printed.
fn draw(folder: &Path, more: &[&str]) -> String {
    succeeds(&set(&folder.display().to_string(), more)).concat()
}

/// Names and bytes of all files.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let file = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, std::fs::read(path).expect("a file"))
    };
    let mut files: Vec<_> = entries.map(|e| file(e.expect("an entry").path())).collect();
    files.sort();
    files
}

/// The parts of an archive that nothing is packed in.
fn unzip(path: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let file = std::fs::File::open(path).expect("a file");
    let mut archive = zip::ZipArchive::new(file).expect("an archive");
    let mut read = |name: &str| {
        let mut bytes = Vec::new();
        archive.by_name(name).expect("a part").read_to_end(&mut bytes).expect("bytes");
        (name.to_owned(), bytes)
    };
    ["arr_0.npy", "labels.npy"].map(&mut read).into()
}

#[test]
fn shards_draw_the_same_bytes_as_one_process() {
    let folder = tempfile::tempdir().expect("a folder");
    // With the pool rule an image depends on its batch mates.
    for rule in ["pool", "token"] {
        let of = |name: &str| folder.path().join(format!("{rule}-{name}"));
        draw(&of("whole"), &["--routing", rule]);
        for shard in ["3/3", "1/3", "2/3"] {
            draw(&of("parts"), &["--routing", rule, "--shard", shard]);
        }
        let whole = files(&of("whole"));
        let names: Vec<&str> = whole.iter().map(|(name, _)| name.as_str()).collect();
        let expected = [0, 3, 6].map(|first| format!("batch-{first:08}.safetensors"));
        assert_eq!(names, expected, "and nothing else");
        assert!(whole == files(&of("parts")), "{rule}: bytes differ");
    }
    let of = |name: &str| files(&folder.path().join(name));
    assert!(of("pool-whole") != of("token-whole"));
}

#[test]
fn a_second_call_draws_what_is_missing_or_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = folder.path().join("set");
    draw(&set, &[]);
    let whole = files(&set);
    let path = |i: usize| set.join(&whole[i].0);
    let times =
        || whole.iter().map(|(name, _)| set.join(name).metadata().unwrap().modified().unwrap());
    let before: Vec<_> = times().collect();

    let said = draw(&set, &[]);
    assert!(said.contains("is complete"), "{said}");
    assert_eq!(before, times().collect::<Vec<_>>(), "nothing is drawn again");

    std::fs::remove_file(path(1)).expect("gone");
    // A header that is whole, images that are not; then less than a header.
    for length in [whole[2].1.len() - 1, 5, 0] {
        std::fs::write(path(2), &whole[2].1[..length]).expect("a file");
        let said = draw(&set, &[]);
        assert!(said.contains("will be drawn again: it is incomplete"), "{said}");
        assert!(whole == files(&set));
    }
    assert_eq!(before[0], times().next().unwrap(), "the first was kept");

    // The set grows: its last batch was not full.
    draw(&set, &["--count", "8"]);
    let grown = files(&set);
    assert!(grown.len() == 3 && grown[..2] == whole[..2] && grown[2] != whole[2]);
}

#[test]
fn other_settings_do_not_get_into_a_set() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("set");
    let text = path.display().to_string();
    draw(&path, &["--shard", "1/3"]);
    let with = |more: &[&str], expected: &str| {
        refused(&set(&text, &[&["--shard", "2/3"], more].concat()), expected);
    };
    with(&["--cfg", "3.5"], "guidance 3.5 instead of");
    with(&["--routing", "pool"], "routing \"pool\" instead of \"token\"");
    with(&["--gamma", "0.3"], "gamma 0.3");
    with(&["--model", "emoji"], "another set");
    with(&["--seed", "6"], "seed 6 instead of 5");
    refused(&set(&text, &["--class", "River"]), "has other classes");
    assert_eq!(files(&path).len(), 1, "refused requests write nothing");
}

#[test]
fn impossible_sets_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("set").display().to_string();
    let usage = |arguments: &[&str], expected: &str| {
        let (code, _, stderr) = diffmoe(arguments);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    };
    for shard in ["0/3", "4/3", "1", "x/y"] {
        usage(&set(&text, &["--shard", shard]), "I from 1 to N");
    }
    usage(&["sample", "--shard", "1/2"], "--set");
    usage(&["sample", "--set", &text, "--count", "4"], "--seed");
    usage(&["sample", "--set", &text, "--seed", "4"], "--count");
    usage(&["sample", "--set", &text, "--seed", "4", "--count", "4", "--out", "x.png"], "--out");
    refused(&["sample", "--set", &text, "--seed", "4", "--count", "99999999"], "count must be");
    std::fs::write(folder.path().join("file"), "text").expect("a file");
    let file = folder.path().join("file").display().to_string();
    refused(&["sample", "--set", &file, "--seed", "4", "--count", "4"], "cannot create the folder");
    assert!(!Path::new(&text).exists(), "refused requests write nothing");
}

#[test]
fn batches_are_joined_in_order_and_only_when_all_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (set, npz, pngs) =
        (folder.path().join("set"), folder.path().join("all.npz"), folder.path().join("png"));
    let text = |path: &Path| path.display().to_string();
    draw(&set, &["--shard", "1/2", "--class", "River,Forest"]);
    refused(&["join", &text(&set), "--out", &text(&npz)], "images 3 to 5 are missing");
    draw(&set, &["--shard", "2/2", "--class", "River,Forest"]);
    for out in [&npz, &pngs] {
        succeeds(&["join", &text(&set), "--out", &text(out)]);
    }
    let arrays = unzip(&npz);
    let array = |name: &str, head: &str| {
        let bytes = &arrays[name];
        let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((&bytes[..8], end % 64), (&b"\x93NUMPY\x01\x00"[..], 0));
        let text = String::from_utf8_lossy(&bytes[10..end]).into_owned();
        assert!(text.contains(head), "{text}");
        bytes[end..].to_vec()
    };
    let images = array("arr_0.npy", "'|u1', 'fortran_order': False, 'shape': (7, 64, 64, 3,)");
    for i in 0..7 {
        let png = image::open(pngs.join(format!("{i:08}.png"))).expect("a PNG").to_rgb8();
        assert!(png.as_raw()[..] == images[i * 12_288..(i + 1) * 12_288], "{i}");
    }
    let labels = array("labels.npy", "'<u4', 'fortran_order': False, 'shape': (7, 1,)");
    let labels: Vec<u8> = labels.chunks(4).map(|row| row[0]).collect();
    assert!(labels[0] != labels[1] && labels[2..] == labels[..5], "{labels:?}: in turn");

    // The same images as a grid of one PNG has, whatever the batches.
    let grid = text(&folder.path().join("grid.png"));
    let request = ["--model", "eurosat", "--count", "7", "--class", "River,Forest"];
    command::draw(&[&request[..], &["--batch", "16", "--scale", "1", "--out", &grid]].concat());
    let grid = image::open(&grid).expect("a PNG").to_rgb8();
    let first = image::imageops::crop_imm(&grid, 68, 0, 64, 64).to_image();
    let off = first.iter().zip(&images[12_288..24_576]).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(off <= Some(1), "{off:?}");

    refused(&["join", &text(folder.path()), "--out", &text(&npz)], "contains no batches");
    std::fs::write(set.join("batch-00000003.safetensors"), "text").expect("a file");
    refused(&["join", &text(&set), "--out", &text(&npz)], "run the command of the set again");
}
