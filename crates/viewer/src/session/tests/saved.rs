//! Saved images restore their run.

use super::super::export;
use super::*;
use diffmoe::model::RoutingRule;
use diffmoe::pixels::RgbImage;

/// A file of another program, or a damaged one.
fn png(keyword: &str, text: &str) -> Vec<u8> {
    let image = RgbImage::from_raw(1, 1, vec![7; 3]).unwrap();
    image.to_png(&[(keyword, text.to_owned())]).unwrap()
}

fn told(session: &Session) -> String {
    session.notes().iter().map(|note| note.text.as_str()).collect::<Vec<_>>().join("\n")
}

fn changed(usual: &Controls, change: impl Fn(&mut Sampling)) -> Controls {
    let mut controls = usual.clone();
    change(&mut controls.sampling);
    controls
}

#[test]
fn every_setting_comes_back_from_a_saved_image() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    let usual = controls();
    let pool = Routing { rule: RoutingRule::Pool, ..Routing::default() };
    let all = [
        changed(&usual, |sampling| sampling.seed = u64::MAX),
        Controls { count: 3, ..changed(&usual, |sampling| sampling.steps = 3) },
        Controls {
            choices: vec![Choice::Any, Choice::Varied],
            ..changed(&usual, |sampling| sampling.guidance = 3.25)
        },
        changed(&usual, |sampling| sampling.scheduler = "unipc".parse().unwrap()),
        changed(&usual, |sampling| sampling.routing = Routing { gamma: Some(0.3), ..pool }),
        changed(&usual, |sampling| {
            sampling.routing = Routing { shift: -0.125, log_odds: 1.5, ..pool };
        }),
        changed(&usual, |sampling| sampling.muted = [(1, 2)].into_iter().collect()),
    ];
    for wanted in all {
        session.controls = wanted.clone();
        session.generate();
        ready(&mut session);
        let record = session.record().unwrap().clone();
        let (whole, second, moving) = (
            export::png(&record, None, 99, None).unwrap(),
            export::png(&record, Some(1), 99, Some(8)).unwrap(),
            export::apng(&record, None).unwrap(),
        );
        for (file, image) in [(whole, None), (second, Some(1)), (moving, None)] {
            let mut other = opened(path.clone());
            assert_ne!(other.controls.clone(), wanted);
            other.open_png("saved.png", &file);
            ready(&mut other);
            assert!(told(&other).contains("settings in saved.png"), "{}", told(&other));
            assert_eq!(other.controls, wanted);
            let again = other.record().unwrap();
            assert_eq!(again.frames, record.frames, "the same images");
            assert_eq!(other.take_image(), image);
        }
    }
}

#[test]
fn a_file_of_a_model_that_is_not_here_says_which_and_waits_for_it() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    session.generate();
    ready(&mut session);
    let record = session.record().unwrap().clone();
    let saved = export::png(&record, None, 99, None).unwrap();

    let (_other_folder, latent) = super::model::latent_file(4);
    let mut other = opened(latent);
    other.open_png("saved.png", &saved);
    let text = told(&other);
    assert!(text.contains("tiny.safetensors") && text.contains("Open that file here"), "{text}");
    other.load(ModelSource::Path(path));
    until(&mut other, "the run", |s| s.record().is_some_and(Record::is_complete));
    assert_eq!(other.record().unwrap().frames, record.frames);
}

#[test]
fn settings_of_another_program_are_taken_over_as_far_as_they_go() {
    let (_folder, path) = file();
    let mut session = opened(path);
    let text = "a fox\nSteps: 4, Sampler: Euler a, CFG scale: 3.5, Seed: 99, Model: v1-5";
    session.open_png("fox.png", &png("parameters", text));
    ready(&mut session);
    let c = &session.controls;
    assert_eq!((c.sampling.seed, c.sampling.steps, c.sampling.guidance, c.count), (99, 4, 3.5, 1));
    let text = told(&session);
    for expected in ["fox.png was made with v1-5", "\"Euler a\"", "takes no prompts"] {
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(session.record().unwrap().settings.sampling.seed, 99);
}

#[test]
fn files_without_good_settings_change_nothing() {
    let (_folder, path) = file();
    let mut session = opened(path);
    let before = session.controls.clone();
    let good = export::png(&finished_record(), None, 99, None).unwrap();
    let cases = [
        (png("diffmoe", "seed=1&steps=0&guidance=1&labels=any"), "invalid steps"),
        (png("diffmoe", "seed=1&steps=900&guidance=1&labels=any"), "from 1 to 250"),
        (good[..60].to_vec(), "cut off"),
    ];
    for (file, expected) in cases {
        assert!(is_png(&file));
        session.open_png("a.png", &file);
        let note = session.notes().last().unwrap();
        assert!(note.text.contains(expected), "{}", note.text);
        assert_eq!((session.phase(), &session.controls), (Phase::Ready, &before));
    }
    assert!(session.history().is_empty());
}

/// The image becomes the one that runs start from; a link says how strong it was, and that it is missing.
#[test]
fn an_image_without_settings_is_one_to_start_from() {
    let (_folder, path) = file();
    let mut session = opened(path);
    session.controls = controls();
    session.open_png("a.png", &png("title", "a fox"));
    let init = session.controls.init.clone().unwrap();
    assert_eq!((init.name.as_str(), init.is_masked()), ("a.png", false));
    assert!((session.controls.sampling.strength - 0.6).abs() < 1e-6);
    session.generate();
    ready(&mut session);
    let record = session.record().unwrap().clone();
    assert_eq!((record.steps(), record.finished_steps()), (3, 3), "3 of 6 steps");
    assert!(record.share.to_fragment().contains("&strength=0.6&"));
    let link = Share::parse(&record.share.to_fragment()).unwrap();
    assert_eq!(link.controls.init, None);
    assert!(link.differs[0].contains("started from an image"), "{:?}", link.differs);

    // The first patch of its second image is redrawn, and all else stays.
    session.start_from_record(1, 3);
    let mut init = session.controls.init.clone().unwrap();
    init.redrawn[0] = true;
    let [_, columns] = init.grid;
    session.controls.init = Some(init);
    session.generate();
    ready(&mut session);
    let again = session.record().unwrap();
    let (len, size) = (record.config.sample_len(), record.config.input_size);
    let patch = size[1] / columns;
    let before = &record.frames[3][len..];
    for sample in again.frames[3].chunks_exact(len) {
        for (at, (a, b)) in sample.iter().zip(before).enumerate() {
            let (y, x) = (at / size[1] % size[0], at % size[1]);
            assert_eq!(a.to_bits() == b.to_bits(), y >= patch || x >= patch, "row {y}, column {x}");
        }
    }
}
