//! The tab Labels as a visitor meets it: with an atlas, without one, on a phone.

use diffmoe::trace::atlas::{About, Atlas, ImageCounts, Plan, PlannedTable};
use diffmoe_viewer::session::{Card, Selection};

use super::*;

/// Explore with the tab open after a run of the tiny model.
fn labels(size: egui::Vec2) -> Shown {
    let mut harness = finished(size, file("tiny.safetensors", TINY), |_| ());
    harness.key_press(Key::E);
    harness.run_steps(3);
    complete(&mut harness);
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
fn without_an_atlas_the_tab_says_how_to_get_one() {
    let mut harness = labels(DESKTOP);
    assert!(!has(&harness, "Sort labels by C"));
    assert!(has(&harness, "diffmoe atlas tiny.safetensors"));
    harness.state_mut().app_mut().session_mut().open_atlas("x.json", b"{\"atlas\": 9}");
    harness.run_steps(3);
    assert!(has(&harness, "x.json: the atlas has format 9"));
    harness.check_accessibility();
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
