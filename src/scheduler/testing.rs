//! A machine for solver tests: the operations of [`Instruction`] on a single number.

use std::collections::HashMap;

use super::program::{Branch, Instruction, Latent, Observation};

/// Runs operations with a model that is a known function of sample, time and branch.
pub(super) struct Machine<F> {
    slots: HashMap<Latent, f32>,
    model: F,
}

impl<F: Fn(f32, f32, Branch) -> f32> Machine<F> {
    pub(super) fn new(start: f32, model: F) -> Self {
        Self { slots: HashMap::from([(Latent::Sample, start)]), model }
    }

    pub(super) fn latent(&self) -> f32 {
        self.slots[&Latent::Sample]
    }

    /// One step.
    pub(super) fn run(&mut self, ops: &[Instruction]) -> Seen {
        let mut reports = Vec::new();
        for op in ops {
            match op {
                &Instruction::Forward { input, output, time, branch } => {
                    let value = (self.model)(self.slots[&input], time, branch);
                    self.slots.insert(output, value);
                }
                Instruction::Combine { output, terms } => {
                    assert!(terms.len() <= 8, "{terms:?}");
                    let sum = terms.iter().map(|(factor, slot)| factor * self.slots[slot]).sum();
                    self.slots.insert(*output, sum);
                }
                Instruction::Report(slot) => reports.push(*slot),
                Instruction::JointForward { .. } | Instruction::Denoise(_) => {
                    panic!("no operation of a flow")
                }
            }
        }
        let reports = reports.into_iter().map(|slot| vec![self.slots[&slot]]).collect();
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
