//! The CPU as an [`Engine`]: holds the samples, and computes the steps stage by stage.

use std::collections::VecDeque;
use std::sync::Arc;

use web_time::Instant;

use super::forward::{Activations, Input, moe_block, run_stage, stage_kind, stages};
use super::math::vector_width;
use super::weights::Weights;
use crate::checkpoint::Checkpoint;
use crate::model::{
    Branch, Config, Engine, EngineError, ForwardRouting, LayerRouting, Op, Progress, Routing,
    RunSpec, Slot, Snapshot, Stage, StageTimes, Taps,
};

/// A model in memory, for engines of any batch size.
pub struct CpuModel {
    config: Config,
    weights: Weights,
}

impl CpuModel {
    /// Decodes a checkpoint's tensors.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, EngineError> {
        pollster::block_on(Self::request(checkpoint))
    }

    /// As [`CpuModel::load`], for callers that must not be held up.
    ///
    /// # Errors
    /// As [`CpuModel::load`].
    pub async fn request(checkpoint: &Checkpoint) -> Result<Self, EngineError> {
        let weights = Weights::load(checkpoint).await?;
        Ok(Self { config: checkpoint.config().clone(), weights })
    }

    /// What computes, for people.
    pub fn device(&self) -> String {
        let threads = match rayon::current_num_threads() {
            1 => "1 thread".to_owned(),
            n => format!("{n} threads"),
        };
        format!("processor, {threads}, vectors of {}", vector_width())
    }

    /// Bytes of the weights in memory, where all are f32.
    pub fn weight_bytes(&self) -> u64 {
        4 * self.config.parameters() as u64
    }
}

/// A model on the processor, for a fixed batch size.
pub struct CpuEngine {
    model: Arc<CpuModel>,
    activations: Activations,
    /// `[B, C, h, w]`
    latent: Vec<f32>,
    /// `[B, C, h, w]`
    stage: Vec<f32>,
    /// `[B, C_out, h, w]` each
    outputs: Vec<Vec<f32>>,
    /// A result on its way to its slot, which may be one of the operands
    combined: Vec<f32>,
    /// For each label table, `[B]`
    labels: Vec<Vec<u32>>,
    /// The null rows, in the same form
    null_labels: Vec<Vec<u32>>,
    routing: Routing,
    /// Finished steps
    steps: u32,
    /// What is left of the current step
    ops: VecDeque<Op>,
    /// Stages done of the pass at the front of `ops`
    stages_done: usize,
    /// Whether a step was begun and its snapshot not taken yet
    in_step: bool,
    /// Routing of the pass at the front of `ops`
    layers: Vec<LayerRouting>,
    /// Routing since the last snapshot
    passes: Vec<ForwardRouting>,
    /// Time since the last snapshot
    times: StageTimes,
    snapshots: VecDeque<Snapshot>,
}

/// `Output(0)` to `Output(3)`.
const OUTPUTS: usize = 4;

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
            latent: vec![0.0; batch * config.sample_len()],
            stage: vec![0.0; batch * config.sample_len()],
            outputs: vec![vec![0.0; batch * config.output_len()]; OUTPUTS],
            combined: vec![0.0; batch * config.sample_len()],
            labels: Vec::new(),
            null_labels: config.labels.iter().map(|table| vec![table.null; batch]).collect(),
            routing: Routing::default(),
            steps: 0,
            ops: VecDeque::new(),
            stages_done: 0,
            in_step: false,
            layers: Vec::new(),
            passes: Vec::new(),
            times: StageTimes::default(),
            snapshots: VecDeque::new(),
            model,
        }
    }

    /// Does the next unit of the current step: one stage of a pass, or one combination.
    fn advance_once(&mut self) {
        match self.ops.front().cloned() {
            None => {}
            Some(Op::Combine { output, terms }) => {
                let begin = Instant::now();
                self.combine(output, &terms);
                self.times.add(Stage::Solver, milliseconds(begin));
                self.ops.pop_front();
            }
            Some(Op::Forward { input, output, time, branch }) => {
                let times = vec![time; self.activations.batch];
                let begin = Instant::now();
                self.stage(self.stages_done, input, output, &times, branch);
                self.note_time(self.stages_done, milliseconds(begin));
                self.stages_done += 1;
                if self.stages_done == stages(&self.model.config) {
                    let layers = std::mem::take(&mut self.layers);
                    self.passes.push(ForwardRouting { step: self.steps, time, branch, layers });
                    self.stages_done = 0;
                    self.ops.pop_front();
                }
            }
        }
    }

    /// Adds a stage's time to what it was spent on.
    fn note_time(&mut self, stage: usize, ms: f32) {
        let router = if moe_block(&self.model.config, stage).is_some() {
            self.times.add(Stage::Router, self.activations.router_ms);
            self.activations.router_ms
        } else {
            0.0
        };
        self.times.add(stage_kind(&self.model.config, stage), ms - router);
    }

    /// Computes one stage of a pass and notes its routing.
    fn stage(&mut self, stage: usize, input: Slot, output: Slot, times: &[f32], branch: Branch) {
        let Slot::Output(to) = output else { panic!("a pass cannot write to {output:?}") };
        let sample = match input {
            Slot::Latent => &self.latent,
            Slot::Stage => &self.stage,
            Slot::Output(_) => panic!("a pass cannot read {input:?}"),
        };
        let labels = match branch {
            Branch::Conditional => &self.labels,
            Branch::Unconditional => &self.null_labels,
        };
        let input = Input { sample, times, labels, routing: self.routing };
        let output = &mut self.outputs[usize::from(to)];
        run_stage(
            stage,
            &self.model.config,
            &self.model.weights,
            &mut self.activations,
            &input,
            output,
        );
        if let Some(block) = moe_block(&self.model.config, stage) {
            self.layers.push(LayerRouting { block, masks: self.activations.masks.clone() });
        }
    }

    /// `output = Σ factor·slot`.
    fn combine(&mut self, output: Slot, terms: &[(f32, Slot)]) {
        let (len, out_len) = (self.model.config.sample_len(), self.model.config.output_len());
        self.combined.fill(0.0);
        for &(factor, slot) in terms {
            let (from, stride) = match slot {
                Slot::Latent => (&self.latent, len),
                Slot::Stage => (&self.stage, len),
                Slot::Output(n) => (&self.outputs[usize::from(n)], out_len),
            };
            for (sum, from) in self.combined.chunks_exact_mut(len).zip(from.chunks_exact(stride)) {
                sum.iter_mut().zip(from).for_each(|(sum, x)| *sum += factor * x);
            }
        }
        match output {
            Slot::Latent => std::mem::swap(&mut self.latent, &mut self.combined),
            Slot::Stage => std::mem::swap(&mut self.stage, &mut self.combined),
            Slot::Output(_) => panic!("a combination cannot write to {output:?}"),
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
                latent: self.latent.clone(),
                routing: std::mem::take(&mut self.passes),
                stage_ms: std::mem::take(&mut self.times).list(),
            });
        }
        Progress::Done
    }

    /// The taps that follow from the activations after a stage.
    fn tap(&self, stage: usize, taps: &mut Taps) {
        let Config { hidden_size: d, num_experts: e, .. } = self.model.config;
        let a = &self.activations;
        let s = a.masks.len();
        if let Some(block) = moe_block(&self.model.config, stage) {
            let bit = |mask: u32, e: usize| (mask >> e & 1) as f32;
            let mut add = |name: &str, shape: &[usize], values: Vec<f32>| {
                taps.push((format!("blocks.{block}.{name}"), shape.to_vec(), values));
            };
            add("moe_in", &[s, d], a.h.clone());
            if !a.capacity.is_empty() {
                add("capacity", &[s, e], a.capacity.clone());
            }
            add("gate", &[s, e], a.gate.clone());
            let count = |e| a.masks.iter().map(|&mask| bit(mask, e)).sum();
            add("k", &[e], (0..e).map(count).collect());
            let selected = a.masks.iter().flat_map(|&mask| (0..e).map(move |e| bit(mask, e)));
            add("selected", &[s, e], selected.collect());
        }
        if stage > 0 && stage.is_multiple_of(2) {
            let shape = vec![a.batch, s / a.batch, d];
            taps.push((format!("blocks.{}.out", stage / 2 - 1), shape, a.x.clone()));
        }
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

    fn start(&mut self, run: &RunSpec) {
        assert_eq!(run.latent.len(), self.latent.len(), "numbers in the sample");
        assert_eq!(run.labels.len(), self.model.config.labels.len(), "label tables");
        for (table, labels) in self.model.config.labels.iter().zip(&run.labels) {
            assert_eq!(labels.len(), self.activations.batch, "labels for {}", table.name);
            assert!(labels.iter().all(|&l| l <= table.null), "a {} beyond the table", table.name);
        }
        self.latent.clone_from(&run.latent);
        self.labels.clone_from(&run.labels);
        self.routing = run.routing;
        self.steps = 0;
        self.stages_done = 0;
        self.in_step = false;
        self.ops.clear();
        self.layers.clear();
        self.passes.clear();
        self.times = StageTimes::default();
        self.snapshots.clear();
    }

    fn begin_step(&mut self, ops: &[Op]) {
        assert!(self.ops.is_empty(), "the step before is not finished");
        self.ops = ops.iter().cloned().collect();
        self.in_step = true;
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

    fn forward_with_taps(&mut self, run: &RunSpec, times: &[f32]) -> Result<Taps, EngineError> {
        assert_eq!(times.len(), self.activations.batch, "times");
        self.start(run);
        let mut taps = Taps::new();
        let output = Slot::Output(0);
        for stage in 0..stages(&self.model.config) {
            self.stage(stage, Slot::Latent, output, times, Branch::Conditional);
            self.tap(stage, &mut taps);
        }
        self.layers.clear();
        let Config { out_channels, input_size, .. } = self.model.config;
        let shape = vec![self.activations.batch, out_channels, input_size, input_size];
        taps.push(("out".into(), shape, self.outputs[0].clone()));
        Ok(taps)
    }
}
