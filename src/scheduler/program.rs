//! The language of schedulers: a denoising step as a short list of [`Instruction`]s over a few sample-sized
//! buffers ([`Latent`]).
//!
//! Run the model on a buffer, combine buffers linearly, or take a step of the diffusion posterior: every scheduler
//! is a sequence of such lists, so engines do not depend on schedulers, and schedulers do not depend on
//! devices. The lists of a run have few shapes and only their numbers change, which lets the GPU engine record each
//! shape once.

use std::sync::Arc;

/// A latent-sized buffer of an engine, `[B, C, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Latent {
    /// The sample that is being denoised.
    Sample,
    /// A trial point of a multi-stage solver.
    Trial,
    /// The sample or a trial point, shifted; also a prediction for it.
    Shifted,
    /// A (guided) velocity that a multi-stage solver keeps. `0..7`.
    Velocity(u8),
    /// A result of a forward pass, `[B, out_channels, height, width]`; in a combination only its first
    /// `C` channels count. `0..4`.
    Output(u8),
}

impl Latent {
    /// Number of [`Latent::Velocity`]s.
    pub const VELOCITIES: usize = 7;
    /// Number of [`Latent::Output`]s.
    pub const OUTPUTS: usize = 4;

    /// Whether the routing of passes over it is recorded. That of a shifted sample is not: its patches are not those of the
    /// image.
    pub(crate) fn is_recorded(self) -> bool {
        self != Self::Shifted
    }
}

/// Which labels and prompts a forward pass sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Branch {
    /// The requested labels and prompts.
    Conditional,
    /// The null row of every label table, and the negative prompt.
    Unconditional,
}

/// How much signal and noise a sample `signal·x₀ + noise·ε` consists of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Factor of the data.
    pub signal: f32,
    /// Factor of the noise.
    pub noise: f32,
}

impl Level {
    /// Data without noise.
    pub const DATA: Self = Self { signal: 1.0, noise: 0.0 };
    /// Noise alone.
    pub const NOISE: Self = Self { signal: 0.0, noise: 1.0 };

    /// The data at this level, number by number. Noise alone is the noise, bit for bit.
    pub fn mix(self, data: f32, noise: f32) -> f32 {
        if self == Self::NOISE { noise } else { self.signal * data + self.noise * noise }
    }
}

/// One instruction of a denoising step.
#[derive(Clone, Debug, PartialEq)]
pub enum Instruction {
    /// `output = model(input, time, labels of branch)`; all samples form one token pool.
    Forward {
        /// Where the noisy sample is: `Sample`, `Trial` or `Shifted`.
        input: Latent,
        /// Where the result goes: an `Output`.
        output: Latent,
        /// Time for every sample, that of the run.
        time: f32,
        /// Which labels.
        branch: Branch,
    },
    /// One pass over `2B` samples: the input with the requested labels, and once more with the
    /// null rows. Both halves share one token pool, as in the official DDPM guidance. Twice the working
    /// memory of the other passes.
    JointForward {
        /// Where the noisy sample is: `Sample` or `Trial`.
        input: Latent,
        /// Time for every sample, that of the run. The results go to
        /// `Output(0)` (conditional) and `Output(1)` (unconditional).
        time: f32,
    },
    /// `output = Σ factor·latent`, at most eight terms; the output may be among the terms.
    Combine {
        /// `Sample`, `Trial`, `Shifted` or a `Velocity`.
        output: Latent,
        /// Factors and latents, added in order.
        terms: Vec<(f32, Latent)>,
    },
    /// `output = input`, shifted in a circle: what leaves at one border comes in at the other (`torch.roll`).
    Shift {
        /// `Sample`, `Trial`, `Shifted` or a `Velocity`.
        input: Latent,
        /// Another of these.
        output: Latent,
        /// Pixels down and to the right.
        by: [i32; 2],
    },
    /// `latent = mean + σ·noise`: one step back through the diffusion process, from predicted noise.
    Denoise(Denoise),
    /// `sample = mask·sample + (1 − mask)·(signal·image + noise·ε)`, with the image, the noise `ε` and the mask of the run
    /// (`engine::Keep`): outside of the mask the sample becomes the image at this noise level.
    Keep(Level),
    /// Returns the contents of a `Sample`, `Trial` or `Velocity` at the end of the step with its snapshot, in the
    /// order of these operations.
    Report(Latent),
}

/// One step of the reverse diffusion process, number by number over the sample `x`:
///
/// ```text
/// ε  = u + guidance·(c - u)     c = Output(0), u = Output(1); ε = c in channels that are not guided
/// x₀ = x_factor·x - noise_factor·ε    clipped to [-1, 1] if requested
/// x  = mean_start·x₀ + mean_latent·x + σ·noise
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Denoise {
    /// Guidance scale; needs `Output(1)` unless `guided_channels` is 0.
    pub guidance: f32,
    /// The first channels of the noise that are guided; the others are taken from the conditional pass.
    pub guided_channels: usize,
    /// `√(1/ᾱ)` and `√(1/ᾱ - 1)`.
    pub predict: [f32; 2],
    /// Whether the predicted sample is clipped.
    pub clip: bool,
    /// Factors of `x₀` and `x` in the mean.
    pub mean: [f32; 2],
    /// How large the noise is.
    pub deviation: Deviation,
    /// `[B, C, height, width]`; none at the last step.
    pub noise: Option<Arc<Vec<f32>>>,
}

/// The standard deviation of a step of the reverse process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deviation {
    /// The same everywhere.
    Fixed(f32),
    /// `log σ² = f·high + (1 - f)·low` with `f = (v + 1)/2`, where `v` are the second `C` channels of `Output(0)`.
    Learned {
        /// `log β̃`, the smaller bound.
        low: f32,
        /// `log β`, the larger bound.
        high: f32,
    },
}

impl Instruction {
    /// Time and labels of the forward passes of an instruction.
    pub fn passes(&self) -> Vec<(f32, Branch)> {
        match *self {
            Self::Forward { time, branch, .. } => vec![(time, branch)],
            Self::JointForward { time, .. } => {
                vec![(time, Branch::Conditional), (time, Branch::Unconditional)]
            }
            Self::Combine { .. }
            | Self::Shift { .. }
            | Self::Denoise(_)
            | Self::Keep(_)
            | Self::Report(_) => Vec::new(),
        }
    }

    /// The passes of [`Instruction::passes`] whose routing is recorded: all but those over a shifted sample.
    pub fn recorded_passes(&self) -> Vec<(f32, Branch)> {
        match self {
            Self::Forward { input, .. } if !input.is_recorded() => Vec::new(),
            _ => self.passes(),
        }
    }
}

/// A circular shift by so many pixels down and to the right as one that stays within an image of this height and width.
#[expect(clippy::cast_possible_wrap, reason = "images have fewer than 2³¹ rows and columns")]
pub(crate) fn within_image(by: [i32; 2], size: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|side| by[side].rem_euclid(size[side] as i32) as usize)
}

/// An engine's report after a step, for adaptive schedulers.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// The sample, `[B, C, height, width]`.
    pub sample: &'a [f32],
    /// The buffers named by [`Instruction::Report`], in order, `[B, C, height, width]` each.
    pub reports: &'a [Vec<f32>],
}
