//! Explore as a visitor meets it: one selection in all views, keys, links, muting, phones, models without experts.

use diffmoe_viewer::session::{Card, Overlay, Scope, Selection};

use super::*;

#[test]
fn opening_explore_draws_again_with_scores_and_shows_what_they_say() {
    let harness = explored(DESKTOP, tiny());
    let record = harness.state().app().session().record().expect("a run");
    assert!(record.trace.has_scores() && record.is_complete());
    assert_eq!(record.settings.sampling.seed, 5, "the same images");
    for name in [
        "C, experts per patch: ",
        "patches skipped by all: ",
        "From noise to image C ",
        "Image at noise 0.2",
        "Expert 3: ",
        "Over noise: step 5 of 5",
        "Shift of the thresholds in log-odds",
        "Margin",
        "Play the steps",
        "Cond.",
        "Copy link",
    ] {
        assert!(has(&harness, name), "nothing is called {name:?}");
    }
    harness.check_accessibility();
}

#[test]
fn keys_and_clicks_change_one_selection_and_the_link_carries_it() {
    let mut harness = explored(DESKTOP, tiny());
    for key in [Key::ArrowLeft, Key::ArrowLeft, Key::ArrowUp, Key::Num2] {
        harness.key_press(key);
        harness.run_steps(3);
    }
    let chosen = selection(&harness);
    assert_eq!((chosen.step, chosen.layer, chosen.expert), (Some(2), 0, Some(2)));
    assert!(has(&harness, "Over noise: step 3 of 5"));
    // A click on the image keeps the patch: the second row, the third column of four.
    let stage = harness.get_by_label_contains("Image at noise").rect();
    let at = stage.min + stage.size() * vec2(0.6, 0.4);
    harness.hover_at(at);
    harness.run_steps(3);
    assert_eq!(selection(&harness).patch, None, "pointing previews");
    assert!(has(&harness, "Row 2, column 3: "));
    harness.event(egui::Event::PointerButton {
        pos: at,
        button: egui::PointerButton::Primary,
        pressed: true,
        modifiers: egui::Modifiers::NONE,
    });
    harness.step();
    harness.event(egui::Event::PointerButton {
        pos: at,
        button: egui::PointerButton::Primary,
        pressed: false,
        modifiers: egui::Modifiers::NONE,
    });
    harness.run_steps(3);
    assert_eq!(selection(&harness).patch, Some(6));
    harness.event(egui::Event::PointerGone);
    harness.run_steps(3);
    assert!(has(&harness, "takes the patch") || has(&harness, "does not take it"));
    harness.get_by_role_and_label(Role::Button, "Margin").click();
    harness.get_by_role_and_label(Role::Button, "Gallery").click();
    harness.run_steps(3);
    let before = selection(&harness);
    assert_eq!((before.overlay, before.card), (Overlay::Margin, Card::Gallery));
    // The same link shows the same view of the same run.
    let fragment = harness.state().app().share().expect("a link");
    let share = Share::parse(&fragment).expect("a good link");
    let again = Launch { share: Some(share), ..launch(tiny(), true) };
    let mut shared = window(DESKTOP, again);
    complete(&mut shared);
    assert_eq!(selection(&shared), before);
    let traces = [&harness, &shared].map(|harness| {
        harness.state().app().session().record().map(|record| record.trace.to_json().ok())
    });
    assert_eq!(traces[0], traces[1]);
    // Esc lets go.
    harness.key_press(Key::Escape);
    harness.run_steps(3);
    let released = selection(&harness);
    assert_eq!((released.patch, released.expert), (None, None));
}

#[test]
fn nothing_is_made_anew_while_nothing_changes() {
    let mut harness = explored(DESKTOP, tiny());
    harness.run_steps(5);
    let before = harness.state().app().explore_makings();
    harness.run_steps(20);
    assert_eq!(harness.state().app().explore_makings(), before);
    harness.key_press(Key::ArrowLeft);
    harness.run_steps(3);
    assert!(harness.state().app().explore_makings() > before);
}

#[test]
fn an_expert_is_muted_and_compared_with_the_run_before() {
    let mut harness = explored(DESKTOP, tiny());
    harness.key_press(Key::Num1);
    harness.run_steps(3);
    let runs = harness.state().app().session().history().len();
    harness.key_press(Key::X);
    harness.run_steps(3);
    until(&mut harness, "the other run", |app| app.session().history().len() > runs);
    harness.run_steps(5);
    let session = harness.state().app().session();
    let shown = session.record().expect("a run");
    assert!(shown.controls.sampling.muted.is_empty(), "the run before stays on screen");
    let without = session.history().last().expect("a run");
    assert_eq!(without.controls.sampling.muted.to_string(), "3:1");
    assert_eq!(without.settings.sampling.seed, shown.settings.sampling.seed);
    for forward in without.trace.forwards() {
        assert!(forward.layers[1].masks.iter().all(|mask| mask >> 1 & 1 == 0));
    }
    assert!(has(&harness, "Mute"));
    harness.check_accessibility();
}

#[test]
fn muting_is_measured_for_every_expert_and_leaves_no_runs_behind() {
    let mut harness = explored(DESKTOP, tiny());
    let runs = harness.state().app().session().history().len();
    harness.get_by_label("Measure muting").click();
    harness.run_steps(3);
    assert!(has(&harness, "Stop measuring"));
    let end = Instant::now() + Duration::from_mins(1);
    while has(&harness, "Stop measuring") {
        assert!(Instant::now() < end, "eight short runs");
        harness.run_steps(4);
    }
    let session = harness.state().app().session();
    assert_eq!(session.history().len(), runs);
    assert!(session.controls.sampling.muted.is_empty());
    assert!(!has(&harness, "Measure muting"), "everything is measured");
}

#[test]
fn shifted_thresholds_are_shown_at_once_and_drawn_when_asked() {
    let mut harness = explored(DESKTOP, tiny());
    let c = |harness: &Shown| {
        harness.state().app().session().record().and_then(|record| record.trace.capacity())
    };
    let before = c(&harness).expect("experts");
    let chosen = selection(&harness);
    harness.state_mut().app_mut().explore(Selection { shift: 3.0, ..chosen });
    harness.run_steps(4);
    assert!(has(&harness, "first order"));
    assert!((selection(&harness).shift - 3.0).abs() < 0.01, "{:?}", selection(&harness));
    assert_eq!(c(&harness), Some(before), "nothing was drawn");
    harness.get_by_role_and_label(Role::Button, "Redraw").click();
    harness.run_steps(3);
    complete(&mut harness);
    assert!(c(&harness).expect("experts") < before, "higher thresholds take fewer tokens");
    assert!(selection(&harness).shift.abs() < 1e-6);
}

#[test]
fn a_phone_has_everything_within_reach_of_a_thumb() {
    let mut harness = explored(PHONE, tiny());
    let screen = egui::Rect::from_min_size(egui::Pos2::ZERO, PHONE);
    for name in ["Image at noise", "Step 5 of 5", "Play the steps"] {
        let rect = harness.get_by_label_contains(name).rect();
        assert!(screen.contains_rect(rect) && rect.height() >= 38.0, "{name}: {rect:?}");
    }
    for card in ["Noise", "Why", "Compare", "Mute", "Gallery", "Place", "Experts"] {
        harness.get_by_role_and_label(Role::Button, card).click_accesskit();
        harness.run_steps(4);
        // Tabs that have no room scroll into sight.
        let tab = harness.get_by_role_and_label(Role::Button, card).rect();
        assert!(screen.contains_rect(tab), "{card}: {tab:?}");
        harness.check_accessibility();
    }
    // A held finger chooses the patch under it.
    let at = harness.get_by_label_contains("Image at noise").rect().center() + vec2(5.0, 5.0);
    harness.event(egui::Event::PointerMoved(at));
    harness.event(egui::Event::PointerButton {
        pos: at,
        button: egui::PointerButton::Primary,
        pressed: true,
        modifiers: egui::Modifiers::NONE,
    });
    harness.run_steps(3);
    assert_eq!(selection(&harness).patch, Some(10));
}

#[test]
fn models_without_experts_say_so() {
    for size in [DESKTOP, PHONE] {
        let mut harness = finished(size, file("dense.safetensors", DENSE), |_| ());
        harness.key_press(Key::E);
        harness.run_steps(4);
        assert!(has(&harness, "Image at noise"));
        assert!(!has(&harness, "Gallery") && !has(&harness, "What if"));
        harness.check_accessibility();
    }
}

#[test]
fn wide_images_and_latents_are_explored_too() {
    let wide = TINY.replace(r#""input_size": 8"#, r#""input_size": [4, 12]"#);
    let mut harness = explored(DESKTOP, file("wide.safetensors", &wide));
    let stage = harness.get_by_label_contains("Image at noise").rect();
    assert!((stage.width() / stage.height() - 3.0).abs() < 0.05, "{stage:?}");
    harness.get_by_role_and_label(Role::Button, "Place").click();
    harness.run_steps(3);
    assert!(has(&harness, "Expert 3 takes a patch in up to"));
    let mut latents = finished(PHONE, file("latents.safetensors", LATENTS), |_| ());
    latents.key_press(Key::E);
    latents.run_steps(4);
    assert!(has(&latents, "Image at noise"));
}

#[test]
fn a_trace_file_is_explored_without_a_model() {
    let drawn = explored(DESKTOP, tiny());
    let trace = drawn.state().app().session().record().expect("a run").trace.clone();
    let files = [
        ("routing.json", trace.to_json().expect("text").into_bytes()),
        ("routing.safetensors", trace.to_safetensors().expect("bytes")),
    ];
    for (name, bytes) in files {
        let mut harness =
            window(DESKTOP, launch(super::bytes("none.safetensors", vec![7; 100]), false));
        until(&mut harness, "a note", |app| !app.session().notes().is_empty());
        harness.state_mut().app_mut().session_mut().open_trace(name, &bytes);
        harness.run_steps(6);
        let record = harness.state().app().session().record().expect("a run");
        assert_eq!(record.trace.capacity(), trace.capacity(), "{name}");
        for text in ["Image at noise 0.2", "Expert 3: ", "Shift of the thresholds"] {
            assert!(has(&harness, text), "{name}: nothing is called {text:?}");
        }
        assert!(!has(&harness, "Redraw") && !has(&harness, "Mute"), "there is no model");
        harness.check_accessibility();
    }
    let mut harness = opened(DESKTOP, tiny());
    harness.state_mut().app_mut().session_mut().open_trace("broken.json", b"{\"format\": 1}");
    harness.run_steps(3);
    assert!(has(&harness, "broken.json: "));
}

#[test]
fn an_expert_works_alone_in_its_block() {
    let mut harness = explored(DESKTOP, tiny());
    let runs = harness.state().app().session().history().len();
    harness.get_by_role_and_label(Role::Button, "Mute").click();
    harness.key_press(Key::Num2);
    harness.run_steps(3);
    harness.get_by_label("Solo expert 2: mute the others").click();
    harness.run_steps(3);
    until(&mut harness, "the other run", |app| app.session().history().len() > runs);
    harness.run_steps(5);
    let alone = harness.state().app().session().history().last().expect("a run");
    assert_eq!(alone.controls.sampling.muted.to_string(), "3:0,3:1,3:3");
    for forward in alone.trace.forwards() {
        assert!(forward.layers[1].masks.iter().all(|mask| mask & !0b100 == 0));
    }
    harness.get_by_role_and_label(Role::Button, "Show as B in all views").click();
    harness.run_steps(4);
    assert!(has(&harness, "B, image") && has(&harness, "Mute expert 2 of block 3"));
}

#[test]
fn thresholds_of_one_block_and_of_one_expert_are_moved_and_drawn() {
    let mut harness = explored(DESKTOP, tiny());
    for (scope, written) in [(Scope::Block, "3=2"), (Scope::Expert, "3=2,3:1=2")] {
        let chosen = Selection { shift: 2.0, scope, expert: Some(1), ..selection(&harness) };
        harness.state_mut().app_mut().explore(chosen);
        harness.run_steps(4);
        assert!(
            has(&harness, "first order") && has(&harness, "Block 3") && has(&harness, "Expert 1")
        );
        harness.get_by_role_and_label(Role::Button, "Redraw").click();
        harness.run_steps(3);
        complete(&mut harness);
        let record = harness.state().app().session().record().expect("a run");
        assert_eq!(record.controls.sampling.shifts.to_string(), written);
        assert!(has(&harness, "B, image"), "the run before stays beside it");
    }
}

#[test]
fn the_second_evaluation_of_a_step_is_chosen() {
    let mut harness = finished(DESKTOP, tiny(), |controls| {
        controls.sampling.scheduler = "heun".parse().expect("a scheduler");
    });
    open_explore(&mut harness);
    harness.get_by_role_and_label(Role::Button, "2nd").click();
    harness.run_steps(4);
    assert_eq!(selection(&harness).evaluation, 1);
    harness.check_accessibility();
}
