//! How far the decisions of a survey lie from their thresholds: need − threshold in log-odds, over all tokens of the
//! passes with labels, by noise band, layer and expert.
//!
//! Batches are counted one by one and added up in any order: counts are integers.

use serde::{Deserialize, Serialize};

use super::counts::{BANDS, band_of, noise_level};
use crate::engine::LayerRouting;
use crate::model::Objective;
use crate::scheduler::Branch;
use crate::trace::{Trace, logit};

/// The shares of [`AtlasMargins::percentiles`].
pub const PERCENTILES: [f32; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// Bins from −32 to 32 log-odds, half a unit each; what lies beyond is in the first and the last.
const BINS: usize = 128;
const WIDTH: f32 = 0.5;
const REACH: f32 = 32.0;
/// Sums are kept in this part of a log-odd, so that they are exact.
const UNIT: f32 = 1024.0;

/// Margins of some images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarginCounts {
    /// Decisions by margin, `[bands][layers][E][BINS]`.
    bins: Vec<u32>,
    /// Sums of the margins in `1/UNIT`, `[bands][layers][E]`.
    sums: Vec<i64>,
}

/// What the margins of a survey amount to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtlasMargins {
    /// Mean, `[bands][layers][E]`; 0 in a band without passes.
    pub mean: Vec<Vec<Vec<f32>>>,
    /// Margins that the shares [`PERCENTILES`] of the decisions lie below, `[bands][layers][E]`; accurate to the half of a
    /// log-odd.
    pub percentiles: Vec<Vec<Vec<[f32; 5]>>>,
}

impl MarginCounts {
    /// Counts all images of a trace; `None` where it has no scores, or its model no capacity predictor.
    pub fn of(trace: &Trace, objective: Objective) -> Option<Self> {
        let (layers, experts) = (trace.blocks().len(), trace.experts());
        let cells = BANDS * layers * experts;
        let mut counts = Self { bins: vec![0; cells * BINS], sums: vec![0; cells] };
        for forward in trace.forwards().iter().filter(|f| f.branch == Branch::Conditional) {
            let band = band_of(noise_level(objective, forward.time), BANDS);
            for (layer, routing) in forward.layers.iter().enumerate() {
                counts.add_layer((band * layers + layer) * experts, routing, experts)?;
            }
        }
        (cells > 0).then_some(counts)
    }

    fn add_layer(&mut self, first: usize, routing: &LayerRouting, experts: usize) -> Option<()> {
        let scores = routing.scores.as_ref().filter(|scores| !scores.need.is_empty())?;
        let thresholds: Vec<f32> = scores.thresholds.iter().map(|&t| logit(t)).collect();
        for needs in scores.need.chunks_exact(experts.max(1)) {
            for (expert, (need, threshold)) in needs.iter().zip(&thresholds).enumerate() {
                // A threshold of 0 or 1 is infinitely far away.
                let margin = (need.to_f32() - threshold).clamp(-1e4, 1e4);
                let bin = ((margin + REACH) / WIDTH).clamp(0.0, (BINS - 1) as f32) as usize;
                let cell = first + expert;
                *self.bins.get_mut(cell * BINS + bin)? += 1;
                *self.sums.get_mut(cell)? += (margin * UNIT).round() as i64;
            }
        }
        Some(())
    }

    /// Whether the counts are those of a model with so many layers and experts.
    pub fn fits(&self, layers: usize, experts: usize) -> bool {
        let cells = BANDS * layers * experts;
        (self.bins.len(), self.sums.len()) == (cells * BINS, cells)
    }

    /// Adds those of other images of the same model.
    pub fn add(&mut self, other: &Self) {
        self.bins.iter_mut().zip(&other.bins).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, n)| *sum = sum.saturating_add(*n));
    }

    /// Mean and percentiles of every expert, for a model with so many layers and experts.
    pub fn summary(&self, layers: usize, experts: usize) -> AtlasMargins {
        let all: Vec<(f32, [f32; 5])> = self
            .bins
            .chunks_exact(BINS)
            .zip(&self.sums)
            .map(|(bins, &sum)| cell(bins, sum))
            .collect();
        let nested = |band: usize| {
            let layer = |layer: usize| &all[(band * layers + layer) * experts..][..experts];
            (0..layers).map(layer).collect::<Vec<_>>()
        };
        let mean = |cells: &[(f32, [f32; 5])]| cells.iter().map(|cell| cell.0).collect();
        let places = |cells: &[(f32, [f32; 5])]| cells.iter().map(|cell| cell.1).collect();
        AtlasMargins {
            mean: (0..BANDS).map(|b| nested(b).into_iter().map(mean).collect()).collect(),
            percentiles: (0..BANDS).map(|b| nested(b).into_iter().map(places).collect()).collect(),
        }
    }
}

/// Mean and percentiles of one expert in one layer and band; zeros where nothing was decided.
fn cell(bins: &[u32], sum: i64) -> (f32, [f32; 5]) {
    let all: u64 = bins.iter().map(|&n| u64::from(n)).sum();
    let rounded = |value: f64| ((value * 100.0).round() / 100.0) as f32;
    if all == 0 {
        return (0.0, [0.0; 5]);
    }
    let mean = sum as f64 / f64::from(UNIT) / all as f64;
    let below = |share: f32| {
        let wanted = f64::from(share) * all as f64;
        let mut before = 0.0;
        for (bin, &n) in bins.iter().enumerate() {
            let after = before + f64::from(n);
            if n > 0 && after >= wanted {
                // Decisions are spread evenly over their bin.
                let inside = ((wanted - before) / f64::from(n)).clamp(0.0, 1.0);
                return (bin as f64 + inside) * f64::from(WIDTH) - f64::from(REACH);
            }
            before = after;
        }
        f64::from(REACH)
    };
    (rounded(mean), PERCENTILES.map(|share| rounded(below(share))))
}

impl AtlasMargins {
    /// Whether there is a number for each of so many bands, layers and experts.
    pub(super) fn fits(&self, [bands, layers, experts]: [usize; 3]) -> bool {
        fn fits<T>(list: &[Vec<Vec<T>>], [bands, layers, experts]: [usize; 3]) -> bool {
            list.len() == bands
                && list.iter().all(|band| {
                    band.len() == layers && band.iter().all(|layer| layer.len() == experts)
                })
        }
        let shape = [bands, layers, experts];
        fits(&self.mean, shape) && fits(&self.percentiles, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::tests::{trace, trace_with_scores};

    #[test]
    fn means_and_percentiles_are_those_of_every_decision() {
        let run = trace_with_scores();
        let summary = MarginCounts::of(&run, Objective::Flow).unwrap().summary(2, 3);
        // Every pass is at noise 0.5, which is the third band.
        for layer in 0..2 {
            for expert in 0..3 {
                let mut margins: Vec<f32> = Vec::new();
                for pass in run.forwards().iter().filter(|f| f.branch == Branch::Conditional) {
                    let scores = pass.layers[layer].scores.as_ref().unwrap();
                    let threshold = logit(scores.thresholds[expert]);
                    margins
                        .extend((0..4).map(|t| scores.need[3 * t + expert].to_f32() - threshold));
                }
                let mean = margins.iter().sum::<f32>() / margins.len() as f32;
                assert!((summary.mean[2][layer][expert] - mean).abs() < 0.01);
                margins.sort_by(f32::total_cmp);
                for (share, &below) in
                    PERCENTILES.iter().zip(&summary.percentiles[2][layer][expert])
                {
                    let at = (share * margins.len() as f32).ceil() as usize;
                    let exact = margins[at.saturating_sub(1)];
                    assert!((below - exact).abs() <= WIDTH + 0.01, "{share}: {below} {exact}");
                }
                let none = summary.percentiles[0][layer][expert].map(f32::to_bits);
                assert_eq!(none, [0; 5], "no pass there");
            }
        }
        assert!(summary.fits([BANDS, 2, 3]) && !summary.fits([BANDS, 3, 2]));
        assert_eq!(MarginCounts::of(&trace(), Objective::Flow), None);
    }

    #[test]
    fn batches_add_up_to_the_whole() {
        let whole = MarginCounts::of(&trace_with_scores(), Objective::Flow).unwrap();
        let mut twice = whole.clone();
        twice.add(&whole);
        assert!(twice.fits(2, 3) && !twice.fits(2, 4));
        assert_eq!(twice.bins.iter().sum::<u32>(), 2 * whole.bins.iter().sum::<u32>());
        assert_eq!(twice.summary(2, 3), whole.summary(2, 3));
    }
}
