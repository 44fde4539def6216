//! When things happen in a run: settings become a [`Run`], which feeds an engine step by step and collects
//! pictures and routing. It holds no thread, waits for nothing, and never knows what computes.

mod backend;
mod settings;

pub use backend::{Backend, BackendError, OpenModel};
pub use settings::{Settings, SettingsError};

use crate::diffusion::{Next, Plan, Request, gaussian};
use crate::model::{Config, Engine, EngineError, Progress, RunSpec};
use crate::trace::Trace;

/// One batch of pictures on its way from noise to data.
pub struct Run {
    engine: Box<dyn Engine>,
    settings: Settings,
    plan: Plan,
    /// Steps handed to the engine; the last one may still be at work.
    begun: u32,
    /// Whether the plan has no more steps.
    all_begun: bool,
    /// Whether the step that was handed over last still has work to hand out.
    step_open: bool,
    finished: u32,
    latent: Vec<f32>,
    trace: Trace,
}

impl Run {
    /// Starts a run of the pictures `first..first + B`, where `B` is the engine's batch; `settings` has
    /// labels and prompts for each of them.
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
        assert_eq!(settings.pictures(), batch, "labels or prompts for every picture");
        let latent: Vec<f32> = (first..first + batch as u64)
            .flat_map(|picture| gaussian(settings.seed, picture, config.sample_len()))
            .collect();
        let names = settings.labels.iter().zip(&config.labels);
        let names = names.map(|(rows, table)| rows.iter().map(|&r| table.label(r)).collect());
        let mut names: Vec<Vec<String>> = names.collect();
        if !settings.prompts.is_empty() {
            names.push(settings.prompts.clone());
        }
        let trace = Trace::new(config, names);
        engine.start(&RunSpec {
            latent: latent.clone(),
            labels: settings.labels.clone(),
            prompts: settings.prompts.clone(),
            negative: settings.negative.clone(),
            routing: settings.routing,
        });
        let plan = Plan::new(
            config,
            Request {
                solver: settings.solver,
                steps: settings.steps,
                guidance: settings.guidance,
                seed: settings.seed,
                pictures: first..first + batch as u64,
            },
        );
        Self {
            engine,
            settings,
            plan,
            begun: 0,
            all_begun: false,
            step_open: false,
            finished: 0,
            latent,
            trace,
        }
    }

    /// Does at most about `budget` kernels of work, and takes in what has arrived. Never waits.
    ///
    /// # Errors
    /// When the device is lost or has no room, or the solver finds no way on; what was finished stays readable.
    pub fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        if !self.step_open && !self.all_begun {
            match self.plan.next_step() {
                Next::Step(ops) => {
                    self.engine.begin_step(&ops)?;
                    self.begun += 1;
                    self.step_open = true;
                }
                // An adaptive solver judges a step before it takes the next.
                Next::Wait => {}
                Next::Done => self.all_begun = true,
                Next::Stalled(reason) => return Err(EngineError::Stalled(reason)),
            }
        }
        // Asked even when all is handed over: a device that is lost by then says so here.
        let mut progress = self.engine.advance(budget)?;
        if progress == Progress::Done {
            progress = if self.step_open { Progress::Working } else { Progress::Busy };
            self.step_open = false;
        }
        self.collect();
        Ok(if self.is_finished() { Progress::Done } else { progress })
    }

    /// Whether all steps are finished.
    pub fn is_finished(&self) -> bool {
        self.all_begun && self.finished == self.begun
    }

    /// How much of the way from noise to data is done, 0 to 1.
    pub fn fraction(&self) -> f32 {
        self.plan.fraction(self.finished)
    }

    /// Runs to the end, waiting for the device after each step; `on_step` hears [`Run::fraction`].
    ///
    /// # Errors
    /// As [`Run::advance`].
    pub fn finish(mut self, mut on_step: impl FnMut(f32)) -> Result<Finished, EngineError> {
        while !self.is_finished() {
            self.advance(usize::MAX)?;
            if !self.step_open {
                self.engine.wait()?;
                self.collect();
                on_step(self.fraction());
            }
        }
        Ok(Finished { samples: self.latent, trace: self.trace, engine: self.engine })
    }

    fn collect(&mut self) {
        while let Some(snapshot) = self.engine.take_snapshot() {
            self.plan.observe(&snapshot);
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
