//! Explore with a guidance interval: steps without an unconditional pass say so, and nothing of other steps stays.

use diffmoe::scheduler::{Branch, GuidanceInterval};
use diffmoe_viewer::session::{Card, Overlay, Selection};

use super::*;

/// Explore after five steps, of which the second to the fourth are guided.
fn explored(size: egui::Vec2) -> Shown {
    let mut harness = finished(size, tiny(), |controls| {
        controls.sampling.steps = 5;
        controls.sampling.guidance_interval = GuidanceInterval { low: 0.1, high: 0.7 };
    });
    open_explore(&mut harness);
    // A pointer that rests over a plot would preview another step.
    harness.event(egui::Event::PointerGone);
    harness
}

#[test]
fn steps_without_an_unconditional_pass_say_so_in_every_card() {
    for size in [DESKTOP, PHONE] {
        let mut harness = explored(size);
        let trace = &harness.state().app().session().record().expect("a run").trace;
        let guided: Vec<u32> = trace
            .forwards()
            .iter()
            .filter(|pass| pass.branch == Branch::Unconditional)
            .map(|pass| pass.step)
            .collect();
        assert_eq!(guided, [1, 2, 3]);
        let base = Selection { pass: Branch::Unconditional, ..Selection::default() };
        for overlay in [Overlay::Who, Overlay::HowMany, Overlay::Margin] {
            for card in [Card::Experts, Card::Noise, Card::Patch, Card::Gallery, Card::Place] {
                for step in 0..5 {
                    let selection = Selection { step: Some(step), overlay, card, ..base };
                    harness.state_mut().app_mut().explore(selection);
                    harness.run_steps(3);
                    let is_there = guided.contains(&(step as u32));
                    let place = format!("{size}: {overlay:?} {card:?} step {step}");
                    assert_ne!(
                        has(&harness, "No unconditional pass at noise"),
                        is_there,
                        "{place}"
                    );
                    assert_eq!(has(&harness, "evenness"), is_there, "{place}");
                    if card == Card::Experts {
                        assert_eq!(has(&harness, "Expert 3: "), is_there, "{place}");
                    }
                    harness.check_accessibility();
                }
            }
        }
        // The patch of a step without that pass is taken by nobody, which is not said.
        let selection = Selection { step: Some(4), patch: Some(6), card: Card::Patch, ..base };
        harness.state_mut().app_mut().explore(selection);
        harness.run_steps(3);
        assert!(!has(&harness, "does not take it") && !has(&harness, "takes the patch"));
        assert!(!has(&harness, "Row 2, column 3"));
    }
}

#[test]
fn the_sentence_and_draw_are_about_the_steps_with_the_pass() {
    let mut harness = explored(DESKTOP);
    let selection =
        Selection { pass: Branch::Unconditional, step: Some(0), ..Selection::default() };
    harness.state_mut().app_mut().explore(selection);
    harness.run_steps(3);
    assert!(
        has(&harness, "3 of 5 steps have this pass. ") && has(&harness, "From step 2 to step 4")
    );
    harness.key_press(Key::E);
    harness.run_steps(4);
    assert!(has(&harness, "Plot of C over noise levels"));
}
