//! Shared by multistep schedulers: a path of signal and noise levels from noise to data, for flow and DDPM models
//! alike, and the model's prediction of the data at its points.
//!
//! At a point the sample is `z = α·x₀ + σ·ε`; `λ = log(α/σ)` grows along the path. With `h = λ_t − λ_s` and `D` the
//! predicted data, the exact solution from `s` to `t` is (Lu et al. 2022, DPM-Solver++, eq. 8)
//!
//! ```text
//! z_t = σ_t/σ_s·z_s + σ_t·∫ e^λ·D dλ,    and for a constant D    z_t = σ_t/σ_s·z_s + α_t·(1 − e^−h)·D
//! ```

use super::epsilon::{EpsilonModel, Step};
use super::flow::{FlowModel, Terms};
use super::info::{ScheduleConfig, SchedulerKind};
use super::process::{Process, TRAINED_STEPS};
use super::program::{Deviation, Instruction, Latent, Level};
use crate::model::{Config, Objective, Prediction};

/// Most steps over the trained ones of a DDPM model: with one more, two of them would fall together.
pub(super) const MAX_DDPM_STEPS: u32 = TRAINED_STEPS - 1;

/// A point of the path.
#[derive(Clone, Copy, Debug)]
struct Point {
    /// The time passed to the model.
    time: f32,
    alpha: f64,
    sigma: f64,
}

/// The points of a run, and the model at them.
#[derive(Clone, Debug)]
pub(super) struct Path {
    /// One for each step, and the data at the end.
    points: Vec<Point>,
    model: Model,
}

#[derive(Clone, Debug)]
enum Model {
    Flow(FlowModel),
    Ddpm(EpsilonModel),
}

impl Path {
    /// Flow models: `α = t` and `σ = 1 − t` at `t = i/N`, as for Euler's method. DDPM models: `α = √ᾱ` and
    /// `σ = √(1 − ᾱ)` at `N` of the trained steps, `999·(N − i)/N` rounded, and no noise at the end ("linspace"
    /// spacing and a final sigma of zero in diffusers).
    ///
    /// # Panics
    /// When a DDPM model is to be sampled in no step or in more than [`MAX_DDPM_STEPS`].
    pub(super) fn new(kind: SchedulerKind, config: &Config, run: &ScheduleConfig) -> Self {
        let count = run.steps;
        let (points, model) = match config.objective {
            Objective::Flow => {
                let point = |i: u32| {
                    let alpha = f64::from(i) / f64::from(count);
                    Point { time: i as f32 / count as f32, alpha, sigma: 1.0 - alpha }
                };
                ((0..count).map(point).collect(), Model::Flow(FlowModel::new(config, run)))
            }
            Objective::Ddpm => {
                assert!((1..=MAX_DDPM_STEPS).contains(&count), "{count} steps");
                let process = Process::respaced(TRAINED_STEPS);
                let point = |i: u32| {
                    let share = f64::from(count - i) / f64::from(count);
                    let time = f64::round_ties_even(share * f64::from(TRAINED_STEPS - 1));
                    let bar = process.alphas_bar[time as usize];
                    Point { time: time as f32, alpha: bar.sqrt(), sigma: (1.0 - bar).sqrt() }
                };
                let model = EpsilonModel::new(kind, config, run);
                ((0..count).map(point).collect::<Vec<_>>(), Model::Ddpm(model))
            }
        };
        // A run from an image starts afresh at a later point.
        let mut points: Vec<Point> = points;
        points.drain(..run.skipped() as usize);
        points.push(Point { time: f32::NAN, alpha: 1.0, sigma: 0.0 });
        Self { points, model }
    }

    /// The level of a sample at a point.
    pub(super) fn level(&self, i: u32) -> Level {
        let point = self.points[i as usize];
        Level { signal: point.alpha as f32, noise: point.sigma as f32 }
    }

    /// Number of steps.
    pub(super) fn steps(&self) -> usize {
        self.points.len() - 1
    }

    /// `h` of the step from point `i`; infinite from pure noise and to the data.
    pub(super) fn log_step(&self, i: usize) -> f64 {
        // Of `libm`, so that every machine takes the same steps.
        let log_snr = |point: Point| libm::log(point.alpha / point.sigma);
        log_snr(self.points[i + 1]) - log_snr(self.points[i])
    }

    /// The step from point `i` for a constant prediction: `σ_t/σ_s` and `α_t·(1 − e^−h)`.
    pub(super) fn transfer(&self, i: usize) -> [f64; 2] {
        let (s, t) = (self.points[i], self.points[i + 1]);
        let ratio = t.sigma / s.sigma;
        [ratio, t.alpha - ratio * s.alpha]
    }

    /// `to = x₀` as the model predicts it from the sample at point `i`. Overwrites `Trial`; the sample stays.
    pub(super) fn predict(&self, i: usize, to: Latent) -> Vec<Instruction> {
        let point = self.points[i];
        match &self.model {
            Model::Flow(model) => {
                let mut step = Vec::new();
                let terms = model.guided(&mut step, Latent::Sample, point.time, 0);
                let terms = match model.prediction {
                    Prediction::Sample => terms,
                    // From v = x₀ − ε and z = t·x₀ + (1 − t)·ε follows x₀ = z + (1 − t)·v.
                    Prediction::Velocity | Prediction::Reversed => {
                        let is_reversed = model.prediction == Prediction::Reversed;
                        let left = if is_reversed { -point.sigma } else { point.sigma } as f32;
                        let scaled = terms.into_iter().map(|(factor, v)| (left * factor, v));
                        std::iter::once((1.0, Latent::Sample)).chain(scaled).collect()
                    }
                };
                step.push(Instruction::Combine { output: to, terms });
                step
            }
            // Guidance and clipping of DDPM models are not linear in the buffers: the denoising instruction does
            // them, and replaces the sample by the predicted data.
            Model::Ddpm(model) => {
                let mut step = vec![copy(Latent::Sample, Latent::Trial)];
                step.extend(model.step(Step {
                    time: point.time,
                    predict: [1.0 / point.alpha, point.sigma / point.alpha],
                    mean: [1.0, 0.0],
                    deviation: Deviation::Fixed(0.0),
                    noise: None,
                }));
                step.push(copy(Latent::Sample, to));
                step.push(copy(Latent::Trial, Latent::Sample));
                step
            }
        }
    }
}

/// `to = from`
pub(super) fn copy(from: Latent, to: Latent) -> Instruction {
    Instruction::Combine { output: to, terms: vec![(1.0, from)] }
}

/// `output = Σ factor·buffer`
pub(super) fn sum(output: Latent, terms: &[(f64, Latent)]) -> Instruction {
    let terms: Terms = terms.iter().map(|&(factor, latent)| (factor as f32, latent)).collect();
    Instruction::Combine { output, terms }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;
    use crate::scheduler::testing::ddpm_model;
    use crate::scheduler::{ALL, StepNoise};

    fn path(steps: u32) -> Path {
        let noise = StepNoise::Seeded { seed: 0, images: 0..1 };
        let run = ScheduleConfig::new(steps, 1.0, noise);
        Path::new(SchedulerKind::new(ALL[0]), &ddpm_model(), &run)
    }

    #[test]
    fn ddpm_models_are_asked_at_the_steps_of_diffusers() {
        let times = |steps| {
            let points = path(steps).points;
            points[..steps as usize].iter().map(|point| point.time).collect::<Vec<_>>()
        };
        let ten = [999.0, 899.0, 799.0, 699.0, 599.0, 500.0, 400.0, 300.0, 200.0, 100.0];
        assert_eq!(times(10), ten);
        let all = times(MAX_DDPM_STEPS);
        assert!(all.windows(2).all(|pair| pair[0] == pair[1] + 1.0) && all[998] == 1.0);
    }

    #[test]
    fn a_constant_prediction_is_reached_on_a_straight_way() {
        let path = path(7);
        let (data, noise) = (0.4, -1.3);
        for i in 0..7 {
            let at = |i: usize| path.points[i].alpha * data + path.points[i].sigma * noise;
            let [of_sample, of_data] = path.transfer(i);
            assert!((of_sample * at(i) + of_data * data - at(i + 1)).abs() < 1e-12, "{i}");
            let by_exponential = path.points[i + 1].alpha * -(-path.log_step(i)).exp_m1();
            assert!((of_data - by_exponential).abs() < 1e-12, "{i}");
        }
    }
}
