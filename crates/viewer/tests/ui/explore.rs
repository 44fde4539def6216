//! Explore as a visitor meets it: one selection in all views, keys, links, muting, phones, models without experts.

use diffmoe_viewer::session::{Card, Overlay, Scope, Selection};

use super::*;

const TEN: &str = "tiny.safetensors";

/// Explore after a run that kept its scores.
fn explored(size: egui::Vec2, model: ModelSource) -> Shown {
    let mut harness = finished(size, model, |controls| controls.sampling.steps = 5);
    open_explore(&mut harness);
    harness
}

#[test]
fn opening_explore_draws_again_with_scores_and_shows_what_they_say() {
    let harness = explored(DESKTOP, file(TEN, TINY));
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
    let mut harness = explored(DESKTOP, file(TEN, TINY));
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
    let again = Launch { share: Some(share), ..launch(file(TEN, TINY), true) };
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
    let mut harness = explored(DESKTOP, file(TEN, TINY));
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
    let mut harness = explored(DESKTOP, file(TEN, TINY));
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
    let mut harness = explored(DESKTOP, file(TEN, TINY));
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
    let mut harness = explored(DESKTOP, file(TEN, TINY));
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
    let mut harness = explored(PHONE, file(TEN, TINY));
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
    let drawn = explored(DESKTOP, file(TEN, TINY));
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
    let mut harness = opened(DESKTOP, file(TEN, TINY));
    harness.state_mut().app_mut().session_mut().open_trace("broken.json", b"{\"format\": 1}");
    harness.run_steps(3);
    assert!(has(&harness, "broken.json: "));
}

/// Another model with fewer experts in other blocks, and another grid.
const OTHER: &str = r#"{"name": "other", "kind": "diffmoe", "t_kind": "flow", "space": "pixels",
    "params": {"input_size": [4, 12], "in_channels": 3, "num_classes": 5, "patch_size": 2, "depth": 2,
        "hidden_size": 16, "num_heads": 2, "learn_sigma": false,
        "MoE_config": {"num_experts": 2, "interleave": true}},
    "defaults": {"steps": 7, "guidance": 1.0, "solver": "euler"}}"#;

/// Draws with other settings, and waits for it.
fn draw(harness: &mut Shown, change: fn(&mut Controls)) {
    change(&mut harness.state_mut().app_mut().session_mut().controls);
    harness.state_mut().app_mut().session_mut().generate();
    harness.run_steps(3);
    complete(harness);
}

#[test]
fn two_runs_are_compared_and_the_link_shows_both() {
    let mut harness = explored(DESKTOP, file(TEN, TINY));
    harness.key_press(Key::B);
    harness.run_steps(3);
    assert!(has(&harness, "Let go of B") && !has(&harness, "B, image"), "there is one run");
    draw(&mut harness, |controls| (controls.sampling.seed, controls.sampling.steps) = (6, 10));
    for name in
        ["Image at noise 0.1", "B, image at noise 0.2", "RMS of all results", "Swap A and B", "Why"]
    {
        assert!(has(&harness, name), "nothing is called {name:?}");
    }
    // The cursor of B is at the nearest noise level.
    for _ in 0..3 {
        harness.key_press(Key::ArrowLeft);
        harness.run_steps(3);
    }
    assert!(has(&harness, "Image at noise 0.4") && has(&harness, "B, image at noise 0.4"));
    harness.check_accessibility();
    let before = harness.state().app().explore_makings();
    harness.run_steps(10);
    assert_eq!(harness.state().app().explore_makings(), before, "nothing is made anew");
    let fragment = harness.state().app().share().expect("a link");
    let share = Share::parse(&fragment).expect("a good link");
    assert_eq!(share.controls.sampling.seed, 6);
    assert_eq!(
        share.other.as_ref().map(|b| (b.controls.sampling.seed, b.controls.sampling.steps)),
        Some((5, 5))
    );
    // The link draws both again.
    let again = Launch { share: Some(share), ..launch(file(TEN, TINY), true) };
    let mut shared = window(DESKTOP, again);
    complete(&mut shared);
    until(&mut shared, "run B", |app| app.session().history().len() == 2);
    shared.run_steps(5);
    assert!(has(&shared, "B, image at noise 0.4"));
    assert_eq!(shared.state().app().share(), Some(fragment));
    // B changes places with A, and goes.
    harness.get_by_role_and_label(Role::Button, "Swap A and B").click();
    harness.run_steps(4);
    assert_eq!(harness.state().app().session().record().map(|r| r.settings.sampling.seed), Some(5));
    assert!(has(&harness, "B, image"));
    harness.key_press(Key::B);
    harness.run_steps(3);
    assert!(!has(&harness, "B, image") && has(&harness, "Keep this run as B"));
}

#[test]
fn a_link_of_two_shipped_models_shows_both_again() {
    let quick = |harness: &mut Shown| {
        draw(harness, |controls| {
            (controls.sampling.seed, controls.sampling.steps, controls.count) = (3, 2, 1)
        });
    };
    let mut harness = opened(DESKTOP, ModelSource::Named("eurosat".to_owned()));
    harness.key_press(Key::E);
    harness.run_steps(3);
    quick(&mut harness);
    harness.key_press(Key::B);
    harness.run_steps(3);
    harness.state_mut().app_mut().session_mut().load(ModelSource::Named("emoji".to_owned()));
    until(&mut harness, "the other model", |app| {
        app.session().model().is_some_and(|model| model.name == "emoji")
    });
    quick(&mut harness);
    let chosen =
        Selection { step: Some(1), expert: Some(3), patch: Some(9), ..selection(&harness) };
    harness.state_mut().app_mut().explore(chosen);
    harness.run_steps(4);
    assert!(has(&harness, "B, image"));
    let fragment = harness.state().app().share().expect("a link");
    let share = Share::parse(&fragment).expect("a good link");
    let b = share.other.as_deref().expect("run B");
    assert_eq!((share.model.as_deref(), b.model.as_deref()), (Some("emoji"), Some("eurosat")));
    assert_ne!(share.hash, b.hash);
    // Opened by an app that has neither.
    let again = Launch { share: Some(share), ..launch(file(TEN, TINY), true) };
    let mut shared = window(DESKTOP, again);
    until(&mut shared, "both runs", |app| {
        let session = app.session();
        session.history().len() == 2 && session.phase() == Phase::Ready
    });
    shared.run_steps(6);
    assert!(has(&shared, "B, image"));
    let traces = |harness: &Shown| -> Vec<_> {
        let session = harness.state().app().session();
        let runs = session.history().iter().rev().take(2);
        runs.map(|run| (run.trace.model().to_owned(), run.trace.has_scores(), run.frames.clone()))
            .collect()
    };
    assert_eq!(traces(&harness), traces(&shared));
    assert!(traces(&shared).iter().all(|(_, has_scores, _)| *has_scores));
    assert_eq!(shared.state().app().share(), Some(fragment));
    // And it opens in the app that it came from, which has the models in the other order.
    let share = Share::parse(&shared.state().app().share().expect("a link")).expect("a link");
    harness.state_mut().app_mut().session_mut().open_share(share);
    harness.run_steps(3);
    complete(&mut harness);
    until(&mut harness, "run A", |app| {
        app.session().phase() == Phase::Ready
            && app.session().model().is_some_and(|model| model.name == "emoji")
            && app
                .session()
                .record()
                .is_some_and(|run| run.trace.model() == "emoji" && run.is_complete())
    });
    harness.run_steps(6);
    assert_eq!(harness.state().app().share(), shared.state().app().share());
}

#[test]
fn a_run_is_drawn_again_with_one_change_as_b() {
    let mut harness = explored(DESKTOP, file(TEN, TINY));
    let runs = harness.state().app().session().history().len();
    harness.get_by_role_and_label(Role::Button, "Compare").click();
    harness.run_steps(3);
    assert!(has(&harness, "Compare with: γ shift") && has(&harness, "Value: −4"));
    harness.get_by_role_and_label(Role::Button, "Draw as B").click();
    harness.run_steps(3);
    until(&mut harness, "run B", |app| app.session().history().len() > runs);
    harness.run_steps(5);
    let session = harness.state().app().session();
    let shown = session.record().expect("a run");
    let b = session.history().last().expect("a run");
    let odds = [shown, &**b].map(|record| record.controls.sampling.routing.log_odds.to_string());
    assert_eq!(odds, ["0", "-4"]);
    assert_eq!(b.settings.sampling.seed, shown.settings.sampling.seed);
    assert!(has(&harness, "B, image") && has(&harness, "C of the run, A − B: −"));
}

#[test]
fn runs_of_different_models_are_shown_side_by_side() {
    for (first, second) in [(TINY, OTHER), (OTHER, TINY), (DENSE, TINY), (TINY, DENSE)] {
        for size in [DESKTOP, PHONE] {
            let mut harness = finished(size, file("first.safetensors", first), |_| ());
            harness.key_press(Key::E);
            harness.run_steps(3);
            complete(&mut harness);
            harness.key_press(Key::B);
            harness.run_steps(3);
            let session = harness.state_mut().app_mut().session_mut();
            session.load(file("second.safetensors", second));
            let name = Config::from_json(second).expect("a configuration").name;
            until(&mut harness, "the other model", |app| {
                app.session().model().is_some_and(|model| model.config.name == name)
            });
            draw(&mut harness, |controls| controls.count = 2);
            let is_dense = second == DENSE;
            assert!(is_dense || has(&harness, "B, image"), "{name} {size}");
            for key in [Key::ArrowLeft, Key::ArrowUp, Key::Num1, Key::ArrowDown, Key::Home] {
                harness.key_press(key);
                harness.run_steps(2);
            }
            let chosen = Selection { patch: Some(9), image: 1, ..selection(&harness) };
            harness.state_mut().app_mut().explore(chosen);
            for card in [Card::Compare, Card::Patch, Card::Noise, Card::Gallery, Card::Place] {
                harness.state_mut().app_mut().explore(Selection { card, ..chosen });
                harness.run_steps(3);
            }
            harness.check_accessibility();
        }
    }
}

#[test]
fn an_expert_works_alone_in_its_block() {
    let mut harness = explored(DESKTOP, file(TEN, TINY));
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
    let mut harness = explored(DESKTOP, file(TEN, TINY));
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
    let mut harness = finished(DESKTOP, file(TEN, TINY), |controls| {
        controls.sampling.scheduler = "heun".parse().expect("a scheduler");
    });
    open_explore(&mut harness);
    harness.get_by_role_and_label(Role::Button, "2nd").click();
    harness.run_steps(4);
    assert_eq!(selection(&harness).evaluation, 1);
    harness.check_accessibility();
}

/// The routing of an emoji in five steps of Euler's method, with scores: `diffmoe sample --class fox --seed 7 --count 1
/// --steps 5 --scheduler euler --trace fox.safetensors --trace-scores`.
const RECORDED: &[u8] = include_bytes!("../data/fox.safetensors");

/// Compares the screen with the image of that name. Letters and edges differ by a shade from one driver to the next.
fn looks_like(harness: &mut Shown, name: &str) {
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
    let mut harness = opened(DESKTOP, file(TEN, TINY));
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
    let mut harness = explored(DESKTOP, file(TEN, TINY));
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
    let base = Selection {
        image: 1,
        step: Some(6),
        expert: Some(6),
        patch: Some(28),
        ..Selection::default()
    };
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
