//! The baselines of the paper beside DiffMoE: dense models, token choice and expert choice. What a model lacks is not
//! shown.

use diffmoe_viewer::session::{Card, Overlay, Selection};

use super::*;

/// A model of the recorded cases.
fn fixture(name: &str) -> ModelSource {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    ModelSource::Path(root.join(name).join("model.safetensors"))
}

/// Opens a model of the recorded cases and draws with it.
fn draw_with(harness: &mut Shown, name: &str) {
    harness.state_mut().app_mut().session_mut().load(fixture(name));
    until(harness, name, |app| {
        let source = app.session().model().map(|model| &model.source);
        let is_open = matches!(source, Some(ModelSource::Path(path)) if path.parent().is_some_and(|p| p.ends_with(name)));
        is_open && app.session().phase() == Phase::Ready
    });
    let session = harness.state_mut().app_mut().session_mut();
    (session.controls.sampling.seed, session.controls.count, session.controls.sampling.steps) =
        (5, 2, 3);
    session.generate();
    complete(harness);
}

/// Explore after a run of a model of the recorded cases.
fn explored(size: egui::Vec2, name: &str) -> Shown {
    let mut harness = opened(size, fixture(name));
    harness.key_press(Key::E);
    harness.run_steps(3);
    draw_with(&mut harness, name);
    harness
}

#[test]
fn models_without_a_capacity_predictor_have_no_thresholds_to_ask_about() {
    for name in ["tc_flow", "ec_flow"] {
        for size in [DESKTOP, PHONE] {
            let mut harness = explored(size, name);
            let record = harness.state().app().session().record().expect("a run");
            assert!(record.trace.has_scores() && !record.trace.blocks().is_empty(), "{name}");
            let base = Selection { step: Some(1), patch: Some(5), ..Selection::default() };
            for card in [Card::Experts, Card::Patch, Card::Gallery, Card::Place, Card::Compare] {
                let overlay = if card == Card::Place { Overlay::HowMany } else { Overlay::Who };
                // A shift that a link of another model left behind changes nothing.
                let chosen = Selection { card, overlay, shift: 2.0, ..base };
                harness.state_mut().app_mut().explore(chosen);
                harness.run_steps(3);
                for absent in ["What if", "Margin", "threshold", "log-odds", "γ shift"] {
                    assert!(!has(&harness, absent), "{name} {card:?} shows {absent:?}");
                }
                assert!(has(&harness, "Image at noise") && has(&harness, "experts per patch"));
                harness.check_accessibility();
            }
            harness.state_mut().app_mut().explore(Selection { card: Card::Patch, ..base });
            harness.run_steps(3);
            assert!(has(&harness, "Expert 3 takes the patch") || has(&harness, "does not take it"));
            // Muting needs no thresholds.
            let runs = harness.state().app().session().history().len();
            harness.key_press(Key::Num2);
            harness.key_press(Key::X);
            harness.run_steps(3);
            until(&mut harness, "the other run", |app| app.session().history().len() > runs);
            let muted = harness.state().app().session().history().last().expect("a run");
            for forward in muted.trace.forwards() {
                assert!(forward.layers[0].masks.iter().all(|mask| mask >> 2 & 1 == 0));
            }
        }
    }
}

#[test]
fn baselines_are_compared_with_the_model_and_with_each_other() {
    let pairs = [
        ("dense_flow", "diffmoe_flow"),
        ("diffmoe_flow", "dense_flow"),
        ("tc_flow", "diffmoe_flow"),
        ("diffmoe_flow", "ec_flow"),
        ("ec_flow", "tc_flow"),
        ("dense_flow", "dense_flow"),
    ];
    for (b, a) in pairs {
        for size in [DESKTOP, PHONE] {
            let mut harness = explored(size, b);
            harness.key_press(Key::B);
            harness.run_steps(3);
            draw_with(&mut harness, a);
            let selection = Selection { card: Card::Compare, ..Selection::default() };
            harness.state_mut().app_mut().explore(selection);
            harness.run_steps(4);
            let place = format!("{a} beside {b}");
            for name in
                ["Image at noise", "B, image at noise", "RMS of all results", "Swap A and B"]
            {
                assert!(has(&harness, name), "{place}: nothing is called {name:?}");
            }
            let has_experts = !a.starts_with("dense") && !b.starts_with("dense");
            assert_eq!(has(&harness, "C of the run, A − B"), has_experts, "{place}");
            assert_eq!(has(&harness, "no experts"), a.starts_with("dense"), "{place}");
            harness.check_accessibility();
            harness.get_by_role_and_label(Role::Button, "Swap A and B").click();
            harness.run_steps(4);
            assert_eq!(has(&harness, "no experts"), b.starts_with("dense"), "{place}, swapped");
            assert!(has(&harness, "B, image at noise"), "{place}, swapped");
            harness.check_accessibility();
        }
    }
}
