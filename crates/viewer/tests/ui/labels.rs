//! The tab Labels as a visitor meets it: with an atlas, without one, on a phone.

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::WeightChoice;
use diffmoe::pipeline::{Pipeline, Run, Survey, SurveyOptions};
use diffmoe::trace::atlas::{About, Atlas, ImageCounts, Plan, PlannedTable};
use diffmoe_viewer::session::{Card, Selection};

use super::*;

/// Explore with the tab open after a run of the tiny model.
fn labels(size: egui::Vec2) -> Shown {
    let mut harness = finished(size, tiny(), |_| ());
    open_explore(&mut harness);
    let selection = Selection { card: Card::Labels, ..Selection::default() };
    harness.state_mut().app_mut().explore(selection);
    harness.run_steps(4);
    harness
}

/// An atlas of the tiny model, counted over the images of the run on screen.
fn atlas(app: &App) -> Atlas {
    let record = app.session().record().expect("a run");
    let config = &record.config;
    let table = |table: &diffmoe::model::LabelTable| {
        PlannedTable::spread(&table.name, &table.values, table.values.len())
    };
    let plan = Plan::new(config.labels.iter().map(table).collect(), 1);
    let images = record.trace.images();
    let counts: Vec<ImageCounts> = (0..plan.images())
        .map(|i| ImageCounts::of(&record.trace, i * 7 % images, config.objective))
        .collect();
    let about = About { config, hash: "none".to_owned(), settings: [].into() };
    Atlas::measure(about, &plan, &counts)
}

fn open_atlas(harness: &mut Shown) -> Atlas {
    let atlas = atlas(harness.state().app());
    let json = atlas.to_json().expect("text");
    harness.state_mut().app_mut().session_mut().open_atlas("tiny.atlas.json", json.as_bytes());
    harness.run_steps(5);
    atlas
}

#[test]
fn the_tab_looks_as_it_did() {
    if !can_paint() {
        return;
    }
    let mut harness = labels(DESKTOP);
    open_atlas(&mut harness);
    looks::looks_like(&mut harness, "labels-tab");
    harness.ctx.set_theme(egui::Theme::Light);
    harness.set_size(PHONE);
    looks::looks_like(&mut harness, "labels-tab-phone");
}

#[test]
fn without_an_atlas_the_tab_says_how_to_get_one() {
    let mut harness = labels(DESKTOP);
    assert!(!has(&harness, "Sort labels by C"));
    assert!(has(&harness, "diffmoe atlas tiny.safetensors"));
    harness.state_mut().app_mut().session_mut().open_atlas("x.json", b"{\"atlas\": 9}");
    harness.run_steps(3);
    assert!(has(&harness, "x.json: the atlas has format 9"));
    harness.check_accessibility();
}

/// Images of the background survey of the tiny model: five subjects in two styles, six times.
const SWEEP: SurveyOptions = SurveyOptions {
    tables: Vec::new(),
    labels: 24,
    images_of_label: 12,
    seeds: None,
    seed: 0,
    steps: 8,
    guidance: None,
    scheduler: None,
};

#[test]
fn an_atlas_is_measured_in_the_background_while_nothing_else_is_drawn() {
    for size in [DESKTOP, PHONE] {
        let mut harness = labels(size);
        let done = |app: &App| app.session().survey().map_or(0, |survey| survey.done);
        harness.get_by_role_and_label(Role::Button, "Measure an atlas").click();
        until(&mut harness, "a batch", |app| done(app) > 0);
        harness.get_by_role_and_label(Role::Button, "Pause measuring").click();
        harness.run_steps(4);
        let before = done(harness.state().app());
        harness.run_steps(30);
        assert_eq!(done(harness.state().app()), before);
        assert!(has(&harness, &format!("Paused: {before} of 60 images")));
        harness.check_accessibility();
        // A run of the visitor comes first, and is not mixed up with the survey.
        harness.get_by_role_and_label(Role::Button, "Go on measuring").click();
        harness.run_steps(3);
        let runs = harness.state().app().session().history().len();
        harness.state_mut().app_mut().session_mut().controls.sampling.seed = 6;
        harness.state_mut().app_mut().session_mut().generate();
        complete(&mut harness);
        let session = harness.state().app().session();
        assert_eq!(session.history().len(), runs + 1);
        assert_eq!(session.record().map(|record| record.settings.sampling.seed), Some(6));
        until(&mut harness, "an atlas", |app| app.session().atlas().is_some());
        harness.run_steps(5);
        assert!(has(&harness, "Sort labels by C") && has(&harness, "Measured the atlas of tiny"));
        assert_eq!(harness.state().app().session().history().len(), runs + 1);
        harness.check_accessibility();
        if size == PHONE {
            continue;
        }
        // The same images, drawn in one batch.
        let session = harness.state().app().session();
        let found = session.atlas().expect("an atlas");
        let ModelSource::File { bytes, .. } = tiny() else { panic!("a file") };
        let bytes = Bytes::new(bytes.to_vec());
        let checkpoint = Checkpoint::from_bytes("tiny", bytes).expect("a model");
        let config = checkpoint.config();
        let survey = Survey::new(config, &SWEEP).expect("a survey");
        let pipeline = Pipeline::open(&checkpoint, Backend::Cpu, WeightChoice::Auto);
        let engine = pipeline.expect("a pipeline").engine(60).expect("an engine");
        let run = Run::start(engine, config, survey.settings().clone(), 0).expect("a run");
        let run = run.finish(|_| ()).expect("images");
        let batch = survey.batch(config, 0, &run.samples, &run.trace);
        let atlas = survey.atlas(config, found.hash.clone(), vec![batch]);
        assert_eq!(**found, atlas);
        assert!(atlas.margin(0, 0, 1).is_some());
    }
}

#[test]
fn a_survey_can_be_given_up() {
    let mut harness = labels(DESKTOP);
    harness.get_by_role_and_label(Role::Button, "Measure an atlas").click();
    harness.run_steps(3);
    harness.get_by_role_and_label(Role::Button, "Give up").click();
    harness.run_steps(3);
    assert_eq!(harness.state().app().session().survey(), None);
    assert!(has(&harness, "Measure an atlas"));
    // Another model has no part of it.
    harness.get_by_role_and_label(Role::Button, "Measure an atlas").click();
    harness.run_steps(3);
    harness.state_mut().app_mut().session_mut().load(file("dense.safetensors", DENSE));
    until(&mut harness, "the other model", |app| {
        app.session().model().is_some_and(|model| model.name.contains("dense"))
    });
    let session = harness.state().app().session();
    assert_eq!((session.survey(), session.images_of_survey()), (None, None));
}

#[test]
fn rows_are_sorted_and_a_click_draws_a_label() {
    let mut harness = labels(DESKTOP);
    let atlas = open_atlas(&mut harness);
    let table = &atlas.tables[0];
    assert!(has(&harness, "mean |log₂ lift| "));
    for (label, name) in table.labels.iter().enumerate() {
        let capacity = atlas.capacity(table, label, Some(2)).expect("C");
        let words = format!("Draw {name}: C {capacity:.2}");
        assert!(has(&harness, &words), "nothing is called {words:?}");
    }
    harness.get_by_label("Sort labels by expert 2").click();
    harness.run_steps(3);
    let shown = Share::parse(&harness.state().app().share().expect("a link")).expect("a good link");
    let explore = shown.explore.expect("Explore");
    assert_eq!((explore.expert, explore.card), (Some(2), Card::Labels));
    // From top to bottom the lifts of the expert fall.
    let lifts = table.lifts(2, atlas.blocks.len() - 1);
    let top = |name: &str| harness.get_by_label_contains(&format!("Draw {name}:")).rect().top();
    for (a, name) in table.labels.iter().enumerate() {
        for (b, other) in table.labels.iter().enumerate() {
            if lifts.log2[a][2] > lifts.log2[b][2] {
                assert!(top(name) < top(other), "{name} before {other}");
            }
        }
    }
    harness.check_accessibility();

    harness.get_by_label_contains("Draw dog:").click();
    complete(&mut harness);
    let record = harness.state().app().session().record().expect("a run");
    assert!(record.settings.labels[0].iter().all(|row| *row == 3));
    assert_eq!(record.settings.sampling.seed, 5, "only the label is another one");
    // The other table.
    harness.get_by_role_and_label(Role::Button, "style").click();
    harness.run_steps(4);
    assert!(has(&harness, "Draw oil: C ") && !has(&harness, "Draw dog: C "));
}

#[test]
fn a_phone_has_rows_for_thumbs() {
    let mut harness = labels(PHONE);
    open_atlas(&mut harness);
    let rect = harness.get_by_label_contains("Draw ant:").rect();
    assert!(rect.height() >= 28.0 && rect.width() >= 100.0, "{rect:?}");
    harness.check_accessibility();
}

/// Images of the tab with a shipped model: `--run-ignored all` with `EXPLORE_IMAGES` set to a folder.
#[test]
#[ignore = "draws with a shipped model, which takes a minute"]
fn images_of_the_labels() {
    let Ok(folder) = std::env::var("EXPLORE_IMAGES") else {
        println!("skipped: EXPLORE_IMAGES names no folder");
        return;
    };
    for (model, layer, expert) in [("emoji", 1, Some(7)), ("eurosat", 1, None)] {
        let mut harness = opened(DESKTOP, ModelSource::Named(model.to_owned()));
        harness.key_press(Key::E);
        harness.run_steps(2);
        let controls = &mut harness.state_mut().app_mut().session_mut().controls;
        (controls.sampling.seed, controls.sampling.steps, controls.count) = (7, 10, 4);
        harness.state_mut().app_mut().session_mut().generate();
        complete(&mut harness);
        for (theme, dark) in [("dark", egui::Theme::Dark), ("light", egui::Theme::Light)] {
            harness.ctx.set_theme(dark);
            for (form, size) in [("desktop", DESKTOP), ("phone", PHONE)] {
                for (order, expert) in [("c", None), ("expert", expert)] {
                    let selection = Selection {
                        card: Card::Labels,
                        step: Some(8),
                        layer,
                        expert,
                        ..Selection::default()
                    };
                    harness.state_mut().app_mut().explore(selection);
                    harness.set_size(size + vec2(16.0, 16.0));
                    harness.run_steps(6);
                    let image = harness.render().expect("an image");
                    let [wide, high] = [size.x, size.y].map(|side| side as u32);
                    let image = image::imageops::crop_imm(&image, 8, 8, wide, high).to_image();
                    let name = format!("labels-{model}-{order}-{form}-{theme}.png");
                    image.save(Path::new(&folder).join(name)).expect("a file");
                }
            }
        }
    }
}
