//! Whole sessions on the processor, with a small random model.

mod decode_losses;
mod hooked;
mod latents;
mod losses;
mod model;
mod pace;
mod saved;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use diffmoe::engine::{EngineError, WeightChoice};
use diffmoe::model::Routing;
use diffmoe::pipeline::{Run, Sampling};
use diffmoe::scheduler::Branch;
use diffmoe::trace::At;
use model::{LABELS, file};

/// When devices are lost: each that is made does so after the next number of units, and the later ones never.
struct Losses {
    made: Arc<AtomicUsize>,
    units: Mutex<std::vec::IntoIter<usize>>,
}

impl Losses {
    /// Also returns the counter of what is made.
    fn after(units: Vec<usize>) -> (Self, Arc<AtomicUsize>) {
        let made = Arc::new(AtomicUsize::new(0));
        (Self { made: made.clone(), units: Mutex::new(units.into_iter()) }, made)
    }

    /// Units that the one that is made now has left.
    fn next(&self) -> usize {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.units.lock().unwrap().next().unwrap_or(usize::MAX)
    }
}

/// One unit less, or the device is lost.
fn spend(units_left: &mut usize) -> Result<(), EngineError> {
    let lost = || EngineError::DeviceLost("somebody pulled the plug".into());
    *units_left = units_left.checked_sub(1).ok_or_else(lost)?;
    Ok(())
}

fn start(path: PathBuf, share: Option<Share>) -> Start {
    Start {
        model: ModelSource::Path(path),
        decoder: None,
        share,
        backend: Backend::Cpu,
        draw_at_once: true,
        waker: Arc::new(|| {}),
    }
}

fn controls() -> Controls {
    Controls {
        choices: vec![Choice::Varied, Choice::Row(1)],
        mix: Vec::new(),
        prompt: String::new(),
        sampling: Sampling {
            seed: 11,
            steps: 6,
            guidance: 1.5,
            scheduler: "euler".parse().unwrap(),
            ..Sampling::default()
        },
        init: None,
        count: 2,
    }
}

/// Ticks until something is so.
fn until(session: &mut Session, what: &str, done: impl Fn(&Session) -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !done(session) {
        assert!(
            Instant::now() < end,
            "{what} never came: {:?} {:?}",
            session.phase(),
            session.notes
        );
        if session.tick() == Tick::Later {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn ready(session: &mut Session) {
    until(session, "ready", |s| s.phase() == Phase::Ready);
}

fn finished(session: &Session) -> u32 {
    session.record().map_or(0, Record::finished_steps)
}

/// A session with a model and nothing drawn yet.
fn opened(path: PathBuf) -> Session {
    let mut session = Session::new(Start { draw_at_once: false, ..start(path, None) });
    ready(&mut session);
    session.controls = controls();
    session
}

/// A run of two images, for tests of what is made from it.
pub(crate) fn finished_record() -> Record {
    let (_folder, path) = file();
    let mut session = opened(path);
    session.generate();
    ready(&mut session);
    session.record().unwrap().clone()
}

/// The same run without a session: samples after each step.
fn reference(path: &std::path::Path, controls: &Controls) -> (Vec<f32>, diffmoe::trace::Trace) {
    let checkpoint = diffmoe::checkpoint::Checkpoint::open(path).unwrap();
    let open = Pipeline::open(&checkpoint, Backend::Cpu, WeightChoice::Auto).unwrap();
    let config = checkpoint.config();
    let settings = controls.settings(config);
    let engine = open.engine(controls.count).unwrap();
    let run = Run::start(engine, config, settings, 0).unwrap();
    let done = run.finish(|_| {}).unwrap();
    (done.samples, done.trace)
}

fn assert_same(record: &Record, path: &std::path::Path) {
    let (samples, trace) = reference(path, &record.controls);
    assert_eq!(record.frames.last().unwrap(), &samples, "the images");
    assert_eq!(record.trace.to_json().unwrap(), trace.to_json().unwrap(), "the routing");
    assert_eq!(record.frames.len(), record.settings.sampling.steps as usize + 1);
    assert_eq!(record.step_ms.len(), record.settings.sampling.steps as usize);
}

#[test]
fn a_first_image_is_drawn_without_being_asked() {
    let (_folder, path) = file();
    let mut session = Session::new(start(path.clone(), None));
    assert!(matches!(session.phase(), Phase::Fetching { .. } | Phase::Opening { .. }));
    assert!(session.record().is_none());
    until(&mut session, "an image", |s| !s.history().is_empty());
    let record = session.record().unwrap();
    assert_same(record, &path);
    assert_eq!(record.labels.len(), record.controls.count);
    assert!(LABELS.iter().any(|label| record.labels[0].starts_with(label)), "{:?}", record.labels);
    assert!(record.step_ms.iter().all(|ms| *ms > 0.0));
    let stages: Vec<_> = record.stage_ms.iter().map(|(stage, _)| stage.name()).collect();
    assert_eq!(stages, ["condition", "attention", "router", "experts", "final layer", "solver"]);
    let at = At { step: 0, layer: 0, branch: Branch::Conditional };
    assert!(record.trace.counts(at).unwrap().iter().sum::<u32>() > 0);
    let model = session.model().unwrap();
    assert_eq!(model.hash.len(), 10);
    assert!(model.device.starts_with("processor"), "{}", model.device);
    assert!(session.notes().is_empty(), "{:?}", session.notes());
    assert_eq!(session.tick(), Tick::Idle);
}

#[test]
fn pause_step_and_go_on_change_nothing_but_time() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    assert_eq!(finished(&session), 1, "a first step begins a run");
    session.step();
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    assert_eq!(finished(&session), 2, "asking twice before it is done is one step");
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(session.tick(), Tick::Idle);
    session.go_on();
    assert_eq!(session.phase(), Phase::Running);
    until(&mut session, "the third step", |s| finished(s) >= 3);
    session.pause();
    let at = finished(&session);
    for _ in 0..5 {
        session.tick();
    }
    assert_eq!(finished(&session), at);
    session.go_on();
    ready(&mut session);
    let record = session.record().unwrap();
    assert_same(record, &path);
    assert!(record.step_ms[2] < 150.0, "the pause counts as work: {:?}", record.step_ms);
}

#[test]
fn the_newest_settings_win_and_cancelling_keeps_what_is_there() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    session.cancel();
    assert_eq!(session.phase(), Phase::Ready);
    assert_eq!(finished(&session), 1, "the step stays on the screen");
    assert!(session.history().is_empty(), "it is no finished run");

    session.controls.count = 3;
    session.generate();
    session.controls.count = 1;
    session.controls.sampling.seed = 5;
    session.generate();
    ready(&mut session);
    assert_eq!(session.history().len(), 1);
    assert_eq!(session.record().unwrap().settings.labels[0].len(), 1);
    assert_same(session.record().unwrap(), &path);

    // In the middle of a run, with the same batch.
    session.controls.sampling.seed = 6;
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    session.controls.sampling.seed = 7;
    session.generate();
    ready(&mut session);
    assert_eq!(session.record().unwrap().settings.sampling.seed, 7);
    assert_same(session.record().unwrap(), &path);

    session.show(0);
    assert_eq!(
        (session.record().unwrap().settings.sampling.seed, session.controls.sampling.seed),
        (5, 5)
    );
}

#[test]
fn impossible_settings_are_told_and_the_run_goes_on() {
    let (_folder, path) = file();
    let mut session = opened(path);
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    session.controls.sampling.guidance = f32::NAN;
    session.generate();
    assert_eq!(session.phase(), Phase::Paused);
    assert!(session.notes()[0].text.contains("off), got NaN"), "{:?}", session.notes());
    session.dismiss(0);
    assert!(session.notes().is_empty());
}

#[test]
fn a_shared_link_shows_the_same_images() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    session.controls.sampling.scheduler = "heun".parse().unwrap();
    session.controls.sampling.guidance = 1.1;
    session.controls.sampling.routing.gamma = Some(0.45);
    session.generate();
    ready(&mut session);
    let share = Share::parse(&session.share().unwrap()).unwrap();
    assert_eq!(share.controls, session.controls);

    // The link names a file that only its maker has; it is shown as soon as that file is opened.
    let mut other = Session::new(Start { draw_at_once: false, ..start(path.clone(), Some(share)) });
    assert!(other.notes()[0].text.contains("Open that file"), "{:?}", other.notes());
    until(&mut other, "the image", |s| !s.history().is_empty());
    let (ours, theirs) = (session.record().unwrap(), other.record().unwrap());
    assert_eq!(ours.frames, theirs.frames);
    assert_eq!(ours.labels, theirs.labels);
}

#[test]
fn links_of_other_models_are_told_apart() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let mut share = Share { hash: Some("00000000".into()), ..Share::of(controls()) };
    session.open_share(share.clone());
    assert!(session.notes().last().unwrap().text.contains("another version"));
    ready(&mut session);
    assert_eq!(session.history().len(), 1, "it is drawn all the same");

    share.controls.choices.pop();
    share.unknown.push("zoom".into());
    share.model = Some(name);
    share.hash = None;
    session.open_share(share);
    let texts: Vec<_> = session.notes().iter().map(|note| note.text.as_str()).collect();
    assert!(texts.iter().any(|text| text.contains("1 label tables")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("zoom")), "{texts:?}");
}

#[test]
fn a_bad_file_leaves_what_was_there() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    let whole = std::fs::read(&path).unwrap();
    for (name, bytes) in [
        ("short.safetensors", whole[..whole.len() / 2].to_vec()),
        ("text.txt", b"I am no model".to_vec()),
        ("empty", Vec::new()),
    ] {
        let bytes = Arc::new(crate::platform::Bytes::new(bytes));
        session.load(ModelSource::File { name: name.into(), bytes });
        until(&mut session, "a note", |s| s.loading().is_none());
        let note = session.notes().last().unwrap();
        assert_eq!(note.kind, NoteKind::Error);
        assert!(note.text.contains(name), "{}", note.text);
        assert_eq!(session.phase(), Phase::Paused, "the run is still there");
    }
    session.load(ModelSource::Named("nothing".into()));
    until(&mut session, "a note", |s| s.loading().is_none());
    assert!(session.notes().last().unwrap().text.contains("unknown model"));
    session.go_on();
    ready(&mut session);
    assert_same(session.record().unwrap(), &path);

    // A good one takes over, by its content.
    let bytes = Arc::new(crate::platform::Bytes::new(whole));
    session.load(ModelSource::File { name: "again.safetensors".into(), bytes });
    until(&mut session, "the model", |s| s.loading().is_none());
    assert_eq!(session.model().unwrap().source.name(), "again.safetensors");
    assert_eq!(
        session.controls.sampling.seed,
        controls().sampling.seed,
        "the same model keeps the settings"
    );
}

#[test]
fn without_a_model_everything_is_harmless() {
    let mut session = Session::new(start("/nowhere/at-all.safetensors".into(), None));
    until(&mut session, "a note", |s| !s.notes().is_empty());
    assert_eq!(session.phase(), Phase::NoModel);
    session.generate();
    session.step();
    session.go_on();
    session.pause();
    session.cancel();
    session.show(3);
    session.show_live();
    assert!(session.record().is_none() && session.share().is_none());
    assert_eq!(session.tick(), Tick::Idle);
}

#[test]
fn models_that_read_prompts_draw_what_they_are_told() {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/t2i_tiny");
    let path = folder.join("model.safetensors");
    let mut session = Session::new(Start { draw_at_once: false, ..start(path.clone(), None) });
    ready(&mut session);
    let config = session.model().unwrap().config.clone();
    let mut draw = |prompt: &str| {
        let mut controls = Controls::for_model(&config);
        (controls.prompt, controls.count) = (prompt.into(), 2);
        let sampling = &mut controls.sampling;
        (sampling.negative, sampling.guidance) = ("blob".into(), 1.5);
        (sampling.steps, sampling.seed) = (3, 4);
        session.controls = controls;
        session.generate();
        ready(&mut session);
        session.record().unwrap().clone()
    };
    let robot = draw("a robot & a fox, 100% flat");
    assert_eq!(robot.labels, ["a robot & a fox, 100% flat"; 2]);
    assert_same(&robot, &path);
    assert_ne!(robot.frames.last(), draw("a house").frames.last(), "the words matter");

    let link = Share::parse(&robot.share.to_fragment()).unwrap();
    assert_eq!(link.controls, robot.controls);
}
