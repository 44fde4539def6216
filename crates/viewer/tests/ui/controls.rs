//! Settings of a run: guidance, the options of each scheduler, the picker of labels.

use super::*;

#[test]
fn guidance_can_be_limited_to_an_interval() {
    let mut harness = opened(DESKTOP, tiny());
    assert!(!has(&harness, "Guide until t"));
    harness.get_by_label("Limit guidance to an interval").click_accesskit();
    harness.run_steps(3);
    assert!(has(&harness, "Guide from t") && has(&harness, "Guide until t"));
    let interval = harness.state().app().session().controls.sampling.guidance_interval;
    assert_eq!(interval.to_string(), "0.1,0.7");
    harness.check_accessibility();
}

/// A model of noise.
fn ddpm() -> ModelSource {
    file("ddpm.safetensors", &TINY.replace("\"flow\"", "\"ddpm\"").replace("euler", "ddim"))
}

#[test]
fn a_scheduler_shows_its_own_options() {
    let tiny = tiny();
    for (objective, model) in [(Objective::Flow, tiny), (Objective::Ddpm, ddpm())] {
        let mut harness = opened(TALL, model);
        for kind in SchedulerKind::for_objective(objective) {
            harness.state_mut().app_mut().session_mut().controls.sampling.scheduler = kind;
            harness.run_steps(2);
            for option in ALL.iter().flat_map(|info| info.options) {
                let mut own = kind.info().options_for(objective);
                let is_own = own.any(|own| own.name == option.name);
                assert_eq!(has(&harness, option.title), is_own, "{} of {kind}", option.name);
            }
            harness.check_accessibility();
        }
    }
}

#[test]
fn options_of_a_scheduler_are_set_by_name_and_travel_in_links() {
    let mut harness = opened(TALL, ddpm());
    harness.get_by_label("Clip x₀").click_accesskit();
    harness.get_by_label("Guided channels: all").click_accesskit();
    harness.get_by_role_and_label(Role::Slider, "Noise η").set_value_accesskit(0.25);
    harness.run_steps(3);
    let options = [("clip", 1.0), ("guided-channels", 1.0), ("eta", 0.25)];
    let ddim: SchedulerKind = "ddim".parse().expect("a scheduler");
    let wanted =
        options.iter().fold(ddim, |kind, option| kind.with(option.0, option.1).expect("an option"));
    assert_eq!(harness.state().app().session().controls.sampling.scheduler, wanted);
    harness.get_by_label("Generate").click();
    complete(&mut harness);
    let link = harness.state().app().session().share().expect("a link");
    assert_eq!(
        Share::parse(&link).expect("a good link").controls.sampling.scheduler,
        wanted,
        "{link}"
    );

    let mut harness = opened(DESKTOP, tiny());
    harness.get_by_label("Adaptive").click_accesskit();
    harness.run_steps(3);
    harness.get_by_role_and_label(Role::Slider, "Relative tolerance").set_value_accesskit(1e-5);
    harness.run_steps(3);
    let controls = &harness.state().app().session().controls;
    assert_eq!(controls.sampling.scheduler.get("rtol"), Some(1e-5));
}

#[test]
fn labels_are_blended_and_the_blend_travels_in_links() {
    let mut harness = opened(TALL, tiny());
    assert!(!has(&harness, "Share of the blended label"));
    harness.get_by_label("Blend subjects").click_accesskit();
    harness.run_steps(3);
    assert!(has(&harness, "Blended subject: ant") || has(&harness, "Share of the blended label"));
    harness
        .get_by_role_and_label(Role::Slider, "Share of the blended label")
        .set_value_accesskit(0.25);
    harness.run_steps(3);
    harness.check_accessibility();
    let controls = &harness.state().app().session().controls;
    let strength = controls.sampling.mix_strength;
    assert_eq!((&controls.mix, strength), (&vec![Some(0), None], 0.25));
    harness.get_by_label("Generate").click();
    complete(&mut harness);
    let session = harness.state().app().session();
    let record = session.record().expect("a run");
    assert!(record.labels.iter().any(|name| name.contains("+ 25% ")), "{:?}", record.labels);
    let link = session.share().expect("a link");
    assert!(link.contains("mix-strength=0.25"), "{link}");
    let mut share = Share::parse(&link).expect("a good link");
    share.resolve(&record.config).expect("labels of the model");
    assert_eq!(share.controls.mix, [Some(0), None]);
    harness.get_by_label("Blend subjects").click_accesskit();
    harness.run_steps(3);
    let controls = &harness.state().app().session().controls;
    assert!(controls.mix.is_empty() && controls.sampling.mix_strength == 0.0);
}

#[test]
fn typing_in_the_picker_filters_and_enter_takes_the_best() {
    let mut harness = opened(DESKTOP, tiny());
    harness.get_by_label("Subject: varied").click();
    harness.run_steps(4);
    assert!(has(&harness, "red cat") && has(&harness, "elk"));
    harness.get_by_label("Search subjects").type_text("ca");
    harness.run_steps(4);
    assert!(has(&harness, "red cat") && !has(&harness, "elk"), "only what fits is left");
    harness.key_press(Key::Enter);
    harness.run_steps(4);
    assert!(has(&harness, "Subject: red cat"));
    assert!(!has(&harness, "Search subjects"), "the list is closed");
}
