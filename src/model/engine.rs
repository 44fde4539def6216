//! The contract between a sampler and whatever computes the model.
//!
//! A denoising step is a short list of [`Op`]s over a few latent-sized [`Slot`]s: run the model on a
//! slot, combine slots linearly, or take a step of the diffusion posterior. Every solver is such a list
//! (see [`crate::diffusion`]), so an engine knows nothing about solvers, and a sampler knows nothing
//! about devices. The lists of a run have few shapes and only their numbers change, which lets the GPU
//! engine record each shape once.

use std::sync::Arc;

/// A latent-sized buffer of an engine, `[B, C, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The sample that is being denoised.
    Latent,
    /// A trial point of a multi-stage solver.
    Stage,
    /// A (guided) velocity that a multi-stage solver keeps. `0..7`.
    Rate(u8),
    /// A result of a forward pass, `[B, out_channels, height, width]`; in a combination only its first
    /// `C` channels count. `0..4`.
    Output(u8),
}

/// Which labels and prompts a forward pass sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Branch {
    /// The labels and prompts that were asked for.
    Conditional,
    /// The null row of every label table, and the negative prompt.
    Unconditional,
}

/// One instruction of a denoising step.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `output = model(input, time, labels of branch)`; all samples form one token pool.
    Forward {
        /// Where the noisy sample is: `Latent` or `Stage`.
        input: Slot,
        /// Where the result goes: an `Output`.
        output: Slot,
        /// Model time for every sample, before the configuration's `time_scale`.
        time: f32,
        /// Which labels.
        branch: Branch,
    },
    /// One pass over `2B` samples: the input with the labels that were asked for, and once more with the
    /// null rows. Both halves share one token pool, as in the official DDPM guidance. Twice the working
    /// memory of the other passes.
    JointForward {
        /// Where the noisy sample is: `Latent` or `Stage`.
        input: Slot,
        /// Model time for every sample, before the configuration's `time_scale`. The results go to
        /// `Output(0)` (conditional) and `Output(1)` (unconditional).
        time: f32,
    },
    /// `output = Σ factor·slot`, at most eight terms; the output may be among the terms.
    Combine {
        /// `Latent`, `Stage` or a `Rate`.
        output: Slot,
        /// Factors and slots, added in order.
        terms: Vec<(f32, Slot)>,
    },
    /// `latent = mean + σ·noise`: one step back through the diffusion process, from predicted noise.
    Denoise(Denoise),
    /// What a `Latent`, `Stage` or `Rate` holds at the end of the step comes back with its snapshot, in the
    /// order of these operations.
    Report(Slot),
}

/// One step of the reverse diffusion process, number by number over the sample `x` in `Latent`:
///
/// ```text
/// ε  = u + guidance·(c - u)     c = Output(0), u = Output(1); ε = c in channels that are not guided
/// x₀ = x_factor·x - noise_factor·ε    clipped to [-1, 1] if asked for
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

/// How experts get their tokens at inference (spec §4.1, §8 quirk 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RoutingRule {
    /// Official: the capacity predictor says *how many* tokens of the pool an expert takes, the gate says *which*.
    Pool,
    /// Each token for itself: an expert takes the tokens whose predicted capacity exceeds its threshold.
    /// A sample's picture then does not depend on its batch mates.
    #[default]
    Token,
}

/// Routing settings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Routing {
    /// The rule.
    pub rule: RoutingRule,
    /// One threshold γ for every expert and layer (paper Table 10) instead of the checkpoint's.
    pub gamma: Option<f32>,
    /// Added to the checkpoint's thresholds; positive saves compute. Ignored where `gamma` is set.
    pub shift: f32,
}

impl Routing {
    /// The threshold to compare with, given the checkpoint's.
    pub fn threshold(&self, checkpoint: f32) -> f32 {
        self.gamma.unwrap_or(checkpoint + self.shift)
    }
}

/// What an engine must know before the first step.
#[derive(Clone, Debug, Default)]
pub struct RunSpec {
    /// Start of the sample, `[B, C, height, width]`.
    pub latent: Vec<f32>,
    /// For each label table of the configuration, one row number per sample.
    pub labels: Vec<Vec<u32>>,
    /// One prompt per sample; empty where the model reads no text.
    pub prompts: Vec<String>,
    /// What guidance leads away from, in the place of the empty prompt.
    pub negative: String,
    /// Routing rule and thresholds.
    pub routing: Routing,
}

impl Op {
    /// Time and labels of the forward passes that an operation stands for.
    pub fn passes(&self) -> Vec<(f32, Branch)> {
        match *self {
            Self::Forward { time, branch, .. } => vec![(time, branch)],
            Self::JointForward { time, .. } => {
                vec![(time, Branch::Conditional), (time, Branch::Unconditional)]
            }
            Self::Combine { .. } | Self::Denoise(_) | Self::Report(_) => Vec::new(),
        }
    }
}

/// What [`Engine::advance`] achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Work was done or handed out, and some is left.
    Working,
    /// Nothing was done because enough work is in flight already; ask again later.
    Busy,
    /// The step is computed or fully handed to the device.
    Done,
}

/// The routing of one MoE layer in one forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRouting {
    /// Index of the transformer block.
    pub block: usize,
    /// For each token of the pool, `[B·T]`, one bit per expert.
    pub masks: Vec<u32>,
}

/// The routing of one forward pass, as the trace keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardRouting {
    /// Denoising step, from 0.
    pub step: u32,
    /// Model time of the pass.
    pub time: f32,
    /// Labels of the pass.
    pub branch: Branch,
    /// MoE layers in block order.
    pub layers: Vec<LayerRouting>,
}

/// A part of a denoising step, for timings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Patches, time, labels, and the shifts, scales and gates that follow from them.
    Condition,
    /// Attention with its projections.
    Attention,
    /// Scores, capacity prediction, and the choice of tokens.
    Router,
    /// Feed-forward networks: experts, the shared expert, and those of dense blocks.
    Experts,
    /// From tokens back to a sample.
    Final,
    /// The solver's arithmetic.
    Solver,
}

impl Stage {
    /// All of them, in the order of computation.
    pub const ALL: [Self; 6] =
        [Self::Condition, Self::Attention, Self::Router, Self::Experts, Self::Final, Self::Solver];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Condition => "condition",
            Self::Attention => "attention",
            Self::Router => "router",
            Self::Experts => "experts",
            Self::Final => "final layer",
            Self::Solver => "solver",
        }
    }
}

/// Milliseconds by stage, for a table of stages that occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageTimes([Option<f32>; Stage::ALL.len()]);

impl StageTimes {
    /// Adds time to a stage.
    pub fn add(&mut self, stage: Stage, ms: f32) {
        *self.0[stage as usize].get_or_insert(0.0) += ms;
    }

    /// The stages that occurred, in the order of computation.
    pub fn list(&self) -> Vec<(Stage, f32)> {
        let pairs = Stage::ALL.into_iter().zip(self.0);
        pairs.filter_map(|(stage, ms)| Some((stage, ms?))).collect()
    }
}

/// How long the device took for a slice of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SliceTime {
    /// Number of the slice since the engine was made.
    pub slice: usize,
    /// From its submission, or from the end of the slice before, to the news of its end.
    pub ms: f32,
    /// Whether the news came when it happened, and not when somebody asked.
    pub exact: bool,
}

/// What an engine hands back without holding anything up.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Number of finished steps.
    pub steps: u32,
    /// The sample after them, `[B, C, height, width]`.
    pub latent: Vec<f32>,
    /// Routing of every forward pass since the snapshot before, in order. A joint pass counts as two.
    pub routing: Vec<ForwardRouting>,
    /// Where the time of the step went; empty where the device has no clock, or nobody asked
    /// ([`Engine::set_profiling`]).
    pub stage_ms: Vec<(Stage, f32)>,
    /// What [`Op::Report`] asked for in this step, `[B, C, height, width]` each.
    pub reports: Vec<Vec<f32>>,
}

/// Named intermediate values of a single forward pass, for parity checks: name, shape, values.
pub type Taps = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Why an engine could not be made or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The device cannot hold the model.
    #[error("{0}")]
    TooLarge(String),
    /// The device failed while it was working; the sample of the last snapshot is still good.
    #[error("{0}")]
    DeviceLost(String),
    /// The solver found no way on; the sample of the last snapshot is still good.
    #[error("{0}")]
    Stalled(String),
    /// This engine does not know this kind of model.
    #[error("{0}")]
    Unsupported(String),
    /// Reading a tensor failed.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),
}

/// A model on a device, for a fixed batch size. An engine may be made on one thread and used on another.
pub trait Engine: Send {
    /// The device, for people: adapter or processor, and how it computes.
    fn device(&self) -> String;

    /// `B`.
    fn batch(&self) -> usize;

    /// Starts a run: uploads the sample and its labels, encodes its prompts, forgets the routing of the run
    /// before.
    ///
    /// # Panics
    /// When the lengths in `run` do not fit the configuration and batch: a bug of the caller.
    fn start(&mut self, run: &RunSpec);

    /// Hands over the next step. A snapshot is scheduled at its end.
    ///
    /// # Errors
    /// When the device has no room for the run's prompts, or for the first [`Op::JointForward`].
    fn begin_step(&mut self, ops: &[Op]) -> Result<(), EngineError>;

    /// Computes or submits at most `budget` units of the current step (a unit is about one kernel).
    /// Never waits for the device.
    ///
    /// # Errors
    /// When the device is lost.
    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError>;

    /// Whether the device is asked how long each stage of a step takes. Where asking is free, the answer is in
    /// every snapshot anyway. To be called between runs or steps; the step at work may come without an answer.
    fn set_profiling(&mut self, on: bool) {
        let _ = on;
    }

    /// How long the last finished slice took on a device of its own; `None` where [`Engine::advance`] itself
    /// computes, or nothing has finished yet.
    fn slice_time(&self) -> Option<SliceTime> {
        None
    }

    /// The oldest snapshot that has arrived and was not taken yet. Never waits.
    fn take_snapshot(&mut self) -> Option<Snapshot>;

    /// Waits until everything that was handed to the device is finished and its snapshots have arrived.
    /// For the command line and tests only: a user interface must not call it.
    ///
    /// # Errors
    /// When the device is lost.
    fn wait(&mut self) -> Result<(), EngineError>;

    /// Computes a whole step and waits for it; its snapshot is there afterwards. Not for user interfaces.
    ///
    /// # Errors
    /// When the device is lost or has no room.
    fn finish_step(&mut self, ops: &[Op]) -> Result<(), EngineError> {
        self.begin_step(ops)?;
        while self.advance(usize::MAX)? != Progress::Done {}
        self.wait()
    }

    /// One forward pass with its own time for each sample, and every intermediate value that a parity
    /// case knows: `out`, `blocks.{i}.out`, `blocks.{i}.{moe_in,capacity,gate,k,selected}`, and where the
    /// model reads text `tokens`, `negative_tokens`, `text.out`, `text.pooled`, `blocks.{i}.kv`. Waits.
    ///
    /// # Errors
    /// When the device is lost.
    fn forward_with_taps(&mut self, run: &RunSpec, times: &[f32]) -> Result<Taps, EngineError>;
}
