//! Euler's method for flow models: `z += v(z, t)·Δt`.

use super::contract::{Fixed, FixedSteps};
use super::flow::{FlowModel, advance};
use super::info::{Resume, SchedulerInfo};
use super::program::{Instruction, Latent};
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
        let model = FlowModel { guidance: run.guidance, prediction: config.prediction };
        Box::new(Fixed::new(Euler { model, steps: run.steps }, run.steps))
    },
};

#[derive(Clone, Debug)]
struct Euler {
    model: FlowModel,
    steps: u32,
}

impl FixedSteps for Euler {
    /// From `t = index/steps` to `(index + 1)/steps`.
    fn step(&self, index: u32) -> Vec<Instruction> {
        let dt = 1.0 / self.steps as f32;
        let time = index as f32 / self.steps as f32;
        let mut step = Vec::new();
        let velocity = self.model.velocity(&mut step, Latent::Sample, time, 0);
        step.push(advance(Latent::Sample, &[(dt, &velocity)]));
        step
    }
}
