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
use diffmoe::pipeline::{Run, Survey, SurveyBatch, SurveyOptions};

/// Labels of the first table, and images of each: an overview in a minute or two.
const LABELS: usize = 24;
const IMAGES_OF_LABEL: usize = 12;
/// Images of a batch at most: few, so that a slice of work stays short.
const MOST_AT_ONCE: usize = 4;

/// How far a survey is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyProgress {
    /// Images that are drawn.
    pub done: usize,
    /// Images in all.
    pub total: usize,
    /// Whether it waits for [`Session::toggle_survey`].
    pub is_paused: bool,
}

/// A survey of the model that is open.
pub(super) struct SurveyJob {
    survey: Survey,
    config: Arc<Config>,
    hash: String,
    batches: Vec<SurveyBatch>,
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

/// The survey of a model, where it has experts and labels to compare.
fn survey_of(config: &Config) -> Option<Survey> {
    let options = SurveyOptions {
        labels: LABELS,
        images_of_label: IMAGES_OF_LABEL,
        ..SurveyOptions::default()
    };
    Survey::new(config, &options).ok()
}

/// Images of the survey of a model.
pub(super) fn images_of_survey(config: &Config) -> Option<usize> {
    survey_of(config).map(|survey| survey.images())
}

impl SurveyJob {
    /// Begins the next batch.
    fn begin(&mut self, engine: Box<dyn Engine>) -> Result<(), EngineError> {
        let images = self.done..self.done + self.size;
        self.pacer = Pacer::for_engine(&*engine, &self.workload(&*engine), self.pace.as_ref());
        let settings = self.survey.settings().part(images);
        let run = Run::start(engine, &self.config, settings, self.done as u64)?;
        self.run = Some(Box::new(run));
        Ok(())
    }

    /// What the time of its slices depends on.
    fn workload(&self, engine: &dyn Engine) -> Workload {
        let branches = if self.survey.settings().is_guided(&self.config) { 2 } else { 1 };
        let model = Some(self.hash.clone());
        Workload { model, device: engine.device(), samples: branches * self.size }
    }

    /// Does a few milliseconds of work.
    fn advance(&mut self) -> Frame {
        let Self { run: Some(run), pacer, .. } = self else { return Frame::Went(Tick::Idle) };
        Frame::of(pacer.frame(&mut **run, Run::advance))
    }

    /// Keeps the batch that is finished; says whether its images are numbers.
    fn keep(&mut self) -> bool {
        let Some(run) = self.run.take() else { return true };
        if run.latent().iter().any(|v| !v.is_finite()) {
            return false;
        }
        let batch = self.survey.batch(&self.config, self.done, run.latent(), run.trace());
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
    /// Images of a survey of the open model; `None` where there is nothing to measure.
    pub fn images_of_survey(&self) -> Option<usize> {
        self.model.as_ref().and_then(|model| model.survey_images)
    }

    /// How far the survey is, while there is one.
    pub fn survey(&self) -> Option<SurveyProgress> {
        let job = self.survey.as_ref()?;
        let total = job.survey.images();
        Some(SurveyProgress { done: job.done, total, is_paused: job.is_paused })
    }

    /// Begins to measure the atlas of the open model; pauses or resumes where it was begun.
    pub fn toggle_survey(&mut self) {
        if let Some(job) = &mut self.survey {
            job.is_paused = !job.is_paused;
            job.losses = 0;
            return;
        }
        let Some(model) = &self.model else { return };
        let Some(survey) = survey_of(&model.info.config) else { return };
        let total = survey.images();
        let fits = |size: &usize| total.is_multiple_of(*size);
        let size = (1..=MOST_AT_ONCE).rev().find(fits).unwrap_or(1);
        self.survey = Some(SurveyJob {
            survey,
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

    /// Gives up the survey; what it measured is lost.
    pub fn cancel_survey(&mut self) {
        self.survey = None;
        if self.prepares_survey() {
            self.preparing = None;
        }
    }

    /// Whether an engine is being made for the survey.
    pub(super) fn prepares_survey(&self) -> bool {
        let purpose = self.preparing.as_ref().map(|preparing| &preparing.purpose);
        matches!(purpose, Some(Purpose::Survey))
    }

    /// Takes in an engine for the survey.
    pub(super) fn begin_survey_on(&mut self, engine: Box<dyn Engine>) {
        if let Some(job) = &mut self.survey {
            job.engine = Some(engine);
        }
    }

    /// The survey cannot have an engine; it waits until somebody resumes it.
    pub(super) fn stop_survey(&mut self, reason: &str) {
        if let Some(job) = &mut self.survey {
            job.is_paused = true;
            (job.run, job.engine) = (None, None);
            self.note(NoteKind::Error, format!("the atlas is not measured further: {reason}"));
        }
    }

    /// Goes on with the survey while nothing else is computed.
    pub(super) fn tick_survey(&mut self) -> Tick {
        if self.phase() != Phase::Ready || self.prepares_survey() {
            return Tick::Idle;
        }
        let Some(job) = self.survey.as_mut().filter(|job| !job.is_paused) else {
            return Tick::Idle;
        };
        if job.done == job.survey.images() {
            self.finish_survey();
            return Tick::Later;
        }
        if job.run.is_none() {
            let Some(engine) = job.engine.take() else {
                let (size, reopen) = (job.size, self.lost.then_some(self.backend));
                self.prepare(Purpose::Survey, size, reopen);
                return Tick::Later;
            };
            if let Err(error) = job.begin(engine) {
                self.stop_survey(&error.to_string());
            }
            return Tick::Again;
        }
        match job.advance() {
            Frame::Went(tick) => tick,
            Frame::Complete => {
                if !job.keep() {
                    self.stop_survey("the model produced values that are not finite");
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
                    self.stop_survey(&error.to_string());
                }
                Tick::Later
            }
        }
    }

    /// Shows what was measured.
    fn finish_survey(&mut self) {
        let Some(job) = self.survey.take() else { return };
        let atlas = job.survey.atlas(&job.config, job.hash, job.batches);
        let text = format!(
            "Measured the atlas of {} over {} images. \"Save\" on the Labels card keeps it as a file.",
            atlas.model, atlas.images
        );
        self.keep_atlas(atlas);
        self.note(NoteKind::Info, text);
    }
}
