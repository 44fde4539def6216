//! The routing trace: which expert took which token, at every step and MoE layer.
//!
//! The engine provides one bit per (token, expert); everything else — counts, capacity, maps — is derived
//! here. The file formats are described in `docs/trace-format.md`.

pub mod atlas;
mod read;
mod scores;
mod summary;
mod views;
mod write;

pub use read::TraceError;
pub use scores::{Margins, logit};
pub use summary::Load;
pub use views::At;

use crate::engine::{ForwardRouting, LayerRouting};
use crate::model::Config;
use crate::scheduler::Branch;

/// The routing of a whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    model: String,
    experts: usize,
    grid: [usize; 2],
    labels: Vec<Vec<String>>,
    forwards: Vec<ForwardRouting>,
}

impl Trace {
    /// An empty trace for a run; `labels` names each image, one list per label table; prompts are the last list.
    pub fn new(config: &Config, labels: Vec<Vec<String>>) -> Self {
        Self {
            model: config.name.clone(),
            experts: config.num_experts,
            grid: config.finest().grid(),
            labels,
            forwards: Vec::new(),
        }
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The name of each image's label, one list for each label table; prompts are the last list.
    pub fn labels(&self) -> &[Vec<String>] {
        &self.labels
    }

    /// Forgets the routing of all steps.
    pub fn clear(&mut self) {
        self.forwards.clear();
    }

    /// Appends what a snapshot brought.
    pub fn extend(&mut self, routing: Vec<ForwardRouting>) {
        self.forwards.extend(routing);
    }

    /// Adds the images of another batch of the same run: its tokens follow ours in every pass.
    ///
    /// # Panics
    /// When the other batch went through other passes or layers.
    pub fn append_batch(&mut self, other: Self) {
        assert_eq!(self.forwards.len(), other.forwards.len(), "batches of one run");
        for (ours, theirs) in self.forwards.iter_mut().zip(other.forwards) {
            assert_eq!(ours.layers.len(), theirs.layers.len(), "batches of one model");
            for (ours, theirs) in ours.layers.iter_mut().zip(theirs.layers) {
                ours.masks.extend(theirs.masks);
                // Thresholds belong to the run, so the batches share them.
                match (&mut ours.scores, theirs.scores) {
                    (Some(ours), Some(theirs)) => {
                        ours.gate.extend(theirs.gate);
                        ours.need.extend(theirs.need);
                    }
                    (scores, _) => *scores = None,
                }
            }
        }
        for (ours, theirs) in self.labels.iter_mut().zip(other.labels) {
            ours.extend(theirs);
        }
    }

    /// Every forward pass in the order of computation.
    pub fn forwards(&self) -> &[ForwardRouting] {
        &self.forwards
    }

    /// `E`.
    pub fn experts(&self) -> usize {
        self.experts
    }

    /// `T`, the tokens of one image.
    pub fn tokens(&self) -> usize {
        self.grid.iter().product()
    }

    /// Rows and columns of tokens in one image.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// `C` of every step: mean over its passes and MoE layers of (tokens taken by all experts) / (tokens in
    /// the pool), paper eq. 8–9. Empty for a model without experts.
    pub fn capacity_by_step(&self) -> Vec<f32> {
        let mut sums: Vec<(f32, u32)> = Vec::new();
        for forward in self.forwards.iter().filter(|f| !f.layers.is_empty()) {
            let step = forward.step as usize;
            sums.resize(sums.len().max(step + 1), (0.0, 0));
            let mean = forward.layers.iter().map(LayerRouting::capacity).sum::<f32>()
                / forward.layers.len() as f32;
            sums[step].0 += mean;
            sums[step].1 += 1;
        }
        sums.into_iter().map(|(sum, n)| sum / n.max(1) as f32).collect()
    }

    /// Mean of [`Trace::capacity_by_step`], the paper's `C_avg`; `None` without experts.
    pub fn capacity(&self) -> Option<f32> {
        let steps = self.capacity_by_step();
        (!steps.is_empty()).then(|| steps.iter().sum::<f32>() / steps.len() as f32)
    }

    /// `C` of each image over its conditional passes: the compute spent on its content.
    pub fn capacity_by_image(&self) -> Vec<f32> {
        let images = self.forwards.iter().flat_map(|f| &f.layers).next();
        let images = images.map_or(0, |l| l.masks.len() / self.tokens());
        let mut sums = vec![0_u64; images];
        let mut layers = 0_u64;
        for layer in
            self.forwards.iter().filter(|f| f.branch == Branch::Conditional).flat_map(|f| &f.layers)
        {
            layers += 1;
            for (sum, masks) in sums.iter_mut().zip(layer.masks.chunks(self.tokens())) {
                *sum += masks.iter().map(|m| u64::from(m.count_ones())).sum::<u64>();
            }
        }
        let tokens = (layers * self.tokens() as u64).max(1);
        sums.into_iter().map(|sum| sum as f32 / tokens as f32).collect()
    }
}

impl LayerRouting {
    /// `n_e`, the tokens that each expert took, `[E]`.
    pub fn counts(&self, experts: usize) -> Vec<u32> {
        (0..experts).map(|e| self.masks.iter().map(|m| (m >> e & 1) as u32).sum()).collect()
    }

    /// `C` of the layer: tokens taken by all experts over tokens in the pool.
    pub fn capacity(&self) -> f32 {
        let taken: u64 = self.masks.iter().map(|m| u64::from(m.count_ones())).sum();
        taken as f32 / self.masks.len().max(1) as f32
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::engine::Scores;

    /// Two images of two tokens, three experts, two layers, two steps; the second without guidance.
    pub(super) fn trace() -> Trace {
        let forward = |step, branch, masks: [u64; 4], others: [u64; 4]| ForwardRouting {
            step,
            time: 0.5,
            branch,
            scale: 1,
            layers: vec![
                LayerRouting { block: 1, masks: masks.to_vec(), scores: None },
                LayerRouting { block: 3, masks: others.to_vec(), scores: None },
            ],
        };
        Trace {
            model: "test".into(),
            experts: 3,
            grid: [1, 2],
            labels: vec![vec!["a".into(), "b".into()]],
            forwards: vec![
                forward(0, Branch::Conditional, [0b111, 0b001, 0, 0], [0b001, 0, 0b110, 0b001]),
                forward(0, Branch::Unconditional, [0, 0, 0, 0], [0; 4]),
                forward(1, Branch::Conditional, [0b010, 0b010, 0b100, 0b011], [0b1; 4]),
            ],
        }
    }

    /// The same with scores that lead to these masks.
    pub(super) fn trace_with_scores() -> Trace {
        let mut trace = trace();
        let mut seed = 0_u32;
        let mut spread = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as f32 / 65_536.0
        };
        let thresholds = [0.25, 0.5, 0.75];
        for layer in trace.forwards.iter_mut().flat_map(|forward| &mut forward.layers) {
            let pairs = layer.masks.iter().flat_map(|mask| (0..3).map(move |e| mask >> e & 1 == 1));
            let pairs: Vec<bool> = pairs.collect();
            let need = pairs.iter().zip(thresholds.iter().cycle()).map(|(&taken, &threshold)| {
                let distance = 0.1 + 9.0 * spread();
                f16::from_f32(logit(threshold) + if taken { distance } else { -distance })
            });
            let need = need.collect();
            let gate = pairs.iter().map(|_| f16::from_f32(4.0 * spread() - 2.0)).collect();
            layer.scores = Some(Scores { gate, need, thresholds: thresholds.to_vec() });
        }
        trace
    }

    #[test]
    fn counts_and_capacity_follow_the_masks() {
        let trace = trace();
        assert_eq!(trace.forwards[0].layers[0].counts(3), [2, 1, 1]);
        assert_eq!(trace.capacity_by_step(), [0.5, 1.125]);
        assert_eq!(trace.capacity(), Some(0.8125));
        // Image 0 took 4 + 1 + 2 + 2 of 8 token visits, image 1 took 0 + 3 + 3 + 2.
        assert_eq!(trace.capacity_by_image(), [1.125, 1.0]);
    }
}
