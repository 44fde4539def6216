//! Devices that are lost, and engines that do not fit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::hooked::{Hooked, Hooks};
use super::model::file;
use super::{Losses, assert_same, controls, finished, opened, ready, spend, start, until};
use crate::session::{NoteKind, Phase, Session, Start};
use diffmoe::engine::EngineError;
use diffmoe::model::Objective;
use diffmoe::pipeline::Backend;
use diffmoe::scheduler::SchedulerKind;

/// Units of work until the device is lost.
struct UnitsLeft(usize);

impl Hooks for UnitsLeft {
    fn before_slice(&mut self, _budget: usize) -> Result<(), EngineError> {
        spend(&mut self.0)
    }
}

/// Lets each engine fail after the next number of units, and the later ones never; counts the engines.
fn failing(session: &mut Session, units: Vec<usize>) -> Arc<AtomicUsize> {
    let (losses, made) = Losses::after(units);
    session.wrap = Some(Arc::new(move |inner| {
        Ok(Box::new(Hooked { inner, hooks: UnitsLeft(losses.next()) }))
    }));
    made
}

#[test]
fn a_lost_device_changes_nothing_in_the_images() {
    let (_folder, path) = file();
    // A guided step is 13 units: two passes of six stages and the solver.
    for units in [0, 1, 12, 13, 14, 40, 6 * 13 - 1] {
        let mut session = opened(path.clone());
        let made = failing(&mut session, vec![units]);
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

/// Multistep schedulers need earlier predictions, which no frame holds.
#[test]
fn a_lost_device_changes_nothing_whatever_the_scheduler() {
    let (_folder, path) = file();
    let all = SchedulerKind::for_objective(Objective::Flow);
    for scheduler in all.into_iter().filter(|scheduler| scheduler.resumes()) {
        for units in [10, 3 * 13 + 20, 70] {
            let mut session = opened(path.clone());
            session.controls.sampling.scheduler = scheduler;
            failing(&mut session, vec![units]);
            session.generate();
            until(&mut session, "recovery", |s| s.phase() == Phase::Recovering);
            ready(&mut session);
            assert_same(session.record().unwrap(), &path);
        }
    }
}

#[test]
fn an_adaptive_run_begins_anew_after_a_loss() {
    let (_folder, path) = file();
    let draw = |units: Vec<usize>| {
        let mut session = opened(path.clone());
        session.controls.sampling.scheduler = "dopri5".parse().unwrap();
        failing(&mut session, units);
        session.generate();
        ready(&mut session);
        let record = session.record().unwrap().clone();
        assert!(record.is_complete());
        assert_eq!(record.step_ms.len(), record.steps() as usize);
        record
    };
    let (whole, again) = (draw(vec![]), draw(vec![100]));
    assert!(whole.steps() > 1, "{} steps", whole.steps());
    assert_eq!(whole.frames, again.frames);
    assert_eq!(whole.trace.forwards(), again.trace.forwards());
}

#[test]
fn losses_with_progress_between_them_may_be_many() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    failing(&mut session, vec![15, 15, 15, 15, 15]);
    session.generate();
    ready(&mut session);
    assert!(session.model().unwrap().backend_note.is_none(), "the processor was not needed");
    assert_same(session.record().unwrap(), &path);
}

#[test]
fn after_three_losses_in_a_row_the_processor_goes_on_and_then_nobody() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    let made = failing(&mut session, vec![20, 3, 3]);
    session.generate();
    ready(&mut session);
    assert_eq!(made.load(Ordering::Relaxed), 4);
    let note = session.model().unwrap().backend_note.clone().unwrap();
    assert!(note.contains("on the CPU"), "{note}");
    assert_same(session.record().unwrap(), &path);

    let mut session = opened(path.clone());
    let made = failing(&mut session, vec![20, 3, 3, 3]);
    session.generate();
    ready(&mut session);
    assert_eq!(made.load(Ordering::Relaxed), 4);
    let note = session.notes().last().unwrap();
    assert_eq!(note.kind, NoteKind::Error);
    assert!(note.text.contains("Generate again"), "{}", note.text);
    assert_eq!(finished(&session), 1, "the finished step stays");
    session.generate();
    ready(&mut session);
    assert_same(session.record().unwrap(), &path);
}

#[test]
fn single_stepping_survives_a_loss() {
    let (_folder, path) = file();
    let mut session = opened(path.clone());
    failing(&mut session, vec![18]);
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
    failing(&mut session, vec![18, 5]);
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
            return Err("3 images at once do not fit: draw fewer images at once".into());
        }
        Ok(engine)
    }));
    session.generate();
    ready(&mut session);
    session.controls.count = 3;
    session.generate();
    ready(&mut session);
    assert!(session.notes().last().unwrap().text.contains("draw fewer"), "{:?}", session.notes());
    assert_eq!(session.record().unwrap().settings.labels[0].len(), 2, "the image stays");
    session.controls.count = 2;
    session.controls.sampling.seed = 3;
    session.generate();
    ready(&mut session);
    assert_eq!(made.load(Ordering::Relaxed), 2, "the first engine is still good");
    assert_same(session.record().unwrap(), &path);
}

#[test]
fn a_destroyed_graphics_device_is_replaced_without_a_trace_in_the_images() {
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
