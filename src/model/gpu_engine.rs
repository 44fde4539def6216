//! The engine on wgpu: a forward pass is recorded once and replayed; nothing is read back inside it.
//!
//! A step is one submission when nobody watches, or many small ones when a user interface drives it.
//! Either way at most [`MAX_IN_FLIGHT`] submissions are unfinished, and the sample and the routing of
//! a step come back by themselves after it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::activations::Activations;
use super::dit::Network;
use super::step_tape::{Body, StepTape};
use super::weights::Weights;
use super::{
    Branch, Config, Engine, EngineError, ForwardRouting, LayerRouting, Op, Progress, Routing,
    RoutingRule, RunSpec, SliceTime, Slot, Snapshot, Stage, StageTimes, Taps,
};
use crate::checkpoint::Checkpoint;
use crate::gpu::{Clock, Gpu, GpuError, InFlight, Readback, Tensor, Timing};
use crate::kernels::WeightPrecision;
use crate::kernels::attention::MAX_HEAD_DIM;

/// More submissions in the queue would make a window that shares the device wait for them.
const MAX_IN_FLIGHT: usize = 2;

/// A model on a device, for engines of any batch size.
pub struct GpuModel {
    /// The device.
    pub gpu: Arc<Gpu>,
    /// The model's shape.
    pub config: Config,
    pub(super) weights: Weights,
    precision: WeightPrecision,
}

impl GpuModel {
    /// Uploads a checkpoint's tensors.
    ///
    /// # Errors
    /// When a tensor cannot be read, or the device cannot hold the model.
    pub fn load(
        gpu: Arc<Gpu>,
        checkpoint: &Checkpoint,
        precision: WeightPrecision,
    ) -> Result<Self, EngineError> {
        pollster::block_on(Self::request(gpu, checkpoint, precision))
    }

    /// As [`GpuModel::load`], for callers that must not be held up.
    ///
    /// # Errors
    /// As [`GpuModel::load`].
    pub async fn request(
        gpu: Arc<Gpu>,
        checkpoint: &Checkpoint,
        precision: WeightPrecision,
    ) -> Result<Self, EngineError> {
        let config = checkpoint.config().clone();
        if config.head_dim > MAX_HEAD_DIM {
            return Err(EngineError::Unsupported(format!(
                "attention heads of {} numbers are wider than the {MAX_HEAD_DIM} that the GPU kernels hold",
                config.head_dim
            )));
        }
        let weights = Weights::load(&gpu, checkpoint, precision).await?;
        Ok(Self { gpu, config, weights, precision })
    }

    /// The device and how it computes, for people.
    pub fn device(&self) -> String {
        let weights = match self.precision {
            WeightPrecision::F16 => "f16",
            WeightPrecision::F32 => "f32",
        };
        format!("{}, {weights} weights", self.gpu.describe())
    }

    /// Bytes of the weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }
}

/// A model on a device, for one batch size.
pub struct GpuEngine {
    pub(super) model: Arc<GpuModel>,
    pub(super) acts: Activations,
    pub(super) body: Body,
    /// The rule that `body` was recorded for.
    rule: RoutingRule,
    /// Every form of step that this run has seen: one, or two where the last step differs.
    tapes: Vec<Arc<StepTape>>,
    current: Option<Step>,
    in_flight: InFlight,
    steps: u32,
    snapshots: VecDeque<Pending>,
    /// Reads the device's clock around the stages of a step, where that is wanted and possible.
    clock: Option<Clock>,
}

/// A step that is being submitted.
struct Step {
    tape: Arc<StepTape>,
    /// Dispatches that were submitted already.
    done: usize,
    passes: Vec<(f32, Branch)>,
    /// The stages that were timed, one for each part; `None` where the clock is not read.
    timed: Option<Vec<Stage>>,
}

impl Step {
    /// Adds some dispatches of the step to a submission.
    fn encode(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        end: usize,
        clock: Option<&mut Clock>,
    ) {
        let StepTape { tape, stages, .. } = &*self.tape;
        match (&mut self.timed, clock) {
            (Some(timed), Some(clock)) => {
                let mut from = self.done;
                let parts: Vec<_> = stages[from..end]
                    .chunk_by(|a, b| a == b)
                    .map(|part| {
                        timed.push(part[0]);
                        from += part.len();
                        from - part.len()..from
                    })
                    .collect();
                tape.encode_timed(encoder, parts, clock);
            }
            _ => tape.encode(encoder, self.done..end),
        }
        self.done = end;
    }
}

/// A snapshot on its way.
struct Pending {
    readback: Readback,
    steps: u32,
    passes: Vec<(f32, Branch)>,
    /// The stages whose stamps came along.
    timed: Vec<Stage>,
}

impl GpuEngine {
    /// Allocates working memory and records the blocks.
    ///
    /// # Errors
    /// When the working memory of the batch does not fit the device.
    pub fn new(model: Arc<GpuModel>, batch: usize) -> Result<Self, EngineError> {
        let (gpu, config) = (&model.gpu, &model.config);
        let acts = Activations::new(gpu, config, batch)?;
        let rows = |label: &str| Tensor::empty(gpu, label, &[config.labels.len(), batch]);
        let body =
            Body { blocks: Vec::new(), label_rows: [rows("label rows"), rows("null label rows")] };
        if let Some(error) = gpu.failure() {
            return Err(EngineError::TooLarge(format!(
                "{batch} pictures at once do not fit: {error}; draw fewer pictures at once"
            )));
        }
        let mut engine = Self {
            acts,
            body,
            rule: RoutingRule::default(),
            tapes: Vec::new(),
            current: None,
            in_flight: InFlight::default(),
            steps: 0,
            snapshots: VecDeque::new(),
            clock: None,
            model,
        };
        engine.record_blocks();
        Ok(engine)
    }

    /// What recording needs.
    pub(super) fn network(&self) -> Network<'_> {
        Network {
            gpu: &self.model.gpu,
            config: &self.model.config,
            weights: &self.model.weights,
            acts: &self.acts,
            rule: self.rule,
        }
    }

    fn record_blocks(&mut self) {
        let blocks = (0..self.model.config.depth).map(|i| self.network().block(i)).collect();
        self.body.blocks = blocks;
        self.tapes.clear();
    }

    /// The recorded form of these operations.
    fn tape_for(&mut self, ops: &[Op]) -> Arc<StepTape> {
        if let Some(tape) = self.tapes.iter().find(|tape| tape.fits(ops)) {
            return tape.clone();
        }
        let tape = Arc::new(StepTape::record(&self.network(), &self.body, ops));
        self.tapes.push(tape.clone());
        tape
    }

    /// Number of submissions so far, for tests of "one for each step".
    pub fn submissions(&self) -> usize {
        self.in_flight.total()
    }

    /// Labels of all dispatches of a step of these operations, in order, such as `block 3/attention`.
    pub fn dispatches(&mut self, ops: &[Op]) -> Vec<String> {
        self.tape_for(ops).tape.labels().map(str::to_owned).collect()
    }

    /// Computes a step of these operations with the device's clock read around each dispatch. Waits;
    /// `None` where the device has no clock. The sample is advanced as by an ordinary step.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn time_step(&mut self, ops: &[Op]) -> Result<Option<Vec<Timing>>, EngineError> {
        let step = self.tape_for(ops);
        step.set_numbers(&self.model.gpu, ops, self.model.config.time_scale);
        Ok(step.tape.time(&self.model.gpu)?)
    }

    /// Writes the thresholds that a run compares predicted capacities with.
    fn write_thresholds(&self, routing: &Routing) {
        let Some(moe) = &self.acts.moe else { return };
        for (layer, &block) in self.model.config.moe_blocks().iter().enumerate() {
            if let Some(thresholds) = self.model.weights.thresholds(block) {
                let values: Vec<f32> = thresholds.iter().map(|&t| routing.threshold(t)).collect();
                moe.thresholds[layer].write(&self.model.gpu, &values);
            }
        }
    }

    fn write_labels(&self, labels: &[Vec<u32>]) {
        let GpuModel { gpu, config, weights, .. } = &*self.model;
        assert_eq!(labels.len(), config.labels.len(), "one list of rows for each label table");
        let (mut asked, mut null) = (Vec::new(), Vec::new());
        for ((rows, table), &first) in labels.iter().zip(&config.labels).zip(&weights.label_rows) {
            assert_eq!(rows.len(), self.acts.batch, "one row of {} for each sample", table.name);
            assert!(rows.iter().all(|&row| row <= table.null), "{}: {rows:?}", table.name);
            asked.extend(rows.iter().map(|row| first + row));
            null.extend(rows.iter().map(|_| first + table.null));
        }
        self.body.rows(Branch::Conditional).write(gpu, &asked);
        self.body.rows(Branch::Unconditional).write(gpu, &null);
    }

    /// Turns what came back into a snapshot.
    fn unpack(&self, pending: Pending) -> Result<Snapshot, GpuError> {
        let parts = pending.readback.take()?;
        let latent = bytemuck::pod_collect_to_vec(&parts[0]);
        let trace: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[1]);
        let blocks = self.model.config.moe_blocks();
        let pool = self.acts.batch * self.model.config.tokens();
        let mut masks = trace.chunks(pool);
        let routing = pending.passes.iter().map(|&(time, branch)| ForwardRouting {
            step: pending.steps - 1,
            time,
            branch,
            layers: blocks
                .iter()
                .zip(&mut masks)
                .map(|(&block, masks)| LayerRouting { block, masks: masks.to_vec() })
                .collect(),
        });
        let mut times = StageTimes::default();
        if let (Some(clock), Some(stamps)) = (&self.clock, parts.get(2)) {
            let ms = clock.milliseconds(&bytemuck::pod_collect_to_vec(stamps));
            pending.timed.iter().zip(ms).for_each(|(&stage, ms)| times.add(stage, ms));
        }
        let (steps, routing) = (pending.steps, routing.collect());
        Ok(Snapshot { steps, latent, routing, stage_ms: times.list() })
    }
}

impl From<GpuError> for EngineError {
    fn from(error: GpuError) -> Self {
        Self::DeviceLost(error.to_string())
    }
}

impl Engine for GpuEngine {
    fn device(&self) -> String {
        self.model.device()
    }

    fn batch(&self) -> usize {
        self.acts.batch
    }

    fn start(&mut self, run: &RunSpec) {
        let gpu = self.model.gpu.clone();
        assert_eq!(
            run.latent.len(),
            self.acts.batch * self.model.config.sample_len(),
            "numbers in the samples"
        );
        self.current = None;
        self.steps = 0;
        self.snapshots.clear();
        if run.routing.rule != self.rule {
            self.rule = run.routing.rule;
            self.record_blocks();
        }
        let first = self.acts.region(&self.model.config, Slot::Latent).first;
        self.acts.latents.write_at(&gpu, first, &run.latent);
        self.write_labels(&run.labels);
        self.write_thresholds(&run.routing);
    }

    fn begin_step(&mut self, ops: &[Op]) {
        assert!(self.current.is_none(), "the step before is not handed over yet");
        let tape = self.tape_for(ops);
        tape.set_numbers(&self.model.gpu, ops, self.model.config.time_scale);
        let pass = |op: &Op| match op {
            &Op::Forward { time, branch, .. } => Some((time, branch)),
            Op::Combine { .. } => None,
        };
        let passes = ops.iter().filter_map(pass).collect();
        if let Some(clock) = &mut self.clock {
            clock.restart();
        }
        let timed = self.clock.is_some().then(Vec::new);
        self.current = Some(Step { tape, done: 0, passes, timed });
    }

    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        let gpu = &self.model.gpu;
        gpu.poll();
        if let Some(error) = gpu.failure() {
            return Err(error.into());
        }
        let Some(mut step) = self.current.take() else { return Ok(Progress::Done) };
        if self.in_flight.count() >= MAX_IN_FLIGHT {
            self.current = Some(step);
            return Ok(Progress::Busy);
        }
        let end = step.tape.tape.len().min(step.done.saturating_add(budget.max(1)));
        let mut encoder = gpu.encoder();
        step.encode(&mut encoder, end, self.clock.as_mut());
        let is_last = end == step.tape.tape.len();
        if is_last {
            let sample = self.acts.batch * self.model.config.sample_len();
            let mut wanted =
                vec![(&self.acts.latents, sample), (&step.tape.trace, step.tape.trace.len())];
            if let (Some(_), Some(clock)) = (&step.timed, &self.clock) {
                wanted.push(clock.resolve(&mut encoder));
            }
            let readback = Readback::schedule_prefixes(gpu, &mut encoder, &wanted);
            self.steps += 1;
            self.snapshots.push_back(Pending {
                readback,
                steps: self.steps,
                passes: std::mem::take(&mut step.passes),
                timed: step.timed.take().unwrap_or_default(),
            });
        }
        self.in_flight.submit(gpu, encoder.finish());
        if is_last {
            return Ok(Progress::Done);
        }
        self.current = Some(step);
        Ok(Progress::Working)
    }

    fn set_profiling(&mut self, on: bool) {
        if on == self.clock.is_some() {
            return;
        }
        self.clock = if on { Clock::new(&self.model.gpu) } else { None };
        // A step at work would otherwise mix two clocks.
        if let Some(step) = &mut self.current {
            step.timed = None;
        }
    }

    fn slice_time(&self) -> Option<SliceTime> {
        let last = self.in_flight.last()?;
        Some(SliceTime { slice: last.number, ms: last.ms, exact: last.prompt })
    }

    fn take_snapshot(&mut self) -> Option<Snapshot> {
        self.model.gpu.poll();
        if !self.snapshots.front()?.readback.is_ready() {
            return None;
        }
        let pending = self.snapshots.pop_front()?;
        match self.unpack(pending) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                // The next `advance` or `wait` reports it.
                self.model.gpu.report(error);
                None
            }
        }
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        Ok(self.model.gpu.wait()?)
    }

    fn forward_with_taps(&mut self, run: &RunSpec, times: &[f32]) -> Result<Taps, EngineError> {
        self.start(run);
        Ok(super::taps::forward(self, times)?)
    }
}
