//! A whole denoising step as one tape: the operations of a solver around the shared blocks.
//!
//! The tape depends on the *form* of the operations only (which slots, which labels); times and factors
//! live in small buffers that are rewritten before each step.

use super::dit::Network;
use super::{Branch, Op, Slot, Stage};
use crate::gpu::{Gpu, Tape, Tensor};
use crate::kernels::combine_latents::{MAX_TERMS, Region};
use crate::kernels::embed_condition::{TIME_WIDTH, time_embedding};
use crate::kernels::{CombineLatents, TraceStore};

/// An [`Op`] without its numbers.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    Forward { input: Slot, output: Slot, branch: Branch },
    Combine { output: Slot, terms: Vec<Slot> },
}

impl Form {
    fn of(op: &Op) -> Self {
        match op {
            &Op::Forward { input, output, branch, .. } => Self::Forward { input, output, branch },
            Op::Combine { output, terms } => {
                Self::Combine { output: *output, terms: terms.iter().map(|term| term.1).collect() }
            }
        }
    }
}

/// A recorded step.
pub(super) struct StepTape {
    forms: Vec<Form>,
    /// All dispatches of the step.
    pub(super) tape: Tape,
    /// The stage of each dispatch.
    pub(super) stages: Vec<Stage>,
    /// For each operation the numbers that change: sinusoids `[B, 256]` of a forward pass, or the
    /// factors `[8]` of a combination.
    numbers: Vec<Tensor>,
    /// `[forward passes, MoE layers, S]`, u32: which experts took each token, one bit for each.
    pub(super) trace: Tensor,
}

/// What all steps of an engine have in common.
pub(super) struct Body {
    /// The blocks of a forward pass.
    pub(super) blocks: Vec<Tape>,
    /// Label rows `[tables, B]` of the conditional and of the unconditional branch.
    pub(super) label_rows: [Tensor; 2],
}

impl Body {
    /// Label rows of a branch.
    pub(super) fn rows(&self, branch: Branch) -> &Tensor {
        match branch {
            Branch::Conditional => &self.label_rows[0],
            Branch::Unconditional => &self.label_rows[1],
        }
    }
}

impl StepTape {
    /// Records a step.
    pub(super) fn record(net: &Network, body: &Body, ops: &[Op]) -> Self {
        let (gpu, batch) = (net.gpu, net.acts.batch);
        let moe_layers = net.config.moe_blocks().len();
        let pool = batch * net.config.tokens();
        let passes = ops.iter().filter(|op| matches!(op, Op::Forward { .. })).count();
        let trace = Tensor::empty(gpu, "trace", &[passes, moe_layers, pool]);
        let mut tape = Tape::default();
        let mut numbers = Vec::new();
        let mut offset = 0;
        for op in ops {
            match op {
                Op::Forward { input, output, branch, .. } => {
                    let sinusoids = Tensor::empty(gpu, "sinusoids", &[batch, TIME_WIDTH]);
                    tape.append(&net.enter(*input, &sinusoids, body.rows(*branch)));
                    for (i, block) in body.blocks.iter().enumerate() {
                        tape.append(block);
                        if let (true, Some(moe)) = (net.config.is_moe(i), &net.acts.moe) {
                            let store = TraceStore { slots: &moe.slots, trace: &trace, offset };
                            tape.push(gpu, &format!("block {i}"), &store);
                            offset += pool;
                        }
                    }
                    tape.append(&net.leave(*output));
                    numbers.push(sinusoids);
                }
                Op::Combine { output, terms } => {
                    let factors = Tensor::empty(gpu, "factors", &[MAX_TERMS]);
                    let regions: Vec<Region> =
                        terms.iter().map(|term| net.acts.region(net.config, term.1)).collect();
                    let combine = CombineLatents {
                        factors: &factors,
                        latents: &net.acts.latents,
                        terms: &regions,
                        output: net.acts.region(net.config, *output).first,
                        batch,
                        sample_len: net.config.sample_len(),
                    };
                    tape.push(gpu, "step", &combine);
                    numbers.push(factors);
                }
            }
        }
        let stages = stages(tape.labels());
        Self { forms: ops.iter().map(Form::of).collect(), tape, stages, numbers, trace }
    }

    /// Whether this tape computes these operations, whatever their numbers.
    pub(super) fn fits(&self, ops: &[Op]) -> bool {
        self.forms.iter().cloned().eq(ops.iter().map(Form::of))
    }

    /// Sets the numbers of the step that is submitted next.
    pub(super) fn set_numbers(&self, gpu: &Gpu, ops: &[Op], time_scale: f32) {
        for (op, tensor) in ops.iter().zip(&self.numbers) {
            match op {
                Op::Forward { time, .. } => {
                    let samples = tensor.shape[0];
                    tensor.write(gpu, &time_embedding(time * time_scale).repeat(samples));
                }
                Op::Combine { terms, .. } => {
                    let mut factors = [0.0; MAX_TERMS];
                    factors.iter_mut().zip(terms).for_each(|(f, term)| *f = term.0);
                    tensor.write(gpu, &factors);
                }
            }
        }
    }
}

/// The stage of each dispatch of a step, from labels such as `block 3/route_select` in the order of computation.
fn stages<'a>(labels: impl Iterator<Item = &'a str>) -> Vec<Stage> {
    // Each half of a block begins with its modulation; nothing else tells the linear layers apart.
    let mut half = Stage::Experts;
    let mut block = "";
    let mut stages = Vec::new();
    for label in labels {
        let (scope, kernel) = label.split_once('/').unwrap_or(("", label));
        let stage = match scope {
            "final" => Stage::Final,
            "step" => Stage::Solver,
            scope if scope.starts_with("block ") => {
                if kernel.starts_with("modulate") {
                    half = if block == scope { Stage::Experts } else { Stage::Attention };
                    block = scope;
                }
                if kernel == "trace_store" { Stage::Router } else { half }
            }
            _ => {
                block = "";
                Stage::Condition
            }
        };
        stages.push(stage);
        // What leads to the choice of tokens turns out to be the router's only now.
        if kernel == "route_select" {
            let scores = stages.iter_mut().rev().take_while(|stage| **stage == Stage::Experts);
            scores.for_each(|stage| *stage = Stage::Router);
        }
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dispatch_has_its_stage() {
        let step = [
            ("time/linear", Stage::Condition),
            ("patches/patchify", Stage::Condition),
            ("block 0/modulate_software", Stage::Attention),
            ("block 0/linear", Stage::Attention),
            ("block 0/attention", Stage::Attention),
            ("block 0/modulate_software", Stage::Experts),
            ("block 0/linear", Stage::Experts),
            ("block 1/modulate", Stage::Attention),
            ("block 1/linear", Stage::Attention),
            ("block 1/modulate", Stage::Router),
            ("block 1/linear", Stage::Router),
            ("block 1/route_score", Stage::Router),
            ("block 1/route_select", Stage::Router),
            ("block 1/expert_up", Stage::Experts),
            ("block 1/combine_experts", Stage::Experts),
            ("block 1/trace_store", Stage::Router),
            ("final/modulate", Stage::Final),
            ("final/unpatchify", Stage::Final),
            ("time/linear", Stage::Condition),
            ("block 1/modulate", Stage::Attention),
            ("step/combine_latents", Stage::Solver),
        ];
        let found = stages(step.iter().map(|(label, _)| *label));
        assert_eq!(found, step.map(|(_, stage)| stage));
    }
}
