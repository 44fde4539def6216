//! The contract between a sampling run and the engine that computes the model.
//!
//! An engine executes the instructions of a scheduler ([`crate::scheduler::program`]) for one batch size and
//! returns snapshots. It does not depend on schedulers, and a run does not depend on devices.

use std::fmt;
use std::sync::Arc;

use half::f16;

use crate::checkpoint::CheckpointError;
use crate::gpu::{Gpu, GpuError};
use crate::kernels::Image;
use crate::model::{Config, LabelMix, LabelRow, LabelTable, Muted, Routing, Shifts};
use crate::scheduler::{Branch, Buffer, Instruction};

/// What [`Instruction::Keep`] keeps of an image, `[B, C, height, width]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Keep {
    /// The image.
    pub image: Vec<f32>,
    /// The noise that it gets on the way.
    pub noise: Vec<f32>,
    /// 1 where the sample stays as it is, 0 where the image with noise replaces it.
    pub mask: Vec<f32>,
}

/// The settings an engine needs before the first step.
#[derive(Clone, Debug, Default)]
pub struct RunConfig {
    /// Start of the sample, `[B, C, height, width]`.
    pub latent: Vec<f32>,
    /// Contents of other buffers, `[B, C, height, width]` each, when a multistep scheduler resumes a run.
    pub buffers: Vec<Buffer>,
    /// The image of which a part is kept; `None` unless there are [`Instruction::Keep`]s.
    pub keep: Option<Arc<Keep>>,
    /// For each label table of the configuration, one row number per sample.
    pub labels: Vec<Vec<u32>>,
    /// What is blended into the labels of the conditional passes.
    pub mix: LabelMix,
    /// One prompt per sample; empty for models without text.
    pub prompts: Vec<String>,
    /// Negative prompt, used instead of the empty prompt in the unconditional pass.
    pub negative: String,
    /// Routing rule and thresholds.
    pub routing: Routing,
    /// Experts that take no tokens.
    pub muted: Muted,
    /// Thresholds of single layers and experts that are moved.
    pub shifts: Shifts,
    /// Whether the routing of each pass includes the router's scores ([`LayerRouting::scores`]).
    pub record_scores: bool,
}

impl RunConfig {
    /// What each sample gets from each label table in the conditional passes, `[tables][B]`.
    ///
    /// # Panics
    /// When there is not one row of every table for each sample, or the table does not have it: a bug of the caller.
    pub(crate) fn label_rows(&self, config: &Config, batch: usize) -> Vec<Vec<LabelRow>> {
        assert_eq!(self.labels.len(), config.labels.len(), "one list of rows for each label table");
        let of_table = |(i, (rows, table)): (usize, (&Vec<u32>, &LabelTable))| {
            assert_eq!(rows.len(), batch, "one row of {} for each sample", table.name);
            let rows: Vec<_> = rows.iter().map(|&row| self.mix.of(i, row)).collect();
            let known = |row: &LabelRow| row.rows.iter().all(|&row| row <= table.null);
            assert!(rows.iter().all(known), "{} has no {rows:?}", table.name);
            rows
        };
        self.labels.iter().zip(&config.labels).enumerate().map(of_table).collect()
    }

    /// The thresholds in force in a block, `[E]`, given the checkpoint's; infinity for a muted expert.
    pub(crate) fn thresholds(&self, block: usize, checkpoint: &[f32]) -> Vec<f32> {
        let mut thresholds = self.routing.thresholds(checkpoint, self.muted.mask(block));
        self.shifts.apply(block, &mut thresholds);
        thresholds
    }
}

/// Result of [`Engine::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Work was done or submitted, and some is left.
    Working,
    /// Nothing was done because enough work is in flight already; call again later.
    Busy,
    /// The step is computed or fully submitted.
    Done,
}

/// The routing of one MoE layer in one forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRouting {
    /// Index of the transformer block.
    pub block: usize,
    /// For each token of the pool, `[B·T]`, one bit per expert.
    pub masks: Vec<u64>,
    /// The router's scores; `None` unless [`RunConfig::record_scores`] was set.
    pub scores: Option<Scores>,
}

/// Rows of `width` numbers for the tokens of patches alone, from those for all tokens of the residual stream.
pub(super) fn of_patches<T: Copy>(config: &Config, width: usize, rows: Vec<T>) -> Vec<T> {
    if config.context.is_none() {
        return rows;
    }
    let samples = rows.chunks_exact(config.stream_tokens() * width);
    samples.flat_map(|sample| &sample[..config.tokens() * width]).copied().collect()
}

/// The router's scores of every token of the pool for every expert of a layer. The masks were chosen from unrounded
/// scores, so near a threshold they are exact, while these may be off by the rounding of f16.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Gate before its softmax over experts, `[S, E]`. With a sigmoid router the logarithms of its scores, with a router by
    /// prototypes the cosines.
    pub gate: Vec<f16>,
    /// Capacity predictor before its sigmoid, `[S, E]`; empty in a model without one. Logits, because most
    /// probabilities are so close to 0 or 1 that f16 cannot distinguish them.
    pub need: Vec<f16>,
    /// The effective thresholds, as probabilities, `[E]`: the checkpoint's after [`Routing`], and infinity for a muted
    /// expert. Empty in a model without a capacity predictor.
    pub thresholds: Vec<f32>,
}

impl Scores {
    /// Splits off the scores of the first of `parts` equal parts of the pool: one branch of a joint pass.
    pub(crate) fn take_part(&mut self, parts: usize) -> Self {
        let take = |values: &mut Vec<f16>| {
            let rest = values.split_off(values.len() / parts);
            std::mem::replace(values, rest)
        };
        Self {
            gate: take(&mut self.gate),
            need: take(&mut self.need),
            thresholds: self.thresholds.clone(),
        }
    }
}

/// The routing of one forward pass, as stored in the trace.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardRouting {
    /// Denoising step, from 0.
    pub step: u32,
    /// Model time of the pass.
    pub time: f32,
    /// Labels of the pass.
    pub branch: Branch,
    /// Patches of the trace's grid that a token has along each side: 1, or more in the passes of a model that has a refiner
    /// with smaller patches, where the masks and scores of a token are repeated for all of its patches.
    pub scale: u32,
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
    /// The convolutions that finish a predicted sample, where the model has such a head.
    Detail,
    /// The solver's arithmetic.
    Solver,
}

impl Stage {
    /// All of them, in the order of computation.
    pub const ALL: [Self; 7] = [
        Self::Condition,
        Self::Attention,
        Self::Router,
        Self::Experts,
        Self::Final,
        Self::Detail,
        Self::Solver,
    ];

    /// Display name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Condition => "condition",
            Self::Attention => "attention",
            Self::Router => "router",
            Self::Experts => "experts",
            Self::Final => "final layer",
            Self::Detail => "detail head",
            Self::Solver => "solver",
        }
    }
}

/// The place of a dispatch in a denoising step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Its phase.
    pub stage: Stage,
    /// The transformer block, if it belongs to one.
    pub block: Option<usize>,
}

impl Scope {
    /// A stage of a transformer block.
    pub fn of_block(block: usize, stage: Stage) -> Self {
        Self { stage, block: Some(block) }
    }
}

/// A stage outside of the blocks.
impl From<Stage> for Scope {
    fn from(stage: Stage) -> Self {
        Self { stage, block: None }
    }
}

/// Such as `block 3 router`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(block) = self.block {
            write!(f, "block {block} ")?;
        }
        f.write_str(self.stage.name())
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
    /// From its submission, or from the end of the previous slice, until its completion is reported.
    pub ms: f32,
    /// Whether completion was reported when it happened, not when it was polled.
    pub exact: bool,
}

/// The results of a step, returned asynchronously.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Number of finished steps.
    pub steps: u32,
    /// The sample after them, `[B, C, height, width]`.
    pub latent: Vec<f32>,
    /// Routing of every forward pass since the snapshot before, in order. A joint pass counts as two.
    pub routing: Vec<ForwardRouting>,
    /// Time of the step by phase; empty if the device has no timestamps, or it was not requested
    /// ([`Engine::set_profiling`]).
    pub stage_ms: Vec<(Stage, f32)>,
    /// The buffers requested by [`Instruction::Report`] in this step, `[B, C, height, width]` each.
    pub reports: Vec<Vec<f32>>,
}

/// Named intermediate values of a single forward pass, for parity checks: name, shape, values.
pub type Taps = Vec<(String, Vec<usize>, Vec<f32>)>;

/// The samples of a run on the device, for a host that renders with the same device.
#[derive(Clone, Copy)]
pub struct GpuSamples<'a> {
    /// The device.
    pub gpu: &'a Arc<Gpu>,
    /// Starts with the samples, f32, row-major; other data of the engine follows. Usages: `STORAGE`, `COPY_SRC`,
    /// `COPY_DST`.
    pub buffer: &'a wgpu::Buffer,
    /// `[B, C, height, width]`
    pub shape: [usize; 4],
}

impl<'a> GpuSamples<'a> {
    /// One of the samples, for [`crate::kernels::TextureWriter`].
    pub fn image(&self, index: usize) -> Image<'a> {
        Image { buffer: self.buffer, shape: self.shape, index }
    }
}

/// Errors of an engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The device cannot hold the model.
    #[error("{0}")]
    TooLarge(String),
    /// The device was lost while it was working; the sample of the last snapshot is valid.
    #[error("{0}")]
    DeviceLost(String),
    /// The device reported an error: out of memory, or a bug. It computes nothing more; the sample of the last
    /// snapshot is valid.
    #[error("{0}")]
    Refused(String),
    /// The scheduler cannot continue; the sample of the last snapshot is valid.
    #[error("{0}")]
    Stalled(String),
    /// This engine does not support this kind of model.
    #[error("{0}")]
    Unsupported(String),
    /// The decoder file is not supported or does not match the latents. Another device would not help.
    #[error("{0}")]
    Decoder(String),
    /// Reading a tensor failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl EngineError {
    /// Whether the device is unusable, and a new one may resume from the last snapshot.
    pub fn needs_new_device(&self) -> bool {
        matches!(self, Self::DeviceLost(_) | Self::Refused(_))
    }
}

impl From<GpuError> for EngineError {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::Lost(_) | GpuError::NoAnswer(..) => Self::DeviceLost(error.to_string()),
            GpuError::Refused(_) => Self::Refused(error.to_string()),
            GpuError::NoAdapter(_) | GpuError::NoDevice { .. } | GpuError::Wrong(_) => {
                Self::Unsupported(error.to_string())
            }
        }
    }
}

/// A model on a device, for a fixed batch size. An engine may be made on one thread and used on another.
pub trait Engine: Send {
    /// Description of the device: adapter or processor, and how it computes.
    fn device(&self) -> String;

    /// `B`.
    fn batch(&self) -> usize;

    /// Starts a run: uploads the sample and its labels, encodes its prompts, discards the routing of the previous
    /// run.
    ///
    /// # Errors
    /// When the device has no memory for the run's prompts. Another run may still be started.
    ///
    /// # Panics
    /// When the lengths in `run` do not fit the configuration and batch: a bug of the caller.
    fn start(&mut self, run: &RunConfig) -> Result<(), EngineError>;

    /// Sets the next step. A snapshot is scheduled at its end.
    ///
    /// # Errors
    /// When the device has no memory for the first [`Instruction::JointForward`].
    fn begin_step(&mut self, ops: &[Instruction]) -> Result<(), EngineError>;

    /// Computes or submits at most `budget` units of the current step (a unit is about one kernel).
    /// Never waits for the device.
    ///
    /// # Errors
    /// When the device is lost.
    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError>;

    /// Enables timing of the stages of a step on the GPU. CPU timings are included in
    /// every snapshot. Call it between runs or steps; the active step may come without timings.
    fn set_profiling(&mut self, on: bool) {
        let _ = on;
    }

    /// Duration of the last finished slice on a GPU; `None` if [`Engine::advance`] itself
    /// computes, or nothing has finished yet.
    fn slice_time(&self) -> Option<SliceTime> {
        None
    }

    /// The samples on the device, as of the work submitted so far; `None` if
    /// the CPU computes. They stay there until the next [`Engine::start`].
    fn gpu_samples(&self) -> Option<GpuSamples<'_>> {
        None
    }

    /// The oldest snapshot that has arrived and was not taken yet. Never waits.
    fn take_snapshot(&mut self) -> Option<Snapshot>;

    /// Waits until all submitted work is finished and its snapshots have arrived.
    /// For the command line and tests only: a user interface must not call it.
    ///
    /// # Errors
    /// When the device is lost.
    fn wait(&mut self) -> Result<(), EngineError>;

    /// Computes a whole step and waits for it; its snapshot is there afterwards. Not for user interfaces.
    ///
    /// # Errors
    /// When the device is lost or out of memory.
    fn finish_step(&mut self, ops: &[Instruction]) -> Result<(), EngineError> {
        self.begin_step(ops)?;
        while self.advance(usize::MAX)? != Progress::Done {}
        self.wait()
    }
}

/// An engine that shows the intermediate values of a forward pass, for verification.
pub trait Inspect: Engine {
    /// One forward pass with its own time for each sample, and every intermediate value that a parity
    /// case knows: `out`, `blocks.{i}.out`, `blocks.{i}.{moe_in,capacity,gate,k,selected}`; the output before the
    /// detail head as `detail_head.x`; and where the model reads text `tokens`, `negative_tokens`, `text.out`,
    /// `text.pooled`, `blocks.{i}.kv`. Waits.
    ///
    /// # Errors
    /// When the device is lost, or has no memory for the prompts.
    fn forward_with_taps(&mut self, run: &RunConfig, times: &[f32]) -> Result<Taps, EngineError>;
}
