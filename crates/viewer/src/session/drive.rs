//! Control of a run: start, pause, resume, single step, cancel.

use super::job::{Drive, Job};
use super::losses::Losses;
use super::recovery::{Preparing, Purpose};
use super::{LatentImages, NoteKind, Record, Session, Share};
use diffmoe::pipeline::RunState;

impl Session {
    /// Starts a run with the current controls; an active run is cancelled.
    pub fn generate(&mut self) {
        self.begin(Drive::On);
    }

    /// Begins a run with the controls as they are.
    fn begin(&mut self, drive: Drive) {
        let Some(model) = &self.model else {
            if self.loading.is_empty() {
                self.note(NoteKind::Error, "no model is open. Open one first");
            }
            return;
        };
        let (info, config) = (&model.info, model.info.config.clone());
        let mut settings = self.controls.settings(&config);
        settings.record_scores = self.recording;
        if let Err(error) = settings.check(&config) {
            return self.note(NoteKind::Error, error.to_string());
        }
        let RunState { latent, trace, .. } = RunState::start(&config, &settings, 0);
        let controls = self.controls.clone();
        self.runs += 1;
        let used = self.decoder_for(&config).map(|decoder| decoder.used.clone());
        let latents = LatentImages::new(used);
        let record = Record {
            id: self.runs,
            latents: (!config.makes_pixels()).then_some(latents),
            labels: settings.names(&config),
            share: Share {
                model: Some(info.source.name()),
                hash: Some(info.hash.clone()),
                labels: controls.labels(Some(&config)),
                mix: controls.mix_labels(Some(&config)),
                ..Share::of(controls.clone())
            },
            frames: vec![latent],
            trace,
            step_ms: Vec::new(),
            stage_ms: Vec::new(),
            complete: false,
            recorded: false,
            device: info.device.clone(),
            config,
            controls,
            settings,
        };
        self.losses = Losses::default();
        self.start(Job::new(record, drive));
    }

    /// Pauses decoding or the run; submitted work is completed.
    pub fn pause(&mut self) {
        if let Some(decode) = &mut self.decode {
            decode.is_paused = true;
        } else if let Some(job) = self.current() {
            job.pause();
        }
    }

    /// Resumes after [`Session::pause`].
    pub fn go_on(&mut self) {
        if let Some(decode) = &mut self.decode {
            decode.is_paused = false;
        } else if let Some(job) = self.current() {
            job.drive = Drive::On;
            self.history.show(None);
        }
    }

    /// One more step, then a pause; starts a run if there is none.
    pub fn step(&mut self) {
        self.decode = None;
        match self.current() {
            Some(job) => {
                job.step();
                self.history.show(None);
            }
            None => self.begin(Drive::Until(1)),
        }
    }

    /// The active run, or the one waiting for its engine.
    fn current(&mut self) -> Option<&mut Job> {
        match &mut self.preparing {
            Some(Preparing { purpose: Purpose::Start(job), .. }) => Some(job),
            Some(Preparing { purpose: Purpose::Recover, .. }) => self.job.as_mut(),
            Some(Preparing { purpose: Purpose::Survey, .. }) | None => {
                self.job.as_mut().filter(|job| job.is_attached())
            }
        }
    }

    /// Cancels decoding or, if there is none, the run. Finished steps stay on screen.
    pub fn cancel(&mut self) {
        if self.decode.is_some() {
            self.give_up_decoding();
        } else {
            self.give_up_run();
        }
    }

    /// Cancels the run.
    pub(super) fn give_up_run(&mut self) {
        self.preparing = None;
        if let Some(job) = &mut self.job
            && let Some(engine) = job.detach()
        {
            self.pace = Some(job.pace());
            self.idle = Some(engine);
        }
        if self.job.as_ref().is_some_and(|job| job.record.finished_steps() == 0) {
            // Noise alone is not worth keeping.
            let last = self.history.records().len().checked_sub(1);
            self.history.show(self.history.shown().or(last));
        }
    }

    /// Enables GPU timing of the stages of a step, at a small cost.
    pub fn set_profiling(&mut self, on: bool) {
        self.profiling = on;
        if let Some(job) = &mut self.job {
            job.set_profiling(on);
        }
    }

    /// Enables recording of the router's scores in new runs, for Explore.
    pub fn set_recording(&mut self, on: bool) {
        self.recording = on;
    }

    /// Whether a run is being computed, neither paused nor cancelled.
    pub(super) fn samples(&self) -> bool {
        let attached = self.job.as_ref().filter(|job| job.is_attached());
        attached.is_some_and(|job| job.drive != Drive::Paused)
    }
}
