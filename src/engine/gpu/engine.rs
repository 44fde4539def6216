//! The engine on wgpu: a forward pass is recorded once and replayed; nothing is read back inside it.
//!
//! A step is one submission, or many small ones when a user interface drives it.
//! Either way only a few submissions are unfinished ([`InFlight::is_full`]), and the sample and the routing of
//! a step are copied back asynchronously.

use std::collections::VecDeque;
use std::sync::Arc;

use super::dit::Network;
use super::model::GpuModel;
use super::passes::Passes;
use super::prompts::Prompts;
use super::step_tape::{Recorder, StepTape};
use crate::engine::{
    Engine, EngineError, ForwardRouting, GpuSamples, LayerRouting, Progress, RunConfig, RunPrompts,
    Scope, Scores, SliceTime, Snapshot, Stage, StageTimes,
};
use crate::gpu::{Clock, GpuError, InFlight, Readback, Timing};
use crate::kernels::route_score::unpack;
use crate::scheduler::{Branch, Instruction, Latent};

/// A model on a device, for one batch size.
pub struct GpuEngine {
    pub(super) model: Arc<GpuModel>,
    /// For passes over one branch.
    pub(super) single: Passes,
    /// For passes over both; made when the first one comes.
    joint: Option<Passes>,
    /// Memory for the encoded prompts, and the prompts of the run.
    pub(super) prompts: Option<(Prompts, RunPrompts)>,
    /// The run that is under way, for a `joint` that is made in the middle of it.
    run: RunConfig,
    /// Every form of step that this run has seen.
    tapes: Vec<Arc<StepTape>>,
    current: Option<Step>,
    in_flight: InFlight,
    steps: u32,
    snapshots: VecDeque<Pending>,
    /// GPU timestamps around the stages of a step, if enabled and supported.
    clock: Option<Clock>,
}

/// The branches of one forward pass with their times: one, or two in a joint pass.
type PassBranches = Vec<(f32, Branch)>;

/// A step that is being submitted.
struct Step {
    tape: Arc<StepTape>,
    /// Dispatches that were submitted already.
    done: usize,
    passes: Vec<PassBranches>,
    reports: Vec<Latent>,
    /// The timed stages, one for each part; `None` if timing is off.
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
        let tape = &self.tape.tape;
        match (&mut self.timed, clock) {
            (Some(timed), Some(clock)) => {
                let parts = tape.parts(self.done..end, |scope| scope.stage);
                let (stages, ranges): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
                timed.extend(stages);
                tape.encode_timed(encoder, ranges, clock);
            }
            _ => tape.encode(encoder, self.done..end),
        }
        self.done = end;
    }
}

/// A pending snapshot.
struct Pending {
    readback: Readback,
    steps: u32,
    passes: Vec<PassBranches>,
    /// Number of reports that came along.
    reports: usize,
    /// The stages whose timestamps follow the reports.
    timed: Vec<Stage>,
}

impl GpuEngine {
    /// Allocates working memory and records the blocks.
    ///
    /// # Errors
    /// When the working memory of the batch does not fit the device.
    pub fn new(model: Arc<GpuModel>, batch: usize) -> Result<Self, EngineError> {
        Ok(Self {
            single: Passes::new(&model, batch)?,
            joint: None,
            prompts: None,
            run: RunConfig::default(),
            tapes: Vec::new(),
            current: None,
            in_flight: InFlight::default(),
            steps: 0,
            snapshots: VecDeque::new(),
            clock: None,
            model,
        })
    }

    /// What recording passes over one branch needs.
    pub(super) fn network(&self) -> Network<'_> {
        self.single.network(&self.model)
    }

    /// The recorded form of these operations.
    fn tape_for(&mut self, ops: &[Instruction]) -> Result<Arc<StepTape>, EngineError> {
        if let Some(tape) = self.tapes.iter().find(|tape| tape.fits(ops)) {
            return Ok(tape.clone());
        }
        let needs_joint = ops.iter().any(|op| matches!(op, Instruction::JointForward { .. }));
        if needs_joint && self.joint.is_none() {
            let mut joint = self.single.joint(&self.model)?;
            if let Some((prompts, _)) = &self.prompts {
                joint.read_from(&self.model, prompts);
            }
            let text = self.prompts.as_ref().map(|(prompts, run)| (prompts, run));
            joint.prepare(&self.model, &self.run, text);
            self.joint = Some(joint);
        }
        let Self { model, single, joint, run, .. } = self;
        let recorder =
            Recorder { model, single, joint: joint.as_ref(), records: run.record_scores };
        let tape = Arc::new(recorder.record(ops)?);
        self.tapes.push(tape.clone());
        Ok(tape)
    }

    /// Number of submissions so far, for tests of "one for each step".
    pub fn submissions(&self) -> usize {
        self.in_flight.total()
    }

    /// All dispatches of a step of these instructions, in order: the place and the shader of each.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn dispatches(
        &mut self,
        ops: &[Instruction],
    ) -> Result<Vec<(Scope, &'static str)>, EngineError> {
        let step = self.tape_for(ops)?;
        Ok(step.tape.dispatches().map(|(scope, shader)| (*scope, shader)).collect())
    }

    /// Computes a step of these operations with the device's clock read around each dispatch. Waits;
    /// `None` if the device has no timestamps. The sample is advanced as by an ordinary step.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn time_step(
        &mut self,
        ops: &[Instruction],
    ) -> Result<Option<Vec<Timing<Scope>>>, EngineError> {
        let step = self.tape_for(ops)?;
        step.set_numbers(&self.model.gpu, ops, self.model.config.time_scale);
        Ok(step.tape.time(&self.model.gpu)?)
    }

    /// Splits the prompts of a run and encodes them, in more memory if these are more than ever before.
    fn encode(&mut self, run: &RunConfig) -> Result<(), EngineError> {
        let GpuModel { gpu, config, weights, tokenizer, .. } = &*self.model;
        let (Some(tokenizer), Some(text)) = (tokenizer, &config.text) else { return Ok(()) };
        assert_eq!(run.prompts.len(), self.batch(), "one prompt for each sample");
        let run = RunPrompts::new(tokenizer, text.max_length, &run.prompts, &run.negative);
        let count = run.distinct.len();
        let prompts = match self.prompts.take() {
            Some((prompts, _)) if prompts.holds(count) => prompts,
            _ => {
                let prompts = Prompts::new(gpu, weights, config, count)?;
                for passes in std::iter::once(&mut self.single).chain(&mut self.joint) {
                    passes.read_from(&self.model, &prompts);
                }
                self.tapes.clear();
                prompts
            }
        };
        prompts.encode(gpu, &run);
        self.prompts = Some((prompts, run));
        Ok(())
    }

    /// Takes the scores of a layer of one branch from the front of the results; `None` if there are none.
    fn scores(&self, block: usize, words: &mut &[u32]) -> Option<Scores> {
        let GpuModel { config, weights, .. } = &*self.model;
        let of_layer = words.split_off(..self.batch() * config.tokens() * config.num_experts)?;
        let half = |which: usize| of_layer.iter().map(move |&word| unpack(word)[which]).collect();
        let gate = half(0);
        Some(match weights.thresholds(block) {
            None => Scores { gate, need: Vec::new(), thresholds: Vec::new() },
            Some(checkpoint) => {
                let muted = self.run.muted.mask(block);
                let thresholds = self.run.routing.thresholds(checkpoint, muted);
                Scores { gate, need: half(1), thresholds }
            }
        })
    }

    /// Converts the results into a snapshot.
    fn unpack(&self, pending: Pending) -> Result<Snapshot, GpuError> {
        let Pending { readback, steps, passes, reports, timed } = pending;
        let parts = readback.take()?;
        let latent = bytemuck::pod_collect_to_vec(&parts[0]);
        let trace: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[1]);
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&parts[2]);
        let (reported, stamps) = parts[3..].split_at(reports);
        let reports = reported.iter().map(|part| bytemuck::pod_collect_to_vec(part)).collect();
        let blocks = self.model.config.moe_blocks();
        let pool = self.batch() * self.model.config.tokens();
        let mut routing = Vec::new();
        let (mut masks, mut words) = (&trace[..], &words[..]);
        for branches in passes {
            let first = routing.len();
            let new = |&(time, branch)| ForwardRouting {
                step: steps - 1,
                time,
                branch,
                layers: Vec::new(),
            };
            routing.extend(branches.iter().map(new));
            // In a layer of a joint pass, the tokens of one branch follow those of the other.
            for &block in &blocks {
                for pass in &mut routing[first..] {
                    let (of_pass, rest) = masks.split_at(pool);
                    masks = rest;
                    let scores = self.scores(block, &mut words);
                    pass.layers.push(LayerRouting { block, masks: of_pass.to_vec(), scores });
                }
            }
        }
        let mut times = StageTimes::default();
        if let (Some(clock), [stamps]) = (&self.clock, stamps) {
            let ms = clock.milliseconds(&bytemuck::pod_collect_to_vec(stamps));
            timed.iter().zip(ms).for_each(|(&stage, ms)| times.add(stage, ms));
        }
        Ok(Snapshot { steps, latent, routing, stage_ms: times.list(), reports })
    }
}

impl Engine for GpuEngine {
    fn device(&self) -> String {
        self.model.device()
    }

    #[expect(clippy::misnamed_getters, reason = "the batch of a pass may hold every sample twice")]
    fn batch(&self) -> usize {
        self.single.acts.samples
    }

    fn start(&mut self, run: &RunConfig) -> Result<(), EngineError> {
        let _watch = self.model.gpu.watch();
        let GpuModel { gpu, config, .. } = &*self.model;
        let sample_len = config.sample_len();
        assert_eq!(run.latent.len(), self.batch() * sample_len, "numbers in the samples");
        let acts = &self.single.acts;
        acts.latents.write_at(gpu, acts.region(config, Latent::Sample).first, &run.latent);
        for (latent, values) in &run.buffers {
            assert_eq!(values.len(), run.latent.len(), "numbers in {latent:?}");
            acts.latents.write_at(gpu, acts.region(config, *latent).first, values);
        }
        self.current = None;
        self.steps = 0;
        self.snapshots.clear();
        self.run = RunConfig { latent: Vec::new(), buffers: Vec::new(), ..run.clone() };
        self.encode(run)?;
        let text = self.prompts.as_ref().map(|(prompts, run)| (prompts, run));
        for passes in std::iter::once(&mut self.single).chain(&mut self.joint) {
            if passes.prepare(&self.model, run, text) {
                self.tapes.clear();
            }
        }
        Ok(())
    }

    fn begin_step(&mut self, ops: &[Instruction]) -> Result<(), EngineError> {
        assert!(self.current.is_none(), "the step before is not handed over yet");
        let _watch = self.model.gpu.watch();
        let tape = self.tape_for(ops)?;
        tape.set_numbers(&self.model.gpu, ops, self.model.config.time_scale);
        let passes =
            ops.iter().map(Instruction::passes).filter(|passes| !passes.is_empty()).collect();
        let report = |op: &Instruction| match *op {
            Instruction::Report(slot) => Some(slot),
            _ => None,
        };
        let reports = ops.iter().filter_map(report).collect();
        if let Some(clock) = &mut self.clock {
            clock.restart();
        }
        let timed = self.clock.is_some().then(Vec::new);
        self.current = Some(Step { tape, done: 0, passes, reports, timed });
        Ok(())
    }

    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        let gpu = &self.model.gpu;
        gpu.poll();
        if let Some(error) = gpu.failure() {
            return Err(error.into());
        }
        let _watch = gpu.watch();
        let Some(mut step) = self.current.take() else { return Ok(Progress::Done) };
        if self.in_flight.is_full() {
            self.current = Some(step);
            return Ok(Progress::Busy);
        }
        let end = step.tape.tape.len().min(step.done.saturating_add(budget.max(1)));
        let mut encoder = gpu.encoder();
        step.encode(&mut encoder, end, self.clock.as_mut());
        let is_last = end == step.tape.tape.len();
        if is_last {
            let latents = &self.single.acts.latents;
            let sample = self.batch() * self.model.config.sample_len();
            let StepTape { trace, scores, .. } = &*step.tape;
            let mut wanted =
                vec![(latents, 0..sample), (trace, 0..trace.len()), (scores, 0..scores.len())];
            for &slot in &step.reports {
                let first = self.single.acts.region(&self.model.config, slot).first;
                wanted.push((latents, first..first + sample));
            }
            if let (Some(_), Some(clock)) = (&step.timed, &self.clock) {
                let (stamps, count) = clock.resolve(&mut encoder);
                wanted.push((stamps, 0..count));
            }
            let readback = Readback::schedule_ranges(gpu, &mut encoder, &wanted);
            self.steps += 1;
            self.snapshots.push_back(Pending {
                readback,
                steps: self.steps,
                passes: std::mem::take(&mut step.passes),
                reports: step.reports.len(),
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
        let _watch = self.model.gpu.watch();
        self.clock = if on { Clock::new(&self.model.gpu) } else { None };
        // An active step would otherwise mix two clocks.
        if let Some(step) = &mut self.current {
            step.timed = None;
        }
    }

    fn slice_time(&self) -> Option<SliceTime> {
        let last = self.in_flight.last()?;
        Some(SliceTime { slice: last.number, ms: last.ms, exact: last.prompt })
    }

    fn gpu_samples(&self) -> Option<GpuSamples<'_>> {
        let [height, width] = self.model.config.input_size;
        let shape = [self.batch(), self.model.config.in_channels, height, width];
        // The sample is the first of the latents that share the buffer.
        Some(GpuSamples { gpu: &self.model.gpu, buffer: &self.single.acts.latents.buffer, shape })
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
}
