//! Explore with two runs side by side: of one model, of two, and with one change.

use diffmoe_viewer::session::{Card, Selection};

use super::*;

/// Another model with fewer experts in other blocks, and another grid.
const OTHER: &str = r#"{"name": "other", "kind": "diffmoe", "t_kind": "flow", "space": "pixels",
    "params": {"input_size": [4, 12], "in_channels": 3, "num_classes": 5, "patch_size": 2, "depth": 2,
        "hidden_size": 16, "num_heads": 2, "learn_sigma": false,
        "MoE_config": {"num_experts": 2, "interleave": true}},
    "defaults": {"steps": 7, "guidance": 1.0, "solver": "euler"}}"#;

#[test]
fn two_runs_are_compared_and_the_link_shows_both() {
    let mut harness = explored(DESKTOP, tiny());
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
    let again = Launch { share: Some(share), ..launch(tiny(), true) };
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
            (controls.sampling.seed, controls.sampling.steps, controls.count) = (3, 2, 1);
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
    let again = Launch { share: Some(share), ..launch(tiny(), true) };
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
fn after_a_run_the_fast_model_offers_the_fine_one() {
    let mut harness = opened(TALL, ModelSource::Named("emoji".to_owned()));
    assert!(!has(&harness, "Open emoji_256"));
    draw(&mut harness, |controls| {
        (controls.sampling.seed, controls.sampling.steps, controls.count) = (3, 2, 1);
    });
    harness.run_steps(3);
    harness.get_by_label("Open emoji_256").click();
    until(&mut harness, "the fine model", |app| {
        app.session().model().is_some_and(|model| model.name == "emoji_256")
    });
}

#[test]
fn a_run_is_drawn_again_with_one_change_as_b() {
    let mut harness = explored(DESKTOP, tiny());
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
            open_explore(&mut harness);
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
