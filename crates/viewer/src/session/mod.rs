//! The logic of the app without its user interface: loading models, running and pausing, recovering from a lost
//! device, keeping results.
//!
//! A user interface calls [`Session::tick`] once a frame. It does a few milliseconds of work and never waits.

mod atlas;
mod controls;
mod decode;
mod decoder;
mod drive;
pub mod export;
mod history;
mod images;
mod init;
mod job;
mod loading;
mod losses;
mod opening;
mod pacing;
mod record;
mod recorded;
mod recovery;
mod saved;
mod selection;
mod share;
mod survey;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod traced;
mod types;

use std::sync::Arc;

pub use atlas::is_atlas;
pub use controls::{Choice, Controls, MAX_COUNT, MAX_STEPS};
pub use decoder::DecoderInfo;
pub use images::{Images, LatentImages, Rendering, UsedDecoder, Version};
pub use init::Init;
pub use loading::{ModelSource, checksum};
pub use opening::Next;
pub use record::Record;
pub use saved::is_png;
pub use selection::{Card, MOST_SHIFT, Overlay, Scope, Selection, TOUR_STOPS};
pub use share::{Origin, Share};
pub use survey::SurveyProgress;
pub use sweep::Table;
pub use traced::is_trace;
pub use types::{ModelInfo, Note, NoteKind, Phase, Start, Tick};

use crate::platform::Waker;
use decode::DecodeJob;
use decoder::Decoder;
use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::Engine;
use diffmoe::pipeline::{Backend, Pipeline};
use diffmoe::trace::atlas::Atlas;
use history::History;
use job::{Drive, Frame, Job};
use loading::Loading;
use losses::Losses;
use pacing::Pace;
use recovery::{Preparing, Purpose};
use survey::SurveyJob;

/// A model that is open.
struct Model {
    info: ModelInfo,
    checkpoint: Arc<Checkpoint>,
    open: Pipeline,
    /// Images of a survey over its labels, if it has labels and experts.
    survey_images: Option<usize>,
}

/// The logic of the app.
#[expect(
    clippy::struct_excessive_bools,
    reason = "settings that have nothing to do with each other"
)]
pub struct Session {
    /// The current controls; a run copies them when it starts.
    pub controls: Controls,
    backend: Backend,
    draw_at_once: bool,
    waker: Waker,
    notes: Vec<Note>,
    /// Notes so far, for those who read each of them out.
    noted: usize,
    available: Vec<String>,
    /// In the order of the requests.
    loading: Vec<Loading>,
    /// A shared run whose model file the user has to open.
    awaited: Option<Share>,
    /// The Explore selection of a shared run, until it is applied.
    selection: Option<Selection>,
    /// The image that a saved file shows, until somebody takes it.
    image: Option<usize>,
    /// A recorded run, until there is another one.
    recorded_run: Option<Record>,
    /// The other run of a link of two, until somebody draws it.
    next: Option<Next>,
    model: Option<Model>,
    /// What turns latents into images.
    decoder: Option<Decoder>,
    /// Decoders so far.
    decoders: u64,
    /// Latents that are being decoded.
    decode: Option<DecodeJob>,
    /// Runs so far.
    runs: u64,
    /// The active run, or what is left of it after it was cancelled.
    job: Option<Job>,
    /// An engine without a run.
    idle: Option<Box<dyn Engine>>,
    /// The size of slices that the last run found, for the next one.
    pace: Option<Pace>,
    /// An engine that is being made.
    preparing: Option<Preparing>,
    /// Losses of a device in a row, without a finished step between them, and the steps that were finished then.
    losses: Losses,
    /// Whether the model's device is lost and not yet replaced.
    lost: bool,
    profiling: bool,
    /// Whether runs that begin keep the router's scores.
    recording: bool,
    history: History,
    /// A sweep that is being drawn.
    sweep: Option<sweep::SweepJob>,
    /// The sweep that was drawn last.
    table: Option<Table>,
    /// Atlases of models; the one opened last is at the end.
    atlases: Vec<Arc<Atlas>>,
    /// An atlas that is being measured.
    survey: Option<SurveyJob>,
    /// Wraps each engine, for tests.
    wrap: Option<recovery::Wrap>,
    /// Wraps each decoder, for tests.
    wrap_decoder: Option<decode::WrapDecoder>,
}

impl Session {
    /// Begins, and loads the first model in the background.
    pub fn new(start: Start) -> Self {
        let Start { model, decoder, share, backend, draw_at_once, waker } = start;
        let mut session = Self {
            controls: Controls::none(),
            backend,
            draw_at_once,
            waker,
            notes: Vec::new(),
            noted: 0,
            available: loading::available(),
            loading: Vec::new(),
            awaited: None,
            selection: None,
            image: None,
            recorded_run: None,
            next: None,
            model: None,
            decoder: None,
            decoders: 0,
            decode: None,
            runs: 0,
            job: None,
            idle: None,
            pace: None,
            preparing: None,
            losses: Losses::default(),
            lost: false,
            profiling: false,
            recording: false,
            history: History::default(),
            sweep: None,
            table: None,
            atlases: Vec::new(),
            survey: None,
            wrap: None,
            wrap_decoder: None,
        };
        if let Some(mut share) = share {
            if let ModelSource::Named(name) = &model {
                share.name_model(name);
            }
            session.open_share(share);
        }
        if session.loading.is_empty() {
            session.load(model);
        }
        if let Some(decoder) = decoder {
            session.load(decoder);
        }
        session
    }

    /// Does a few milliseconds of work and never waits. Call it once per frame.
    pub fn tick(&mut self) -> Tick {
        self.take_loaded();
        self.take_engine();
        let tick = match self.job.as_mut().filter(|job| job.is_attached()).map(Job::frame) {
            None => Tick::Idle,
            Some(Frame::Went(tick)) => tick,
            Some(Frame::Complete) => {
                self.complete();
                Tick::Idle
            }
            Some(Frame::Failed(error)) if error.needs_new_device() => {
                self.recover(&error.to_string());
                Tick::Later
            }
            // Another device would fail the same way.
            Some(Frame::Failed(error)) => {
                self.note(NoteKind::Error, error.to_string());
                self.give_up_run();
                Tick::Idle
            }
        };
        let tick = tick.sooner(self.tick_decoding());
        let tick = tick.sooner(self.tick_survey());
        self.tick_sweep();
        self.replace_recording();
        let in_background =
            !self.loading.is_empty() || self.preparing.is_some() || self.sweep.is_some();
        if tick == Tick::Idle && in_background { Tick::Later } else { tick }
    }

    /// Moves a finished run to the history.
    fn complete(&mut self) {
        let Some(mut job) = self.job.take() else { return };
        self.pace = Some(job.pace());
        self.idle = job.detach();
        if job.record.frames.last().is_some_and(|frame| frame.iter().any(|v| !v.is_finite())) {
            self.note(
                NoteKind::Error,
                "the model produced values that are not finite. Try a lower guidance scale",
            );
        }
        let looks_elsewhere = self.history.shown().is_some();
        let id = job.record.id;
        self.history.push(job.record);
        if !looks_elsewhere {
            self.history.show(Some(self.history.records().len() - 1));
        }
        self.decode_end_of(id);
    }

    /// The current phase. A run takes precedence over a model being loaded at the same time; see [`Session::loading`].
    pub fn phase(&self) -> Phase {
        // A survey goes on behind all others.
        if let Some(preparing) = self.preparing.as_ref().filter(|_| !self.prepares_survey()) {
            return match &preparing.purpose {
                Purpose::Recover | Purpose::Survey => Phase::Recovering,
                Purpose::Start(job) => Phase::Opening {
                    what: match job.record.settings.images() {
                        1 => "kernels and memory for one image".into(),
                        n => format!("kernels and memory for {n} images"),
                    },
                    done: 0,
                    total: 0,
                },
            };
        }
        if let Some(decode) = &self.decode {
            return decode.phase();
        }
        match self.job.as_ref().filter(|job| job.is_attached()) {
            Some(job) if job.drive == Drive::Paused => return Phase::Paused,
            Some(_) => return Phase::Running,
            None => {}
        }
        let otherwise = if self.model.is_some() { Phase::Ready } else { Phase::NoModel };
        self.loading().unwrap_or(otherwise)
    }

    /// The model or decoder that is being loaded, the newest of several: `Fetching` or `Opening`.
    pub fn loading(&self) -> Option<Phase> {
        self.loading.last().map(Loading::phase)
    }

    /// How many notes there were, those that are gone included.
    pub fn noted(&self) -> usize {
        self.noted
    }

    /// The notes, oldest first.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Removes a note.
    pub fn dismiss(&mut self, index: usize) {
        if index < self.notes.len() {
            self.notes.remove(index);
        }
    }

    /// Adds a note; an equal one moves to the end.
    pub fn note(&mut self, kind: NoteKind, text: impl Into<String>) {
        let note = Note { kind, text: text.into() };
        self.notes.retain(|other| *other != note);
        self.notes.push(note);
        self.noted += 1;
    }

    /// The model that is open.
    pub fn model(&self) -> Option<&ModelInfo> {
        self.model.as_ref().map(|model| &model.info)
    }

    /// The file of the model that is open.
    pub(crate) fn checkpoint(&self) -> Option<Arc<Checkpoint>> {
        self.model.as_ref().map(|model| model.checkpoint.clone())
    }

    /// The selected backend.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Changes the backend and loads the model there.
    pub fn set_backend(&mut self, backend: Backend) {
        self.backend = backend;
        if let Some(model) = &self.model {
            self.load(model.info.source.clone());
        }
        if let Some(decoder) = &self.decoder {
            self.load(decoder.info.source.clone());
        }
    }

    /// Names of the models that need no file.
    pub fn available(&self) -> &[String] {
        &self.available
    }

    /// The run on the screen, growing while it samples.
    pub fn record(&self) -> Option<&Record> {
        let live = self.job.as_ref().map(|job| &job.record);
        self.history.shown_record().map(|record| &**record).or(self.recorded_run.as_ref()).or(live)
    }

    /// Earlier finished runs of this visit, oldest first.
    pub fn history(&self) -> &[Arc<Record>] {
        self.history.records()
    }

    /// Which of the earlier runs is on the screen.
    pub fn shown(&self) -> Option<usize> {
        self.history.shown()
    }

    /// Forgets an earlier run.
    pub fn forget(&mut self, id: u64) {
        self.history.forget(id);
    }

    /// Shows an earlier run, and takes its settings into the controls where its model is open.
    pub fn show(&mut self, index: usize) {
        self.history.show(Some(index));
        let Some(record) = self.history.shown_record() else { return };
        let is_open = |model: &Model| Some(&model.info.hash) == record.share.hash.as_ref();
        if self.model.as_ref().is_some_and(is_open) {
            self.controls = record.controls.clone();
        }
        self.decode_what_is_shown();
    }

    /// Shows the active run again, after [`Session::show`].
    pub fn show_live(&mut self) {
        if self.job.is_some() {
            self.history.show(None);
        }
    }

    /// The fragment of a link to the run on the screen.
    pub fn share(&self) -> Option<String> {
        self.share_with(None, None)
    }

    /// The same, with what Explore looks at and the run that it is compared with.
    pub fn share_with(&self, explore: Option<Selection>, other: Option<&Record>) -> Option<String> {
        let record = self.record().filter(|record| !record.is_traced())?;
        let other = other.filter(|other| other.id != record.id && !other.is_traced());
        let other = other.map(|other| Box::new(other.shared()));
        Some(Share { explore, other, ..record.shared() }.to_fragment())
    }

    /// Which image a saved file showed, once its run is on the screen.
    pub fn take_image(&mut self) -> Option<usize> {
        let images = self.record().map_or(0, |record| record.labels.len());
        self.image.take_if(|image| *image < images)
    }

    /// What a shared run asks Explore to show, once.
    pub fn take_selection(&mut self) -> Option<Selection> {
        self.selection.take()
    }

    /// The run of a link of two that is to be drawn next, once the one before is complete.
    pub fn take_next(&mut self) -> Option<Next> {
        let is_drawn = self.record().is_some_and(Record::is_complete);
        if self.phase() == Phase::Ready && is_drawn { self.next.take() } else { None }
    }
}
