//! Whole sessions on the processor, with a small random model.

mod model;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::diffusion::Solver;
use crate::kernels::WeightPrecision;
use crate::model::{Branch, EngineError, Op, Progress, Routing, RunSpec, Snapshot, Taps};
use crate::sampler::Run;
use crate::trace::At;
use model::{LABELS, file};

fn start(path: PathBuf, share: Option<Share>) -> Start {
    Start {
        model: ModelSource::Path(path),
        share,
        backend: Backend::Cpu,
        draw_at_once: true,
        waker: Arc::new(|| {}),
    }
}

fn controls() -> Controls {
    Controls {
        choices: vec![Choice::Varied, Choice::Row(1)],
        seed: 11,
        steps: 6,
        guidance: 1.5,
        solver: Solver::Euler,
        count: 2,
        routing: Routing::default(),
    }
}

/// Ticks until something is so.
fn until(session: &mut Session, what: &str, done: impl Fn(&Session) -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
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

/// A run of two pictures, for tests of what is made from it.
pub(super) fn finished_record() -> Record {
    let (_folder, path) = file();
    let mut session = opened(path);
    session.generate();
    ready(&mut session);
    session.record().unwrap().clone()
}

/// The same run without a session: samples after each step.
fn reference(path: &std::path::Path, controls: &Controls) -> (Vec<f32>, crate::trace::Trace) {
    let checkpoint = crate::checkpoint::Checkpoint::open(path).unwrap();
    let open = OpenModel::open(&checkpoint, Backend::Cpu, WeightPrecision::F16).unwrap();
    let config = checkpoint.config();
    let settings = controls.settings(config);
    let run = Run::start(open.engine(controls.count).unwrap(), config, settings, 0);
    let done = run.finish(|_| {}).unwrap();
    (done.samples, done.trace)
}

fn assert_same(record: &Record, path: &std::path::Path) {
    let (samples, trace) = reference(path, &record.controls);
    assert_eq!(record.frames.last().unwrap(), &samples, "the pictures");
    assert_eq!(record.trace.to_json().unwrap(), trace.to_json().unwrap(), "the routing");
    assert_eq!(record.frames.len(), record.settings.steps as usize + 1);
    assert_eq!(record.step_ms.len(), record.settings.steps as usize);
}

#[test]
fn a_first_picture_is_drawn_without_being_asked() {
    let (_folder, path) = file();
    let mut session = Session::new(start(path.clone(), None));
    assert!(matches!(session.phase(), Phase::Fetching { .. } | Phase::Opening { .. }));
    assert!(session.record().is_none());
    until(&mut session, "a picture", |s| !s.history().is_empty());
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
    assert_eq!(model.hash.len(), 8);
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
    session.controls.seed = 5;
    session.generate();
    ready(&mut session);
    assert_eq!(session.history().len(), 1);
    assert_eq!(session.record().unwrap().settings.labels[0].len(), 1);
    assert_same(session.record().unwrap(), &path);

    // In the middle of a run, with the same batch.
    session.controls.seed = 6;
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    session.controls.seed = 7;
    session.generate();
    ready(&mut session);
    assert_eq!(session.record().unwrap().settings.seed, 7);
    assert_same(session.record().unwrap(), &path);

    session.show(0);
    assert_eq!((session.record().unwrap().settings.seed, session.controls.seed), (5, 5));
}

#[test]
fn impossible_settings_are_told_and_the_run_goes_on() {
    let (_folder, path) = file();
    let mut session = opened(path);
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    session.controls.guidance = f32::NAN;
    session.generate();
    assert_eq!(session.phase(), Phase::Paused);
    assert!(session.notes()[0].text.contains("guidance NaN"), "{:?}", session.notes());
    session.dismiss(0);
    assert!(session.notes().is_empty());
}

#[test]
fn a_shared_link_shows_the_same_pictures() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    session.controls.solver = Solver::Heun;
    session.controls.guidance = 1.1;
    session.controls.routing.gamma = Some(0.45);
    session.generate();
    ready(&mut session);
    let share = Share::parse(&session.share().unwrap()).unwrap();
    assert_eq!(share.controls, session.controls);

    // The link names a file that only its maker has; it is shown as soon as that file is opened.
    let mut other = Session::new(Start { draw_at_once: false, ..start(path.clone(), Some(share)) });
    assert!(other.notes()[0].text.contains("open that file"), "{:?}", other.notes());
    until(&mut other, "the picture", |s| !s.history().is_empty());
    let (ours, theirs) = (session.record().unwrap(), other.record().unwrap());
    assert_eq!(ours.frames, theirs.frames);
    assert_eq!(ours.labels, theirs.labels);
}

#[test]
fn links_of_other_models_are_told_apart() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let mut share =
        Share { model: None, hash: Some("00000000".into()), controls: controls(), unknown: vec![] };
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
    assert!(texts.iter().any(|text| text.contains("1 label lists")), "{texts:?}");
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
    assert!(session.notes().last().unwrap().text.contains("there is no model"));
    session.go_on();
    ready(&mut session);
    assert_same(session.record().unwrap(), &path);

    // A good one takes over, by its content.
    let bytes = Arc::new(crate::platform::Bytes::new(whole));
    session.load(ModelSource::File { name: "again.safetensors".into(), bytes });
    until(&mut session, "the model", |s| s.loading().is_none());
    assert_eq!(session.model().unwrap().source.name(), "again.safetensors");
    assert_eq!(session.controls.seed, controls().seed, "the same model keeps the settings");
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

/// An engine whose device is lost after some units of work.
struct Failing {
    inner: Box<dyn Engine>,
    units_left: usize,
}

impl Engine for Failing {
    fn device(&self) -> String {
        self.inner.device()
    }
    fn batch(&self) -> usize {
        self.inner.batch()
    }
    fn start(&mut self, run: &RunSpec) {
        self.inner.start(run);
    }
    fn begin_step(&mut self, ops: &[Op]) {
        self.inner.begin_step(ops);
    }
    fn advance(&mut self, _budget: usize) -> Result<Progress, EngineError> {
        let lost = || EngineError::DeviceLost("somebody pulled the plug".into());
        self.units_left = self.units_left.checked_sub(1).ok_or_else(lost)?;
        self.inner.advance(1)
    }
    fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.inner.take_snapshot()
    }
    fn wait(&mut self) -> Result<(), EngineError> {
        self.inner.wait()
    }
    fn forward_with_taps(&mut self, run: &RunSpec, times: &[f32]) -> Result<Taps, EngineError> {
        self.inner.forward_with_taps(run, times)
    }
}

/// Lets each engine fail after the next number of units, and the later ones never; counts the engines.
fn failing(session: &mut Session, units: &[usize]) -> Arc<AtomicUsize> {
    let made = Arc::new(AtomicUsize::new(0));
    let (counter, units) = (made.clone(), Mutex::new(units.to_vec().into_iter()));
    session.wrap = Some(Arc::new(move |inner| {
        counter.fetch_add(1, Ordering::Relaxed);
        let units_left = units.lock().unwrap().next().unwrap_or(usize::MAX);
        Ok(Box::new(Failing { inner, units_left }))
    }));
    made
}

#[test]
fn a_lost_device_changes_nothing_in_the_pictures() {
    let (_folder, path) = file();
    // A guided step is 13 units: two passes of six stages and the solver.
    for units in [0, 1, 12, 13, 14, 40, 6 * 13 - 1] {
        let mut session = opened(path.clone());
        let made = failing(&mut session, &[units]);
        session.generate();
        until(&mut session, "recovery", |s| s.phase() == Phase::Recovering);
        assert!(session.record().is_some(), "what was drawn is on the screen all the time");
        ready(&mut session);
        assert_eq!(made.load(Ordering::Relaxed), 2, "after {units} units");
        let note = &session.notes()[0];
        assert!(note.text.contains("pulled the plug"), "{}", note.text);
        assert!(note.text.contains(&format!("step {}", units / 13)), "{units}: {}", note.text);
        assert_eq!(note.kind, NoteKind::Info);
        assert_same(session.record().unwrap(), &path);
    }
}

#[test]
fn losses_with_progress_between_them_may_be_many() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    failing(&mut session, &[15, 15, 15, 15, 15]);
    session.generate();
    ready(&mut session);
    assert!(session.model().unwrap().backend_note.is_none(), "the processor was not needed");
    assert_same(session.record().unwrap(), &path);
}

#[test]
fn after_three_losses_in_a_row_the_processor_goes_on_and_then_nobody() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    let made = failing(&mut session, &[20, 3, 3]);
    session.generate();
    ready(&mut session);
    assert_eq!(made.load(Ordering::Relaxed), 4);
    let note = session.model().unwrap().backend_note.clone().unwrap();
    assert!(note.contains("on the processor"), "{note}");
    assert_same(session.record().unwrap(), &path);

    let mut session = opened(path.clone());
    let made = failing(&mut session, &[20, 3, 3, 3]);
    session.generate();
    ready(&mut session);
    assert_eq!(made.load(Ordering::Relaxed), 4);
    let note = session.notes().last().unwrap();
    assert_eq!(note.kind, NoteKind::Error);
    assert!(note.text.contains("draw again"), "{}", note.text);
    assert_eq!(finished(&session), 1, "the finished step stays");
    session.generate();
    ready(&mut session);
    assert_same(session.record().unwrap(), &path);
}

#[test]
fn single_stepping_survives_a_loss() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    failing(&mut session, &[18]);
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    session.step();
    until(&mut session, "recovery", |s| s.phase() == Phase::Recovering);
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    assert_eq!(finished(&session), 2);
    session.go_on();
    ready(&mut session);
    assert_same(session.record().unwrap(), &path);
}

#[test]
fn pausing_and_cancelling_while_a_device_is_replaced() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    failing(&mut session, &[18, 5]);
    session.generate();
    until(&mut session, "recovery", |s| s.phase() == Phase::Recovering);
    session.pause();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    session.go_on();
    until(&mut session, "recovery", |s| s.phase() == Phase::Recovering);
    session.cancel();
    assert_eq!(session.phase(), Phase::Ready);
    assert_eq!(finished(&session), 1);
    session.generate();
    ready(&mut session);
    assert_same(session.record().unwrap(), &path);
}

#[test]
fn an_engine_that_does_not_fit_leaves_the_one_before() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    let made = Arc::new(AtomicUsize::new(0));
    let counter = made.clone();
    session.wrap = Some(Arc::new(move |engine| {
        counter.fetch_add(1, Ordering::Relaxed);
        if engine.batch() > 2 {
            return Err("3 pictures at once do not fit: draw fewer pictures at once".into());
        }
        Ok(engine)
    }));
    session.generate();
    ready(&mut session);
    session.controls.count = 3;
    session.generate();
    ready(&mut session);
    assert!(session.notes().last().unwrap().text.contains("draw fewer"), "{:?}", session.notes());
    assert_eq!(session.record().unwrap().settings.labels[0].len(), 2, "the picture stays");
    session.controls.count = 2;
    session.controls.seed = 3;
    session.generate();
    ready(&mut session);
    assert_eq!(made.load(Ordering::Relaxed), 2, "the first engine is still good");
    assert_same(session.record().unwrap(), &path);
}

#[test]
fn a_destroyed_graphics_device_is_replaced_without_a_trace_in_the_pictures() {
    let (_folder, path) = file();
    let mut session =
        Session::new(Start { draw_at_once: false, backend: Backend::Gpu, ..start(path, None) });
    ready(&mut session);
    assert!(
        session.model().is_some(),
        "this needs a GPU or Mesa's lavapipe: {:?}",
        session.notes()
    );
    session.controls = controls();
    session.set_profiling(true);
    session.generate();
    ready(&mut session);
    let whole = session.record().unwrap().clone();
    assert!(!whole.stage_ms.is_empty(), "lavapipe has a clock");

    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    session.step();
    until(&mut session, "a pause", |s| s.phase() == Phase::Paused);
    session.model.as_ref().unwrap().open.gpu().unwrap().device.destroy();
    session.go_on();
    ready(&mut session);
    assert!(session.notes().iter().any(|note| note.text.contains("lost")), "{:?}", session.notes());
    let record = session.record().unwrap();
    assert_eq!(record.frames, whole.frames);
    assert_eq!(record.trace.to_json().unwrap(), whole.trace.to_json().unwrap());
}
