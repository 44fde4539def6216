//! Counts of a whole run: how many tokens each expert took, in which layer, at which step. C, the rivers, the map of
//! the run and the line of numbers are read from here.

use std::ops::Range;

use super::lens::{Layer, Lens};

/// One layer at one step, over all images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// Tokens of each expert, `[E]`.
    pub(crate) tokens: Vec<u32>,
    /// Tokens that no expert took.
    pub(crate) skipped: u32,
    /// Tokens in the pool.
    pub(crate) pool: u32,
}

/// Counts of one kind of pass, `[steps][layers]`. Outside the guidance interval a step has no unconditional pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    /// The blocks that route.
    pub(crate) blocks: Vec<usize>,
    /// `E`.
    pub(crate) experts: usize,
    /// Layers of each step that has arrived; empty where it has no such pass. No steps if none has one.
    pub(crate) steps: Vec<Vec<Share>>,
}

/// The line of numbers: one step, all layers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Numbers {
    /// Experts per patch, mean over layers.
    pub(crate) capacity: f32,
    /// Share of patches that no expert takes, mean over layers.
    pub(crate) skipped: f32,
    /// `exp(H)/E` of the load, mean over layers; 1 where all experts are equally busy.
    pub(crate) evenness: f32,
    /// The largest load over fair share, and whose it is: ratio, layer, expert.
    pub(crate) largest: Option<(f32, usize, usize)>,
    /// Experts without a token, over all layers.
    pub(crate) idle: usize,
    /// Experts of all layers.
    pub(crate) of: usize,
}

impl Share {
    /// Counts a layer.
    pub(crate) fn of(layer: &Layer<'_>) -> Self {
        let mut share =
            Self { tokens: vec![0; layer.experts()], skipped: 0, pool: layer.pool() as u32 };
        for token in 0..layer.pool() {
            let mask = layer.mask(token);
            share.skipped += u32::from(mask == 0);
            // Few of many experts take a token.
            let mut left = mask;
            while left != 0 {
                if let Some(count) = share.tokens.get_mut(left.trailing_zeros() as usize) {
                    *count += 1;
                }
                left &= left - 1;
            }
        }
        let patches = layer.patches_of_token();
        for count in share.tokens.iter_mut().chain([&mut share.skipped, &mut share.pool]) {
            *count /= patches;
        }
        share
    }

    /// Tokens of all experts together.
    pub(crate) fn taken(&self) -> u32 {
        self.tokens.iter().sum()
    }

    /// `C`: experts per token.
    pub(crate) fn capacity(&self) -> f32 {
        self.taken() as f32 / self.pool.max(1) as f32
    }

    /// Tokens of an expert over an equal share of what all took; `None` where nobody took anything.
    pub(crate) fn load(&self, expert: usize) -> Option<f32> {
        let (taken, experts) = (self.taken(), self.tokens.len());
        let tokens = *self.tokens.get(expert)?;
        (taken > 0).then(|| tokens as f32 * experts as f32 / taken as f32)
    }

    /// The exponential of the load's entropy over `E`: 1 for equal loads, `1/E` where one expert does everything, 0
    /// where nobody does anything.
    pub(crate) fn evenness(&self) -> f32 {
        let taken = f64::from(self.taken());
        if taken == 0.0 {
            return 0.0;
        }
        let entropy: f64 = self.tokens.iter().filter(|tokens| **tokens > 0).fold(0.0, |sum, &n| {
            let p = f64::from(n) / taken;
            sum - p * p.ln()
        });
        (entropy.exp() / self.tokens.len() as f64) as f32
    }
}

impl Tally {
    /// Counts one pass of every step that has it.
    pub(crate) fn of(lens: &Lens<'_>) -> Self {
        let blocks = lens.trace.blocks();
        let step = |step| -> Option<Vec<Share>> {
            (0..blocks.len()).map(|layer| Some(Share::of(&lens.layer(step, layer)?))).collect()
        };
        let steps = 0..lens.trace.steps() as usize;
        let mut steps: Vec<_> = steps.map(|at| step(at).unwrap_or_default()).collect();
        if steps.iter().all(Vec::is_empty) {
            steps.clear();
        }
        Self { experts: lens.trace.experts(), steps, blocks }
    }

    /// Whether a step has such a pass.
    pub(crate) fn has(&self, step: usize) -> bool {
        self.steps.get(step).is_some_and(|layers| !layers.is_empty())
    }

    /// The first and the last step with such a pass.
    pub(crate) fn ends(&self) -> Option<[usize; 2]> {
        let mut with = (0..self.steps.len()).filter(|&step| self.has(step));
        let first = with.next()?;
        Some([first, with.next_back().unwrap_or(first)])
    }

    /// C of every step that has arrived, with gaps.
    pub(crate) fn capacities(&self) -> Vec<Option<f32>> {
        (0..self.steps.len()).map(|step| self.capacity(step)).collect()
    }

    /// Whether there is nothing to show: no experts, or no step yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() || self.steps.is_empty()
    }

    /// A layer at a step.
    pub(crate) fn share(&self, step: usize, layer: usize) -> Option<&Share> {
        self.steps.get(step)?.get(layer)
    }

    /// C of a step, mean over layers.
    pub(crate) fn capacity(&self, step: usize) -> Option<f32> {
        self.mean(step, Share::capacity)
    }

    /// Share of the patches that no expert takes at a step, mean over layers.
    pub(crate) fn skipped(&self, step: usize) -> Option<f32> {
        self.mean(step, |share| share.skipped as f32 / share.pool.max(1) as f32)
    }

    /// C of the whole run, mean over the steps with such a pass.
    pub(crate) fn mean_capacity(&self) -> Option<f32> {
        let all: Vec<f32> = self.capacities().into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.iter().sum::<f32>() / all.len() as f32)
    }

    /// The largest C of any layer at any step.
    pub(crate) fn most(&self) -> f32 {
        self.steps.iter().flatten().map(Share::capacity).fold(0.0, f32::max)
    }

    /// The line of numbers.
    pub(crate) fn numbers(&self, step: usize) -> Option<Numbers> {
        let layers = self.steps.get(step)?;
        let mut largest: Option<(f32, usize, usize)> = None;
        for (l, layer) in layers.iter().enumerate() {
            for e in 0..layer.tokens.len() {
                let Some(load) = layer.load(e) else { continue };
                if largest.is_none_or(|(most, ..)| load > most) {
                    largest = Some((load, l, e));
                }
            }
        }
        Some(Numbers {
            capacity: self.capacity(step)?,
            skipped: self.skipped(step)?,
            evenness: self.mean(step, Share::evenness)?,
            largest,
            idle: layers.iter().flat_map(|layer| &layer.tokens).filter(|n| **n == 0).count(),
            of: layers.iter().map(|layer| layer.tokens.len()).sum(),
        })
    }

    fn mean(&self, step: usize, value: impl Fn(&Share) -> f32) -> Option<f32> {
        let layers = self.steps.get(step).filter(|layers| !layers.is_empty())?;
        Some(layers.iter().map(value).sum::<f32>() / layers.len() as f32)
    }
}

/// The ranges of a list in which something is there.
pub(crate) fn stretches(is_there: impl IntoIterator<Item = bool>) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in is_there.into_iter().enumerate().filter(|(_, there)| *there) {
        match found.last_mut().filter(|range| range.end == at) {
            Some(range) => range.end += 1,
            None => found.push(at..at + 1),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;
    use diffmoe::trace::At;
    use proptest::prelude::*;

    use super::super::tests::{gapped, masks, scored, trace};
    use super::*;

    fn tally(masks: &[u64], experts: usize) -> Share {
        let trace = super::super::tests::masks(masks, experts);
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        Share::of(&lens.layer(0, 0).unwrap())
    }

    #[test]
    fn a_layer_is_counted_as_by_hand() {
        // Four tokens: experts 0 and 2, nobody, expert 0, expert 0.
        let share = tally(&[0b101, 0, 0b001, 0b001], 3);
        assert_eq!(share, Share { tokens: vec![3, 0, 1], skipped: 1, pool: 4 });
        assert!((share.capacity() - 1.0).abs() < 1e-6);
        assert_eq!(share.load(0), Some(2.25));
        assert_eq!(share.load(1), Some(0.0));
        assert_eq!(share.load(3), None, "no such expert");
        // exp(-(0.75·ln 0.75 + 0.25·ln 0.25)) / 3
        assert!((share.evenness() - 0.584_917).abs() < 1e-5, "{}", share.evenness());
        let nobody = tally(&[0; 4], 3);
        assert_eq!((nobody.load(0), nobody.evenness(), nobody.skipped), (None, 0.0, 4));
        assert!((tally(&[0b111; 4], 3).evenness() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_run_is_counted_as_the_trace_counts_it() {
        for trace in [trace(), scored()] {
            for branch in [Branch::Conditional, Branch::Unconditional] {
                let tally = Tally::of(&Lens::new(&trace, branch, 0.0));
                assert_eq!((tally.blocks.as_slice(), tally.steps.len()), (&[1, 3][..], 2));
                for step in 0..2 {
                    let mut sum = 0.0;
                    for layer in 0..2 {
                        let at = At { step: step as u32, layer, branch };
                        let share = tally.share(step, layer).unwrap();
                        assert_eq!(share.tokens, trace.counts(at).unwrap());
                        sum += trace.layer(at).unwrap().capacity();
                    }
                    assert!((tally.capacity(step).unwrap() - sum / 2.0).abs() < 1e-6);
                }
            }
        }
        let empty = Tally::of(&Lens::new(
            &diffmoe::trace::Trace::new(&crate::views::tests::config(), Vec::new()),
            Branch::Conditional,
            0.0,
        ));
        assert!(empty.is_empty() && empty.numbers(0).is_none() && empty.mean_capacity().is_none());
    }

    #[test]
    fn steps_without_a_pass_are_gaps() {
        let trace = gapped();
        let of = |branch| Tally::of(&Lens::new(&trace, branch, 0.0));
        let tally = of(Branch::Unconditional);
        assert_eq!(tally.capacities(), [None, Some(0.75), None, Some(0.5), Some(0.25), None]);
        assert_eq!((tally.ends(), tally.mean_capacity()), (Some([1, 4]), Some(0.5)));
        assert!(tally.numbers(0).is_none() && tally.share(2, 0).is_none() && !tally.has(5));
        assert_eq!(stretches((0..6).map(|step| tally.has(step))), [1..2, 3..5]);
        assert!(stretches([]).is_empty());
        let whole = of(Branch::Conditional);
        assert_eq!((whole.ends(), whole.steps.len()), (Some([0, 5]), 6));
    }

    #[test]
    fn the_numbers_name_the_busiest_expert() {
        let trace = masks(&[0b10, 0b10, 0b10, 0b01], 2);
        let tally = Tally::of(&Lens::new(&trace, Branch::Conditional, 0.0));
        let numbers = tally.numbers(0).unwrap();
        assert_eq!(numbers.largest, Some((1.5, 0, 1)));
        assert_eq!((numbers.idle, numbers.of, numbers.skipped), (0, 2, 0.0));
        assert!((numbers.capacity - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_token_of_several_patches_counts_once() {
        let tally =
            Tally::of(&Lens::new(&super::super::tests::refined(), Branch::Conditional, 0.0));
        let share = |step: usize| tally.share(step, 0).unwrap().clone();
        assert_eq!(share(0), Share { tokens: vec![1, 0, 0], skipped: 0, pool: 1 });
        assert_eq!(share(1), Share { tokens: vec![1, 2, 0], skipped: 1, pool: 4 });
        assert_eq!(tally.capacities(), [Some(1.0), Some(0.75)]);
    }

    proptest! {
        #[test]
        fn counts_are_row_sums(tokens in proptest::collection::vec(0_u64..256, 4)) {
            let share = tally(&tokens, 8);
            let ones: u32 = tokens.iter().map(|mask| mask.count_ones()).sum();
            prop_assert_eq!(share.taken(), ones);
            prop_assert_eq!(share.skipped as usize, tokens.iter().filter(|m| **m == 0).count());
            let loads: f32 = (0..8).filter_map(|e| share.load(e)).sum();
            prop_assert!(ones == 0 || (loads - 8.0).abs() < 1e-3);
            prop_assert!((0.0..=1.0001).contains(&share.evenness()));
        }

        #[test]
        fn more_threshold_never_means_more_tokens(a in -8.0_f32..8.0, b in -8.0_f32..8.0) {
            let trace = scored();
            let c = |shift| {
                let lens = Lens::new(&trace, Branch::Conditional, shift);
                Tally::of(&lens).mean_capacity().unwrap()
            };
            prop_assume!(a != 0.0 && b != 0.0);
            prop_assert!(c(a.min(b)) >= c(a.max(b)));
        }
    }
}
