//! Measures the atlas of the open model in the background: draws some images of every label while nobody draws
//! anything else, and keeps counts of them. The images are those that `diffmoe atlas` draws with fewer labels.

use std::sync::Arc;

use super::job::Frame;
use super::losses::MOST_LOSSES;
use super::pacing::{Pace, Pacer, Workload};
use super::recovery::Purpose;
use super::{NoteKind, Phase, Session, Tick};
use diffmoe::engine::{Engine, EngineError};
use diffmoe::model::Config;
use diffmoe::pipeline::{Run, Sweep, SweepBatch, SweepOptions};

/// Labels of the first table, and images of each: an overview in a minute or two.
const LABELS: usize = 24;
const IMAGES_OF_LABEL: usize = 12;
/// Images of a batch at most: few, so that a slice of work stays short.
const MOST_AT_ONCE: usize = 4;

/// How far a sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepProgress {
    /// Images that are drawn.
    pub done: usize,
    /// Images in all.
    pub total: usize,
    /// Whether it waits for [`Session::toggle_sweep`].
    pub is_paused: bool,
}

/// A sweep of the model that is open.
pub(super) struct SweepJob {
    sweep: Sweep,
    config: Arc<Config>,
    hash: String,
    batches: Vec<SweepBatch>,
    /// Images of all batches.
    done: usize,
    /// Images of a batch; every batch has as many.
    size: usize,
    engine: Option<Box<dyn Engine>>,
    run: Option<Box<Run>>,
    pacer: Pacer,
    /// The size of slices that the last batch found.
    pace: Option<Pace>,
    is_paused: bool,
    /// Lost devices since the last batch.
    losses: u32,
}

/// The sweep of a model, where it has experts and labels to compare.
fn sweep_of(config: &Config) -> Option<Sweep> {
    let options = SweepOptions {
        labels: LABELS,
        images_of_label: IMAGES_OF_LABEL,
        ..SweepOptions::default()
    };
    Sweep::new(config, &options).ok()
}

/// Images of the sweep of a model.
pub(super) fn images_of_sweep(config: &Config) -> Option<usize> {
    sweep_of(config).map(|sweep| sweep.images())
}

impl SweepJob {
    /// Begins the next batch.
    fn begin(&mut self, engine: Box<dyn Engine>) -> Result<(), EngineError> {
        let images = self.done..self.done + self.size;
        self.pacer = Pacer::for_engine(&*engine, &self.workload(&*engine), self.pace.as_ref());
        let settings = self.sweep.settings().part(images);
        let run = Run::start(engine, &self.config, settings, self.done as u64)?;
        self.run = Some(Box::new(run));
        Ok(())
    }

    /// What the time of its slices depends on.
    fn workload(&self, engine: &dyn Engine) -> Workload {
        let branches = if self.sweep.settings().is_guided(&self.config) { 2 } else { 1 };
        let model = Some(self.hash.clone());
        Workload { model, device: engine.device(), samples: branches * self.size }
    }

    /// Does a few milliseconds of work.
    fn advance(&mut self) -> Frame {
        let Self { run: Some(run), pacer, .. } = self else { return Frame::Went(Tick::Idle) };
        Frame::of(pacer.frame(&mut **run, |run, units| run.advance(units)))
    }

    /// Keeps the batch that is finished; says whether its images are numbers.
    fn keep(&mut self) -> bool {
        let Some(run) = self.run.take() else { return true };
        if run.latent().iter().any(|v| !v.is_finite()) {
            return false;
        }
        let batch = self.sweep.batch(&self.config, self.done, run.latent(), run.trace());
        self.done += batch.images();
        self.batches.push(batch);
        let engine = run.into_engine();
        self.pace = Some(self.pacer.pace(self.workload(&*engine)));
        self.engine = Some(engine);
        self.losses = 0;
        true
    }
}

impl Session {
    /// Images of a sweep of the open model; `None` where there is nothing to measure.
    pub fn images_of_sweep(&self) -> Option<usize> {
        self.model.as_ref().and_then(|model| model.sweep_images)
    }

    /// How far the sweep is, while there is one.
    pub fn sweep(&self) -> Option<SweepProgress> {
        let job = self.sweep.as_ref()?;
        let total = job.sweep.images();
        Some(SweepProgress { done: job.done, total, is_paused: job.is_paused })
    }

    /// Begins to measure the atlas of the open model; pauses or resumes where it was begun.
    pub fn toggle_sweep(&mut self) {
        if let Some(job) = &mut self.sweep {
            job.is_paused = !job.is_paused;
            job.losses = 0;
            return;
        }
        let Some(model) = &self.model else { return };
        let Some(sweep) = sweep_of(&model.info.config) else { return };
        let total = sweep.images();
        let fits = |size: &usize| total.is_multiple_of(*size);
        let size = (1..=MOST_AT_ONCE).rev().find(fits).unwrap_or(1);
        self.sweep = Some(SweepJob {
            sweep,
            config: model.info.config.clone(),
            hash: model.info.hash.clone(),
            batches: Vec::new(),
            done: 0,
            size,
            engine: None,
            run: None,
            pacer: Pacer::default(),
            pace: None,
            is_paused: false,
            losses: 0,
        });
    }

    /// Gives up the sweep; what it measured is lost.
    pub fn cancel_sweep(&mut self) {
        self.sweep = None;
        if self.prepares_sweep() {
            self.preparing = None;
        }
    }

    /// Whether an engine is being made for the sweep.
    pub(super) fn prepares_sweep(&self) -> bool {
        let purpose = self.preparing.as_ref().map(|preparing| &preparing.purpose);
        matches!(purpose, Some(Purpose::Sweep))
    }

    /// Takes in an engine for the sweep.
    pub(super) fn begin_sweep_on(&mut self, engine: Box<dyn Engine>) {
        if let Some(job) = &mut self.sweep {
            job.engine = Some(engine);
        }
    }

    /// The sweep cannot have an engine; it waits until somebody resumes it.
    pub(super) fn stop_sweep(&mut self, reason: &str) {
        if let Some(job) = &mut self.sweep {
            job.is_paused = true;
            (job.run, job.engine) = (None, None);
            self.note(NoteKind::Error, format!("the atlas is not measured further: {reason}"));
        }
    }

    /// Goes on with the sweep while nothing else is computed.
    pub(super) fn tick_sweep(&mut self) -> Tick {
        if self.phase() != Phase::Ready || self.prepares_sweep() {
            return Tick::Idle;
        }
        let Some(job) = self.sweep.as_mut().filter(|job| !job.is_paused) else { return Tick::Idle };
        if job.done == job.sweep.images() {
            self.finish_sweep();
            return Tick::Later;
        }
        if job.run.is_none() {
            let Some(engine) = job.engine.take() else {
                let (size, reopen) = (job.size, self.lost.then_some(self.backend));
                self.prepare(Purpose::Sweep, size, reopen);
                return Tick::Later;
            };
            if let Err(error) = job.begin(engine) {
                self.stop_sweep(&error.to_string());
            }
            return Tick::Again;
        }
        match job.advance() {
            Frame::Went(tick) => tick,
            Frame::Complete => {
                if !job.keep() {
                    self.stop_sweep("the model produced values that are not finite");
                }
                Tick::Again
            }
            Frame::Failed(error) => {
                job.run = None;
                job.losses += 1;
                let (is_lost, losses) = (error.needs_new_device(), job.losses);
                if is_lost {
                    // Engines of a lost device are useless.
                    (self.lost, self.idle) = (true, None);
                }
                if !is_lost || losses > MOST_LOSSES {
                    self.stop_sweep(&error.to_string());
                }
                Tick::Later
            }
        }
    }

    /// Shows what was measured.
    fn finish_sweep(&mut self) {
        let Some(job) = self.sweep.take() else { return };
        let atlas = job.sweep.atlas(&job.config, job.hash, job.batches);
        let text = format!(
            "Measured the atlas of {} over {} images. \"Save\" on the Labels card keeps it as a file.",
            atlas.model, atlas.images
        );
        self.keep_atlas(atlas);
        self.note(NoteKind::Info, text);
    }
}
