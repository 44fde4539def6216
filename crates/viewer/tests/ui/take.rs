//! The guided tour, the recorded first run, and what can be taken away from each card.

use diffmoe_viewer::session::{Card, Overlay, Selection, TOUR_STOPS};

use super::*;

fn explored(size: egui::Vec2) -> Shown {
    let mut harness = finished(size, tiny(), |controls| controls.sampling.steps = 4);
    open_explore(&mut harness);
    harness
}

#[test]
fn the_tour_leads_through_seven_stops_by_buttons_and_by_keys() {
    for size in [DESKTOP, PHONE] {
        let mut harness = explored(size);
        click(&mut harness, "Tour");
        for stop in 0..TOUR_STOPS {
            assert_eq!(selection(&harness).tour, Some(stop));
            let words = [
                "begins as noise",
                "4 × 4 patches",
                "softmax",
                "capacity predictor",
                "different amounts of compute",
                "What does it do?",
                "The link contains",
            ];
            assert!(has(&harness, words[stop]), "stop {stop} does not say {:?}", words[stop]);
            if stop % 2 == 0 && stop + 1 < TOUR_STOPS {
                click(&mut harness, "Next");
            } else if stop + 1 < TOUR_STOPS {
                press(&mut harness, Key::N);
            }
        }
        press(&mut harness, Key::P);
        click(&mut harness, "Back");
        assert_eq!(selection(&harness).tour, Some(4));
        let shown = selection(&harness);
        assert_eq!((shown.overlay, shown.step), (Overlay::HowMany, Some(2)));
        // Esc leaves the tour, and what is chosen stays.
        press(&mut harness, Key::Escape);
        assert_eq!(selection(&harness), Selection { tour: None, ..shown });
        assert!(!has(&harness, "different amounts of compute"));
        harness.check_accessibility();
    }
}

#[test]
fn a_link_that_names_a_stop_alone_shows_it() {
    let harness = explored(DESKTOP);
    let fragment = harness.state().app().session().share().expect("a link");
    let share = Share::parse(&format!("{fragment}&explore=tour:6")).expect("a good link");
    let mut shared = window(DESKTOP, Launch { share: Some(share), ..launch(tiny(), true) });
    complete(&mut shared);
    let shown = selection(&shared);
    assert_eq!((shown.tour, shown.card), (Some(5), Card::Mute));
    assert!(has(&shared, "Press X"));
    click(&mut shared, "Next");
    click(&mut shared, "Done");
    assert_eq!(selection(&shared).tour, None);
}

#[test]
fn a_recorded_run_is_explored_until_the_model_has_drawn_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/emoji.recording");
    let recording: &'static [u8] = std::fs::read(path).expect("the recording").leak();
    let nothing = bytes("nothing.safetensors", b"no model".to_vec());
    let mut harness =
        window(DESKTOP, Launch { recording: Some(recording), ..launch(nothing, true) });
    until(&mut harness, "a refusal", |app| app.session().phase() == Phase::NoModel);
    harness.run_steps(3);
    let record = harness.state().app().session().record().expect("the recorded run");
    assert!(record.recorded && record.trace.has_scores());
    assert!(has(&harness, "Recorded"));
    press(&mut harness, Key::E);
    for name in ["Recorded", "Image at noise", "C, experts per patch", "Margin", "Expert 7: "] {
        assert!(has(&harness, name), "nothing is called {name:?}");
    }
    click(&mut harness, "Tour");
    for _ in 1..TOUR_STOPS {
        press(&mut harness, Key::N);
    }
    press(&mut harness, Key::P);
    assert!(has(&harness, "With the model open"), "nothing can be drawn yet");
    // Another model than the recorded one draws a run of its own.
    harness.state_mut().app_mut().session_mut().load(tiny());
    until(&mut harness, "a run", |app| {
        app.session().record().is_some_and(|record| !record.recorded && record.is_complete())
    });
    harness.run_steps(3);
    assert!(!has(&harness, "Recorded"));
}

#[test]
fn a_phone_has_one_menu_for_all_files() {
    let mut harness = explored(PHONE);
    let button = harness.get_by_role_and_label(Role::Button, "Save from this view").rect();
    assert!(button.height() >= 38.0 && button.right() <= PHONE.x, "{button:?}");
    click(&mut harness, "Save from this view");
    let offers = [
        "This view, PNG",
        "The card below, PNG",
        "animated PNG",
        "Compute C, SVG",
        "Map of the run, SVG",
        "Compute C, CSV",
        "Patches of this step and block, CSV",
    ];
    for offer in offers {
        assert!(has(&harness, offer), "a phone does not offer {offer:?}");
    }
    harness.check_accessibility();
}

#[test]
fn images_of_models_without_experts_are_saved() {
    for size in [DESKTOP, PHONE] {
        let mut harness = finished(size, file("dense.safetensors", DENSE), |_| ());
        press(&mut harness, Key::E);
        click(&mut harness, "Save from this view");
        assert!(has(&harness, "This view, PNG") && has(&harness, "animated PNG"));
        assert!(!has(&harness, "CSV") && has(&harness, "This model has no experts"));
        harness.check_accessibility();
    }
}

#[test]
fn every_card_offers_files() {
    let mut harness = explored(DESKTOP);
    for (card, offers) in [
        ("Save from the image", ["animated PNG", "This card, SVG"]),
        ("Save from the card", ["Margins of this block, CSV", "This card, PNG"]),
        ("Save from the plots", ["Map of the run, SVG", "Tokens of each expert, CSV"]),
    ] {
        click(&mut harness, card);
        for offer in offers {
            assert!(has(&harness, offer), "{card} does not offer {offer:?}");
        }
        harness.key_press(Key::Escape);
        harness.run_steps(5);
    }
}
