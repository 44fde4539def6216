//! Starting from an image, and painting over what is redrawn.

use egui::{Event, Modifiers, PointerButton, Pos2};

use super::*;

/// A run of one image from which the next one starts.
fn started(size: egui::Vec2) -> Shown {
    let mut harness = finished(size, tiny(), |controls| {
        (controls.count, controls.sampling.steps) = (1, 4);
    });
    harness.get_by_label("Start from this image").click();
    harness.run_steps(3);
    harness
}

fn redrawn(harness: &Shown) -> Vec<usize> {
    let controls = &harness.state().app().session().controls;
    let init = controls.init.as_ref().expect("a start image");
    (0..init.redrawn.len()).filter(|&at| init.redrawn[at]).collect()
}

fn press(harness: &mut Shown, pos: Pos2, pressed: bool) {
    harness.event(Event::PointerMoved(pos));
    let (button, modifiers) = (PointerButton::Primary, Modifiers::NONE);
    harness.event(Event::PointerButton { pos, button, pressed, modifiers });
    harness.run_steps(2);
}

#[test]
fn a_run_starts_from_an_image_at_the_chosen_strength() {
    for size in [TALL, TALL_PHONE] {
        let mut harness = started(size);
        assert!(has(&harness, "Runs start from"), "it is said");
        harness.get_by_role_and_label(Role::Slider, "Strength").set_value_accesskit(0.5);
        harness.run_steps(3);
        harness.check_accessibility();
        let before = harness.state().app().session().record().expect("a run").frames.clone();
        harness.get_by_label("Generate").click();
        complete(&mut harness);
        let record = harness.state().app().session().record().expect("a run");
        assert_eq!((record.steps(), record.frames.len()), (2, 3));
        assert_ne!(record.frames.last(), before.last());
        harness.get_by_label("Start from noise again").click_accesskit();
        harness.run_steps(3);
        assert!(harness.state().app().session().controls.init.is_none());
    }
}

#[test]
fn runs_start_from_an_image_that_is_pasted() {
    let mut harness = opened(TALL, tiny());
    let image = egui::ColorImage::filled([12, 6], egui::Color32::RED);
    harness.event(Event::PasteImage(Arc::new(image)));
    harness.run_steps(3);
    assert!(has(&harness, "Runs start from pasted image."));
    let init = harness.state().app().session().controls.init.clone().expect("a start image");
    assert_eq!((init.name.as_str(), init.size), ("pasted image", [8, 8]));
    assert_eq!((init.shown[0], init.shown[64]), (1.0, -1.0), "red");
}

#[test]
fn patches_are_painted_by_pointer_and_keys_and_undone() {
    let mut harness = started(TALL);
    harness.get_by_label("Paint what to redraw").click_accesskit();
    harness.run_steps(3);
    harness.check_accessibility();
    // Four by four patches; a stroke over the first two of the second row.
    let stage = harness.get_by_label_contains("Patches to redraw: 0 of 16").rect();
    let patch = |x: f32, y: f32| stage.min + vec2(x + 0.5, y + 0.5) * stage.size() / 4.0;
    press(&mut harness, patch(0.0, 1.0), true);
    harness.event(Event::PointerMoved(patch(1.0, 1.0)));
    harness.run_steps(2);
    press(&mut harness, patch(1.0, 1.0), false);
    assert_eq!(redrawn(&harness), [4, 5]);
    harness.get_by_label_contains("Patches to redraw: 2 of 16").focus();
    harness.run_steps(2);
    for key in [Key::ArrowLeft, Key::ArrowUp, Key::Space] {
        harness.key_press(key);
        harness.run_steps(2);
    }
    assert_eq!(redrawn(&harness), [4, 5, 15], "from the first patch around both edges");
    for left in [&[4, 5][..], &[]] {
        harness.get_by_label("Undo").click();
        harness.run_steps(3);
        assert_eq!(redrawn(&harness), left);
    }
}

#[test]
fn a_sweep_draws_a_table() {
    let mut harness = opened(TALL, tiny());
    let edit = harness.get_by_role_and_label(Role::TextInput, "Rows");
    edit.set_text_value_accesskit("steps=2,3");
    harness.run_steps(3);
    harness.get_by_label("Draw the table").click_accesskit();
    harness.run_steps(2);
    until(&mut harness, "a table", |app| app.session().table().is_some());
    harness.run_steps(3);
    harness.check_accessibility();
    assert!(has(&harness, "Save table") && has(&harness, "Save C"));
    let session = harness.state().app().session();
    let table = session.table().expect("a table");
    let lines: Vec<_> = table.csv.lines().collect();
    assert_eq!((lines.len(), lines[0]), (7, "steps,guidance,C"));
    assert_eq!(session.controls.sampling.steps, 3, "the controls are as before");
    assert!(session.sweep_progress().is_none());
    // What is wrong is said.
    let edit = harness.get_by_role_and_label(Role::TextInput, "Rows");
    edit.set_text_value_accesskit("colour=1,2");
    harness.run_steps(3);
    harness.get_by_label("Draw the table").click_accesskit();
    harness.run_steps(3);
    assert!(has(&harness, "colour is not a setting"));
}
