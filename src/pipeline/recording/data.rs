//! What is recorded, and the samples that follow from it.

use crate::engine::ForwardRouting;
use crate::model::{Config, Objective};
use crate::pipeline::Recipe;
use crate::scheduler::Branch;
use crate::trace::{Trace, TraceError};

/// A run of a flow model that makes pixels: its first images, and the first pass of each step with and without labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// What draws the run again. It may have more images than are recorded.
    pub recipe: Recipe,
    /// Height and width of an image.
    pub size: [usize; 2],
    /// Routing with scores.
    pub trace: Trace,
    /// The image that the model expects at each step, `[B, 3, height, width]` in [-1, 1].
    pub expected: Vec<Vec<f32>>,
}

/// Why something is no recording, or cannot become one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// Another kind of file, or another version.
    #[error("this is no recording of format 1")]
    Unreadable,
    /// Numbers that do not belong together.
    #[error("the recording is damaged: {0}")]
    Damaged(String),
    /// A run of a kind that recordings do not hold.
    #[error(
        "only runs of DiffMoE flow models that make pixels, with scores and the rule `token`, are recorded: {0}"
    )]
    Unsuitable(&'static str),
}

impl From<TraceError> for RecordingError {
    fn from(error: TraceError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl Recording {
    /// Records the first `images` of a finished run: `samples` are the noise and the sample after each step.
    ///
    /// # Errors
    /// When the run is of another kind.
    pub fn of_run(
        recipe: Recipe,
        config: &Config,
        samples: &[Vec<f32>],
        trace: &Trace,
        images: usize,
    ) -> Result<Self, RecordingError> {
        let unsuitable = |what| Err(RecordingError::Unsuitable(what));
        if config.objective != Objective::Flow {
            return unsuitable("this is a DDPM model");
        }
        if !config.makes_pixels() || config.in_channels != 3 {
            return unsuitable("this model makes latents");
        }
        if recipe.from_image {
            return unsuitable("the run started from an image");
        }
        let trace = first_passes(trace, images)?;
        if !trace.has_scores() || trace.forwards().iter().flat_map(|f| &f.layers).any(lacks_need) {
            return unsuitable("the trace has no needs");
        }
        let mut recording = Self { recipe, size: config.input_size, trace, expected: Vec::new() };
        let levels = recording.levels();
        if samples.len() != levels.len() {
            return unsuitable("the run is not finished");
        }
        let len = images * config.sample_len();
        for (step, pair) in samples.windows(2).enumerate() {
            let factor = levels[step] / (levels[step] - levels[step + 1]);
            let expected = pair[0].iter().zip(&pair[1]).take(len);
            recording.expected.push(expected.map(|(x, y)| x + (y - x) * factor).collect());
        }
        Ok(recording)
    }

    /// Images that are recorded.
    pub fn images(&self) -> usize {
        self.trace.images()
    }

    /// The noise, then the sample after each step, `[B, 3, height, width]`. The noise is that of the seed; a sample of
    /// rectified flow moves from where it is on the straight line to the expected image.
    pub fn samples(&self) -> Vec<Vec<f32>> {
        let len = 3 * self.size[0] * self.size[1];
        let sampling = &self.recipe.sampling;
        let noise = (0..self.images() as u64).flat_map(|i| sampling.noise(i, len));
        let mut samples = vec![noise.collect::<Vec<f32>>()];
        let levels = self.levels();
        for (step, expected) in self.expected.iter().enumerate() {
            let share = 1.0 - levels[step + 1] / levels[step];
            let before = &samples[step];
            samples.push(before.iter().zip(expected).map(|(x, e)| x + (e - x) * share).collect());
        }
        samples
    }

    /// The noise level at which each step starts, and 0 at the end.
    fn levels(&self) -> Vec<f32> {
        let mut levels: Vec<f32> = Vec::new();
        for forward in self.trace.forwards() {
            if forward.step as usize == levels.len() {
                levels.push(1.0 - forward.time);
            }
        }
        levels.push(0.0);
        levels
    }
}

fn lacks_need(layer: &crate::engine::LayerRouting) -> bool {
    layer.scores.as_ref().is_none_or(|scores| scores.need.is_empty())
}

/// The first pass of each step and branch, with the first images.
fn first_passes(trace: &Trace, images: usize) -> Result<Trace, RecordingError> {
    let pool = images * trace.tokens();
    let scores = pool * trace.experts();
    let mut seen: Vec<(u32, Branch)> = Vec::new();
    let mut forwards: Vec<ForwardRouting> = Vec::new();
    for forward in trace.forwards() {
        let pass = (forward.step, forward.branch);
        if seen.contains(&pass) {
            continue;
        }
        seen.push(pass);
        let mut forward = forward.clone();
        for layer in &mut forward.layers {
            layer.masks.truncate(pool);
            if let Some(of) = &mut layer.scores {
                of.gate.truncate(scores);
                of.need.truncate(scores);
            }
        }
        forwards.push(forward);
    }
    let labels = trace.labels().iter().map(|names| names.iter().take(images).cloned().collect());
    Ok(Trace::from_parts(trace.model(), trace.experts(), trace.grid(), labels.collect(), forwards)?)
}
