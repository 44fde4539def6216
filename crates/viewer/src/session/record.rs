//! The record of a run: images, routing and timings of every step.

use std::sync::Arc;

use super::controls::Controls;
use super::images::LatentImages;
use super::share::Share;
use diffmoe::engine::Stage;
use diffmoe::model::Config;
use diffmoe::pipeline::{Recipe, Settings};
use diffmoe::scheduler::noise_level;
use diffmoe::trace::Trace;

/// A run, growing while it samples.
#[derive(Clone, Debug)]
pub struct Record {
    /// Counts the runs of a session.
    pub id: u64,
    /// The model's shape.
    pub config: Arc<Config>,
    /// The controls of the run.
    pub controls: Controls,
    /// The settings that resulted.
    pub settings: Settings,
    /// A name for each image.
    pub labels: Vec<String>,
    /// The noise, then the sample after each finished step, `[B, C, height, width]` each.
    pub frames: Vec<Vec<f32>>,
    /// What is shown of them where they are latents; nothing where they are pixels.
    pub latents: Option<LatentImages>,
    /// Routing of the finished steps.
    pub trace: Trace,
    /// Time that each finished step took, pauses left out.
    pub step_ms: Vec<f32>,
    /// Time of the last finished step by stage; empty if the device has no timestamps.
    pub stage_ms: Vec<(Stage, f32)>,
    /// Whether all steps are finished.
    pub complete: bool,
    /// Whether it is a recording, shown until there is a live run.
    pub recorded: bool,
    /// Description of the device that computed it.
    pub device: String,
    /// The same run in a link.
    pub share: Share,
}

impl Record {
    /// Number of finished steps.
    pub fn finished_steps(&self) -> u32 {
        self.frames.len().saturating_sub(1) as u32
    }

    /// Whether all steps are finished.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Steps of the whole run; those so far, where the scheduler chooses them on the way.
    pub fn steps(&self) -> u32 {
        let so_far = self.finished_steps();
        if self.settings.sampling.scheduler.is_adaptive() {
            so_far
        } else {
            self.settings.steps_taken()
        }
    }

    /// The noise level from which each finished step starts: 1 for noise alone.
    pub fn noise_levels(&self) -> Vec<f32> {
        let mut levels = vec![f32::NAN; self.trace.steps() as usize];
        // The first pass of a step is at the time that the step starts from.
        for forward in self.trace.forwards().iter().rev() {
            if let Some(level) = levels.get_mut(forward.step as usize) {
                *level = noise_level(self.config.objective, forward.time);
            }
        }
        levels
    }

    /// Discards all steps.
    pub(super) fn begin_anew(&mut self) {
        self.frames.truncate(1);
        if let Some(latents) = &mut self.latents {
            latents.clear();
        }
        self.trace.clear();
        self.step_ms.clear();
    }

    /// The recipe of the run, for a file with one of its images or with all.
    pub fn recipe(&self, image: Option<usize>) -> Recipe {
        self.shared().file_recipe(image.filter(|_| self.labels.len() > 1), None)
    }

    /// The shared form of the run, with the decoder of its images.
    pub(super) fn shared(&self) -> Share {
        let decoder = self.latents.as_ref().and_then(|latents| latents.decoder.as_ref());
        let decoder = decoder.map(|decoder| decoder.link.clone());
        Share { decoder, ..self.share.clone() }
    }

    /// Bytes that the run occupies, roughly.
    pub fn bytes(&self) -> usize {
        let frames: usize = self.frames.iter().map(|frame| 4 * frame.len()).sum();
        let decoded = self.latents.as_ref().map_or(0, LatentImages::bytes);
        frames + decoded + self.trace.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::finished_record;

    #[test]
    fn noise_falls_from_one() {
        let record = finished_record();
        let levels = record.noise_levels();
        assert_eq!(levels.len(), record.finished_steps() as usize);
        assert!((levels[0] - 1.0).abs() < 1e-6);
        assert!(levels.windows(2).all(|pair| pair[0] > pair[1]));
    }
}
