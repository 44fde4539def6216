//! UniPC of order 2 (Zhao et al. 2023) with `B(h) = e^h − 1` ("bh2") on predicted data: a predictor, which is that of
//! DPM-Solver++(2M), and a corrector, which uses the next step's evaluation again and costs none of its own. One
//! evaluation per step, for flow and DDPM models.
//!
//! With `D_i` the data predicted at point `i` and `r = −h_{i−1}/h_i`, the sample at point `i + 1` is
//!
//! ```text
//! predicted   σ_t/σ_s·z_s + α_t·(1 − e^−h)·(D_i + ½·(D_{i−1} − D_i)/r)
//! corrected   σ_t/σ_s·z_s + α_t·(1 − e^−h)·(D_i + ρ₁·(D_{i−1} − D_i)/r + ρ₂·(D_{i+1} − D_i))
//! ```
//!
//! where `D_{i+1}` is predicted from the predicted sample. The next step begins at the corrected one. A step without
//! history has `ρ₂ = ½` alone; the last one ends at data without noise and is of order 1.

use super::contract::{Fixed, FixedSteps};
use super::epsilon::{CLIP, GUIDED_CHANNELS};
use super::info::{Resume, SchedulerInfo};
use super::path::{MAX_DDPM_STEPS, Path, copy, sum};
use super::program::{Instruction, Latent, Level};
use crate::model::Objective;

pub(super) static UNIPC: SchedulerInfo = SchedulerInfo {
    name: "unipc",
    title: "UniPC",
    hint: "Second-order predictor–corrector with one evaluation per step; accurate with few \
        steps.",
    objectives: &[Objective::Flow, Objective::Ddpm],
    options: &[GUIDED_CHANNELS, CLIP],
    is_adaptive: false,
    max_ddpm_steps: MAX_DDPM_STEPS,
    resume: Resume::Exact,
    start: |kind, config, run| {
        Box::new(Fixed::new(UniPc(Path::new(kind, config, &run)), run.taken()).keeping(run.keeps))
    },
};

/// Data predicted in this and in the two previous steps.
const NOW: Latent = Latent::Velocity(0);
const BEFORE: Latent = Latent::Velocity(1);
const LONG_BEFORE: Latent = Latent::Velocity(2);
/// The corrected sample that a step began at. The sample itself is the predicted end of the step.
const CORRECTED: Latent = Latent::Velocity(3);

#[derive(Clone, Debug)]
struct UniPc(Path);

impl UniPc {
    /// The corrected sample at point `i`, from that at `i − 1` and the predictions at `i − 2`, `i − 1` and `i`.
    fn correct(&self, i: usize) -> Instruction {
        let Self(path) = self;
        let [of_sample, of_data] = path.transfer(i - 1);
        let [of_long_before, of_now] = if i == 1 {
            [0.0, 0.5]
        } else {
            let (h, r) = (path.log_step(i - 1), -path.log_step(i - 2) / path.log_step(i - 1));
            let [first, second] = weights(h, r);
            [first / r, second]
        };
        let of_before = 1.0 - of_long_before - of_now;
        let mut terms =
            vec![(of_sample, CORRECTED), (of_data * of_before, BEFORE), (of_data * of_now, NOW)];
        if i > 1 {
            terms.push((of_data * of_long_before, LONG_BEFORE));
        }
        sum(CORRECTED, &terms)
    }

    /// The sample at point `i + 1`, predicted from the corrected one at `i`.
    fn predict(&self, i: usize) -> Instruction {
        let Self(path) = self;
        let [of_sample, of_data] = path.transfer(i);
        let beyond = if i == 0 || i + 1 == path.steps() {
            0.0
        } else {
            0.5 * path.log_step(i) / path.log_step(i - 1)
        };
        let mut terms = vec![(of_sample, CORRECTED), (of_data * (1.0 + beyond), NOW)];
        // Also where its factor is 0: steps then have one shape, which an engine records once.
        if i > 0 {
            terms.push((-of_data * beyond, BEFORE));
        }
        sum(Latent::Sample, &terms)
    }
}

/// `ρ₁` and `ρ₂`: the solution of `ρ₁ + ρ₂ = b₁` and `r·ρ₁ + ρ₂ = b₂` with `b_n = n!·φ_n/B`, where for `g = −h`
/// `B = e^g − 1`, `φ₁ = B/g − 1` and `φ₂ = φ₁/g − ½`.
fn weights(h: f64, r: f64) -> [f64; 2] {
    let b = libm::expm1(-h);
    let phi_1 = b / -h - 1.0;
    let phi_2 = phi_1 / -h - 0.5;
    let [b_1, b_2] = [phi_1 / b, 2.0 * phi_2 / b];
    let first = (b_1 - b_2) / (1.0 - r);
    [first, b_1 - first]
}

impl FixedSteps for UniPc {
    fn step(&self, index: u32) -> Vec<Instruction> {
        let i = index as usize;
        let mut step = Vec::new();
        if i > 1 {
            step.push(copy(BEFORE, LONG_BEFORE));
        }
        if i > 0 {
            step.push(copy(NOW, BEFORE));
        }
        step.extend(self.0.predict(i, NOW));
        step.push(if i == 0 { copy(Latent::Sample, CORRECTED) } else { self.correct(i) });
        step.push(self.predict(i));
        step
    }

    fn level(&self, index: u32) -> Level {
        self.0.level(index)
    }

    fn carries(&self, index: u32) -> Vec<Latent> {
        if index == 0 { vec![NOW, CORRECTED] } else { vec![NOW, BEFORE, CORRECTED] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Branch;
    use crate::scheduler::testing::{assert_near, ddpm_model, ddpm_order, flow_order, samples};

    /// Samples printed by `UniPCMultistepScheduler` of diffusers 0.42 (`solver_type="bh2"`, order 2, linear betas
    /// from 1e-4 to 0.02, `timestep_spacing="linspace"`, `final_sigmas_type="zero"`) for this model.
    #[test]
    fn samples_are_those_of_diffusers() {
        let model = |x: f32, t: f32, _: Branch| (1.3 * x).sin() + 0.2 * x * t / 1000.0 - 0.1;
        let of = |steps| samples(UNIPC.name, &ddpm_model(), steps, 1.0, model);
        assert_near(&of(3), &[0.012_603_82, 2.610_780_2, 4.882_387_6], 5e-5);
        let ten = [
            0.897_818_4,
            0.859_652_7,
            0.823_151_2,
            0.766_933_14,
            0.713_512_4,
            0.662_503_54,
            0.602_058_1,
            0.527_074_93,
            0.443_590_58,
            0.313_430_6,
        ];
        assert_near(&of(10), &ten, 5e-6);
    }

    /// For small steps of equal length the corrector is the method of Adams and Moulton of order 3, and for all steps
    /// the weights are those of the paper: the solution of its equation 5 for B(h) = e^h − 1.
    #[test]
    fn weights_are_the_published_ones() {
        let [first, second] = weights(1e-4, -1.0);
        assert!((first - 1.0 / 12.0).abs() < 1e-4 && (second - 5.0 / 12.0).abs() < 1e-4);
        for (h, r) in [(0.3_f64, -0.8), (1.7, -2.5), (0.05, -0.1)] {
            let [first, second] = weights(h, r);
            // ∫ e^(−h(1−s))·sⁿ ds over a step, by the midpoint rule; the weights give D = s and D = s² exactly.
            let exact = |n: i32| {
                let part = |k: u32| {
                    let s = (f64::from(k) + 0.5) / 1e5;
                    (-h * (1.0 - s)).exp() * s.powi(n) / 1e5
                };
                (0..100_000).map(part).sum::<f64>() * h / (1.0 - (-h).exp())
            };
            assert!((first + second - exact(1)).abs() < 1e-6, "{h} {r}");
            assert!((r * first + second - exact(2)).abs() < 1e-6, "{h} {r}");
        }
    }

    #[test]
    fn it_is_at_least_of_order_2() {
        let orders = [flow_order(UNIPC.name, 20), flow_order(UNIPC.name, 40)];
        assert!(orders.iter().all(|order| (1.7..3.6).contains(order)), "{orders:?}");
        let order = ddpm_order(UNIPC.name);
        assert!((1.7..3.6).contains(&order), "{order}");
    }
}
