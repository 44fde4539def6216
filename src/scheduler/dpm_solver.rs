//! DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): a two-step method on the path of log signal-to-noise ratios, which
//! extrapolates the predicted data. One evaluation per step, order 2, for flow and DDPM models.
//!
//! ```text
//! D   = D_i + h_i/(2·h_{i−1})·(D_i − D_{i−1})
//! z_t = σ_t/σ_s·z_s + α_t·(1 − e^−h)·D
//! ```
//!
//! The first step has no history and the last one ends at data without noise, where `λ` is infinite: both are of
//! order 1. A flow begins at `λ = −∞`, which makes its second step one of order 1, too.

use super::contract::{Fixed, FixedSteps};
use super::epsilon::{CLIP, GUIDED_CHANNELS};
use super::info::{Resume, SchedulerInfo};
use super::path::{MAX_DDPM_STEPS, Path, copy, sum};
use super::program::{Instruction, Latent, Level};
use crate::model::Objective;

pub(super) static DPM_SOLVER: SchedulerInfo = SchedulerInfo {
    name: "dpmpp_2m",
    title: "DPM++ 2M",
    hint: "DPM-Solver++(2M): second order with one evaluation per step; accurate with few \
        steps.",
    objectives: &[Objective::Flow, Objective::Ddpm],
    options: &[GUIDED_CHANNELS, CLIP],
    is_adaptive: false,
    max_ddpm_steps: MAX_DDPM_STEPS,
    resume: Resume::Exact,
    start: |kind, config, run| {
        Box::new(
            Fixed::new(DpmSolver(Path::new(kind, config, &run)), run.taken()).keeping(run.keeps),
        )
    },
};

/// Data predicted in this and in the previous step.
const NOW: Latent = Latent::Velocity(0);
const BEFORE: Latent = Latent::Velocity(1);

#[derive(Clone, Debug)]
struct DpmSolver(Path);

impl FixedSteps for DpmSolver {
    fn step(&self, index: u32) -> Vec<Instruction> {
        let Self(path) = self;
        let i = index as usize;
        let mut step = if i > 0 { vec![copy(NOW, BEFORE)] } else { Vec::new() };
        step.extend(path.predict(i, NOW));
        let [of_sample, of_data] = path.transfer(i);
        let beyond = if i == 0 || i + 1 == path.steps() {
            0.0
        } else {
            0.5 * path.log_step(i) / path.log_step(i - 1)
        };
        let mut terms = vec![(of_sample, Latent::Sample), (of_data * (1.0 + beyond), NOW)];
        // Also where its factor is 0: all steps but the first then have one shape, which an engine records once.
        if i > 0 {
            terms.push((-of_data * beyond, BEFORE));
        }
        step.push(sum(Latent::Sample, &terms));
        step
    }

    fn level(&self, index: u32) -> Level {
        self.0.level(index)
    }

    fn carries(&self, _: u32) -> Vec<Latent> {
        vec![NOW]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Branch;
    use crate::scheduler::testing::{assert_near, ddpm_model, ddpm_order, flow_order, samples};

    /// Samples printed by `DPMSolverMultistepScheduler` of diffusers 0.42 (`algorithm_type="dpmsolver++"`, linear
    /// betas from 1e-4 to 0.02, `final_sigmas_type="zero"`) for this model.
    #[test]
    fn samples_are_those_of_diffusers() {
        let model = |x: f32, t: f32, _: Branch| (1.3 * x).sin() + 0.2 * x * t / 1000.0 - 0.1;
        let of = |steps| samples(DPM_SOLVER.name, &ddpm_model(), steps, 1.0, model);
        assert_near(&of(3), &[0.012_603_82, 2.166_581_2, 3.306_498_3], 2e-5);
        let ten = [
            0.897_818_4,
            0.834_281_6,
            0.795_509_2,
            0.762_896_1,
            0.728_482_7,
            0.685_545_44,
            0.627_563_06,
            0.551_556_1,
            0.465_571_88,
            0.328_391_85,
        ];
        assert_near(&of(10), &ten, 5e-6);
    }

    #[test]
    fn it_is_of_order_2() {
        let orders = [flow_order(DPM_SOLVER.name, 20), flow_order(DPM_SOLVER.name, 40)];
        assert!(orders.iter().all(|order| (1.7..2.4).contains(order)), "{orders:?}");
        let order = ddpm_order(DPM_SOLVER.name);
        assert!((1.7..2.4).contains(&order), "{order}");
    }
}
