//! A machine for tests of schedulers: the instructions of [`super::program`] on a single number.

use std::collections::HashMap;

use super::contract::{Buffer, Next, Scheduler};
use super::dpm_solver::DPM_SOLVER;
use super::info::{ScheduleConfig, SchedulerKind};
use super::noise::StepNoise;
use super::process::{Process, TRAINED_STEPS};
use super::program::{Branch, Deviation, Instruction, Latent, Observation};
use super::unipc::UNIPC;
use crate::model::{Config, Prediction};

/// Carries out instructions with a model that is a known function of sample, time and branch.
pub(super) struct Machine<F> {
    latents: HashMap<Latent, f32>,
    /// Image, noise and mask.
    kept: [f32; 3],
    model: F,
}

impl<F: Fn(f32, f32, Branch) -> f32> Machine<F> {
    pub(super) fn new(start: f32, model: F) -> Self {
        Self { latents: HashMap::from([(Latent::Sample, start)]), kept: [f32::NAN; 3], model }
    }

    /// With an image, its noise and the mask of what is redrawn.
    pub(super) fn keeping(self, kept: [f32; 3]) -> Self {
        Self { kept, ..self }
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
                    let sum =
                        terms.iter().map(|(factor, latent)| factor * self.latents[latent]).sum();
                    self.latents.insert(*output, sum);
                }
                // A shift does not change an image of one pixel.
                Instruction::Shift { input, output, .. } => {
                    self.latents.insert(*output, self.latents[input]);
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
                Instruction::Keep(level) => {
                    let [image, noise, mask] = self.kept;
                    let known = level.signal * image + level.noise * noise;
                    let sample = mask * self.latent() + (1.0 - mask) * known;
                    self.latents.insert(Latent::Sample, sample);
                }
                Instruction::Report(latent) => reports.push(*latent),
            }
        }
        let reports = reports.into_iter().map(|latent| vec![self.latents[&latent]]).collect();
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
    kind.schedule(config, ScheduleConfig::new(steps, guidance, noise))
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

/// The sample after each step, from 1.
pub(super) fn samples(
    name: &str,
    config: &Config,
    steps: u32,
    guidance: f32,
    model: impl Fn(f32, f32, Branch) -> f32 + Copy,
) -> Vec<f32> {
    let taken = 1..=steps;
    taken.map(|taken| sample_steps(name, config, steps, taken, guidance, model)).collect()
}

/// The order of a scheduler for flow models, from the errors of `steps` and twice as many steps on
/// `dz/dt = z·cos 3t`, which `exp(sin 3t / 3)` solves.
pub(super) fn flow_order(name: &str, steps: u32) -> f32 {
    let exact = (3.0_f32.sin() / 3.0).exp();
    let error = |steps| {
        let config = flow_model(Prediction::Velocity);
        (sample(name, &config, steps, 1.0, |z, t, _| z * (3.0 * t).cos()) - exact).abs()
    };
    (error(steps) / error(2 * steps)).log2()
}

/// The noise in a sample of normally distributed data with deviation 2, as a perfect model of it predicts: for this
/// one the way from noise to data is known (see [`ddpm_order`]).
pub(super) fn noise_of_normal_data(x: f32, time: f32) -> f32 {
    let (alpha, sigma) = levels(time);
    (f64::from(x) * sigma / (4.0 * alpha * alpha + sigma * sigma)) as f32
}

fn levels(time: f32) -> (f64, f64) {
    let bar = Process::respaced(TRAINED_STEPS).alphas_bar[time as usize];
    (bar.sqrt(), (1.0 - bar).sqrt())
}

/// The order of a scheduler for DDPM models, from the errors of 27 and 111 steps at time 333. A sample of normal data
/// keeps its quantile, so it grows with the deviation `√(4ᾱ + 1 − ᾱ)`.
pub(super) fn ddpm_order(name: &str) -> f32 {
    let deviation = |time| {
        let (alpha, sigma) = levels(time);
        (4.0 * alpha * alpha + sigma * sigma).sqrt()
    };
    let exact = (deviation(333.0) / deviation(999.0)) as f32;
    let error = |steps: u32| {
        let taken = steps * 2 / 3;
        let model = |x, time, _: Branch| noise_of_normal_data(x, time);
        (sample_steps(name, &ddpm_model(), steps, taken, 1.0, model) - exact).abs()
    };
    (error(27) / error(111)).ln() / (111.0_f32 / 27.0).ln()
}

/// Compares lists of numbers.
pub(super) fn assert_near(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (a, b) in got.iter().zip(want) {
        assert!((a - b).abs() <= tolerance, "{got:?} for {want:?}");
    }
}

mod multistep {
    use super::*;

    const NAMES: [&str; 2] = [DPM_SOLVER.name, UNIPC.name];

    #[test]
    fn guided_samples_are_those_of_many_small_steps() {
        let model = |z: f32, t: f32, branch| {
            let pull = if branch == Branch::Conditional { 1.0 } else { 0.4 };
            (pull - z) * (1.0 + t)
        };
        let config = flow_model(Prediction::Velocity);
        let want = sample("euler", &config, 4000, 2.0, model);
        for name in NAMES {
            let got = sample(name, &config, 40, 2.0, model);
            assert!((got - want).abs() < 2e-3, "{name}: {got} for {want}");
        }
    }

    #[test]
    fn a_prediction_of_data_leads_where_its_velocity_does() {
        let velocity = |z: f32, t: f32, _: Branch| (2.0 * t).cos() - 0.3 * z;
        let data = move |z: f32, t: f32, branch| z + (1.0 - t) * velocity(z, t, branch);
        let [a, b] = [Prediction::Velocity, Prediction::Sample].map(flow_model);
        for name in NAMES {
            let want = sample(name, &a, 9, 1.0, velocity);
            let got = sample(name, &b, 9, 1.0, data);
            assert!((got - want).abs() < 1e-6, "{name}: {got} for {want}");
        }
    }
}
