//! The app as a user meets it: what has a name, what happens when it is pressed, what is said when something
//! is wrong. Everything is found by the name that a screen reader would say.

mod baselines;
mod compare;
mod controls;
mod device;
mod explore;
mod gallery;
mod gaps;
mod init;
mod labels;
mod looks;
mod many;
mod mirror;
mod take;
mod window;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diffmoe::checkpoint::{CONFIG_KEY, TensorOut, write_safetensors};
use diffmoe::model::{Config, Objective};
use diffmoe::pipeline::Backend;
use diffmoe::platform::Bytes;
use diffmoe::scheduler::{ALL, SchedulerKind, gaussian};
use diffmoe_viewer::session::{Controls, ModelSource, Phase, Record, Rendering, Share};
use diffmoe_viewer::{App, Launch};
use egui::{Key, Role, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT, Queryable};
use window::{
    DENSE, DESKTOP, LATENTS, PHONE, Shown, TALL, TALL_PHONE, TINY, bytes, can_paint, click,
    complete, decoder, draw, explored, file, finished, has, launch, open_explore, opened, press,
    selection, tiny, until, window,
};

#[test]
fn every_control_has_a_name() {
    let harness = opened(TALL, tiny());
    harness.check_accessibility();
    for name in [
        "Generate",
        "One step",
        "Another seed",
        "Seed",
        "Images",
        "Steps",
        "Guidance",
        "Limit guidance to an interval",
        "Vary the seed",
        "Blend subjects",
        "Blend styles",
        "Open an image",
        "Draw the table",
        "Euler",
        "Heun",
        "Each token",
        "Whole pool",
        "Override threshold",
        "Threshold shift",
        "Open a file",
        "URL of a model file",
        "Help",
        "Subject: varied",
        "Style: varied",
        "Theme: Dark",
        "Model emoji",
    ] {
        assert!(has(&harness, name), "nothing is called {name:?}");
    }
}

#[test]
fn the_first_frames_of_a_page_show_one_part_after_another() {
    for size in [DESKTOP, PHONE] {
        let mut harness = opened(size, tiny());
        assert!(harness.state().app().is_grown(), "a window shows all of it at once");
        harness.state_mut().app_mut().begin_slowly();
        harness.step();
        assert!(has(&harness, "Generate") && !has(&harness, "Guidance"));
        harness.run_steps(4);
        assert!(harness.state().app().is_grown() && has(&harness, "Guidance"));
        harness.check_accessibility();
    }
}

#[test]
fn a_run_can_be_paused_walked_on_and_cancelled() {
    let mut harness = opened(DESKTOP, tiny());
    harness.state_mut().app_mut().session_mut().controls.sampling.steps = 200;
    harness.get_by_label("Generate").click();
    until(&mut harness, "a first step", |app| {
        app.session().record().is_some_and(|r| r.finished_steps() > 0)
    });
    harness.step();
    harness.get_by_label("Pause").click();
    until(&mut harness, "the pause", |app| app.session().phase() == Phase::Paused);
    harness.run_steps(20);
    let steps = |app: &App| app.session().record().map_or(0, Record::finished_steps);
    let before = steps(harness.state().app());
    assert!(before < 200);
    harness.get_by_label("One step").click();
    until(&mut harness, "one more step", |app| {
        steps(app) > before && app.session().phase() == Phase::Paused
    });
    harness.run_steps(20);
    assert_eq!(steps(harness.state().app()), before + 1);
    // The space key goes on, and Esc gives up what was not finished.
    harness.key_press(Key::Space);
    until(&mut harness, "resuming", |app| steps(app) > before + 1);
    harness.key_press(Key::Escape);
    harness.run_steps(3);
    assert_eq!(harness.state().app().session().phase(), Phase::Ready);
    assert!(has(&harness, "Generate"), "another run may begin");
}

#[test]
fn a_finished_run_shows_where_its_tokens_went() {
    let mut harness = finished(DESKTOP, tiny(), |_| ());
    for text in [
        "Capacity over noise",
        "Plot of C over noise levels",
        "Tokens per expert in block 1",
        "even share",
        "Token map",
        "After step 3 of 3, noise level 0.00",
        "Timings",
        "per step",
        "Image 4:",
        "C = ",
    ] {
        assert!(has(&harness, text), "nothing says {text:?}");
    }
    harness.get_by_label("Block 3").click();
    harness.get_by_label("How many").click();
    harness.run_steps(4);
    assert!(has(&harness, "Tokens per expert in block 3"));
    assert!(has(&harness, "Scale: 0 to"), "the colours of the map are explained");
    harness.get_by_label("One expert").click();
    harness.run_steps(4);
    harness.get_by_label("Expert 2").click();
    harness.key_press(Key::ArrowLeft);
    harness.run_steps(4);
    assert!(has(&harness, "After step 2 of 3"));
    harness.key_press(Key::Home);
    harness.run_steps(4);
    assert!(has(&harness, "Noise, before the first step"));
    harness.check_accessibility();
}

#[test]
fn pressing_again_draws_something_else_and_a_changed_setting_keeps_the_seed() {
    let mut harness = finished(DESKTOP, tiny(), |_| ());
    assert_eq!(harness.state().app().session().controls.sampling.seed, 5);
    harness.state_mut().app_mut().session_mut().controls.sampling.guidance = 3.0;
    harness.run_steps(2);
    harness.get_by_label("Generate").click();
    complete(&mut harness);
    assert_eq!(
        harness.state().app().session().controls.sampling.seed,
        5,
        "to compare, only one thing changes"
    );
    harness.get_by_label("Generate another").click();
    harness.run_steps(3);
    complete(&mut harness);
    assert_ne!(harness.state().app().session().controls.sampling.seed, 5);
    assert!(has(&harness, "Earlier runs"));
    let ends = |name: Option<String>| name.is_some_and(|name| name.ends_with(", seed 5"));
    harness
        .query_all_by_label_contains("seed 5")
        .find(|run| ends(run.accesskit_node().label()))
        .expect("the first run")
        .click();
    harness.run_steps(4);
    assert_eq!(harness.state().app().session().record().map(|r| r.settings.sampling.seed), Some(5));
}

#[test]
fn a_phone_shows_the_image_first_and_generate_always() {
    let mut harness = finished(PHONE, tiny(), |_| ());
    let screen = egui::Rect::from_min_size(egui::Pos2::ZERO, PHONE);
    let button = harness.get_by_label("Generate another").rect();
    assert!(screen.contains_rect(button), "{button:?}");
    assert!(button.height() >= 44.0, "big enough for a thumb: {button:?}");
    let image = harness.get_by_label_contains("Image 1:").rect();
    assert!(screen.contains_rect(image) && image.width() > 100.0, "{image:?}");
    harness.get_by_role_and_label(Role::Button, "Routing").click();
    harness.run_steps(4);
    assert!(has(&harness, "Capacity over noise"));
    harness.get_by_role_and_label(Role::Button, "Model").click();
    harness.run_steps(4);
    assert!(has(&harness, "Timings"));
    harness.check_accessibility();
}

#[test]
fn a_bad_file_is_told_and_the_model_stays() {
    let mut harness = opened(DESKTOP, tiny());
    harness.state_mut().app_mut().session_mut().load(bytes("broken.safetensors", vec![7; 100]));
    until(&mut harness, "a note", |app| !app.session().notes().is_empty());
    harness.run_steps(3);
    assert!(has(&harness, "broken.safetensors"), "{:?}", harness.state().app().session().notes());
    harness.get_by_label("Dismiss").click();
    harness.run_steps(3);
    assert!(!has(&harness, "broken.safetensors"));
    harness.get_by_label("Generate").click();
    complete(&mut harness);
}

#[test]
fn wide_images_are_shown_wide_with_their_own_patches() {
    let wide = TINY.replace(r#""input_size": 8"#, r#""input_size": [4, 12]"#);
    let mut harness =
        finished(DESKTOP, file("wide.safetensors", &wide), |controls| controls.count = 2);
    let record = harness.state().app().session().record().expect("a run");
    assert_eq!(record.images(1).expect("a step").size, [4, 12]);
    assert_eq!(record.trace.grid(), [2, 6]);
    let cells: Vec<_> =
        harness.query_all_by_label_contains("Image ").map(|node| node.rect()).collect();
    let [first, second] = cells[..] else { panic!("two images: {cells:?}") };
    for cell in [first, second] {
        assert!((cell.width() / cell.height() - 3.0).abs() < 0.02, "{cell:?}");
    }
    assert!(!first.intersects(second));
    assert!(has(&harness, "12×4 pixels"));
    // The patch under the pointer: second row, fifth of six columns.
    let at = first.min + vec2(first.width() * 4.5 / 6.0, first.height() * 0.75);
    harness.get_by_label("How many").click();
    harness.run_steps(4);
    harness.hover_at(at);
    harness.run_steps(8);
    assert!(has(&harness, "row 2, column 5"));
}

#[test]
fn models_without_experts_are_shown_too() {
    let one = finished(DESKTOP, file("dense.safetensors", DENSE), |controls| controls.count = 1);
    for text in ["This model has no experts", "so there is no routing", "Image 1:", "Class: varied"]
    {
        assert!(has(&one, text), "nothing says {text:?}");
    }
    let many = finished(PHONE, file("dense.safetensors", DENSE), |controls| controls.count = 16);
    assert!(has(&many, "Image 16:"));
}

#[test]
fn latents_are_previewed_and_with_a_decoder_decoded() {
    let mut harness = finished(DESKTOP, file("latents.safetensors", LATENTS), |_| ());
    assert!(has(&harness, "Latent preview"), "what is on the stage");
    assert!(has(&harness, "This model generates latents with 4 channels"), "what to do");
    assert!(!has(&harness, "Decode this step"));
    harness.state_mut().app_mut().session_mut().load(decoder());
    until(&mut harness, "decoding", |app| matches!(app.session().phase(), Phase::Decoding { .. }));
    harness.step();
    complete(&mut harness);
    assert!(has(&harness, "Decoded") && !has(&harness, "Latent preview"));
    for text in ["Decoder model.safetensors", "AutoencoderKL", "2×2 pixels per cell"] {
        assert!(has(&harness, text), "nothing says {text:?}");
    }
    // Earlier steps are decoded when somebody asks.
    harness.key_press(Key::ArrowLeft);
    harness.run_steps(3);
    assert!(has(&harness, "Decoder preview"));
    harness.get_by_label("Decode this step").click();
    complete(&mut harness);
    let rendering = |harness: &Shown, frame| {
        harness.state().app().session().record().map(|record| record.rendering(frame))
    };
    assert_eq!(rendering(&harness, 2), Some(Rendering::Decoded));
    assert_eq!(rendering(&harness, 1), Some(Rendering::Preview));
    assert!(has(&harness, "Decoded"));
    harness.check_accessibility();
    // It is below the edge of the window.
    harness.get_by_label("Remove the decoder").click_accesskit();
    harness.run_steps(3);
    assert!(!has(&harness, "Decoder model.safetensors"));
    assert!(has(&harness, "Decoded"), "what is drawn stays");
}

#[test]
fn decoding_shows_how_far_it_is_and_can_be_paused() {
    let mut harness = opened(PHONE, file("latents.safetensors", LATENTS));
    harness.state_mut().app_mut().session_mut().load(decoder());
    until(&mut harness, "a decoder", |app| app.session().decoder().is_some());
    harness.state_mut().app_mut().session_mut().controls.count = 16;
    harness.get_by_label("Generate").click();
    until(&mut harness, "decoding", |app| matches!(app.session().phase(), Phase::Decoding { .. }));
    // As the space key does, before the frame that would go on.
    harness.state_mut().app_mut().session_mut().pause();
    harness.run_steps(3);
    assert_eq!(harness.state().app().session().phase(), Phase::Paused);
    assert!(has(&harness, "Resume") && has(&harness, "Decoder preview"));
    harness.key_press(Key::Space);
    harness.step();
    complete(&mut harness);
    assert!(has(&harness, "Decoded"));
    harness.check_accessibility();
}

#[test]
fn without_a_model_there_is_a_sentence_and_a_way_on() {
    let mut harness = window(DESKTOP, launch(bytes("broken.safetensors", vec![7; 100]), true));
    until(&mut harness, "a note", |app| !app.session().notes().is_empty());
    harness.run_steps(3);
    assert!(has(&harness, "No model is open"));
    assert!(has(&harness, "No model") && has(&harness, "Open a file"));
    harness.check_accessibility();
}

#[test]
fn the_first_image_comes_without_being_asked_and_a_shared_one_is_the_same() {
    let first = launch(tiny(), true);
    let mut harness = window(DESKTOP, first);
    complete(&mut harness);
    let session = harness.state().app().session();
    let share = Share::parse(&session.share().expect("a link")).expect("a good link");
    let frames = session.record().map(|record| record.frames.clone());
    let again = Launch { share: Some(share), ..launch(tiny(), true) };
    let mut shared = window(DESKTOP, again);
    complete(&mut shared);
    assert_eq!(shared.state().app().session().record().map(|record| record.frames.clone()), frames);
}

#[test]
fn help_lists_the_keys() {
    let mut harness = opened(DESKTOP, tiny());
    harness.key_press(Key::Questionmark);
    harness.run_steps(4);
    assert!(has(&harness, "generate, pause, resume") && has(&harness, "Capacity C"));
    harness.key_press(Key::Escape);
    harness.run_steps(4);
    assert!(!has(&harness, "generate, pause, resume"));
}

#[test]
fn the_phone_looks_as_it_did() {
    if !can_paint() {
        return;
    }
    let mut harness = finished(PHONE, tiny(), |_| ());
    harness.key_press(Key::M);
    harness.run_steps(4);
    // How long a step takes is never twice the same.
    let time = harness.get_by_label_contains(" per step").rect();
    harness.mask(egui::Rect::from_min_max(time.min, egui::pos2(PHONE.x, time.max.y)));
    // Letters and edges differ by a shade from one driver to the next.
    let options = egui_kittest::SnapshotOptions::new().threshold(1.5).max_failed_pixels(150_usize);
    harness.snapshot_options("phone", &options);
}
