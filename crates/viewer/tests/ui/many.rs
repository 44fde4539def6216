//! Explore with few and with many experts, on small and on large grids, with prompts, on a small screen and on a large one.

use diffmoe::engine::{ForwardRouting, LayerRouting, Scores};
use diffmoe::scheduler::Branch;
use diffmoe::trace::Trace;
use diffmoe_viewer::session::{Card, Overlay, Selection};
use egui::epaint::Shape;

use super::*;

const LARGE: egui::Vec2 = vec2(3840.0, 2160.0);

/// A trace of three blocks at four steps, two images: masks and scores without a pattern.
fn trace(grid: [usize; 2], experts: usize) -> Trace {
    let config = format!(
        r#"{{"name": "many", "kind": "diffmoe", "t_kind": "flow", "space": "pixels",
        "params": {{"input_size": [{}, {}], "in_channels": 3, "num_classes": 5, "patch_size": 2, "depth": 6,
            "hidden_size": 16, "num_heads": 2, "learn_sigma": false,
            "MoE_config": {{"num_experts": {experts}, "interleave": true}}}}}}"#,
        2 * grid[0],
        2 * grid[1]
    );
    let config = Config::from_json(&config).expect("a configuration");
    let mut trace = Trace::new(&config, vec![vec!["ant".into(), "bee".into()]]);
    let mut state = 7_u64;
    let mut number = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let tokens = 2 * grid[0] * grid[1];
    for step in 0..4 {
        let layers = [1, 3, 5].map(|block| {
            let need: Vec<half::f16> =
                (0..tokens * experts).map(|_| half::f16::from_f32(8.0 * number() - 6.0)).collect();
            let mask = |needs: &[half::f16]| {
                let bits = needs.iter().enumerate();
                bits.fold(0_u64, |mask, (e, need)| mask | u64::from(need.to_f32() > 0.0) << e)
            };
            let masks = need.chunks_exact(experts).map(mask).collect();
            let gate = need.iter().map(|need| half::f16::from_f32(need.to_f32().sin())).collect();
            let scores = Some(Scores { gate, need, thresholds: vec![0.5; experts] });
            LayerRouting { block, masks, scores }
        });
        let time = step as f32 / 4.0;
        let branch = Branch::Conditional;
        trace.extend(vec![ForwardRouting {
            step,
            time,
            branch,
            scale: 1,
            layers: layers.to_vec(),
        }]);
    }
    trace
}

/// Explore with such a trace.
fn explored(size: egui::Vec2, grid: [usize; 2], experts: usize) -> Shown {
    let mut harness = window(size, launch(bytes("none.safetensors", vec![7; 100]), false));
    until(&mut harness, "a note", |app| !app.session().notes().is_empty());
    let session = harness.state_mut().app_mut().session_mut();
    session.dismiss(0);
    let bytes = trace(grid, experts).to_safetensors().expect("bytes");
    session.open_trace("many.safetensors", &bytes);
    harness.run_steps(5);
    harness
}

/// Meshes with a texture that repeats, by their number of corners.
fn repeated(harness: &Shown) -> Vec<(egui::TextureId, usize)> {
    fn meshes(shape: &Shape, found: &mut Vec<(egui::TextureId, usize)>) {
        match shape {
            Shape::Vec(shapes) => shapes.iter().for_each(|shape| meshes(shape, found)),
            // Pictures have places from 0 to 1.
            Shape::Mesh(mesh) if mesh.vertices.iter().any(|v| v.uv.x > 1.5 || v.uv.y > 1.5) => {
                found.push((mesh.texture_id, mesh.vertices.len()));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for clipped in &harness.output().shapes {
        meshes(&clipped.shape, &mut found);
    }
    found
}

#[test]
fn every_number_of_experts_and_every_grid_is_shown() {
    for (grid, experts) in
        [([4, 4], 2), ([4, 4], 64), ([8, 8], 12), ([16, 4], 3), ([5, 31], 32), ([64, 64], 16)]
    {
        for size in [DESKTOP, PHONE, LARGE, vec2(1024.0, 600.0)] {
            let mut harness = explored(size, grid, experts);
            let last = Some(experts - 1);
            let base =
                Selection { step: Some(1), expert: last, patch: Some(15), ..Selection::default() };
            let cards = [Card::Experts, Card::Noise, Card::Patch, Card::Gallery, Card::Place];
            let overlays =
                [Overlay::Who, Overlay::HowMany, Overlay::Margin, Overlay::Image, Overlay::Who];
            for (card, overlay) in cards.into_iter().zip(overlays) {
                harness.state_mut().app_mut().explore(Selection { card, overlay, ..base });
                harness.run_steps(3);
                let place = format!("{grid:?} {experts} {size} {card:?}");
                assert!(has(&harness, "Image at noise 0.8"), "{place}");
                if card == Card::Experts {
                    assert!(has(&harness, &format!("Expert {}: ", experts - 1)), "{place}");
                }
                harness.check_accessibility();
            }
        }
    }
}

#[test]
fn experts_beyond_eight_have_a_second_channel_wherever_colour_speaks() {
    for size in [DESKTOP, PHONE] {
        let few = explored(size, [8, 8], 8);
        let hatching: std::collections::BTreeSet<_> =
            repeated(&few).into_iter().map(|(id, _)| id).collect();
        assert!(hatching.len() <= 1, "hatching alone: {hatching:?}");
        let mut many = explored(size, [32, 32], 32);
        many.run_steps(2);
        let found = repeated(&many);
        let textures: std::collections::BTreeSet<_> = found.iter().map(|(id, _)| *id).collect();
        assert!(textures.len() >= 3, "dots, columns and rows: {textures:?}");
        // A band of four steps has six places above each other.
        let bands = found.iter().filter(|(_, corners)| *corners == 12).count();
        let rivers = if size == PHONE { 1 } else { 3 };
        assert_eq!(bands, 24 * rivers, "a pattern for each band beyond eight");
        // Patches are too small for numbers: all of an expert are in one mesh.
        let patches = found.iter().filter(|(_, corners)| *corners > 40).count();
        assert!(patches >= 20, "{patches} experts beyond eight on the stage");
    }
}

#[test]
fn frames_of_a_large_run_are_made_of_few_shapes() {
    let mut harness = explored(DESKTOP, [64, 64], 32);
    for overlay in [Overlay::Who, Overlay::HowMany, Overlay::Margin] {
        let selection = Selection { overlay, step: Some(2), ..Selection::default() };
        harness.state_mut().app_mut().explore(selection);
        harness.run_steps(4);
        let before = harness.state().app().explore_makings();
        harness.run_steps(10);
        assert_eq!(harness.state().app().explore_makings(), before, "nothing is made anew");
        let shapes = harness.output().shapes.len();
        assert!(shapes < 4000, "{overlay:?}: {shapes} shapes for 4096 patches");
    }
}

/// What a frame costs while nothing changes: layout and shapes, without the GPU. `--run-ignored all`, in release.
#[test]
#[ignore = "measures time, which a busy machine does not keep"]
fn what_a_frame_costs() {
    for (size, grid, experts) in [
        (DESKTOP, [8, 8], 8),
        (DESKTOP, [16, 16], 8),
        (DESKTOP, [64, 64], 32),
        (PHONE, [64, 64], 32),
        (LARGE, [64, 64], 32),
    ] {
        let mut harness = explored(size, grid, experts);
        for overlay in [Overlay::Who, Overlay::HowMany, Overlay::Margin] {
            let selection =
                Selection { overlay, step: Some(2), patch: Some(9), ..Selection::default() };
            harness.state_mut().app_mut().explore(selection);
            harness.run_steps(10);
            let began = Instant::now();
            harness.run_steps(50);
            let each = began.elapsed().as_secs_f64() * 20.0;
            println!("{size} {grid:?} {experts} experts, {overlay:?}: {each:.2} ms a frame");
        }
    }
}

/// Whether words are painted, whether or not they have a name.
fn painted(harness: &Shown, words: &str) -> bool {
    fn is_in(shape: &Shape, words: &str) -> bool {
        match shape {
            Shape::Vec(shapes) => shapes.iter().any(|shape| is_in(shape, words)),
            Shape::Text(text) => text.galley.text().contains(words),
            _ => false,
        }
    }
    harness.output().shapes.iter().any(|clipped| is_in(&clipped.shape, words))
}

#[test]
fn a_held_finger_shows_the_loupe_until_it_goes() {
    let mut harness = explored(PHONE, [8, 8], 32);
    let at = harness.get_by_label_contains("Image at noise").rect().center() + vec2(5.0, 5.0);
    assert!(!painted(&harness, "row 5, column 5"));
    harness.event(egui::Event::PointerMoved(at));
    harness.drag_at(at);
    harness.run_steps(3);
    assert!(painted(&harness, "row 5, column 5") && painted(&harness, "block 3"));
    // It follows the finger.
    harness.event(egui::Event::PointerMoved(at - vec2(25.0, 0.0)));
    harness.run_steps(3);
    assert!(painted(&harness, "row 5, column 4"));
    harness.drop_at(at - vec2(25.0, 0.0));
    harness.event(egui::Event::PointerGone);
    harness.run_steps(3);
    assert!(!painted(&harness, "row 5, column 4"), "the patch stays selected, the loupe goes");
}

#[test]
fn latents_are_explored_over_previews_and_decoded_images() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let model = ModelSource::Path(root.join("diffmoe_flow/model.safetensors"));
    for size in [DESKTOP, PHONE] {
        let mut harness = opened(size, model.clone());
        harness.key_press(Key::E);
        harness.run_steps(3);
        let draw = |harness: &mut Shown| {
            let session = harness.state_mut().app_mut().session_mut();
            (session.controls.sampling.steps, session.controls.count) = (3, 2);
            session.generate();
            complete(harness);
        };
        draw(&mut harness);
        let rendering = |harness: &Shown| {
            harness.state().app().session().record().map(|record| record.rendering(3))
        };
        assert_eq!(rendering(&harness), Some(Rendering::Latents));
        harness.state_mut().app_mut().session_mut().load(decoder());
        until(&mut harness, "a decoder", |app| app.session().decoder().is_some());
        complete(&mut harness);
        assert_eq!(rendering(&harness), Some(Rendering::Decoded));
        for (card, overlay) in [
            (Card::Experts, Overlay::Who),
            (Card::Noise, Overlay::Margin),
            (Card::Gallery, Overlay::Image),
            (Card::Place, Overlay::HowMany),
        ] {
            for step in [0, 2] {
                let chosen = Selection {
                    card,
                    overlay,
                    step: Some(step),
                    patch: Some(3),
                    ..Selection::default()
                };
                harness.state_mut().app_mut().explore(chosen);
                harness.run_steps(3);
                assert!(has(&harness, "Image at noise") && has(&harness, "experts per patch"));
                harness.check_accessibility();
            }
        }
    }
}

#[test]
fn playing_has_speeds() {
    for size in [DESKTOP, PHONE] {
        let mut harness = explored(size, [4, 4], 4);
        for speed in ["×1", "×2", "×4", "×½", "×1"] {
            let name = format!("Speed of playing: {speed}");
            let button = harness.get_by_label(&name);
            assert!(size == DESKTOP || button.rect().height() >= 34.0);
            button.click();
            harness.run_steps(3);
        }
    }
}

/// Images for looking at: `--run-ignored all` with `EXPLORE_IMAGES` set to a folder.
#[test]
#[ignore = "writes images"]
fn pictures_of_many_experts() {
    let Ok(folder) = std::env::var("EXPLORE_IMAGES") else {
        println!("skipped: EXPLORE_IMAGES names no folder");
        return;
    };
    for (name, size, grid, experts) in [
        ("small", DESKTOP, [8, 8], 32),
        ("large", DESKTOP, [32, 32], 32),
        ("most", DESKTOP, [16, 16], 64),
        ("phone", PHONE, [32, 32], 32),
        ("screen", LARGE, [64, 64], 32),
    ] {
        let mut harness = explored(size, grid, experts);
        let card = if name == "large" { Card::Place } else { Card::Experts };
        let chosen = Selection { step: Some(2), patch: Some(9), card, ..Selection::default() };
        harness.state_mut().app_mut().explore(chosen);
        harness.run_steps(6);
        let image = harness.render().expect("an image");
        image.save(Path::new(&folder).join(format!("many-{name}.png"))).expect("a file");
    }
}

#[test]
fn runs_of_prompts_are_explored() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let model = ModelSource::Path(root.join("t2i_tiny/model.safetensors"));
    for size in [DESKTOP, PHONE] {
        let mut harness = finished(size, model.clone(), |controls| {
            (controls.sampling.steps, controls.count) = (2, 2);
            controls.prompt = "a red robot".to_owned();
        });
        open_explore(&mut harness);
        assert!(has(&harness, "Image at noise 0.5: a red robot"));
        harness.key_press(Key::Num1);
        harness.key_press(Key::X);
        harness.run_steps(3);
        until(&mut harness, "the other run", |app| app.session().history().len() > 1);
        complete(&mut harness);
        let fragment = harness.state().app().share().expect("a link");
        assert_eq!(Share::parse(&fragment).expect("a link").controls.prompt, "a red robot");
        harness.check_accessibility();
    }
}
