//! Heun's method for flow models, the explicit trapezoid rule.

use super::contract::{Fixed, FixedSteps};
use super::flow::{FlowModel, advance, level};
use super::info::{Resume, SchedulerInfo};
use super::program::{Instruction, Latent, Level};
use crate::model::{Objective, Prediction};

pub(super) static HEUN: SchedulerInfo = SchedulerInfo {
    name: "heun",
    title: "Heun",
    hint: "Two evaluations per step: twice the work of Euler, more accurate.",
    objectives: &[Objective::Flow],
    options: &[],
    is_adaptive: false,
    max_ddpm_steps: 0,
    resume: Resume::Exact,
    start: |_, config, run| {
        let model = FlowModel::new(config, &run);
        let (steps, skipped) = (run.steps, run.skipped());
        Box::new(Fixed::new(Heun { model, steps, skipped }, run.taken()).keeping(run.keeps))
    },
};

#[derive(Clone, Debug)]
struct Heun {
    model: FlowModel,
    steps: u32,
    /// Steps at the noisy end that are left out.
    skipped: u32,
}

impl FixedSteps for Heun {
    /// Evaluates the start of a step and its end, where Euler's method arrives. The last step looks at `t = 1`. There
    /// no noise is left from which a prediction of data could give a velocity, so for such a model the last step is
    /// Euler's, which ends at the data that is predicted.
    fn step(&self, index: u32) -> Vec<Instruction> {
        let index = self.skipped + index;
        let time = |i: u32| i as f32 / self.steps as f32;
        let dt = 1.0 / self.steps as f32;
        let mut step = Vec::new();
        let first = self.model.velocity(&mut step, Latent::Sample, time(index), 0);
        if index + 1 == self.steps && self.model.prediction == Prediction::Sample {
            step.push(advance(Latent::Sample, &[(dt, &first)]));
            return step;
        }
        step.push(advance(Latent::Trial, &[(dt, &first)]));
        let second = self.model.velocity(&mut step, Latent::Trial, time(index + 1), 2);
        step.push(advance(Latent::Sample, &[(0.5 * dt, &first), (0.5 * dt, &second)]));
        step
    }

    fn level(&self, index: u32) -> Level {
        level(self.skipped + index, self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::testing::flow_model;
    use crate::scheduler::{ScheduleConfig, StepNoise};

    fn heun(guidance: f32) -> Heun {
        let run = ScheduleConfig::new(3, guidance, StepNoise::Seeded { seed: 0, images: 0..1 });
        let model = FlowModel::new(&flow_model(Prediction::Velocity), &run);
        Heun { model, steps: 3, skipped: 0 }
    }

    #[test]
    fn no_guidance_means_no_unconditional_pass() {
        let is_pass = |op: &&Instruction| matches!(op, Instruction::Forward { .. });
        let passes = |guidance| heun(guidance).step(0).iter().filter(is_pass).count();
        assert_eq!((passes(1.0), passes(1.5)), (2, 4));
    }

    #[test]
    fn the_last_step_evaluates_its_end() {
        let last = heun(1.0).step(2).iter().rev().find_map(|op| match op {
            Instruction::Forward { time, .. } => Some(*time),
            _ => None,
        });
        assert_eq!(last, Some(1.0));
    }
}
