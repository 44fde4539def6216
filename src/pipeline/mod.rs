//! A sampling run: settings become a [`Run`], which feeds an engine step by step and collects
//! images and routing. It needs no thread, never blocks, and does not depend on the device.

mod check;
mod decoder;
mod decoding;
mod init_image;
mod loaded;
mod place;
mod recipe;
mod recording;
mod report;
mod sampling;
mod settings;
mod settings_builder;
mod settings_error;
mod showcase;
mod sliced;
mod stages;
mod survey;

pub use decoder::{DecoderMismatch, LoadedDecoder, check_decoder};
pub use decoding::{Decoding, DecodingState};
pub use init_image::InitImage;
pub use loaded::{Pipeline, StartError};
pub use place::{Backend, LoadError};
pub use recipe::{
    Axis, AxisError, Parameters, Recipe, RecipeError, SETTINGS_KEYWORD, Saved, SavedError, Sweep,
    png_texts,
};
pub use recording::{Recording, RecordingError};
#[cfg(feature = "blocking")]
pub use report::examine_now;
pub use report::{Examination, examine};
pub use sampling::Sampling;
pub use settings::Settings;
pub use settings_builder::{Label, SettingsBuilder};
pub use settings_error::SettingsError;
pub use sliced::Sliced;
pub use survey::{Survey, SurveyBatch, SurveyError, SurveyOptions};

pub use crate::scheduler::random_rows;

use std::ops::Range;
use std::sync::Arc;

use crate::engine::{
    Engine, EngineError, GpuSamples, Keep, Progress, RunConfig, SliceTime, Snapshot,
};
use crate::model::Config;
use crate::scheduler::{Buffer, Next, Observation, Scheduler, SchedulerState};
use crate::trace::Trace;

/// The noise of some images of a run, `[B, C, height, width]`.
fn noise(config: &Config, settings: &Settings, images: Range<u64>) -> Vec<f32> {
    images.flat_map(|image| settings.sampling.noise(image, config.sample_len())).collect()
}

/// One batch of images being sampled.
pub struct Run {
    engine: Box<dyn Engine>,
    settings: Settings,
    scheduler: Box<dyn Scheduler>,
    /// Steps given to the engine; the last one may be unfinished.
    begun: u32,
    /// Whether the scheduler has no more steps.
    all_begun: bool,
    /// Whether the last step still has work to submit.
    step_open: bool,
    finished: u32,
    /// Steps that another engine had finished before this one went on.
    taken_over: u32,
    /// No step from this number on is begun.
    limit: u32,
    latent: Vec<f32>,
    trace: Trace,
    /// What the run began with, where the scheduler cannot resume from its last step.
    origin: Option<Vec<f32>>,
    /// Number of the first image.
    first: u64,
}

/// Where a run is: enough for another engine to go on from there, on the same device or another one.
#[derive(Clone, Debug)]
pub struct RunState {
    /// Number of the first image: it chooses the noise.
    pub first: u64,
    /// Number of finished steps.
    pub steps: u32,
    /// The sample after them, `[B, C, height, width]`; the noise, when there were none.
    pub latent: Vec<f32>,
    /// The state of the scheduler besides the sample: earlier predictions of a multistep method.
    pub buffers: Vec<Buffer>,
    /// Routing of those steps.
    pub trace: Trace,
}

impl RunState {
    /// A run of the images `first..first + B` before its first step: noise from the seed, or the image to start from with
    /// as much noise as its strength requires; and an empty trace.
    pub fn start(config: &Config, settings: &Settings, first: u64) -> Self {
        let batch = settings.images() as u64;
        let noise = noise(config, settings, first..first + batch);
        let strength = settings.strength();
        let latent = match &settings.init {
            Some(init) if strength < 1.0 => {
                let scheduler = settings.schedule(config, first..first + batch);
                init.at(scheduler.start(), &noise)
            }
            _ => noise,
        };
        let name = |i, image| settings.label_name(i, image, |row| config.labels[i].label(row));
        let names = settings.labels.iter().enumerate();
        let names = names.map(|(i, rows)| (0..rows.len()).map(|image| name(i, image)).collect());
        let mut names: Vec<Vec<String>> = names.collect();
        if !settings.prompts.is_empty() {
            names.push(settings.prompts.clone());
        }
        let trace = Trace::new(config, names);
        Self { first, steps: 0, latent, buffers: Vec::new(), trace }
    }
}

impl Run {
    /// Starts a run of the images `first..first + B`, where `B` is the engine's batch; `settings` has
    /// labels and prompts for each of them.
    ///
    /// Image numbers choose the noise, so a run may be cut into batches without changing it (with the token
    /// rule; the pool rule lets batch mates compete by design).
    ///
    /// # Errors
    /// When the device has no memory for the prompts.
    ///
    /// # Panics
    /// When the number of labels is not the engine's batch size.
    pub fn start(
        engine: Box<dyn Engine>,
        config: &Config,
        settings: Settings,
        first: u64,
    ) -> Result<Self, EngineError> {
        let start = RunState::start(config, &settings, first);
        Self::resume(engine, config, settings, start)
    }

    /// Resumes a run after its last finished step, on another engine. On the same kind of device the result
    /// is the same, bit for bit.
    ///
    /// # Errors
    /// When the device has no memory for the prompts.
    ///
    /// # Panics
    /// When the number of labels is not the engine's batch size.
    pub fn resume(
        engine: Box<dyn Engine>,
        config: &Config,
        settings: Settings,
        so_far: RunState,
    ) -> Result<Self, EngineError> {
        let images = so_far.first..so_far.first + engine.batch() as u64;
        let scheduler = settings.schedule(config, images.clone());
        let keeps = settings.init.as_ref().filter(|init| init.mask().is_some());
        let keep = keeps.and_then(|init| init.keep(noise(config, &settings, images)));
        Self::resume_keeping(engine, scheduler, settings, so_far, keep.map(Arc::new))
    }

    /// As [`Run::resume`], with a scheduler of the caller's own in place of the one that `settings` names. It keeps no part
    /// of an image.
    ///
    /// # Errors
    /// As [`Run::resume`].
    ///
    /// # Panics
    /// As [`Run::resume`].
    pub fn resume_with(
        engine: Box<dyn Engine>,
        scheduler: Box<dyn Scheduler>,
        settings: Settings,
        so_far: RunState,
    ) -> Result<Self, EngineError> {
        Self::resume_keeping(engine, scheduler, settings, so_far, None)
    }

    fn resume_keeping(
        mut engine: Box<dyn Engine>,
        mut scheduler: Box<dyn Scheduler>,
        settings: Settings,
        so_far: RunState,
        keep: Option<Arc<Keep>>,
    ) -> Result<Self, EngineError> {
        let batch = engine.batch();
        assert!(settings.labels.iter().all(|rows| rows.len() == batch), "one label an image");
        assert_eq!(settings.images(), batch, "labels or prompts for every image");
        let RunState { first, steps, latent, buffers, trace } = so_far;
        engine.start(&RunConfig {
            latent: latent.clone(),
            buffers: buffers.clone(),
            keep,
            labels: settings.labels.clone(),
            mix: settings.label_mix(),
            prompts: settings.prompts.clone(),
            negative: settings.sampling.negative.clone(),
            routing: settings.sampling.routing,
            muted: settings.sampling.muted.clone(),
            shifts: settings.sampling.shifts.clone(),
            record_scores: settings.record_scores,
        })?;
        scheduler.restore(SchedulerState { steps, buffers });
        Ok(Self {
            engine,
            begun: steps,
            all_begun: false,
            step_open: false,
            finished: steps,
            taken_over: steps,
            limit: u32::MAX,
            origin: scheduler.state().is_none().then(|| latent.clone()),
            scheduler,
            first,
            latent,
            trace,
            settings,
        })
    }

    /// Does at most about `budget` kernels of work and collects results. Never waits.
    ///
    /// # Errors
    /// When the device is lost or out of memory, or the scheduler cannot continue; what was finished stays readable.
    pub fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        self.advance_with(budget, |_| {})
    }

    /// As [`Run::advance`]; `on_step` sees each step that was finished by then, with steps counted from the
    /// beginning of the run.
    ///
    /// # Errors
    /// As [`Run::advance`].
    pub fn advance_with(
        &mut self,
        budget: usize,
        on_step: impl FnMut(&Snapshot),
    ) -> Result<Progress, EngineError> {
        if !self.step_open && !self.all_begun && self.begun < self.limit {
            match self.scheduler.next() {
                Next::Step(ops) => {
                    self.engine.begin_step(&ops)?;
                    self.begun += 1;
                    self.step_open = true;
                }
                // An adaptive scheduler judges a step before it takes the next.
                Next::Wait => {}
                Next::Done => self.all_begun = true,
                Next::Stalled(reason) => return Err(EngineError::Stalled(reason)),
            }
        }
        // Called even if everything is submitted: a device lost by then is reported here.
        let mut progress = self.engine.advance(budget)?;
        if progress == Progress::Done {
            progress = if self.step_open { Progress::Working } else { Progress::Busy };
            self.step_open = false;
        }
        self.collect(on_step);
        Ok(if self.is_finished() { Progress::Done } else { progress })
    }

    /// Whether all steps are finished.
    pub fn is_finished(&self) -> bool {
        let all_begun = self.all_begun || self.scheduler.step_count() == Some(self.begun);
        all_begun && self.finished == self.begun
    }

    /// How much of the way from noise to data is done, 0 to 1.
    pub fn fraction(&self) -> f32 {
        self.scheduler.fraction(self.finished)
    }

    /// Runs to the end; blocks a thread, but not a page. `on_step` gets [`Run::fraction`].
    ///
    /// # Errors
    /// As [`Run::advance`].
    pub async fn finish_async(
        mut self,
        mut on_step: impl FnMut(f32),
    ) -> Result<Finished, EngineError> {
        sliced::finish(&mut self, usize::MAX, |run| on_step(run.fraction())).await?;
        on_step(1.0);
        Ok(Finished { samples: self.latent, trace: self.trace, engine: self.engine })
    }

    /// As [`Run::finish_async`], on this thread.
    ///
    /// # Errors
    /// As [`Run::advance`].
    #[cfg(feature = "blocking")]
    pub fn finish(self, on_step: impl FnMut(f32)) -> Result<Finished, EngineError> {
        pollster::block_on(self.finish_async(on_step))
    }

    /// Collects results that have arrived, without submitting work. Never waits.
    pub fn collect(&mut self, mut on_step: impl FnMut(&Snapshot)) {
        while let Some(mut snapshot) = self.engine.take_snapshot() {
            snapshot.steps += self.taken_over;
            snapshot.routing.iter_mut().for_each(|forward| forward.step += self.taken_over);
            self.scheduler
                .observe(Observation { sample: &snapshot.latent, reports: &snapshot.reports });
            on_step(&snapshot);
            self.finished = snapshot.steps;
            self.latent = snapshot.latent;
            self.trace.extend(snapshot.routing);
        }
    }

    /// Begins no step from this number on; by default none beyond the last.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// Number of steps that were started.
    pub fn begun_steps(&self) -> u32 {
        self.begun
    }

    /// The engine, for its clock and its device.
    pub fn engine(&mut self) -> &mut dyn Engine {
        &mut *self.engine
    }

    /// From where another engine can continue: the last finished step, or the beginning where the scheduler cannot
    /// resume.
    pub fn state(&self) -> RunState {
        let (first, trace) = (self.first, self.trace.clone());
        match (self.scheduler.state(), &self.origin) {
            (Some(SchedulerState { steps, buffers }), _) => {
                RunState { first, steps, latent: self.latent.clone(), buffers, trace }
            }
            (None, origin) => {
                let mut trace = trace;
                trace.clear();
                let latent = origin.clone().unwrap_or_default();
                RunState { first, steps: 0, latent, buffers: Vec::new(), trace }
            }
        }
    }

    /// The state of the scheduler after the last finished step.
    pub fn carried(&self) -> Vec<Buffer> {
        self.scheduler.state().map(|state| state.buffers).unwrap_or_default()
    }

    /// Gives the engine back, whether the run is finished or not.
    pub fn into_engine(self) -> Box<dyn Engine> {
        self.engine
    }

    /// What the run was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Number of finished steps.
    pub fn finished_steps(&self) -> u32 {
        self.finished
    }

    /// The sample after the last finished step, `[B, C, height, width]`.
    pub fn latent(&self) -> &[f32] {
        &self.latent
    }

    /// The samples on the device that computes them, without a read-back: for a host that draws with the same device.
    /// `None` where the processor computes. Between two steps they are [`Run::latent`]; during a step they
    /// are what its submitted part has made of them.
    pub fn gpu_samples(&self) -> Option<GpuSamples<'_>> {
        self.engine.gpu_samples()
    }

    /// Routing of the finished steps.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl Sliced for Run {
    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        Run::advance(self, budget)
    }

    fn fraction(&self) -> f32 {
        Run::fraction(self)
    }

    fn slice_time(&self) -> Option<SliceTime> {
        self.engine.slice_time()
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        self.engine.wait()
    }
}

/// What a run leaves behind.
pub struct Finished {
    /// Final samples, `[B, C, height, width]`; pixels in [-1, 1] or latents.
    pub samples: Vec<f32>,
    /// Routing of every step.
    pub trace: Trace,
    /// The engine, free for the next run.
    pub engine: Box<dyn Engine>,
}
