//! A machine for solver tests: the operations of [`Op`] on a single number.

use std::collections::HashMap;

use crate::model::{Branch, Op, Slot, Snapshot};

/// Runs operations with a model that is a known function of sample, time and branch.
pub(super) struct Machine<F> {
    slots: HashMap<Slot, f32>,
    model: F,
    steps: u32,
}

impl<F: Fn(f32, f32, Branch) -> f32> Machine<F> {
    pub(super) fn new(start: f32, model: F) -> Self {
        Self { slots: HashMap::from([(Slot::Latent, start)]), model, steps: 0 }
    }

    pub(super) fn latent(&self) -> f32 {
        self.slots[&Slot::Latent]
    }

    /// One step.
    pub(super) fn run(&mut self, ops: &[Op]) -> Snapshot {
        let mut reports = Vec::new();
        for op in ops {
            match op {
                &Op::Forward { input, output, time, branch } => {
                    let value = (self.model)(self.slots[&input], time, branch);
                    self.slots.insert(output, value);
                }
                Op::Combine { output, terms } => {
                    assert!(terms.len() <= 8, "{terms:?}");
                    let sum = terms.iter().map(|(factor, slot)| factor * self.slots[slot]).sum();
                    self.slots.insert(*output, sum);
                }
                Op::Report(slot) => reports.push(*slot),
                Op::JointForward { .. } | Op::Denoise(_) => panic!("no operation of a flow"),
            }
        }
        self.steps += 1;
        let reports = reports.into_iter().map(|slot| vec![self.slots[&slot]]).collect();
        let latent = vec![self.latent()];
        Snapshot { steps: self.steps, latent, routing: Vec::new(), reports }
    }
}
