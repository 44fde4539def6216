//! How Explore looks: screens compared with recorded ones, and the images of the documentation.

use diffmoe_viewer::session::{Card, Overlay, Scope, Selection};

use super::*;

/// The routing of an emoji in five steps of Euler's method, with scores: `diffmoe sample --class fox --seed 7 --count 1
/// --steps 5 --scheduler euler --trace fox.safetensors --trace-scores`.
const RECORDED: &[u8] = include_bytes!("../data/fox.safetensors");

/// Compares the screen with the image of that name. Letters and edges differ by a shade from one driver to the next.
pub(super) fn looks_like(harness: &mut Shown, name: &str) {
    harness.event(egui::Event::PointerGone);
    harness.run_steps(6);
    let options = egui_kittest::SnapshotOptions::new().threshold(1.5).max_failed_pixels(500_usize);
    harness.snapshot_options(name, &options);
}

#[test]
fn explore_looks_as_it_did() {
    if !can_paint() {
        return;
    }
    let mut harness = opened(DESKTOP, tiny());
    harness.state_mut().app_mut().session_mut().open_trace("fox.safetensors", RECORDED);
    harness.run_steps(4);
    let chosen =
        Selection { step: Some(3), expert: Some(4), patch: Some(27), ..Selection::default() };
    harness.state_mut().app_mut().explore(chosen);
    for (size, theme, name) in [
        (DESKTOP, egui::Theme::Dark, "explore-dark"),
        (DESKTOP, egui::Theme::Light, "explore-light"),
        (PHONE, egui::Theme::Dark, "explore-phone"),
    ] {
        harness.ctx.set_theme(theme);
        harness.set_size(size);
        looks_like(&mut harness, name);
    }
}

#[test]
fn two_runs_look_as_they_did() {
    if !can_paint() {
        return;
    }
    let mut harness = explored(DESKTOP, tiny());
    harness.key_press(Key::B);
    harness.run_steps(3);
    draw(&mut harness, |controls| controls.sampling.guidance = 3.0);
    let chosen = Selection { step: Some(2), expert: Some(1), ..selection(&harness) };
    harness.state_mut().app_mut().explore(chosen);
    for (size, name) in [(DESKTOP, "compare-dark"), (PHONE, "compare-phone")] {
        harness.set_size(size);
        looks_like(&mut harness, name);
    }
}

#[test]
fn a_muted_expert_looks_as_it_did() {
    if !can_paint() {
        return;
    }
    let mut harness = explored(DESKTOP, tiny());
    press(&mut harness, Key::Num1);
    let runs = harness.state().app().session().history().len();
    press(&mut harness, Key::X);
    until(&mut harness, "the other run", |app| app.session().history().len() > runs);
    complete(&mut harness);
    looks_like(&mut harness, "mute-tab");
}

#[test]
fn every_tab_looks_as_it_did() {
    if !can_paint() {
        return;
    }
    let mut harness = opened(DESKTOP, tiny());
    harness.state_mut().app_mut().session_mut().open_trace("fox.safetensors", RECORDED);
    harness.run_steps(4);
    for (card, overlay, name) in [
        (Card::Gallery, Overlay::HowMany, "gallery-tab"),
        (Card::Place, Overlay::Margin, "place-tab"),
    ] {
        let chosen =
            Selection { card, overlay, expert: Some(4), patch: Some(27), ..Selection::default() };
        harness.state_mut().app_mut().explore(chosen);
        looks_like(&mut harness, name);
    }
}

/// Images of the real app for the documentation, and for looking at: `--run-ignored all` with `EXPLORE_IMAGES`
/// set to a folder.
#[test]
#[ignore = "draws with a shipped model, which takes a minute"]
fn images_for_the_documentation() {
    let Ok(folder) = std::env::var("EXPLORE_IMAGES") else {
        println!("skipped: EXPLORE_IMAGES names no folder");
        return;
    };
    let model = std::env::var("EXPLORE_MODEL").unwrap_or("emoji".to_owned());
    let mut harness = opened(DESKTOP, ModelSource::Named(model));
    harness.key_press(Key::E);
    harness.run_steps(2);
    let controls = &mut harness.state_mut().app_mut().session_mut().controls;
    (controls.sampling.seed, controls.sampling.steps, controls.count) = (7, 10, 4);
    harness.state_mut().app_mut().session_mut().generate();
    complete(&mut harness);
    let shoot = |harness: &mut Shown, name: &str, selection: Selection| {
        harness.state_mut().app_mut().explore(selection);
        for (theme, dark) in [("dark", egui::Theme::Dark), ("light", egui::Theme::Light)] {
            harness.ctx.set_theme(dark);
            for (form, size) in [("desktop", DESKTOP), ("phone", PHONE)] {
                // Around the app the harness leaves a margin.
                harness.set_size(size + vec2(16.0, 16.0));
                harness.run_steps(6);
                let image = harness.render().expect("an image");
                let [wide, high] = [size.x, size.y].map(|side| side as u32);
                let image = image::imageops::crop_imm(&image, 8, 8, wide, high).to_image();
                let path = Path::new(&folder).join(format!("{name}-{form}-{theme}.png"));
                image.save(&path).expect("a file");
                assert!(image.width() as f32 >= size.x);
            }
        }
    };
    // What a frame costs while nothing changes: layout and shapes, without the GPU.
    harness.run_steps(20);
    let began = Instant::now();
    harness.run_steps(100);
    println!("a frame without changes: {:.2} ms", began.elapsed().as_secs_f64() * 10.0);
    let model = harness.state().app().session().model().expect("a model");
    let columns = model.config.grid()[1];
    let base = Selection {
        image: 1,
        step: Some(6),
        expert: Some(6),
        // In the middle of an image, where something is drawn.
        patch: Some(columns * (columns * 3 / 8) + columns / 2),
        ..Selection::default()
    };
    // Frames of the moving image in the README.
    for step in 0..10 {
        let moved = Selection { step: Some(step), layer: 2, ..base };
        shoot(&mut harness, &format!("step{step}"), moved);
    }
    shoot(&mut harness, "who", base);
    shoot(&mut harness, "many", Selection { overlay: Overlay::HowMany, card: Card::Place, ..base });
    shoot(
        &mut harness,
        "margin",
        Selection { overlay: Overlay::Margin, card: Card::Gallery, patch: None, ..base },
    );
    shoot(&mut harness, "patch", Selection { card: Card::Patch, shift: 1.5, layer: 0, ..base });
    shoot(&mut harness, "noise", Selection { card: Card::Noise, overlay: Overlay::Image, ..base });
    harness.set_size(DESKTOP);
    harness.state_mut().app_mut().explore(Selection { expert: Some(5), layer: 0, ..base });
    let runs = harness.state().app().session().history().len();
    harness.key_press(Key::X);
    harness.run_steps(3);
    until(&mut harness, "the other run", |app| app.session().history().len() > runs);
    shoot(&mut harness, "mute", Selection { expert: Some(5), layer: 0, card: Card::Mute, ..base });
    harness.key_press(Key::B);
    harness.run_steps(3);
    draw(&mut harness, |controls| controls.sampling.guidance = 4.0);
    shoot(&mut harness, "compare", Selection { card: Card::Compare, patch: None, ..base });
    shoot(&mut harness, "shift", Selection { shift: 1.5, scope: Scope::Block, ..base });
}
