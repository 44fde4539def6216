//! Creating engines in the background, and again when a device is lost.

use std::sync::Arc;

use super::job::Job;
use super::losses::{MOST_LOSSES, Next};
use super::{NoteKind, Session};
use crate::platform::{self, Task};
use diffmoe::engine::Engine;
use diffmoe::pipeline::{Backend, Pipeline};

/// Something around an engine, or instead of it.
pub(super) type Wrap =
    Arc<dyn Fn(Box<dyn Engine>) -> Result<Box<dyn Engine>, String> + Send + Sync>;

/// What an engine is made for.
pub(super) enum Purpose {
    /// To start this run; the previous one stays on screen until then.
    Start(Box<Job>),
    /// To resume the run whose device was lost.
    Recover,
    /// To go on with the survey.
    Survey,
}

/// An engine, and the model on the device that was opened for it.
pub(super) struct Prepared {
    engine: Box<dyn Engine>,
    model: Option<Pipeline>,
}

/// An engine that is being made.
pub(super) struct Preparing {
    pub(super) purpose: Purpose,
    task: Task<Result<Prepared, String>>,
}

impl Session {
    /// Begins a run as soon as there is an engine for it; the newest run wins.
    pub(super) fn start(&mut self, job: Job) {
        // When the previous run is shown again, its last step is decoded then.
        self.decode = None;
        self.give_up_run();
        let batch = job.record.settings.images();
        if !self.lost
            && let Some(engine) = self.idle.take_if(|engine| engine.batch() == batch)
        {
            return self.begin_on(job, engine);
        }
        let reopen = self.lost.then_some(self.backend);
        self.prepare(Purpose::Start(Box::new(job)), batch, reopen);
    }

    /// Puts a run with its engine on the screen. Where it cannot start, the images before stay.
    fn begin_on(&mut self, mut job: Job, engine: Box<dyn Engine>) {
        match job.attach(engine, self.profiling, self.pace.as_ref()) {
            Ok(()) => {
                self.history.show(None);
                self.job = Some(job);
            }
            Err(error) => self.note(NoteKind::Error, error.to_string()),
        }
    }

    /// Creates an engine in the background; with `reopen`, on a newly requested device.
    pub(super) fn prepare(&mut self, purpose: Purpose, batch: usize, reopen: Option<Backend>) {
        let Some(model) = &self.model else { return };
        let (checkpoint, open, wrap) =
            (model.checkpoint.clone(), model.open.clone(), self.wrap.clone());
        let task = platform::spawn(self.waker.clone(), move || async move {
            let reopened = match reopen {
                None => None,
                Some(backend) => Some(
                    platform::open_model(&checkpoint, backend, None)
                        .await
                        .map_err(|error| error.to_string())?,
                ),
            };
            let model = reopened.as_ref().unwrap_or(&open);
            let engine = model.engine_async(batch).await.map_err(|error| error.to_string())?;
            let engine = match wrap {
                Some(wrap) => wrap(engine)?,
                None => engine,
            };
            Ok(Prepared { engine, model: reopened })
        });
        self.preparing = Some(Preparing { purpose, task });
    }

    /// Accepts a finished engine.
    pub(super) fn take_engine(&mut self) {
        let Some(result) = self.preparing.as_mut().and_then(|p| p.task.take()) else { return };
        let Some(Preparing { purpose, .. }) = self.preparing.take() else { return };
        match (result, purpose) {
            (Ok(prepared), Purpose::Start(job)) => {
                self.idle = None;
                let engine = self.place(prepared);
                self.begin_on(*job, engine);
            }
            (Ok(prepared), Purpose::Recover) => {
                self.idle = None;
                let engine = self.place(prepared);
                let Self { job, profiling, pace, .. } = self;
                let attached =
                    job.as_mut().map(|job| job.attach(engine, *profiling, pace.as_ref()));
                if let Some(Err(error)) = attached {
                    self.recover(&error.to_string());
                }
            }
            (Ok(prepared), Purpose::Survey) => {
                let engine = self.place(prepared);
                self.begin_survey_on(engine);
            }
            (Err(text), Purpose::Survey) => self.stop_survey(&text),
            // The old engine and images stay.
            (Err(text), Purpose::Start(_)) => self.note(NoteKind::Error, text),
            (Err(text), Purpose::Recover) => self.recover(&text),
        }
    }

    /// Updates the device of an engine.
    fn place(&mut self, prepared: Prepared) -> Box<dyn Engine> {
        let Prepared { engine, model: reopened } = prepared;
        if let (Some(model), Some(open)) = (&mut self.model, reopened) {
            model.info.device = open.device();
            model.info.memory_bytes = open.memory_bytes();
            let note = open.note().map(str::to_owned);
            let is_wrong = open.device_is_wrong();
            if note.is_some() {
                model.info.backend_note.clone_from(&note);
            }
            model.open = open;
            self.lost = false;
            if let Some(note) = note.filter(|_| is_wrong) {
                self.note(NoteKind::Error, note);
            }
        }
        engine
    }

    /// The device failed: requests another one and resumes from the last finished step. After too many losses in
    /// a row the CPU takes over.
    pub(super) fn recover(&mut self, reason: &str) {
        let Some(job) = &mut self.job else { return };
        // An engine of a lost device is useless, but its timing is not.
        self.pace = Some(job.pace());
        drop(job.detach());
        let steps = job.record.finished_steps();
        let batch = job.record.settings.images();
        (self.lost, self.idle) = (true, None);
        let place = match self.losses.count(steps.into(), self.backend) {
            Next::Device(backend) => {
                let text = format!("{reason}: resuming from step {steps} on a new device");
                self.note(NoteKind::Info, text);
                backend
            }
            Next::Processor => {
                let note = format!(
                    "{reason}, {MOST_LOSSES} times in a row: resuming from step {steps} on the \
                        CPU"
                );
                if let Some(model) = &mut self.model {
                    model.info.backend_note = Some(note.clone());
                }
                self.note(NoteKind::Info, note);
                Backend::Cpu
            }
            Next::GiveUp => {
                let text = format!(
                    "{reason}; the run stopped after step {steps}. Generate \
                    again"
                );
                return self.note(NoteKind::Error, text);
            }
        };
        self.prepare(Purpose::Recover, batch, Some(place));
    }
}
