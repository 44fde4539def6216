//! The CPU as an [`Engine`]: holds the samples, and computes the steps unit by unit.

use std::collections::VecDeque;
use std::sync::Arc;

use web_time::Instant;

use super::activations::Activations;
use super::dit::{Input, moe_block, run_unit, stage_of, units};
use super::latents::Latents;
use super::prompts::{Encoded, PromptView, encode};
use super::weights::{self, Weights};
use crate::checkpoint::Checkpoint;
use crate::engine::contract::of_patches;
use crate::engine::cpu_math::CpuMath;
use crate::engine::linear::{Hold, keeps_format};
use crate::engine::{
    Engine, EngineError, ForwardRouting, LayerRouting, Progress, RunConfig, RunPrompts, Snapshot,
    Stage, StageTimes,
};
use crate::model::{Config, LabelRow, Muted, Routing, Shifts, TextConfig};
use crate::scheduler::{Branch, Instruction, Latent};
use crate::tokenizer::Tokenizer;

/// A model in memory, for engines of any batch size.
pub struct CpuModel {
    pub(super) config: Config,
    weights: Weights,
    /// Only if the model reads text
    tokenizer: Option<Tokenizer>,
    math: CpuMath,
    weight_bytes: u64,
}

impl CpuModel {
    /// Decodes a checkpoint's tensors.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    #[cfg(feature = "blocking")]
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, EngineError> {
        pollster::block_on(Self::load_async(checkpoint))
    }

    /// As [`CpuModel::load`], for callers that must not be held up.
    ///
    /// # Errors
    /// As [`CpuModel::load`].
    pub async fn load_async(checkpoint: &Checkpoint) -> Result<Self, EngineError> {
        Self::load_with_async(checkpoint, CpuMath::F32).await
    }

    /// As [`CpuModel::load`], with the products of the blocks in a format that may be less exact.
    ///
    /// # Errors
    /// As [`CpuModel::load`], and when this processor has no instructions for the format.
    #[cfg(feature = "blocking")]
    pub fn load_with(checkpoint: &Checkpoint, math: CpuMath) -> Result<Self, EngineError> {
        pollster::block_on(Self::load_with_async(checkpoint, math))
    }

    /// As [`CpuModel::load_with`], for callers that must not be held up.
    ///
    /// # Errors
    /// As [`CpuModel::load_with`].
    pub async fn load_with_async(
        checkpoint: &Checkpoint,
        math: CpuMath,
    ) -> Result<Self, EngineError> {
        math.check()?;
        let config = checkpoint.config().clone();
        let hold = Hold { math, is_kept: keeps_format(&config) };
        Self::load_as(checkpoint, config, hold).await
    }

    /// Only the first blocks.
    pub(in crate::engine) async fn load_blocks(
        checkpoint: &Checkpoint,
        blocks: usize,
    ) -> Result<Self, EngineError> {
        let config = Config { depth: blocks, ..checkpoint.config().clone() };
        Self::load_as(checkpoint, config, Hold::default()).await
    }

    pub(in crate::engine) async fn load_as(
        checkpoint: &Checkpoint,
        config: Config,
        hold: Hold,
    ) -> Result<Self, EngineError> {
        let tokenizer = config.text.as_ref().map(TextConfig::tokenizer);
        let (weights, weight_bytes) = weights::load(checkpoint, &config, hold).await?;
        Ok(Self { config, weights, tokenizer, math: hold.math, weight_bytes })
    }

    /// Description of the device.
    pub fn device(&self) -> String {
        self.math.describe()
    }

    /// How products are computed.
    pub fn math(&self) -> CpuMath {
        self.math
    }

    /// Bytes of the weights in memory.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
}

/// A model on the processor, for a fixed batch size.
pub struct CpuEngine {
    pub(super) model: Arc<CpuModel>,
    pub(super) activations: Activations,
    /// For passes over both branches at once; made when the first one comes
    joint: Option<Box<Joint>>,
    pub(super) latents: Latents,
    /// For each label table, `[B]`
    labels: Vec<Vec<LabelRow>>,
    /// The null rows, in the same form
    null_labels: Vec<Vec<LabelRow>>,
    /// The prompts of the run, if the model reads text
    pub(super) prompts: Option<Prompts>,
    routing: Routing,
    /// Experts that take no tokens in this run
    muted: Muted,
    /// Thresholds of single layers and experts that are moved in this run
    shifts: Shifts,
    /// Whether the scores of the router are kept
    record_scores: bool,
    /// Finished steps
    steps: u32,
    /// What is left of the current step
    ops: VecDeque<Instruction>,
    /// Units done of the pass at the front of `ops`
    units_done: usize,
    /// Whether a step was begun and its snapshot not taken yet
    in_step: bool,
    /// Routing of the pass at the front of `ops`
    pub(super) layers: Vec<LayerRouting>,
    /// Routing since the last snapshot
    passes: Vec<ForwardRouting>,
    /// Time since the last snapshot
    times: StageTimes,
    /// What to report at the end of the step
    reports: Vec<Latent>,
    snapshots: VecDeque<Snapshot>,
}

/// The prompts of a run and their encoded forms.
pub(super) struct Prompts {
    pub(super) run: RunPrompts,
    /// For each sample its prompt in the conditional passes, then in the unconditional ones: `[2B]`
    of_samples: Vec<usize>,
    pub(super) encoded: Vec<Encoded>,
}

impl Prompts {
    /// What the samples of a pass see; of both branches one after the other without a branch.
    pub(super) fn view(&self, branch: Option<Branch>) -> PromptView<'_> {
        let (asked, avoided) = self.of_samples.split_at(self.of_samples.len() / 2);
        let of_samples = match branch {
            Some(Branch::Conditional) => asked,
            Some(Branch::Unconditional) => avoided,
            None => &self.of_samples,
        };
        PromptView { prompts: &self.encoded, of_samples }
    }
}

/// What a pass over `2B` samples needs.
struct Joint {
    activations: Activations,
    /// The sample, twice: `[2B, C, h, w]`
    sample: Vec<f32>,
    /// Conditional, then null rows: for each label table `[2B]`
    labels: Vec<Vec<LabelRow>>,
    /// `[2B, C_out, h, w]`
    output: Vec<f32>,
}

impl CpuEngine {
    /// An engine for batches of `batch` samples.
    ///
    /// # Panics
    /// When the batch is empty.
    pub fn new(model: Arc<CpuModel>, batch: usize) -> Self {
        assert!(batch > 0, "a batch needs at least one sample");
        let config = &model.config;
        Self {
            activations: Activations::new(config, batch),
            joint: None,
            latents: Latents::new(config, batch),
            labels: Vec::new(),
            null_labels: config.labels.iter().map(|table| vec![table.null.into(); batch]).collect(),
            prompts: None,
            routing: Routing::default(),
            muted: Muted::default(),
            shifts: Shifts::default(),
            record_scores: false,
            steps: 0,
            ops: VecDeque::new(),
            units_done: 0,
            in_step: false,
            layers: Vec::new(),
            passes: Vec::new(),
            times: StageTimes::default(),
            reports: Vec::new(),
            snapshots: VecDeque::new(),
            model,
        }
    }

    /// The residual stream of patches after all blocks of the conditional pass, `[B, T, D]`, at one time for all samples.
    pub(in crate::engine) fn stream(&mut self, time: f32) -> Vec<f32> {
        let times = vec![time; self.activations.batch];
        for unit in 0..=2 * self.model.config.depth {
            self.forward_unit(unit, Latent::Sample, Latent::Output(0), &times, Branch::Conditional);
        }
        self.layers.clear();
        let config = &self.model.config;
        of_patches(config, config.hidden_size, self.activations.x.clone())
    }

    /// Does the next unit of the current step: a unit of a pass, or one operation between latents.
    fn advance_once(&mut self) {
        let Some(op) = self.ops.front().cloned() else { return };
        let begin = Instant::now();
        match &op {
            Instruction::Combine { output, terms } => self.latents.combine(*output, terms),
            &Instruction::Shift { input, output, by } => self.latents.shift(input, output, by),
            Instruction::Denoise(step) => self.latents.denoise(step),
            Instruction::Keep(level) => self.latents.keep(*level),
            Instruction::Report(latent) => self.reports.push(*latent),
            &Instruction::Forward { input, output, time, branch } => {
                let times = vec![time; self.activations.batch];
                self.forward_unit(self.units_done, input, output, &times, branch);
            }
            &Instruction::JointForward { input, time } => {
                self.joint_unit(self.units_done, input, time);
            }
        }
        let passes = op.passes();
        if passes.is_empty() {
            self.times.add(Stage::Solver, milliseconds(begin));
        } else {
            self.note_time(&op, milliseconds(begin));
            self.units_done += 1;
            if self.units_done < units(&self.model.config) {
                return;
            }
            self.units_done = 0;
            self.note_routing(&op.recorded_passes());
        }
        self.ops.pop_front();
    }

    /// Files the routing of the pass that has just ended, one part for each branch that is recorded.
    fn note_routing(&mut self, passes: &[(f32, Branch)]) {
        let mut layers = std::mem::take(&mut self.layers);
        for (i, &(time, branch)) in passes.iter().enumerate() {
            let layers = layers.iter_mut().map(|layer| {
                let rest = layer.masks.split_off(layer.masks.len() / (passes.len() - i));
                let masks = std::mem::replace(&mut layer.masks, rest);
                let scores = layer.scores.as_mut().map(|scores| scores.take_part(passes.len() - i));
                LayerRouting { block: layer.block, masks, scores }
            });
            let layers = layers.collect();
            self.passes.push(ForwardRouting { step: self.steps, time, branch, scale: 1, layers });
        }
    }

    /// Adds a unit's time to its phase.
    fn note_time(&mut self, op: &Instruction, ms: f32) {
        let unit = self.units_done;
        let activations = match (op, &self.joint) {
            (Instruction::JointForward { .. }, Some(joint)) => &joint.activations,
            _ => &self.activations,
        };
        let in_router = moe_block(&self.model.config, unit).map(|_| activations.router_ms);
        let router = in_router.unwrap_or_default();
        if in_router.is_some() {
            self.times.add(Stage::Router, router);
        }
        self.times.add(stage_of(&self.model.config, unit), ms - router);
    }

    /// Computes one unit of a pass and notes its routing.
    pub(super) fn forward_unit(
        &mut self,
        unit: usize,
        input: Latent,
        output: Latent,
        times: &[f32],
        branch: Branch,
    ) {
        let Latent::Output(to) = output else { panic!("a pass cannot write to {output:?}") };
        let labels = match branch {
            Branch::Conditional => &self.labels,
            Branch::Unconditional => &self.null_labels,
        };
        // Taken out for the time of the pass, because the input is a latent too.
        let mut output = std::mem::take(&mut self.latents.outputs[usize::from(to)]);
        let input = Input {
            sample: self.latents.sample(input),
            times,
            labels,
            text: self.prompts.as_ref().map(|prompts| prompts.view(Some(branch))),
            routing: self.routing,
            muted: &self.muted,
            shifts: &self.shifts,
            record_scores: self.record_scores,
        };
        let CpuModel { config, weights, .. } = &*self.model;
        run_unit(unit, config, weights, &mut self.activations, &input, &mut output);
        self.latents.outputs[usize::from(to)] = output;
        if let Some(block) = moe_block(&self.model.config, unit) {
            self.layers.push(self.activations.routing(&self.model.config, block));
        }
    }

    /// Computes one unit of a pass over both branches.
    fn joint_unit(&mut self, unit: usize, input: Latent, time: f32) {
        let CpuModel { config, weights, .. } = &*self.model;
        let batch = self.activations.batch;
        let joint = self.joint.get_or_insert_with(|| {
            Box::new(Joint {
                activations: Activations::new(config, 2 * batch),
                sample: Vec::new(),
                labels: Vec::new(),
                output: vec![0.0; 2 * batch * config.output_len()],
            })
        });
        if unit == 0 {
            joint.sample = self.latents.sample(input).repeat(2);
            let tables = self.labels.iter().zip(&self.null_labels);
            joint.labels = tables.map(|(asked, null)| [&asked[..], null].concat()).collect();
        }
        let Joint { activations, sample, labels, output } = &mut **joint;
        let times = vec![time; 2 * batch];
        let text = self.prompts.as_ref().map(|prompts| prompts.view(None));
        let input = Input {
            sample,
            times: &times,
            labels,
            text,
            routing: self.routing,
            muted: &self.muted,
            shifts: &self.shifts,
            record_scores: self.record_scores,
        };
        run_unit(unit, config, weights, activations, &input, output);
        if let Some(block) = moe_block(config, unit) {
            self.layers.push(activations.routing(config, block));
        }
        if unit + 1 == units(config) {
            let halves = output.chunks_exact(output.len() / 2);
            for (output, half) in self.latents.outputs.iter_mut().zip(halves) {
                output.copy_from_slice(half);
            }
        }
    }

    /// Sets a part of a step, after which [`Engine::advance`] is done and there is no snapshot yet.
    pub(in crate::engine) fn begin_part(&mut self, ops: &[Instruction]) {
        assert!(self.ops.is_empty(), "the part before is not finished");
        self.ops = ops.iter().cloned().collect();
    }

    /// Ends a step that was computed in parts: its snapshot is there.
    pub(in crate::engine) fn end_step(&mut self) {
        self.in_step = true;
        self.advance_by(0);
    }

    /// A result of a forward pass, `[B, out_channels, height, width]`; `None` where `output` is none.
    pub(in crate::engine) fn output(&mut self, output: Latent) -> Option<&mut Vec<f32>> {
        match output {
            Latent::Output(number) => self.latents.outputs.get_mut(usize::from(number)),
            _ => None,
        }
    }

    fn advance_by(&mut self, budget: usize) -> Progress {
        for _ in 0..budget {
            self.advance_once();
            if self.ops.is_empty() {
                break;
            }
        }
        if !self.ops.is_empty() {
            return Progress::Working;
        }
        if std::mem::take(&mut self.in_step) {
            self.steps += 1;
            self.snapshots.push_back(Snapshot {
                steps: self.steps,
                latent: self.latents.sample.clone(),
                routing: std::mem::take(&mut self.passes),
                stage_ms: std::mem::take(&mut self.times).list(),
                reports: self.reports.drain(..).map(|l| self.latents.sample(l).to_vec()).collect(),
            });
        }
        Progress::Done
    }

    /// Splits the prompts of a run into tokens and encodes them.
    fn encode(&self, run: &RunConfig) -> Option<Prompts> {
        let CpuModel { config, weights, tokenizer, .. } = &*self.model;
        let length = config.text.as_ref()?.max_length;
        assert_eq!(run.prompts.len(), self.activations.batch, "one prompt for each sample");
        let run = RunPrompts::new(tokenizer.as_ref()?, length, &run.prompts, &run.negative);
        let encoded = encode(config, weights, &run);
        Some(Prompts { of_samples: run.of_samples.concat(), encoded, run })
    }
}

fn milliseconds(since: Instant) -> f32 {
    since.elapsed().as_secs_f32() * 1e3
}

impl Engine for CpuEngine {
    fn device(&self) -> String {
        self.model.device()
    }

    fn batch(&self) -> usize {
        self.activations.batch
    }

    fn start(&mut self, run: &RunConfig) -> Result<(), EngineError> {
        assert_eq!(run.latent.len(), self.latents.sample.len(), "numbers in the sample");
        self.latents.sample.clone_from(&run.latent);
        self.latents.kept.clone_from(&run.keep);
        for (latent, values) in &run.buffers {
            assert_eq!(values.len(), run.latent.len(), "numbers in {latent:?}");
            self.latents.replace(*latent, values.clone());
        }
        self.labels = run.label_rows(&self.model.config, self.activations.batch);
        self.prompts = rayon::scope(|_| self.encode(run));
        self.routing = run.routing;
        self.muted.clone_from(&run.muted);
        self.shifts.clone_from(&run.shifts);
        self.record_scores = run.record_scores;
        self.steps = 0;
        self.units_done = 0;
        self.in_step = false;
        self.ops.clear();
        self.layers.clear();
        self.passes.clear();
        self.times = StageTimes::default();
        self.reports.clear();
        self.snapshots.clear();
        Ok(())
    }

    fn begin_step(&mut self, ops: &[Instruction]) -> Result<(), EngineError> {
        assert!(self.ops.is_empty(), "the step before is not finished");
        self.ops = ops.iter().cloned().collect();
        self.in_step = true;
        Ok(())
    }

    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        // Inside the pool, handing work to the other threads is much cheaper than from outside.
        Ok(rayon::scope(|_| self.advance_by(budget)))
    }

    fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.snapshots.pop_front()
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
}
