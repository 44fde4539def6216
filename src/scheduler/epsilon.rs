//! Shared by all schedulers of DDPM models: options, the joint pass of guidance, and steps from predicted noise.

use std::sync::Arc;

use super::guidance::Guidance;
use super::info::{ScheduleConfig, SchedulerKind};
use super::options::{OptionInfo, OptionValues};
use super::process::TRAINED_STEPS;
use super::program::{Branch, Denoise, Deviation, Instruction, Latent};
use crate::model::{Config, Objective};

/// `guided-channels`: the official code and DiT guide three channels of four.
pub(super) const GUIDED_CHANNELS: OptionInfo = OptionInfo {
    name: "guided-channels",
    title: "Guided channels",
    hint: "Channels that guidance applies to; the official code guides three of four.",
    values: OptionValues::Names(&["3", "all"]),
    only: Some(Objective::Ddpm),
};

/// `clip`: for models of pixels.
pub(super) const CLIP: OptionInfo = OptionInfo {
    name: "clip",
    title: "Clip x₀",
    hint: "Clip the predicted x₀ to [-1, 1] at every step, for models that generate pixels.",
    values: OptionValues::Flag,
    only: Some(Objective::Ddpm),
};

/// Options of schedulers for DDPM models. The default is what the official code does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdpmOptions {
    /// The first channels that guidance changes; the others keep the conditional prediction.
    pub guided: GuidedChannels,
    /// Whether the predicted data is clipped to [-1, 1] at every step.
    pub clip: bool,
}

/// Which channels guidance changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuidedChannels {
    /// The first three, whatever there are: what the official code and DiT do, and what their tables show.
    Three,
    /// All.
    All,
}

impl DdpmOptions {
    /// The options of a scheduler that has them; else the defaults.
    pub fn of(kind: SchedulerKind) -> Self {
        let is_set = |option: &OptionInfo| kind.number(option.name) > 0.5;
        let guided =
            if is_set(&GUIDED_CHANNELS) { GuidedChannels::All } else { GuidedChannels::Three };
        Self { guided, clip: is_set(&CLIP) }
    }
}

/// A model that predicts noise, with guidance in one pass over both branches.
#[derive(Clone, Debug)]
pub(super) struct EpsilonModel {
    guidance: Guidance,
    guided_channels: usize,
    clip: bool,
    /// Whether the model also predicts variances.
    pub(super) learns_variance: bool,
    /// Numbers in a sample.
    pub(super) sample_len: usize,
}

/// One step back through the diffusion process, in numbers.
pub(super) struct Step {
    /// The time passed to the model.
    pub(super) time: f32,
    /// `√(1/ᾱ)` and `√(1/ᾱ - 1)`.
    pub(super) predict: [f64; 2],
    /// Factors of predicted data and sample in the mean.
    pub(super) mean: [f64; 2],
    pub(super) deviation: Deviation,
    pub(super) noise: Option<Arc<Vec<f32>>>,
}

impl EpsilonModel {
    pub(super) fn new(kind: SchedulerKind, config: &Config, run: &ScheduleConfig) -> Self {
        let options = DdpmOptions::of(kind);
        let guided_channels = match options.guided {
            GuidedChannels::Three => config.in_channels.min(3),
            GuidedChannels::All => config.in_channels,
        };
        Self {
            guidance: run.guidance,
            guided_channels,
            clip: options.clip,
            learns_variance: config.out_channels > config.in_channels,
            sample_len: config.sample_len(),
        }
    }

    /// A pass and the step that follows from it.
    pub(super) fn step(&self, step: Step) -> Vec<Instruction> {
        let time = step.time;
        let data = 1.0 - time / (TRAINED_STEPS - 1) as f32;
        let is_guided = self.guidance.applies(data);
        let pass = if is_guided {
            Instruction::JointForward { input: Latent::Sample, time }
        } else {
            Instruction::Forward {
                input: Latent::Sample,
                output: Latent::Output(0),
                time,
                branch: Branch::Conditional,
            }
        };
        let denoise = Denoise {
            guidance: self.guidance.scale,
            guided_channels: if is_guided { self.guided_channels } else { 0 },
            predict: step.predict.map(|v| v as f32),
            clip: self.clip,
            mean: step.mean.map(|v| v as f32),
            deviation: step.deviation,
            noise: step.noise,
        };
        vec![pass, Instruction::Denoise(denoise)]
    }
}
