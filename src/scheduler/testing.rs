//! A machine for tests of schedulers: the instructions of [`super::program`] on a single number.

use std::collections::HashMap;

use super::contract::{Buffer, Next, Scheduler};
use super::info::ScheduleConfig;
use super::kind::SchedulerKind;
use super::noise::StepNoise;
use super::program::{Branch, Deviation, Instruction, Latent, Observation};
use crate::model::{Config, Prediction};

/// Carries out instructions with a model that is a known function of sample, time and branch.
pub(super) struct Machine<F> {
    latents: HashMap<Latent, f32>,
    model: F,
}

impl<F: Fn(f32, f32, Branch) -> f32> Machine<F> {
    pub(super) fn new(start: f32, model: F) -> Self {
        Self { latents: HashMap::from([(Latent::Sample, start)]), model }
    }

    /// Puts back what a scheduler carried.
    pub(super) fn put(&mut self, buffers: &[Buffer]) {
        self.latents.extend(buffers.iter().map(|(latent, values)| (*latent, values[0])));
    }

    pub(super) fn latent(&self) -> f32 {
        self.latents[&Latent::Sample]
    }

    /// One step.
    pub(super) fn run(&mut self, ops: &[Instruction]) -> Seen {
        let mut reports = Vec::new();
        for op in ops {
            match op {
                &Instruction::Forward { input, output, time, branch } => {
                    let value = (self.model)(self.latents[&input], time, branch);
                    self.latents.insert(output, value);
                }
                &Instruction::JointForward { input, time } => {
                    for (n, branch) in [(0, Branch::Conditional), (1, Branch::Unconditional)] {
                        let value = (self.model)(self.latents[&input], time, branch);
                        self.latents.insert(Latent::Output(n), value);
                    }
                }
                Instruction::Combine { output, terms } => {
                    assert!(terms.len() <= 8, "{terms:?}");
                    let sum = terms.iter().map(|(factor, slot)| factor * self.latents[slot]).sum();
                    self.latents.insert(*output, sum);
                }
                Instruction::Denoise(step) => {
                    let x = self.latent();
                    let mut noise = self.latents[&Latent::Output(0)];
                    if step.guided_channels > 0 {
                        let null = self.latents[&Latent::Output(1)];
                        noise = null + step.guidance * (noise - null);
                    }
                    let start = step.predict[0] * x - step.predict[1] * noise;
                    let start = if step.clip { start.clamp(-1.0, 1.0) } else { start };
                    let mut next = step.mean[0] * start + step.mean[1] * x;
                    if let Some(noise) = &step.noise {
                        let deviation = match step.deviation {
                            Deviation::Fixed(deviation) => deviation,
                            Deviation::Learned { low, .. } => (0.5 * low).exp(),
                        };
                        next += deviation * noise[0];
                    }
                    self.latents.insert(Latent::Sample, next);
                }
                Instruction::Report(slot) => reports.push(*slot),
            }
        }
        let reports = reports.into_iter().map(|slot| vec![self.latents[&slot]]).collect();
        Seen { sample: vec![self.latent()], reports }
    }
}

/// What a step left behind.
pub(super) struct Seen {
    sample: Vec<f32>,
    reports: Vec<Vec<f32>>,
}

impl Seen {
    pub(super) fn as_seen(&self) -> Observation<'_> {
        Observation { sample: &self.sample, reports: &self.reports }
    }
}

/// A flow model of the least shape.
pub(super) fn flow_model(prediction: Prediction) -> Config {
    Config { prediction, ..config("flow") }
}

/// A DDPM model of the least shape, four channels.
pub(super) fn ddpm_model() -> Config {
    config("ddpm")
}

fn config(objective: &str) -> Config {
    Config::from_json(&format!(
        r#"{{"kind":"dense","t_kind":"{objective}","params":{{"input_size":2,"num_classes":1,
        "patch_size":1,"depth":1,"hidden_size":4,"num_heads":1}}}}"#
    ))
    .unwrap()
}

/// A scheduler with its default options.
pub(super) fn scheduler(
    name: &str,
    config: &Config,
    steps: u32,
    guidance: f32,
) -> Box<dyn Scheduler> {
    let kind: SchedulerKind = name.parse().unwrap();
    let noise = StepNoise::Seeded { seed: 0, images: 0..1 };
    kind.schedule(config, ScheduleConfig { steps, guidance, noise })
}

/// The end of a run from 1.
pub(super) fn sample(
    name: &str,
    config: &Config,
    steps: u32,
    guidance: f32,
    model: impl Fn(f32, f32, Branch) -> f32,
) -> f32 {
    sample_steps(name, config, steps, steps, guidance, model)
}

/// The sample after the first `taken` of `steps` steps, from 1.
pub(super) fn sample_steps(
    name: &str,
    config: &Config,
    steps: u32,
    taken: u32,
    guidance: f32,
    model: impl Fn(f32, f32, Branch) -> f32,
) -> f32 {
    let mut scheduler = scheduler(name, config, steps, guidance);
    let mut machine = Machine::new(1.0, model);
    for _ in 0..taken {
        let Next::Step(step) = scheduler.next() else { panic!("{name} ends early") };
        scheduler.observe(machine.run(&step).as_seen());
    }
    machine.latent()
}
