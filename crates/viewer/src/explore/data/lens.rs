//! One kind of pass of a trace, seen with the thresholds as they were or moved by some log-odds.
//!
//! Moved thresholds are a first-order answer: activations stay as they were in the run, so later layers would differ
//! in a run with those thresholds. Without a shift the masks are shown as the engine chose them.

use diffmoe::engine::LayerRouting;
use diffmoe::scheduler::Branch;
use diffmoe::trace::{At, Trace, logit};

/// Which passes of the model are looked at: one of each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    /// With labels, or without.
    pub(crate) branch: Branch,
    /// Which evaluation of its step, from 0; the last one of steps that have fewer.
    pub(crate) evaluation: usize,
}

/// Thresholds that a question moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Target {
    /// All of them.
    #[default]
    All,
    /// Those of a layer, by its place in [`Trace::blocks`].
    Layer(usize),
    /// The one of an expert: layer, expert.
    Expert(usize, usize),
}

/// What if some thresholds were higher.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct WhatIf {
    /// Added to the thresholds, in log-odds; 0 shows the masks of the run.
    pub(crate) odds: f32,
    /// The thresholds that move.
    pub(crate) of: Target,
}

impl WhatIf {
    /// Added to the threshold of an expert.
    fn shift(self, layer: usize, expert: usize) -> f32 {
        let meets = match self.of {
            Target::All => true,
            Target::Layer(l) => l == layer,
            Target::Expert(l, e) => (l, e) == (layer, expert),
        };
        if meets { self.odds } else { 0.0 }
    }
}

/// A trace, one kind of pass of it, and thresholds that are moved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lens<'t> {
    /// The routing of the run.
    pub(crate) trace: &'t Trace,
    /// The passes.
    pub(crate) pass: Pass,
    /// The question.
    pub(crate) what_if: WhatIf,
}

/// One MoE layer in one pass of a step.
#[derive(Clone, Debug)]
pub(crate) struct Layer<'t> {
    routing: &'t LayerRouting,
    experts: usize,
    /// Patches of a token.
    patches: u32,
    /// Added to each threshold, `[E]`; empty where none moves.
    shifts: Vec<f32>,
    /// Thresholds in log-odds; empty without scores, and in a model without a capacity predictor.
    thresholds: Vec<f32>,
}

impl<'t> Lens<'t> {
    /// The first evaluation of each step, with all thresholds moved.
    pub(crate) fn new(trace: &'t Trace, branch: Branch, odds: f32) -> Self {
        let what_if = WhatIf { odds, of: Target::All };
        Self { trace, pass: Pass { branch, evaluation: 0 }, what_if }
    }

    /// A layer by its place in [`Trace::blocks`]; `None` where the run has not been.
    pub(crate) fn layer(&self, step: usize, layer: usize) -> Option<Layer<'t>> {
        let at = At { step: step as u32, layer, branch: self.pass.branch };
        let routing = self.trace.evaluation(at, self.pass.evaluation)?;
        let experts = self.trace.experts();
        let shifts: Vec<f32> = (0..experts).map(|e| self.what_if.shift(layer, e)).collect();
        let shifts = if shifts.iter().all(|shift| *shift == 0.0) { Vec::new() } else { shifts };
        let thresholds = routing.scores.as_ref().map_or_else(Vec::new, |scores| {
            scores.thresholds.iter().map(|&threshold| logit(threshold)).collect()
        });
        let patches = self.trace.patches_of_token(at.step) as u32;
        Some(Layer { routing, experts, patches, shifts, thresholds })
    }

    /// The other branch through the same glass.
    pub(crate) fn other(&self) -> Self {
        let branch = match self.pass.branch {
            Branch::Conditional => Branch::Unconditional,
            Branch::Unconditional => Branch::Conditional,
        };
        Self { pass: Pass { branch, ..self.pass }, ..*self }
    }
}

impl Layer<'_> {
    /// `E`.
    pub(crate) fn experts(&self) -> usize {
        self.experts
    }

    /// Patches of a token: several in the steps before a refiner takes over, which then are looked at one by one.
    pub(crate) fn patches_of_token(&self) -> u32 {
        self.patches
    }

    /// Tokens of all images.
    pub(crate) fn tokens(&self) -> usize {
        self.pool() / self.patches.max(1) as usize
    }

    /// Patches of all images.
    pub(crate) fn pool(&self) -> usize {
        self.routing.masks.len()
    }

    /// The experts of a token, one bit each; none for a token that does not exist.
    pub(crate) fn mask(&self, token: usize) -> u64 {
        if self.shifts.is_empty() || self.thresholds.is_empty() {
            return self.routing.masks.get(token).copied().unwrap_or(0);
        }
        let taken = |e: usize| match self.shifts[e] {
            // Scores are rounded, masks are what the run did.
            0.0 => self.chose(token, e),
            shift => self.margin(token, e).is_some_and(|margin| margin > shift),
        };
        (0..self.experts).fold(0, |mask, e| mask | u64::from(taken(e)) << e)
    }

    /// Whether an expert took a token in the run, whatever the shift.
    pub(crate) fn chose(&self, token: usize, expert: usize) -> bool {
        let mask = self.routing.masks.get(token).copied().unwrap_or(0);
        mask.checked_shr(expert as u32).unwrap_or(0) & 1 == 1
    }

    /// Whether an expert takes a token.
    pub(crate) fn takes(&self, token: usize, expert: usize) -> bool {
        self.mask(token).checked_shr(expert as u32).unwrap_or(0) & 1 == 1
    }

    /// Whether the run recorded the scores of the capacity predictor.
    pub(crate) fn has_needs(&self) -> bool {
        !self.thresholds.is_empty()
    }

    /// The capacity predictor's log-odds.
    pub(crate) fn need(&self, token: usize, expert: usize) -> Option<f32> {
        let scores = self.routing.scores.as_ref()?;
        self.cell(&scores.need, token, expert)
    }

    /// The threshold in force, in log-odds, the shift included; infinite for a muted expert.
    pub(crate) fn threshold(&self, expert: usize) -> Option<f32> {
        let shift = self.shifts.get(expert).copied().unwrap_or(0.0);
        Some(self.thresholds.get(expert)? + shift)
    }

    /// Need minus threshold of the run, in log-odds; the shift is left out.
    pub(crate) fn margin(&self, token: usize, expert: usize) -> Option<f32> {
        Some(self.need(token, expert)? - self.thresholds.get(expert)?)
    }

    /// Gates of a token, `[E]`: the softmax over experts, which scales what they add.
    pub(crate) fn gates(&self, token: usize) -> Option<Vec<f32>> {
        let scores = self.routing.scores.as_ref()?;
        let logits: Option<Vec<f32>> =
            (0..self.experts).map(|e| self.cell(&scores.gate, token, e)).collect();
        let logits = logits?;
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = logits.iter().map(|logit| (logit - highest).exp()).collect();
        let sum: f32 = powers.iter().sum();
        Some(powers.into_iter().map(|power| power / sum).collect())
    }

    /// The experts of a token with their gates, strongest first; in the order of their numbers where the run did not
    /// record gates.
    pub(crate) fn ranked(&self, token: usize) -> Vec<(usize, Option<f32>)> {
        let mask = self.mask(token);
        if mask == 0 {
            return Vec::new();
        }
        let gates = self.gates(token);
        let experts = (0..self.experts).filter(|e| mask >> e & 1 == 1);
        let mut ranked: Vec<_> =
            experts.map(|e| (e, gates.as_ref().map(|gates| gates[e]))).collect();
        ranked.sort_by(|a, b| b.1.unwrap_or(0.0).total_cmp(&a.1.unwrap_or(0.0)));
        ranked
    }

    fn cell<T: Copy + Into<f32>>(&self, scores: &[T], token: usize, expert: usize) -> Option<f32> {
        if expert >= self.experts || token >= self.pool() {
            return None;
        }
        scores.get(token * self.experts + expert).map(|&score| score.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{scored, trace};
    use super::*;

    #[test]
    fn without_a_shift_the_masks_are_those_of_the_run() {
        for trace in [trace(), scored()] {
            for branch in [Branch::Conditional, Branch::Unconditional] {
                let lens = Lens::new(&trace, branch, 0.0);
                for (step, at) in [(0, 0), (1, 1)] {
                    let layer = lens.layer(step, at).unwrap();
                    let of = At { step: step as u32, layer: at, branch };
                    let masks = &trace.layer(of).unwrap().masks;
                    for (token, &mask) in masks.iter().enumerate() {
                        assert_eq!(layer.mask(token), mask);
                        for e in 0..3 {
                            assert_eq!(layer.takes(token, e), mask >> e & 1 == 1);
                        }
                    }
                    assert_eq!(layer.mask(masks.len()), 0, "no such token");
                }
                assert!(lens.layer(9, 0).is_none() && lens.layer(0, 9).is_none());
            }
        }
    }

    #[test]
    fn a_shift_takes_the_tokens_whose_margin_exceeds_it() {
        let trace = scored();
        for shift in [-20.0, -3.0, -0.25, 0.25, 3.0, 20.0] {
            let lens = Lens::new(&trace, Branch::Conditional, shift);
            let layer = lens.layer(1, 0).unwrap();
            for token in 0..layer.pool() {
                let at = At { step: 1, layer: 0, branch: Branch::Conditional };
                for e in 0..3 {
                    let margin = trace.margin(at, token, e).unwrap();
                    assert_eq!(layer.margin(token, e), Some(margin));
                    assert_eq!(layer.takes(token, e), margin > shift, "{token} {e} {shift}");
                }
            }
        }
        // Masks alone cannot answer: they stay.
        let masks = super::super::tests::trace();
        let lens = |shift| Lens::new(&masks, Branch::Conditional, shift);
        assert_eq!(lens(5.0).layer(0, 0).unwrap().mask(3), lens(0.0).layer(0, 0).unwrap().mask(3));
    }

    #[test]
    fn a_shift_of_one_layer_or_expert_leaves_the_others_alone() {
        let trace = scored();
        let pass = Pass { branch: Branch::Conditional, evaluation: 0 };
        let run = Lens { trace: &trace, pass, what_if: WhatIf::default() };
        for of in [Target::Layer(1), Target::Expert(1, 2)] {
            let lens = Lens { what_if: WhatIf { odds: 4.0, of }, ..run };
            for layer in 0..2 {
                let (moved, before) = (lens.layer(0, layer).unwrap(), run.layer(0, layer).unwrap());
                for token in 0..moved.pool() {
                    for e in 0..3 {
                        let meets = layer == 1 && (of == Target::Layer(1) || e == 2);
                        let taken = if meets {
                            before.margin(token, e).unwrap() > 4.0
                        } else {
                            before.takes(token, e)
                        };
                        assert_eq!(moved.takes(token, e), taken, "{of:?} {layer} {token} {e}");
                    }
                }
            }
        }
    }

    #[test]
    fn experts_are_ranked_by_their_gates_and_without_gates_by_number() {
        let trace = scored();
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        let layer = lens.layer(0, 1).unwrap();
        for token in 0..layer.pool() {
            let at = At { step: 0, layer: 1, branch: Branch::Conditional };
            let gates = trace.gate_probabilities(at, token).unwrap();
            let ranked = layer.ranked(token);
            assert_eq!(ranked.len() as u32, layer.mask(token).count_ones());
            for pair in ranked.windows(2) {
                assert!(pair[0].1 >= pair[1].1);
            }
            for (e, gate) in ranked {
                assert!((gate.unwrap() - gates[e]).abs() < 1e-6 && layer.takes(token, e));
            }
        }
        let masks = super::super::tests::trace();
        let lens = Lens::new(&masks, Branch::Conditional, 0.0);
        let layer = lens.layer(0, 0).unwrap();
        for token in 0..layer.pool() {
            let ranked = layer.ranked(token);
            assert!(ranked.windows(2).all(|pair| pair[0].0 < pair[1].0));
            assert!(ranked.iter().all(|(_, gate)| gate.is_none()));
        }
    }
}
