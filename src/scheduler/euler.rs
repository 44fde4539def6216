//! Euler's method for flow models: `z += v(z, t)·Δt`.

use super::contract::{Fixed, FixedSteps};
use super::flow::{FlowModel, advance, level};
use super::info::{Resume, SchedulerInfo};
use super::program::{Instruction, Latent, Level};
use crate::model::Objective;

pub(super) static EULER: SchedulerInfo = SchedulerInfo {
    name: "euler",
    title: "Euler",
    hint: "One evaluation per step.",
    objectives: &[Objective::Flow],
    options: &[],
    is_adaptive: false,
    max_ddpm_steps: 0,
    resume: Resume::Exact,
    start: |_, config, run| {
        let model = FlowModel::new(config, &run);
        let (steps, skipped) = (run.steps, run.skipped());
        Box::new(Fixed::new(Euler { model, steps, skipped }, run.taken()).keeping(run.keeps))
    },
};

#[derive(Clone, Debug)]
struct Euler {
    model: FlowModel,
    steps: u32,
    /// Steps at the noisy end that are left out.
    skipped: u32,
}

impl FixedSteps for Euler {
    /// From `t = i/steps` to `(i + 1)/steps` with `i = skipped + index`.
    fn step(&self, index: u32) -> Vec<Instruction> {
        let dt = 1.0 / self.steps as f32;
        let time = (self.skipped + index) as f32 / self.steps as f32;
        let mut step = Vec::new();
        let velocity = self.model.velocity(&mut step, Latent::Sample, time, 0);
        step.push(advance(Latent::Sample, &[(dt, &velocity)]));
        step
    }

    fn level(&self, index: u32) -> Level {
        level(self.skipped + index, self.steps)
    }
}
