//! Sets of images that are damaged, copied, asked for in part, or drawn twice at once.

use std::path::Path;
use std::process::Command;

use diffmoe::checkpoint::{TensorOut, write_safetensors};
use serde_json::{Value, json};

use super::command::{refused, sample, succeeds};

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A batch of two black images of one pixel, with something changed in its header.
fn batch(folder: &Path, shape: [usize; 4], change: impl Fn(&mut Value)) {
    let mut header = json!({
        "format": 1, "first": 0, "pictures": 2, "count": 2, "settings": {}, "tables": ["class"],
        "labels": [[1, 1]], "prompts": [], "device": "x"
    });
    change(&mut header);
    let images = TensorOut::u8("pictures", &shape, &vec![0; shape.iter().product()]);
    let entry = ("diffmoe_set".to_owned(), header.to_string());
    write_safetensors(&folder.join("batch-00000000.safetensors"), &[images], [entry])
        .expect("a file");
}

#[test]
fn batches_whose_headers_contradict_themselves_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = folder.path().join("set");
    std::fs::create_dir(&set).expect("a folder");
    let (npz, pngs) = (folder.path().join("all.npz"), folder.path().join("png"));
    let refuse = |expected: &str| {
        for out in [&npz, &pngs] {
            refused(&["join", &text(&set), "--out", &text(out)], expected);
            assert!(!out.exists(), "nothing is written");
        }
    };
    let one = [2, 1, 1, 3];
    let cases: [(&str, Value, &str); 9] = [
        ("/labels", json!([[1]]), "1 labels of \"class\" for 2 images"),
        ("/labels", json!([[1, 1, 1]]), "3 labels of \"class\" for 2 images"),
        ("/labels", json!([]), "label lists for 0 of 1 tables"),
        ("/tables", json!([]), "label lists for 1 of 0 tables"),
        ("/prompts", json!(["a"]), "1 prompts for 2 images"),
        ("/count", json!(1), "2 images from 0 in a set of 1"),
        ("/first", json!(u64::MAX), "in a set of 2"),
        ("/pictures", json!(3), "declares 3 images from 0"),
        ("/format", json!(2), "format 2 is unknown"),
    ];
    for (place, value, expected) in cases {
        batch(&set, one, |header| *header.pointer_mut(place).expect("an entry") = value.clone());
        refuse(expected);
    }
    batch(&set, [2, 0, 0, 3], |_| {});
    refuse("expected U8 and [2, height, width, 3]");
    batch(&set, [2, 1, 1, 4], |_| {});
    refuse("expected U8 and [2, height, width, 3]");
    batch(&set, one, |_| {});
    for out in [&npz, &pngs] {
        succeeds(&["join", &text(&set), "--out", &text(out)]);
    }
    // A file manager's copy.
    let copy = set.join("batch-00000000 (1).safetensors");
    std::fs::copy(set.join("batch-00000000.safetensors"), copy).expect("a copy");
    refused(&["join", &text(&set), "--out", &text(&npz)], "(1).safetensors is a copy of");
}

/// A job that was queued again while the first still runs.
#[test]
fn processes_may_draw_the_same_batches_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = text(&folder.path().join("set"));
    let draw = |count| {
        let images = ["--model", "eurosat", "--steps", "1", "--batch", "1", "--count", count];
        sample(&[&images[..], &["--set", &set]].concat())
    };
    let children: Vec<_> = (0..3)
        .map(|_| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_diffmoe"));
            command
                .args(draw("6"))
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("the tool starts")
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let names = std::fs::read_dir(&set).expect("the set");
    assert_eq!(names.count(), 6, "six batches and nothing else");
    let npz = text(&folder.path().join("all.npz"));
    succeeds(&["join", &set, "--out", &npz]);
    // Asked for in part, it would never be complete.
    refused(&draw("2"), "contains a set of 6 images; use --count 6");
}
