//! One run from its first to its last step: the work submitted in a frame, and its results.

use web_time::Instant;

use super::pacing::{Pace, Pacer, StepClock, Workload, milliseconds};
use super::{Record, Tick};
use diffmoe::engine::{Engine, EngineError, Progress, Snapshot};
use diffmoe::pipeline::{Run, RunState};
use diffmoe::scheduler::Buffer;

/// How long results of work submitted before a pause are awaited.
const AFTERMATH_MS: f32 = 2000.0;

/// Whether a run continues automatically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drive {
    /// To its end.
    On,
    /// Until this many steps are finished, then it pauses.
    Until(u32),
    /// Paused.
    Paused,
}

/// A run and its record.
pub(super) struct Job {
    pub(super) record: Record,
    pub(super) drive: Drive,
    /// `None` if it was cancelled or waits for a device.
    run: Option<Run>,
    /// The state of the scheduler besides the last frame of the record.
    carried: Vec<Buffer>,
    pacer: Pacer,
    clock: StepClock,
    paused_at: Option<Instant>,
}

/// Result of a frame.
pub(super) enum Frame {
    /// Only when to call again.
    Went(Tick),
    /// All steps are finished.
    Complete,
    /// The device failed.
    Failed(EngineError),
}

impl Frame {
    /// Result of the slices of a frame.
    pub(super) fn of(outcome: Result<Progress, EngineError>) -> Self {
        match outcome {
            Err(error) => Self::Failed(error),
            Ok(Progress::Done) => Self::Complete,
            Ok(Progress::Busy) => Self::Went(Tick::Later),
            Ok(Progress::Working) => Self::Went(Tick::Again),
        }
    }
}

impl Job {
    /// A run whose record may hold finished steps already, on an engine of its batch size.
    pub(super) fn new(record: Record, drive: Drive) -> Self {
        Self {
            record,
            drive,
            run: None,
            carried: Vec::new(),
            pacer: Pacer::default(),
            clock: StepClock::default(),
            paused_at: None,
        }
    }

    /// Resumes on an engine after the last finished step; `pace` is the slice size of the previous run.
    ///
    /// # Errors
    /// As [`Run::resume`].
    pub(super) fn attach(
        &mut self,
        mut engine: Box<dyn Engine>,
        profiling: bool,
        pace: Option<&Pace>,
    ) -> Result<(), EngineError> {
        engine.set_profiling(profiling);
        self.record.device = engine.device();
        let pacer = Pacer::for_engine(&*engine, &self.workload(), pace);
        let record = &mut self.record;
        if !record.settings.sampling.scheduler.resumes() {
            record.begin_anew();
        }
        let so_far = RunState {
            first: 0,
            steps: record.finished_steps(),
            latent: record.frames.last().cloned().unwrap_or_default(),
            buffers: self.carried.clone(),
            trace: record.trace.clone(),
        };
        self.run = Some(Run::resume(engine, &record.config, record.settings.clone(), so_far)?);
        self.pacer = pacer;
        self.clock = StepClock::default();
        Ok(())
    }

    /// What determines the time of its slices, on its current or last engine.
    fn workload(&self) -> Workload {
        let Record { config, settings, share, device, .. } = &self.record;
        let branches = if settings.is_guided(config) { 2 } else { 1 };
        let samples = branches * settings.images();
        Workload { model: share.hash.clone(), device: device.clone(), samples }
    }

    /// The slice size that it found.
    pub(super) fn pace(&self) -> Pace {
        self.pacer.pace(self.workload())
    }

    /// Removes the engine; the record stays.
    pub(super) fn detach(&mut self) -> Option<Box<dyn Engine>> {
        self.run.take().map(Run::into_engine)
    }

    /// Whether it has an engine.
    pub(super) fn is_attached(&self) -> bool {
        self.run.is_some()
    }

    pub(super) fn set_profiling(&mut self, on: bool) {
        if let Some(run) = &mut self.run {
            run.engine().set_profiling(on);
        }
    }

    pub(super) fn pause(&mut self) {
        if self.drive != Drive::Paused {
            self.drive = Drive::Paused;
            self.paused_at = Some(Instant::now());
        }
    }

    /// Finishes the step that was begun, or one more.
    pub(super) fn step(&mut self) {
        let finished = self.record.finished_steps();
        let begun = self.run.as_ref().map_or(finished, Run::begun_steps);
        self.drive = Drive::Until(begun.max(finished + 1));
    }

    /// Does a few milliseconds of work.
    pub(super) fn frame(&mut self) -> Frame {
        let begin = Instant::now();
        if self.drive == Drive::Paused {
            return self.settle(begin);
        }
        let Self { record, run: Some(run), carried, pacer, clock, .. } = self else {
            return Frame::Went(Tick::Idle);
        };
        clock.frame(begin);
        run.set_limit(match self.drive {
            Drive::Until(limit) => limit,
            Drive::On | Drive::Paused => u32::MAX,
        });
        let outcome = pacer.frame(run, |run, units| {
            let mut arrived = Vec::new();
            let progress = run.advance_with(units, |snapshot| arrived.push(snapshot.clone()));
            clock.worked(Instant::now());
            if !arrived.is_empty() {
                *carried = run.carried();
            }
            keep(record, clock, arrived);
            progress
        });
        record.complete = matches!(outcome, Ok(Progress::Done));
        if matches!(outcome, Ok(Progress::Busy | Progress::Working)) && self.is_far_enough() {
            self.pause();
            return Frame::Went(Tick::Later);
        }
        Frame::of(outcome)
    }

    /// Collects the results of work submitted before a pause.
    fn settle(&mut self, now: Instant) -> Frame {
        self.clock.pause();
        let Some(run) = &mut self.run else { return Frame::Went(Tick::Idle) };
        let mut arrived = Vec::new();
        run.collect(|snapshot| arrived.push(snapshot.clone()));
        let open = run.begun_steps() > run.finished_steps() && run.engine().slice_time().is_some();
        let finished = run.is_finished();
        self.carried = run.carried();
        keep(&mut self.record, &mut self.clock, arrived);
        if finished {
            self.record.complete = true;
            return Frame::Complete;
        }
        let recent = self.paused_at.is_some_and(|at| milliseconds(at, now) < AFTERMATH_MS);
        Frame::Went(if open && recent { Tick::Later } else { Tick::Idle })
    }

    fn is_far_enough(&self) -> bool {
        matches!(self.drive, Drive::Until(limit) if self.record.finished_steps() >= limit)
    }
}

/// Adds finished steps to the record.
fn keep(record: &mut Record, clock: &mut StepClock, arrived: Vec<Snapshot>) {
    if arrived.is_empty() {
        return;
    }
    let each = clock.take(arrived.len());
    for snapshot in arrived {
        record.frames.push(snapshot.latent);
        record.trace.extend(snapshot.routing);
        record.step_ms.push(each);
        record.stage_ms = snapshot.stage_ms;
    }
}
