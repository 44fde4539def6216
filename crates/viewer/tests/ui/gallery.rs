//! Keeping images, and finding them on the next visit.

use diffmoe_viewer::announce;

use super::*;

/// The app with a gallery in a folder.
fn visit(size: egui::Vec2, folder: &Path) -> Shown {
    let launch = Launch { gallery: Some(folder.to_owned()), ..launch(tiny(), false) };
    let mut harness = window(size, launch);
    until(&mut harness, "a model and a gallery", |app| {
        app.session().model().is_some() && app.kept_images().is_some()
    });
    harness.run_steps(3);
    harness
}

/// Four images of one run.
fn run(harness: &mut Shown) {
    let controls = &mut harness.state_mut().app_mut().session_mut().controls;
    (controls.sampling.seed, controls.count) = (5, 4);
    harness.run_steps(2);
    harness.get_by_label("Generate").click();
    complete(harness);
}

fn kept(harness: &mut Shown, count: usize) {
    until(harness, "the gallery", |app| app.kept_images() == Some(count));
    harness.run_steps(4);
}

/// Waits for a control, and until it has its place.
fn shown(harness: &mut Shown, name: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    while !has(harness, name) {
        assert!(Instant::now() < end, "no {name}");
        harness.step();
        std::thread::sleep(Duration::from_millis(2));
    }
    harness.run_steps(6);
}

#[test]
fn kept_images_are_there_on_the_next_visit_until_they_are_deleted() {
    for size in [TALL, TALL_PHONE] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut harness = visit(size, folder.path());
        assert!(has(&harness, "Press Keep below a finished image"));
        run(&mut harness);
        harness.get_by_label("Keep all").click();
        harness.run_steps(2);
        kept(&mut harness, 4);
        assert!(has(&harness, "Kept 4 images in the gallery."));
        let session = harness.state().app().session();
        assert_eq!(announce::news(session), "Kept 4 images in the gallery.");
        let noted = session.noted();
        assert!(
            has(&harness, "4 of at most 200 images")
                && has(&harness, "Stored on this computer only")
        );
        // The same again is not kept twice.
        harness.get_by_label("Keep all").click();
        harness.run_steps(2);
        until(&mut harness, "a sentence", |app| {
            app.session().notes().iter().any(|note| note.text.contains("already in the gallery"))
        });
        assert_eq!(harness.state().app().kept_images(), Some(4));
        let session = harness.state().app().session();
        assert!(session.noted() > noted && announce::news(session).contains("already"));
        harness.check_accessibility();
        let frames = harness.state().app().session().record().expect("a run").frames.clone();
        drop(harness);

        let mut harness = visit(size, folder.path());
        kept(&mut harness, 4);
        shown(&mut harness, ", seed 5");
        let newest = harness.query_all_by_label_contains("Kept: ").next().expect("a small image");
        newest.click();
        shown(&mut harness, "Use these settings");
        harness.check_accessibility();
        for name in ["Start from it", "Save as file", "Delete", "Close"] {
            assert!(harness.query_by_label(name).is_some(), "nothing is called {name:?}");
        }
        harness.get_by_label("Use these settings").click();
        complete(&mut harness);
        let again = harness.state().app().session().record().expect("a run");
        assert_eq!(again.frames, frames, "the same images");
        assert!(has(&harness, "Restored the settings in "));

        harness.get_by_label("Delete all").click_accesskit();
        harness.run_steps(2);
        kept(&mut harness, 0);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        harness.get_by_label("Restore 4 deleted images").click_accesskit();
        harness.run_steps(2);
        kept(&mut harness, 4);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 4);
    }
}

#[test]
fn one_image_is_kept_under_the_pointer_and_enlarged_and_by_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut harness = visit(TALL, folder.path());
    run(&mut harness);
    assert!(harness.query_by_label_contains(" in the gallery").is_none());
    let second = harness.get_by_label_contains("Image 2:").rect();
    harness.hover_at(second.center());
    harness.run_steps(4);
    harness.get_by_label_contains(" in the gallery").click();
    harness.run_steps(2);
    kept(&mut harness, 1);
    harness.get_by_label_contains("Image 3:").click();
    harness.run_steps(3);
    harness.get_by_label("Keep").click();
    harness.run_steps(2);
    kept(&mut harness, 2);
    // The first, enlarged.
    harness.get_by_label("All images").click();
    harness.run_steps(3);
    harness.get_by_label_contains("Image 1:").click();
    harness.run_steps(3);
    press(&mut harness, Key::K);
    kept(&mut harness, 3);
    let newest = harness.query_all_by_label_contains("Kept: ").next().expect("a small image");
    newest.click();
    shown(&mut harness, "Use these settings");
    harness.get_by_label("Delete").click();
    harness.run_steps(2);
    kept(&mut harness, 2);
    assert!(!has(&harness, "Use these settings"), "what is deleted is closed");
    assert!(has(&harness, "Restore the deleted image"));
}

#[test]
fn the_gallery_looks_as_it_did() {
    if !can_paint() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut harness = visit(TALL, folder.path());
    run(&mut harness);
    harness.get_by_label("Keep all").click();
    harness.run_steps(2);
    kept(&mut harness, 4);
    harness.event(egui::Event::PointerGone);
    harness.run_steps(4);
    // The line below the buttons names the folder, which is another one each time.
    let [top, end] = ["Gallery", "Delete all"].map(|name| harness.get_by_label(name).rect());
    let image = harness.render().expect("an image");
    let (left, top) = (top.min.x as u32 - 8, top.min.y as u32 - 8);
    let card = image::imageops::crop_imm(&image, left, top, 260, end.max.y as u32 + 4 - top);
    let options = egui_kittest::SnapshotOptions::new().threshold(1.5).max_failed_pixels(500_usize);
    egui_kittest::image_snapshot_options(&card.to_image(), "gallery", &options);
}
