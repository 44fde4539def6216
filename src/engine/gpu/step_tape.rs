//! A whole denoising step as one tape: the instructions of a scheduler around the shared blocks.
//!
//! The tape depends only on the *form* of the instructions (buffers and labels); times, factors and
//! noise are in small buffers that are rewritten before each step.

use std::sync::Arc;

use super::dit::Records;
use super::joining::Part;
use super::model::GpuModel;
use super::passes::Passes;
use super::pending::PassBranches;
use super::prompts::Prompts;
use crate::engine::{EngineError, Scope, Stage};
use crate::gpu::{Clock, Tape, Tensor};
use crate::kernels::combine_experts::mask_words;
use crate::kernels::combine_latents::{MAX_TERMS, Region};
use crate::kernels::denoise::Numbers as DenoiseNumbers;
use crate::kernels::{CombineLatents, DenoiseLatents, KeepImage, ShiftImage};
use crate::scheduler::{Branch, Denoise, Deviation, Instruction, Latent, within_image};

/// A [`Part`] without its numbers.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    Forward {
        input: Latent,
        output: Latent,
        branch: Branch,
    },
    /// Both branches, a pool for each.
    Joined {
        input: Latent,
        output: Latent,
    },
    /// Both branches in one pool.
    JointForward {
        input: Latent,
    },
    Combine {
        output: Latent,
        terms: Vec<Latent>,
    },
    Shift {
        input: Latent,
        output: Latent,
        by: [i32; 2],
    },
    Denoise {
        guided_channels: usize,
    },
    Keep,
    Report,
}

impl Form {
    fn of(part: &Part) -> Self {
        let op = match *part {
            Part::Joined { input, output, .. } => return Self::Joined { input, output },
            Part::Single(op) => op,
        };
        match op {
            &Instruction::Forward { input, output, branch, .. } => {
                Self::Forward { input, output, branch }
            }
            &Instruction::JointForward { input, .. } => Self::JointForward { input },
            Instruction::Combine { output, terms } => {
                Self::Combine { output: *output, terms: terms.iter().map(|term| term.1).collect() }
            }
            &Instruction::Shift { input, output, by } => Self::Shift { input, output, by },
            Instruction::Denoise(step) => Self::Denoise { guided_channels: step.guided_channels },
            Instruction::Keep(_) => Self::Keep,
            Instruction::Report(_) => Self::Report,
        }
    }
}

/// What changes from step to step in one part.
enum Numbers {
    /// Of a forward pass: embedded times `[samples, D]`, and for a detail head the times themselves, `[samples]`.
    Time {
        embedded: Tensor,
        times: Option<Tensor>,
    },
    /// Factors `[8]` of a combination.
    Factors(Tensor),
    /// [`DenoiseNumbers`] and noise `[B, C, h, w]`.
    Denoise(Tensor, Tensor),
    /// Signal and noise, `[2]`.
    Level(Tensor),
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
    /// For each of these words E pairs of f16, the router's scores; empty unless they are recorded.
    pub(super) scores: Tensor,
}

/// A step that is being submitted.
pub(super) struct Step {
    pub(super) tape: Arc<StepTape>,
    /// Dispatches that were submitted already.
    pub(super) done: usize,
    pub(super) passes: Vec<PassBranches>,
    pub(super) reports: Vec<Latent>,
    /// The timed stages, one for each part; `None` if timing is off.
    pub(super) timed: Option<Vec<Stage>>,
}

impl Step {
    /// Adds some dispatches of the step to a submission.
    pub(super) fn encode(
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

/// Memory for recording: for passes over one branch, and for passes over both if the step has one.
pub(super) struct Recorder<'a> {
    pub(super) model: &'a GpuModel,
    pub(super) single: &'a Passes,
    /// With a pool for each branch.
    pub(super) joined: Option<&'a Passes>,
    /// With one pool.
    pub(super) joint: Option<&'a Passes>,
    /// Where the model reads text.
    pub(super) prompts: Option<&'a Prompts>,
    /// `[3, B, C, h, w]`: image, noise and mask, where a part of an image is kept.
    pub(super) kept: Option<&'a Tensor>,
    /// Whether the router's scores are kept.
    pub(super) records: bool,
}

impl Recorder<'_> {
    /// Records a step.
    ///
    /// # Errors
    /// When the device has no memory for the scores of the step.
    ///
    /// # Panics
    /// When the step has a pass over both branches and there is no memory for it, or keeps an image and there is none: a
    /// bug.
    pub(super) fn record(&self, parts: &[Part]) -> Result<StepTape, EngineError> {
        let GpuModel { gpu, config, .. } = self.model;
        let acts = &self.single.acts;
        let passes: usize = parts.iter().map(|part| part.recorded_passes().len()).sum();
        let tokens = passes * config.moe_blocks().len() * acts.samples * config.stream_tokens();
        let trace = Tensor::empty(gpu, "trace", &[tokens * mask_words(config.num_experts)]);
        let scores = self.scores(tokens)?;
        let mut tape = Tape::default();
        let mut numbers = Vec::new();
        let mut records = Records { trace: &trace, scores: &scores, first: 0 };
        for part in parts {
            let op = match *part {
                Part::Joined { input, output, .. } => {
                    let place = (input, output, Branch::Conditional);
                    numbers.push(self.pass(made(self.joined), place, &mut tape, &mut records));
                    continue;
                }
                Part::Single(op) => op,
            };
            numbers.push(match op {
                &Instruction::Forward { input, output, branch, .. } => {
                    let place = (input, output, branch);
                    self.pass(self.single, place, &mut tape, &mut records)
                }
                &Instruction::JointForward { input, .. } => {
                    let place = (input, Latent::Output(0), Branch::Conditional);
                    self.pass(made(self.joint), place, &mut tape, &mut records)
                }
                Instruction::Combine { output, terms } => self.combine(*output, terms, &mut tape),
                &Instruction::Shift { input, output, by } => {
                    self.shift(input, output, by, &mut tape);
                    Numbers::None
                }
                Instruction::Denoise(step) => self.denoise(step, &mut tape),
                Instruction::Keep(_) => self.keep(&mut tape),
                Instruction::Report(_) => Numbers::None,
            });
        }
        let forms = parts.iter().map(Form::of).collect();
        Ok(StepTape { forms, tape, numbers, trace, scores })
    }

    /// Allocates memory for the scores of this number of tokens.
    fn scores(&self, tokens: usize) -> Result<Tensor, EngineError> {
        let GpuModel { gpu, config, .. } = self.model;
        let count = if self.records { tokens * config.num_experts } else { 0 };
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
        let embedded = Tensor::empty(gpu, "embedded times", &[net.acts.batch, config.hidden_size]);
        let has_head = config.detail_channels > 0;
        let times = has_head.then(|| Tensor::empty(gpu, "times", &[net.acts.batch]));
        let condition = passes.condition(branch);
        let view = condition.view.as_ref();
        let is_recorded = input.is_recorded();
        tape.append(&net.embed(input, &embedded, &condition.labels, view));
        for i in 0..config.depth {
            let text = view.zip(self.prompts.map(|prompts| &prompts.memory[i]));
            tape.append(&net.block(i, &condition.labels, text, is_recorded.then_some(*records)));
            if is_recorded && config.is_moe(i) {
                records.first += net.acts.batch * config.stream_tokens();
            }
        }
        tape.append(&net.final_layer(output));
        if let Some(times) = &times {
            tape.append(&net.detail_head(input, output, times));
        }
        Numbers::Time { embedded, times }
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

    fn shift(&self, input: Latent, output: Latent, by: [i32; 2], tape: &mut Tape<Scope>) {
        let GpuModel { gpu, config, .. } = self.model;
        let acts = &self.single.acts;
        let shift = ShiftImage {
            latents: &acts.latents,
            input: acts.region(config, input).first,
            output: acts.region(config, output).first,
            planes: acts.samples * config.in_channels,
            size: config.input_size,
            by: within_image(by, config.input_size),
        };
        tape.push(gpu, Stage::Solver.into(), &shift);
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

    fn keep(&self, tape: &mut Tape<Scope>) -> Numbers {
        let GpuModel { gpu, config, .. } = self.model;
        let acts = &self.single.acts;
        let level = Tensor::empty(gpu, "level", &[2]);
        let keep = KeepImage {
            level: &level,
            kept: self.kept.expect("the run came with an image to keep"),
            latents: &acts.latents,
            first: acts.region(config, Latent::Sample).first,
            count: acts.samples * config.sample_len(),
        };
        tape.push(gpu, Stage::Solver.into(), &keep);
        Numbers::Level(level)
    }
}

/// Memory for passes over both branches.
fn made(passes: Option<&Passes>) -> &Passes {
    passes.expect("memory for passes over both branches is made before a step is recorded")
}

impl StepTape {
    /// Whether this tape computes these parts, whatever their numbers.
    pub(super) fn fits(&self, parts: &[Part]) -> bool {
        self.forms.iter().cloned().eq(parts.iter().map(Form::of))
    }

    /// Sets the numbers of the step that is submitted next.
    pub(super) fn set_numbers(&self, model: &GpuModel, parts: &[Part]) {
        let gpu = &model.gpu;
        for (part, numbers) in parts.iter().zip(&self.numbers) {
            let first = part.passes().first().copied();
            if let (Numbers::Time { embedded, times }, Some((time, _))) = (numbers, first) {
                let samples = embedded.shape[0];
                embedded.write(gpu, &model.embed_time(time).repeat(samples));
                if let Some(times) = times {
                    times.write(gpu, &vec![time; samples]);
                }
            }
            let Part::Single(op) = part else { continue };
            match (op, numbers) {
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
                (Instruction::Keep(level), Numbers::Level(tensor)) => {
                    tensor.write(gpu, &[level.signal, level.noise]);
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
