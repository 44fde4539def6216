//! Summary of a trace: balance of the experts of a layer, and tokens that no expert takes.

use super::Trace;
use crate::engine::ForwardRouting;

/// The work of one MoE layer over some passes, all images together.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Tokens that each expert took, summed over the passes, `[E]`.
    pub taken: Vec<u64>,
    /// Tokens that passed by, summed over the passes.
    pub tokens: u64,
    /// Those that no expert took.
    pub skipped: u64,
}

impl Load {
    /// `C`: tokens taken over tokens.
    pub fn capacity(&self) -> f64 {
        self.total() as f64 / self.tokens.max(1) as f64
    }

    /// Effective number of experts over their number: `exp(H) / E`, where `H` is the entropy of how the taken tokens
    /// are spread over experts. 1 if all take the same number, `1/E` if one takes all, `None` if no token was taken.
    pub fn effective(&self) -> Option<f64> {
        let total = self.total();
        let part = |&taken: &u64| match taken {
            0 => 0.0,
            taken => {
                let share = taken as f64 / total as f64;
                -share * share.ln()
            }
        };
        let entropy: f64 = self.taken.iter().map(part).sum();
        (total > 0).then(|| entropy.exp() / self.taken.len() as f64)
    }

    /// The largest load over the fair share, `E · max n / Σ n`: from 1 to `E`; `None` if no token was taken.
    pub fn largest(&self) -> Option<f64> {
        let (total, largest) = (self.total(), self.taken.iter().max()?);
        (total > 0).then(|| *largest as f64 * self.taken.len() as f64 / total as f64)
    }

    /// Share of experts that took no token, 0 to 1.
    pub fn dead(&self) -> f64 {
        let dead = self.taken.iter().filter(|&&taken| taken == 0).count();
        dead as f64 / self.taken.len().max(1) as f64
    }

    /// Share of tokens that no expert took, 0 to 1.
    pub fn skipped(&self) -> f64 {
        self.skipped as f64 / self.tokens.max(1) as f64
    }

    fn total(&self) -> u64 {
        self.taken.iter().sum()
    }
}

impl Trace {
    /// The work of a layer (a place in [`Trace::blocks`]) at a step, over all its passes; `None` where the run has not
    /// been.
    pub fn load(&self, step: u32, layer: usize) -> Option<Load> {
        self.load_of(self.passes(step), layer)
    }

    /// The work of a layer over all steps; `None` where there is no such layer.
    pub fn load_of_layer(&self, layer: usize) -> Option<Load> {
        self.load_of(self.forwards.iter(), layer)
    }

    /// Model time at which a step begins.
    pub fn time(&self, step: u32) -> Option<f32> {
        Some(self.passes(step).next()?.time)
    }

    fn load_of<'a>(
        &self,
        passes: impl Iterator<Item = &'a ForwardRouting>,
        layer: usize,
    ) -> Option<Load> {
        let mut load = Load { taken: vec![0; self.experts], tokens: 0, skipped: 0 };
        let of_pass = |pass: &'a ForwardRouting| Some((pass.scale, pass.layers.get(layer)?));
        let mut layers = passes.filter_map(of_pass).peekable();
        layers.peek()?;
        for (scale, layer) in layers {
            let tokens = |patches: u64| patches / u64::from(scale * scale);
            let counts = layer.counts(self.experts);
            load.taken.iter_mut().zip(counts).for_each(|(sum, n)| *sum += tokens(n.into()));
            load.tokens += tokens(layer.masks.len() as u64);
            let skipped = layer.masks.iter().filter(|&&mask| mask == 0).count();
            load.skipped += tokens(skipped as u64);
        }
        Some(load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::trace;

    #[test]
    fn loads_are_what_the_masks_say() {
        let trace = trace();
        // Step 0, block 1: the pass with labels has the masks 111, 001, 0, 0 and the other none.
        let load = trace.load(0, 0).unwrap();
        assert_eq!(load, Load { taken: vec![2, 1, 1], tokens: 8, skipped: 6 });
        assert_eq!((load.capacity(), load.skipped(), load.dead()), (0.5, 0.75, 0.0));
        assert_eq!(load.largest(), Some(1.5));
        // exp(½ ln 2 + 2 · ¼ ln 4) = 2^1.5
        assert!((load.effective().unwrap() - 2_f64.powf(1.5) / 3.0).abs() < 1e-12);

        // Step 1, block 3: expert 0 takes every token.
        let load = trace.load(1, 1).unwrap();
        assert_eq!((load.capacity(), load.skipped()), (1.0, 0.0));
        assert_eq!((load.dead(), load.largest()), (2.0 / 3.0, Some(3.0)));
        assert!((load.effective().unwrap() - 1.0 / 3.0).abs() < 1e-12);

        let all = trace.load_of_layer(0).unwrap();
        assert_eq!(all, Load { taken: vec![3, 4, 2], tokens: 12, skipped: 6 });
        assert_eq!((trace.load(2, 0), trace.load(0, 2)), (None, None));
        assert_eq!((trace.time(1), trace.time(2)), (Some(0.5), None));
    }

    #[test]
    fn without_work_there_is_no_balance() {
        let idle = Load { taken: vec![0; 4], tokens: 9, skipped: 9 };
        assert_eq!((idle.capacity(), idle.dead(), idle.skipped()), (0.0, 1.0, 1.0));
        assert_eq!((idle.effective(), idle.largest()), (None, None));
    }

    #[test]
    fn capacities_agree_with_those_of_the_trace() {
        let trace = trace();
        let table = trace.capacity_by_layer(None);
        for (layer, row) in table.iter().enumerate() {
            for (step, &capacity) in (0..).zip(row) {
                let load = trace.load(step, layer).unwrap();
                assert!((load.capacity() - f64::from(capacity)).abs() < 1e-6);
            }
        }
    }
}
