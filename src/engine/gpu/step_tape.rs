//! A whole denoising step as one tape: the instructions of a scheduler around the shared blocks.
//!
//! The tape depends only on the *form* of the instructions (buffers and labels); times, factors and
//! noise are in small buffers that are rewritten before each step.

use super::model::GpuModel;
use super::passes::Passes;
use crate::engine::{EngineError, Scope, Stage};
use crate::gpu::{Gpu, Tape, Tensor};
use crate::kernels::combine_latents::{MAX_TERMS, Region};
use crate::kernels::denoise::Numbers as DenoiseNumbers;
use crate::kernels::embed_condition::{TIME_WIDTH, time_embedding};
use crate::kernels::{CombineLatents, DenoiseLatents, ScoreStore, TraceStore};
use crate::scheduler::{Branch, Denoise, Deviation, Instruction, Latent};

/// An [`Instruction`] without its numbers.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    Forward { input: Latent, output: Latent, branch: Branch },
    JointForward { input: Latent },
    Combine { output: Latent, terms: Vec<Latent> },
    Denoise { guided_channels: usize },
    Report,
}

impl Form {
    fn of(op: &Instruction) -> Self {
        match op {
            &Instruction::Forward { input, output, branch, .. } => {
                Self::Forward { input, output, branch }
            }
            &Instruction::JointForward { input, .. } => Self::JointForward { input },
            Instruction::Combine { output, terms } => {
                Self::Combine { output: *output, terms: terms.iter().map(|term| term.1).collect() }
            }
            Instruction::Denoise(step) => Self::Denoise { guided_channels: step.guided_channels },
            Instruction::Report(_) => Self::Report,
        }
    }
}

/// What changes from step to step in one operation.
enum Numbers {
    /// Sinusoids `[samples, 256]` of a forward pass.
    Time(Tensor),
    /// Factors `[8]` of a combination.
    Factors(Tensor),
    /// [`DenoiseNumbers`] and noise `[B, C, h, w]`.
    Denoise(Tensor, Tensor),
    None,
}

/// A recorded step.
pub(super) struct StepTape {
    forms: Vec<Form>,
    /// All dispatches of the step.
    pub(super) tape: Tape<Scope>,
    numbers: Vec<Numbers>,
    /// For each forward pass and MoE layer a word for each token of the pool: one bit per expert.
    pub(super) trace: Tensor,
    /// For each of these words E pairs of f16, the router's logits; empty unless they are recorded.
    pub(super) scores: Tensor,
}

/// Where the routing of the next layer is kept.
struct Records<'a> {
    trace: &'a Tensor,
    scores: &'a Tensor,
    /// Words of `trace` that are taken.
    offset: usize,
}

/// Memory for recording: for ordinary passes, and for joint ones if the step has one.
pub(super) struct Recorder<'a> {
    pub(super) model: &'a GpuModel,
    pub(super) single: &'a Passes,
    pub(super) joint: Option<&'a Passes>,
    /// Whether the router's logits are kept.
    pub(super) records: bool,
}

impl Recorder<'_> {
    /// Records a step.
    ///
    /// # Errors
    /// When the device has no memory for the scores of the step.
    ///
    /// # Panics
    /// When the step has a joint pass and there is no memory for it: a bug.
    pub(super) fn record(&self, ops: &[Instruction]) -> Result<StepTape, EngineError> {
        let GpuModel { gpu, config, .. } = self.model;
        let acts = &self.single.acts;
        let passes: usize = ops.iter().map(|op| op.passes().len()).sum();
        let words = passes * config.moe_blocks().len() * acts.samples * config.tokens();
        let trace = Tensor::empty(gpu, "trace", &[words]);
        let scores = self.scores(words)?;
        let mut tape = Tape::default();
        let mut numbers = Vec::new();
        let mut records = Records { trace: &trace, scores: &scores, offset: 0 };
        for op in ops {
            numbers.push(match op {
                &Instruction::Forward { input, output, branch, .. } => {
                    let place = (input, output, branch);
                    self.pass(self.single, place, &mut tape, &mut records)
                }
                &Instruction::JointForward { input, .. } => {
                    let joint = self.joint.expect("memory for a joint pass was made before");
                    let place = (input, Latent::Output(0), Branch::Conditional);
                    self.pass(joint, place, &mut tape, &mut records)
                }
                Instruction::Combine { output, terms } => self.combine(*output, terms, &mut tape),
                Instruction::Denoise(step) => self.denoise(step, &mut tape),
                Instruction::Report(_) => Numbers::None,
            });
        }
        let forms = ops.iter().map(Form::of).collect();
        Ok(StepTape { forms, tape, numbers, trace, scores })
    }

    /// Allocates memory for the scores of this number of trace words.
    fn scores(&self, words: usize) -> Result<Tensor, EngineError> {
        let GpuModel { gpu, config, .. } = self.model;
        let count = if self.records { words * config.num_experts } else { 0 };
        let bytes = 4 * count as u64;
        if bytes > gpu.binding_limit {
            return Err(EngineError::TooLarge(format!(
                "the scores of a step need {bytes} bytes, and {} allows {} per binding; reduce \
                 the batch or do not record scores",
                gpu.info.name, gpu.binding_limit
            )));
        }
        Ok(Tensor::empty(gpu, "scores", &[count]))
    }

    /// One forward pass, and the location of its routing.
    fn pass(
        &self,
        passes: &Passes,
        (input, output, branch): (Latent, Latent, Branch),
        tape: &mut Tape<Scope>,
        records: &mut Records,
    ) -> Numbers {
        let GpuModel { gpu, config, .. } = self.model;
        let net = passes.network(self.model);
        let sinusoids = Tensor::empty(gpu, "sinusoids", &[net.acts.batch, TIME_WIDTH]);
        let condition = passes.condition(branch);
        tape.append(&net.enter(input, &sinusoids, &condition.rows, condition.reading.as_ref()));
        for (i, block) in condition.blocks.iter().enumerate() {
            tape.append(block);
            if let (true, Some(moe)) = (config.is_moe(i), &net.acts.moe) {
                let scope = Scope::of_block(i, Stage::Router);
                let Records { trace, scores, offset } = *records;
                tape.push(gpu, scope, &TraceStore { slots: &moe.slots, trace, offset });
                if self.records {
                    let offset = offset * config.num_experts;
                    tape.push(gpu, scope, &ScoreStore { logits: &moe.logits, scores, offset });
                }
                records.offset += net.acts.batch * config.tokens();
            }
        }
        tape.append(&net.leave(output));
        Numbers::Time(sinusoids)
    }

    fn combine(&self, output: Latent, terms: &[(f32, Latent)], tape: &mut Tape<Scope>) -> Numbers {
        let GpuModel { gpu, config, .. } = self.model;
        let acts = &self.single.acts;
        let factors = Tensor::empty(gpu, "factors", &[MAX_TERMS]);
        let regions: Vec<Region> = terms.iter().map(|term| acts.region(config, term.1)).collect();
        let combine = CombineLatents {
            factors: &factors,
            latents: &acts.latents,
            terms: &regions,
            output: acts.region(config, output).first,
            batch: acts.samples,
            sample_len: config.sample_len(),
        };
        tape.push(gpu, Stage::Solver.into(), &combine);
        Numbers::Factors(factors)
    }

    fn denoise(&self, step: &Denoise, tape: &mut Tape<Scope>) -> Numbers {
        let GpuModel { gpu, config, .. } = self.model;
        let acts = &self.single.acts;
        let numbers = Tensor::empty(gpu, "denoising numbers", &[DenoiseNumbers::LEN]);
        let noise = Tensor::empty(gpu, "noise", &[acts.samples * config.sample_len()]);
        let denoise = DenoiseLatents {
            numbers: &numbers,
            noise: &noise,
            latents: &acts.latents,
            first: acts.region(config, Latent::Sample).first,
            outputs: [0, 1].map(|n| acts.region(config, Latent::Output(n)).first),
            batch: acts.samples,
            sample_len: config.sample_len(),
            output_len: config.output_len(),
            guided: step.guided_channels * config.plane(),
        };
        tape.push(gpu, Stage::Solver.into(), &denoise);
        Numbers::Denoise(numbers, noise)
    }
}

impl StepTape {
    /// Whether this tape computes these operations, whatever their numbers.
    pub(super) fn fits(&self, ops: &[Instruction]) -> bool {
        self.forms.iter().cloned().eq(ops.iter().map(Form::of))
    }

    /// Sets the numbers of the step that is submitted next.
    pub(super) fn set_numbers(&self, gpu: &Gpu, ops: &[Instruction], time_scale: f32) {
        for (op, numbers) in ops.iter().zip(&self.numbers) {
            match (op, numbers) {
                (
                    Instruction::Forward { time, .. } | Instruction::JointForward { time, .. },
                    Numbers::Time(sinusoids),
                ) => {
                    let samples = sinusoids.shape[0];
                    sinusoids.write(gpu, &time_embedding(time * time_scale).repeat(samples));
                }
                (Instruction::Combine { terms, .. }, Numbers::Factors(tensor)) => {
                    let mut factors = [0.0; MAX_TERMS];
                    factors.iter_mut().zip(terms).for_each(|(f, term)| *f = term.0);
                    tensor.write(gpu, &factors);
                }
                (Instruction::Denoise(step), Numbers::Denoise(tensor, noise)) => {
                    denoise_numbers(step).write(gpu, tensor);
                    if let Some(values) = &step.noise {
                        noise.write(gpu, values);
                    }
                }
                _ => {}
            }
        }
    }
}

fn denoise_numbers(step: &Denoise) -> DenoiseNumbers {
    let (deviation, [low, high], kind) = match step.deviation {
        Deviation::Fixed(deviation) => (deviation, [0.0; 2], 1),
        Deviation::Learned { low, high } => (0.0, [low, high], 2),
    };
    DenoiseNumbers {
        guidance: step.guidance,
        predict_latent: step.predict[0],
        predict_noise: step.predict[1],
        mean_start: step.mean[0],
        mean_latent: step.mean[1],
        deviation,
        low,
        high,
        clip: u32::from(step.clip),
        noise: if step.noise.is_some() { kind } else { 0 },
    }
}
