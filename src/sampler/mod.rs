//! When things happen in a run: settings become a [`Run`], which feeds an engine step by step and collects
//! pictures and routing. It holds no thread, waits for nothing, and never knows what computes.

mod backend;
mod decoder;
mod settings;

pub use backend::{Backend, BackendError, OpenModel};
pub use decoder::OpenDecoder;
pub use settings::{Settings, SettingsError};

use crate::diffusion::{gaussian, guided_step};
use crate::model::{Config, Engine, EngineError, Progress, RunSpec};
use crate::trace::Trace;

/// One batch of pictures on its way from noise to data.
pub struct Run {
    engine: Box<dyn Engine>,
    settings: Settings,
    /// Steps handed to the engine; the last one may still be at work.
    begun: u32,
    /// Whether the step that was handed over last still has work to hand out.
    step_open: bool,
    finished: u32,
    latent: Vec<f32>,
    trace: Trace,
}

impl Run {
    /// Starts a run of the pictures `first..first + B`, where `B` is the engine's batch; `settings.labels` has
    /// a row for each of them.
    ///
    /// Picture numbers choose the noise, so a run may be cut into batches without changing it (with the token
    /// rule; the pool rule lets batch mates compete by design).
    ///
    /// # Panics
    /// When the number of labels is not the engine's batch size.
    pub fn start(
        mut engine: Box<dyn Engine>,
        config: &Config,
        settings: Settings,
        first: u64,
    ) -> Self {
        let batch = engine.batch();
        assert!(settings.labels.iter().all(|rows| rows.len() == batch), "one label a picture");
        let latent: Vec<f32> = (first..first + batch as u64)
            .flat_map(|picture| gaussian(settings.seed, picture, config.sample_len()))
            .collect();
        let names = settings.labels.iter().zip(&config.labels);
        let names = names.map(|(rows, table)| rows.iter().map(|&r| table.label(r)).collect());
        let trace = Trace::new(config, names.collect());
        engine.start(&RunSpec {
            latent: latent.clone(),
            labels: settings.labels.clone(),
            routing: settings.routing,
        });
        Self { engine, settings, begun: 0, step_open: false, finished: 0, latent, trace }
    }

    /// Does at most about `budget` kernels of work, and takes in what has arrived. Never waits.
    ///
    /// # Errors
    /// When the device is lost; what was finished stays readable.
    pub fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        if !self.step_open && self.begun < self.settings.steps {
            let Settings { solver, steps, guidance, .. } = self.settings;
            self.engine.begin_step(&guided_step(solver, self.begun, steps, guidance));
            self.begun += 1;
            self.step_open = true;
        }
        // Asked even when all is handed over: a device that is lost by then says so here.
        let mut progress = self.engine.advance(budget)?;
        if progress == Progress::Done {
            progress = if self.step_open { Progress::Working } else { Progress::Busy };
            self.step_open = false;
        }
        self.collect();
        Ok(if self.finished == self.settings.steps { Progress::Done } else { progress })
    }

    /// Runs to the end, waiting for the device after each step; `on_step` hears the number of finished steps.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn finish(mut self, mut on_step: impl FnMut(u32)) -> Result<Finished, EngineError> {
        while self.finished < self.settings.steps {
            self.advance(usize::MAX)?;
            if !self.step_open {
                self.engine.wait()?;
                self.collect();
                on_step(self.finished);
            }
        }
        Ok(Finished { samples: self.latent, trace: self.trace, engine: self.engine })
    }

    fn collect(&mut self) {
        while let Some(snapshot) = self.engine.take_snapshot() {
            self.finished = snapshot.steps;
            self.latent = snapshot.latent;
            self.trace.extend(snapshot.routing);
        }
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

    /// Routing of the finished steps.
    pub fn trace(&self) -> &Trace {
        &self.trace
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
