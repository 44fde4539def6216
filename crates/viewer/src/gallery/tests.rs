//! The gallery in a folder.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diffmoe::pixels::RgbImage;

use super::jobs::scaled;
use super::*;

/// A file with the settings of another program; `grey` makes files differ.
fn png(grey: u8) -> Vec<u8> {
    let text = format!("a fox\nSteps: 4, Seed: {grey}");
    RgbImage::from_raw(2, 1, vec![grey; 6]).unwrap().to_png(&[("parameters", text)]).unwrap()
}

fn unseen(folder: &Path) -> (Gallery, Vec<Said>) {
    settled(Gallery::new(Some(folder.to_owned()), Arc::new(|| ())))
}

/// With what the images show.
fn opened(folder: &Path) -> (Gallery, Vec<Said>) {
    let (mut gallery, mut said) = unseen(folder);
    gallery.look();
    let (gallery, more) = settled(gallery);
    said.extend(more);
    (gallery, said)
}

/// Waits until nothing is left to do; what was said.
fn settled(mut gallery: Gallery) -> (Gallery, Vec<Said>) {
    let (end, mut said) = (Instant::now() + Duration::from_secs(20), Vec::new());
    while gallery.running.is_some() || !gallery.queue.is_empty() {
        said.extend(gallery.tick());
        assert!(Instant::now() < end, "{said:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    (gallery, said)
}

fn captions(gallery: &Gallery) -> Vec<&str> {
    gallery.items().iter().map(Item::caption).collect()
}

fn keep(gallery: &mut Gallery, grey: u8, ms: u64) {
    gallery.ask(Request::Keep { png: png(grey), ms });
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn images_are_kept_newest_first_and_survive() {
    let folder = tempfile::tempdir().unwrap();
    // A folder that is not there yet.
    let inside = folder.path().join("a/b");
    let (mut gallery, said) = opened(&inside);
    assert_eq!((gallery.count(), said), (Some(0), Vec::new()));
    for (grey, ms) in [(1, 1000), (3, 3000), (2, 2000), (1, 4000)] {
        keep(&mut gallery, grey, ms);
    }
    let (gallery, said) = settled(gallery);
    assert_eq!(captions(&gallery), ["a fox, seed 3", "a fox, seed 2", "a fox, seed 1"]);
    assert_eq!(said, [Said::Info("Kept 3 images in the gallery; 1 was already there.".into())]);
    let (mut again, _) = opened(&inside);
    assert_eq!(captions(&again), captions(&gallery));
    assert_eq!(again.bytes(), 3 * png(1).len() as u64);
    let name = again.items()[0].name.clone();
    assert!(name.starts_with("0000000003000-") && name.len() == 13 + 1 + 16 + 4, "{name}");
    again.open(name);
    let (again, _) = settled(again);
    let opened = again.opened().unwrap();
    assert_eq!((&opened.png, opened.image.pixel(1, 0)), (&png(3), [3; 3]));
}

#[test]
fn images_are_decoded_when_somebody_looks_or_keeps_another() {
    let folder = tempfile::tempdir().unwrap();
    let (mut gallery, _) = opened(folder.path());
    for (grey, ms) in [(1, 1000), (2, 2000)] {
        keep(&mut gallery, grey, ms);
    }
    drop(settled(gallery));
    let (mut gallery, said) = unseen(folder.path());
    assert_eq!((captions(&gallery), gallery.bytes()), (vec!["a kept image"; 2], 0));
    assert!(gallery.items().iter().all(|item| item.preview.is_none()) && said.is_empty());
    // The room that is left counts all of them.
    gallery.keep(png(3));
    let (gallery, _) = settled(gallery);
    assert_eq!(captions(&gallery), ["a fox, seed 3", "a fox, seed 2", "a fox, seed 1"]);
    assert_eq!(gallery.bytes(), 3 * png(1).len() as u64);
    // Before the names are there, it is remembered.
    let mut gallery = Gallery::new(Some(folder.path().to_owned()), Arc::new(|| ()));
    gallery.look();
    let (mut gallery, _) = settled(gallery);
    assert_eq!(captions(&gallery)[2], "a fox, seed 1");
    // A file that is gone is named when it is read.
    let (mut fresh, _) = unseen(folder.path());
    std::fs::remove_file(folder.path().join(&fresh.items()[1].name)).unwrap();
    fresh.look();
    let (fresh, _) = settled(fresh);
    assert_eq!((captions(&fresh).len(), fresh.damaged().len()), (2, 1));
    gallery.delete_all();
    settled(gallery);
}

#[test]
fn deleted_images_are_gone_and_can_be_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (mut gallery, _) = opened(folder.path());
    for grey in 1..=3 {
        keep(&mut gallery, grey, u64::from(grey));
    }
    let (mut gallery, _) = settled(gallery);
    let before = files(folder.path());
    gallery.delete(gallery.items()[1].name.clone());
    let (mut gallery, _) = settled(gallery);
    assert_eq!(captions(&gallery), ["a fox, seed 3", "a fox, seed 1"]);
    assert_eq!(files(folder.path()).len(), 2);
    gallery.restore();
    let (mut gallery, said) = settled(gallery);
    assert_eq!((files(folder.path()), gallery.restorable(), said), (before.clone(), 0, Vec::new()));
    gallery.delete_all();
    let (mut gallery, _) = settled(gallery);
    assert_eq!((gallery.count(), gallery.restorable()), (Some(0), 3));
    assert!(files(folder.path()).is_empty());
    gallery.restore();
    let (gallery, _) = settled(gallery);
    assert_eq!((files(folder.path()), gallery.count()), (before, Some(3)));
}

#[test]
fn files_that_are_no_images_are_left_out_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (mut gallery, _) = opened(folder.path());
    keep(&mut gallery, 1, 1);
    let (gallery, _) = settled(gallery);
    drop(gallery);
    let cut = "0000000000002-0000000000000abc.png";
    std::fs::write(folder.path().join(cut), &png(2)[..40]).unwrap();
    std::fs::write(folder.path().join("holiday.png"), png(3)).unwrap();
    let (mut gallery, _) = opened(folder.path());
    assert_eq!(
        (captions(&gallery), gallery.damaged()),
        (vec!["a fox, seed 1"], &[cut.to_owned()][..])
    );
    gallery.delete_damaged();
    let (gallery, _) = settled(gallery);
    assert!(gallery.damaged().is_empty());
    assert_eq!(files(folder.path()).len(), 2, "files of others stay");
}

#[test]
fn a_full_gallery_and_a_failing_store_say_so_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..MOST {
        let name = format!("{i:013}-{i:016x}.png");
        std::fs::write(folder.path().join(name), png((i % 256) as u8)).unwrap();
    }
    let (mut gallery, _) = opened(folder.path());
    assert_eq!(gallery.count(), Some(MOST));
    keep(&mut gallery, 9, 9999);
    let (gallery, said) = settled(gallery);
    assert!(
        matches!(&said[..], [Said::Error(text)] if text.contains("is full: it has 200 images")),
        "{said:?}"
    );
    assert_eq!((gallery.count(), files(folder.path()).len()), (Some(MOST), MOST));

    // A file where the folder should be.
    let blocked = folder.path().join("blocked");
    std::fs::write(&blocked, b"").unwrap();
    let (mut gallery, said) = opened(&blocked);
    assert_eq!(said, Vec::new());
    let reason = gallery.place().unwrap_err();
    assert!(reason.starts_with("cannot read") && reason.contains("blocked"), "{reason}");
    gallery.ask(Request::Restore(vec![("0000000000001-0000000000000001.png".into(), png(1))]));
    let (gallery, said) = settled(gallery);
    assert!(matches!(&said[..], [Said::Error(text)] if text.contains("cannot write")), "{said:?}");
    assert_eq!((gallery.count(), gallery.restorable()), (None, 1), "it can be tried again");
}

#[test]
fn large_images_are_scaled_down_whole() {
    let image = RgbImage::from_raw(400, 100, vec![50; 120_000]).unwrap();
    let small = scaled(&image, 96);
    assert_eq!((small.width(), small.height(), small.pixel(95, 23)), (96, 24, [50; 3]));
}
