//! The engine on wgpu: a forward pass is recorded once and replayed; nothing is read back inside it.
//!
//! A step is one submission, or many small ones when a user interface drives it.
//! Either way only a few submissions are unfinished ([`InFlight::is_full`]), and the sample and the routing of
//! a step are copied back asynchronously.

use std::collections::VecDeque;
use std::sync::Arc;

use super::activations::Activations;
use super::dit::Network;
use super::joining::{Branches, Part};
use super::model::GpuModel;
use super::passes::Passes;
use super::pending::{Pending, Reader};
use super::prompts::Prompts;
use super::step_tape::{Recorder, Step, StepTape};
use crate::engine::{
    Engine, EngineError, GpuSamples, Progress, RunConfig, RunPrompts, Scope, SliceTime, Snapshot,
};
use crate::gpu::{Clock, InFlight, Readback, Tensor, Timing};
use crate::scheduler::{Instruction, Latent};

/// A model on a device, for one batch size.
pub struct GpuEngine {
    pub(super) model: Arc<GpuModel>,
    /// For passes over one branch.
    pub(super) single: Passes,
    /// For passes over both with a pool for each; `None` where branches are computed one after the other.
    pub(super) joined: Option<Passes>,
    /// For passes over both in one pool; made when the first one comes.
    joint: Option<Passes>,
    /// Memory for the encoded prompts, and the prompts of the run.
    pub(super) prompts: Option<(Prompts, RunPrompts)>,
    /// `[3, B, C, h, w]`: what the run keeps of an image; made when the first such run comes.
    kept: Option<Tensor>,
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

impl GpuEngine {
    /// Allocates working memory and makes the pipelines.
    ///
    /// # Errors
    /// When the working memory of the batch does not fit the device.
    pub fn new(model: Arc<GpuModel>, batch: usize) -> Result<Self, EngineError> {
        Self::with_branches(model, batch, Branches::default())
    }

    /// As [`GpuEngine::new`], with a choice of how the branches of guidance are computed.
    ///
    /// # Errors
    /// As [`GpuEngine::new`].
    pub fn with_branches(
        model: Arc<GpuModel>,
        batch: usize,
        branches: Branches,
    ) -> Result<Self, EngineError> {
        let GpuModel { gpu, config, .. } = &*model;
        let (single, joined) = if branches.are_joined(config, batch, gpu.profile, gpu.binding_limit)
        {
            let both = Activations::of_both(gpu, config, batch)?;
            let single = Passes::separate(&model, both.of_one(gpu, config))?;
            (single, Some(Passes::joint(&model, both, 2)?))
        } else {
            (Passes::separate(&model, Activations::new(gpu, config, batch)?)?, None)
        };
        // Now and not in the first step.
        let stand_in = gpu.rehearsal();
        let passes = joined.as_ref().unwrap_or(&single);
        Network { gpu: &stand_in, ..passes.network(&model) }.rehearse();
        gpu.compile(&stand_in.wanted());
        Ok(Self {
            single,
            joined,
            joint: None,
            prompts: None,
            kept: None,
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

    /// As [`GpuEngine::new`] on a device whose memory may run out: where passes over both branches do not fit, an
    /// engine that computes them one after the other. A refusal leaves the device as it was.
    ///
    /// # Errors
    /// When the working memory of the batch does not fit the device.
    pub async fn fitting(model: Arc<GpuModel>, batch: usize) -> Result<Self, EngineError> {
        let mut refusal = None;
        for branches in [Branches::Suitable, Branches::Apart] {
            let make = async { Self::with_branches(model.clone(), batch, branches) };
            match model.gpu.error_scope(make).await {
                Ok(Ok(engine)) => return Ok(engine),
                Ok(Err(error)) => return Err(error),
                Err(error) => refusal = Some(error),
            }
        }
        let reason = refusal.map(|error| format!(": {error}")).unwrap_or_default();
        Err(EngineError::TooLarge(format!(
            "a batch of {batch} does not fit{reason}; reduce the batch"
        )))
    }

    /// What recording passes over one branch needs.
    pub(super) fn network(&self) -> Network<'_> {
        self.single.network(&self.model)
    }

    /// The parts of a step as this engine carries them out.
    fn parts<'a>(&self, ops: &'a [Instruction]) -> Vec<Part<'a>> {
        Part::of_step(ops, self.joined.is_some())
    }

    /// All passes that have memory.
    fn passes_mut(&mut self) -> impl Iterator<Item = &mut Passes> {
        std::iter::once(&mut self.single).chain(&mut self.joined).chain(&mut self.joint)
    }

    /// The recorded form of these parts.
    fn tape_for(&mut self, parts: &[Part]) -> Result<Arc<StepTape>, EngineError> {
        if let Some(tape) = self.tapes.iter().find(|tape| tape.fits(parts)) {
            return Ok(tape.clone());
        }
        let is_joint = |part: &Part| matches!(part, Part::Single(Instruction::JointForward { .. }));
        if self.joint.is_none() && parts.iter().any(is_joint) {
            self.joint = Some(self.make_joint()?);
        }
        let Self { model, single, joined, joint, run, prompts, kept, .. } = self;
        let (joined, joint) = (joined.as_ref(), joint.as_ref());
        let prompts = prompts.as_ref().map(|(prompts, _)| prompts);
        let records = run.record_scores;
        let kept = kept.as_ref();
        let recorder = Recorder { model, single, joined, joint, prompts, kept, records };
        let tape = Arc::new(recorder.record(parts)?);
        self.tapes.push(tape.clone());
        Ok(tape)
    }

    /// Passes over both branches in one pool, ready for the run that is under way.
    fn make_joint(&self) -> Result<Passes, EngineError> {
        let GpuModel { gpu, config, .. } = &*self.model;
        let acts = match &self.joined {
            // They take turns with the same memory.
            Some(joined) => joined.acts.clone(),
            None => self.single.acts.doubled(gpu, config)?,
        };
        let mut joint = Passes::joint(&self.model, acts, 1)?;
        if let Some((prompts, _)) = &self.prompts {
            joint.read_from(&self.model, prompts);
        }
        let text = self.prompts.as_ref().map(|(prompts, run)| (prompts, run));
        joint.prepare(&self.model, &self.run, text);
        Ok(joint)
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
        let step = self.tape_for(&self.parts(ops))?;
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
        let parts = self.parts(ops);
        let step = self.tape_for(&parts)?;
        step.set_numbers(&self.model, &parts);
        Ok(step.tape.time(&self.model.gpu)?)
    }

    /// Splits the prompts of a run and encodes them, in more memory if these are more than ever before.
    fn encode(&mut self, run: &RunConfig) -> Result<(), EngineError> {
        let model = self.model.clone();
        let GpuModel { gpu, config, weights, tokenizer, .. } = &*model;
        let (Some(tokenizer), Some(text)) = (tokenizer, &config.text) else { return Ok(()) };
        assert_eq!(run.prompts.len(), self.batch(), "one prompt for each sample");
        let run = RunPrompts::new(tokenizer, text.max_length, &run.prompts, &run.negative);
        let count = run.distinct.len();
        let prompts = match self.prompts.take() {
            Some((prompts, _)) if prompts.holds(count) => prompts,
            _ => {
                let prompts = Prompts::new(gpu, weights, config, count)?;
                self.passes_mut().for_each(|passes| passes.read_from(&model, &prompts));
                self.tapes.clear();
                prompts
            }
        };
        prompts.encode(gpu, &run);
        self.prompts = Some((prompts, run));
        Ok(())
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
        if run.record_scores != self.run.record_scores {
            self.tapes.clear();
        }
        self.run = RunConfig { latent: Vec::new(), buffers: Vec::new(), keep: None, ..run.clone() };
        if let Some(keep) = &run.keep {
            let parts = [&keep.image, &keep.noise, &keep.mask];
            let count = run.latent.len();
            let kept = self.kept.get_or_insert_with(|| Tensor::empty(gpu, "kept", &[3, count]));
            for (i, part) in parts.into_iter().enumerate() {
                assert_eq!(part.len(), count, "numbers in what is kept");
                kept.write_at(gpu, i * count, part);
            }
        }
        self.encode(run)?;
        let text = self.prompts.as_ref().map(|(prompts, run)| (prompts, run));
        let all = std::iter::once(&mut self.single).chain(&mut self.joined).chain(&mut self.joint);
        for passes in all {
            if passes.prepare(&self.model, run, text) {
                self.tapes.clear();
            }
        }
        Ok(())
    }

    fn begin_step(&mut self, ops: &[Instruction]) -> Result<(), EngineError> {
        assert!(self.current.is_none(), "the step before is not handed over yet");
        let _watch = self.model.gpu.watch();
        let parts = self.parts(ops);
        let tape = self.tape_for(&parts)?;
        tape.set_numbers(&self.model, &parts);
        let passes =
            parts.iter().map(Part::recorded_passes).filter(|passes| !passes.is_empty()).collect();
        let report = |op: &Instruction| match *op {
            Instruction::Report(latent) => Some(latent),
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
            for &latent in &step.reports {
                let first = self.single.acts.region(&self.model.config, latent).first;
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
        let reader = Reader {
            model: &self.model,
            run: &self.run,
            samples: self.batch(),
            clock: self.clock.as_ref(),
        };
        match reader.read(pending) {
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
