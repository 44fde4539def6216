//! Views of the routing to draw: one layer at one step, the tokens of one image or of one expert.
//!
//! A step of Heun's solver evaluates the model twice. Counts and maps show the first evaluation, which is at the
//! step's own time, unless another is asked for; `C` is the mean of all.

use super::Trace;
use crate::engine::{ForwardRouting, LayerRouting, Scores};
use crate::scheduler::Branch;

/// One MoE layer in one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Denoising step, from 0.
    pub step: u32,
    /// Place of the layer in [`Trace::blocks`].
    pub layer: usize,
    /// Pass with the labels, or without.
    pub branch: Branch,
}

impl Trace {
    /// The transformer blocks that route, in order; empty for a model without experts, and before the first step.
    pub fn blocks(&self) -> Vec<usize> {
        let first = self.forwards.first();
        first.map_or_else(Vec::new, |f| f.layers.iter().map(|layer| layer.block).collect())
    }

    /// Number of steps that have arrived.
    pub fn steps(&self) -> u32 {
        self.forwards.last().map_or(0, |forward| forward.step + 1)
    }

    /// `B`, or 0 before the first step.
    pub fn images(&self) -> usize {
        let layer = self.forwards.first().and_then(|f| f.layers.first());
        layer.map_or(0, |layer| layer.masks.len() / self.tokens().max(1))
    }

    /// Whether there are passes of this branch: without guidance there is none without labels.
    pub fn has(&self, branch: Branch) -> bool {
        self.forwards.iter().any(|forward| forward.branch == branch)
    }

    /// Passes of a step, in the order of computation.
    pub(super) fn passes(&self, step: u32) -> impl Iterator<Item = &ForwardRouting> {
        // Steps arrive in order, so a step is a stretch of the list.
        let first = self.forwards.partition_point(|forward| forward.step < step);
        self.forwards[first..].iter().take_while(move |forward| forward.step == step)
    }

    /// The routing at a place, or `None` where the run has not been yet.
    pub fn layer(&self, at: At) -> Option<&LayerRouting> {
        self.passes(at.step).find(|forward| forward.branch == at.branch)?.layers.get(at.layer)
    }

    /// The same in the evaluation `nth` of its step, from 0; in the last one of steps that have fewer.
    pub fn evaluation(&self, at: At, nth: usize) -> Option<&LayerRouting> {
        let passes = self.passes(at.step).filter(|forward| forward.branch == at.branch);
        passes.take(nth + 1).last()?.layers.get(at.layer)
    }

    /// How often a step evaluates the model in one branch, at most: twice with Heun's solver.
    pub fn evaluations(&self) -> usize {
        let mut most = 0;
        let (mut step, mut counts) = (None, [0; 2]);
        for forward in &self.forwards {
            if step != Some(forward.step) {
                (step, counts) = (Some(forward.step), [0; 2]);
            }
            let count = &mut counts[usize::from(forward.branch == Branch::Unconditional)];
            *count += 1;
            most = most.max(*count);
        }
        most
    }

    /// Rows and columns of tokens in one image at a step: those of [`Trace::grid`], or fewer before a refiner takes over.
    pub fn grid_at(&self, step: u32) -> [usize; 2] {
        let scale = self.passes(step).next().map_or(1, |forward| forward.scale.max(1) as usize);
        self.grid.map(|side| side / scale)
    }

    /// Patches of the grid that a token has at a step.
    pub fn patches_of_token(&self, step: u32) -> usize {
        self.tokens() / self.grid_at(step).iter().product::<usize>().max(1)
    }

    /// Tokens that each expert took from the whole pool, `[E]`.
    pub fn counts(&self, at: At) -> Option<Vec<u32>> {
        let patches = self.patches_of_token(at.step) as u32;
        Some(self.layer(at)?.counts(self.experts).into_iter().map(|n| n / patches).collect())
    }

    /// Tokens that each expert took from one image, `[E]`.
    pub fn image_counts(&self, at: At, image: usize) -> Option<Vec<u32>> {
        let (masks, patches) = (self.masks(at, image)?, self.patches_of_token(at.step) as u32);
        let taken = |e| masks.iter().map(|m| (m >> e & 1) as u32).sum::<u32>() / patches;
        Some((0..self.experts).map(taken).collect())
    }

    /// How many experts took each patch of one image, `[h/p, w/p]`, row by row.
    pub fn token_map(&self, at: At, image: usize) -> Option<Vec<u32>> {
        Some(self.masks(at, image)?.iter().map(|mask| mask.count_ones()).collect())
    }

    /// Which patches of one image an expert took, `[h/p, w/p]`, row by row.
    pub fn expert_map(&self, at: At, image: usize, expert: usize) -> Option<Vec<bool>> {
        let taken = |mask: &u64| mask.checked_shr(expert as u32).is_some_and(|bits| bits & 1 == 1);
        Some(self.masks(at, image)?.iter().map(taken).collect())
    }

    /// One bit per expert for each token of one image, `[T]`.
    fn masks(&self, at: At, image: usize) -> Option<&[u64]> {
        self.layer(at)?.masks.chunks_exact(self.tokens().max(1)).nth(image)
    }

    /// `C` of each MoE layer at each step, `[layers][steps]`: the mean over the step's passes of one branch, or of
    /// both; NaN where a step has none of that branch, as outside the guidance interval. The mean over layers of both is
    /// [`Trace::capacity_by_step`].
    pub fn capacity_by_layer(&self, branch: Option<Branch>) -> Vec<Vec<f32>> {
        let layers = self.blocks().len();
        let mut table = vec![Vec::new(); layers];
        for step in 0..self.steps() {
            let passes = || self.passes(step).filter(|f| branch.is_none_or(|b| b == f.branch));
            let count = passes().count() as f32;
            for (layer, row) in table.iter_mut().enumerate() {
                let of =
                    |f: &ForwardRouting| f.layers.get(layer).map_or(0.0, LayerRouting::capacity);
                row.push(passes().map(of).sum::<f32>() / count);
            }
        }
        table
    }

    /// Bytes of the masks and scores in memory.
    pub fn bytes(&self) -> usize {
        let layers = self.forwards.iter().flat_map(|forward| &forward.layers);
        let scores = |layer: &LayerRouting| layer.scores.as_ref().map_or(0, Scores::bytes);
        layers.map(|layer| 4 * layer.masks.len() + scores(layer)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::trace;

    /// Everything that the views show, against the document that the command line writes.
    #[test]
    fn views_show_what_the_exported_trace_says() {
        let trace = trace();
        let json: serde_json::Value = serde_json::from_str(&trace.to_json().unwrap()).unwrap();
        let forwards = json["forwards"].as_array().unwrap();
        assert_eq!(trace.blocks(), [1, 3]);
        assert_eq!((trace.steps(), trace.images()), (2, 2));
        for forward in forwards {
            let branch =
                if forward["guided"] == true { Branch::Conditional } else { Branch::Unconditional };
            for (layer, document) in forward["layers"].as_array().unwrap().iter().enumerate() {
                let at = At { step: forward["step"].as_u64().unwrap() as u32, layer, branch };
                let counts = trace.counts(at).unwrap();
                assert_eq!(serde_json::json!(counts), document["counts"], "{at:?}");
                let images: Vec<_> = (0..2).map(|p| trace.image_counts(at, p).unwrap()).collect();
                let masks = document["masks"].as_array().unwrap();
                for expert in 0..3 {
                    assert_eq!(images[0][expert] + images[1][expert], counts[expert]);
                    for (token, mask) in masks.iter().enumerate() {
                        let map = trace.expert_map(at, token / 2, expert).unwrap();
                        assert_eq!(map[token % 2], mask.as_u64().unwrap() >> expert & 1 == 1);
                    }
                }
                for (token, mask) in masks.iter().enumerate() {
                    let map = trace.token_map(at, token / 2).unwrap();
                    assert_eq!(map[token % 2], mask.as_u64().unwrap().count_ones());
                }
            }
        }
    }

    #[test]
    fn layers_average_to_the_exported_capacity() {
        let trace = trace();
        let json: serde_json::Value = serde_json::from_str(&trace.to_json().unwrap()).unwrap();
        let table = trace.capacity_by_layer(None);
        for (step, mean) in json["capacity_by_step"].as_array().unwrap().iter().enumerate() {
            let ours = table.iter().map(|row| row[step]).sum::<f32>() / table.len() as f32;
            assert!((f64::from(ours) - mean.as_f64().unwrap()).abs() < 1e-6, "step {step}");
        }
        // The guided pass of step 0 is the first document, block 3 its second layer.
        let guided = trace.capacity_by_layer(Some(Branch::Conditional));
        assert_eq!(serde_json::json!(guided[1][0]), json["forwards"][0]["layers"][1]["capacity"]);
        assert!(table[1][0] < guided[1][0], "the other pass counts in the mean of both");
        let without = trace.capacity_by_layer(Some(Branch::Unconditional));
        assert!(without[0][0].is_finite() && without[0][1].is_nan(), "step 1 has no such pass");
    }

    #[test]
    fn the_second_evaluation_of_a_step_is_shown_where_there_is_one() {
        let mut trace = trace();
        assert_eq!(trace.evaluations(), 1);
        let mut second = trace.forwards()[2].clone();
        second.layers[0].masks = vec![0b111; 4];
        trace.extend(vec![second]);
        assert_eq!(trace.evaluations(), 2);
        let at = At { step: 1, layer: 0, branch: Branch::Conditional };
        assert_eq!(trace.evaluation(at, 0), trace.layer(at));
        assert_eq!(trace.evaluation(at, 1).unwrap().masks, [0b111; 4]);
        let first = At { step: 0, ..at };
        assert_eq!(trace.evaluation(first, 1), trace.layer(first), "the only one of its step");
        assert!(trace.evaluation(At { step: 2, ..at }, 0).is_none());
    }

    #[test]
    fn places_that_the_run_has_not_reached_are_empty() {
        let trace = trace();
        let at = At { step: 0, layer: 0, branch: Branch::Conditional };
        assert!(trace.counts(At { step: 2, ..at }).is_none());
        assert!(trace.counts(At { layer: 2, ..at }).is_none());
        assert!(trace.token_map(at, 2).is_none());
        assert_eq!(trace.expert_map(at, 0, 40), Some(vec![false, false]), "no such expert");
        assert!(trace.counts(At { step: 1, branch: Branch::Unconditional, ..at }).is_none());
        assert!(trace.has(Branch::Unconditional));
        assert_eq!((trace.model(), trace.labels()), ("test", &[vec!["a".into(), "b".into()]][..]));
        let mut none = trace.clone();
        none.clear();
        assert_eq!((none.steps(), none.images(), none.blocks()), (0, 0, Vec::new()));
        let guided = trace.forwards().iter().filter(|f| f.branch == Branch::Conditional).cloned();
        let mut without = Trace { forwards: Vec::new(), ..trace.clone() };
        assert!(!without.has(Branch::Conditional));
        without.extend(guided.collect());
        assert!(without.has(Branch::Conditional) && !without.has(Branch::Unconditional));
    }
}
