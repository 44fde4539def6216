//! A recorded run, shown until the model has arrived and drawn one.

use std::sync::Arc;

use super::traced::{config_of, names};
use super::{Controls, NoteKind, Origin, Record, Session, Share};
use diffmoe::model::Config;
use diffmoe::pipeline::Recording;

impl Session {
    /// Shows a recorded run until another run has finished its first step. If the model that is loading is the recorded
    /// one, it draws the same run.
    pub fn show_recording(&mut self, bytes: &[u8]) {
        let recording = Recording::from_bytes(bytes).map_err(|error| error.to_string());
        match recording.and_then(|recording| self.recorded(recording)) {
            Ok(record) => self.recorded_run = Some(record),
            Err(reason) => self.note(NoteKind::Error, format!("the recorded run: {reason}")),
        }
    }

    fn recorded(&mut self, recording: Recording) -> Result<Record, String> {
        let frames = recording.samples();
        let Recording { recipe, size, trace, .. } = recording;
        let config = Arc::new(config_of(&trace, size)?);
        let labels = names(&trace);
        let share = Share::of_recipe(recipe, Origin::Link)?;
        let controls = Controls {
            choices: Vec::new(),
            mix: Vec::new(),
            count: labels.len(),
            ..share.controls.clone()
        };
        self.runs += 1;
        Ok(Record {
            id: self.runs,
            settings: controls.settings(&config),
            config,
            controls,
            labels,
            frames,
            latents: None,
            trace,
            step_ms: Vec::new(),
            stage_ms: Vec::new(),
            complete: true,
            recorded: true,
            device: "recorded".to_owned(),
            share,
        })
    }

    /// Drops the recorded run once another one has finished a step.
    pub(super) fn replace_recording(&mut self) {
        let draws = self.job.as_ref().is_some_and(|job| job.record.finished_steps() > 0);
        if draws || !self.history.records().is_empty() {
            self.recorded_run = None;
        }
    }

    /// The controls of the recorded run if this model drew it; otherwise the recorded run is dropped.
    pub(super) fn recorded_controls(&mut self, hash: &str, config: &Config) -> Option<Controls> {
        let mut share = self.recorded_run.as_ref()?.share.clone();
        if share.agrees_with(hash) && share.resolve(config).is_ok() {
            return Some(share.controls);
        }
        self.recorded_run = None;
        None
    }
}
