//! The router's scores for a token and an expert: how much the expert was needed, the distance from
//! the threshold, and what would have been chosen elsewhere.
//!
//! Everything is `None` where the run did not record scores ([`crate::engine::RunConfig::record_scores`]). Tokens
//! count through the pool: token `t` of image `p` is `p·T + t`.

use super::{At, Trace};
use crate::engine::Scores;

/// Need minus threshold in log-odds for every token of the pool and every expert of a layer, `[S, E]`. Positive where
/// the capacity predictor selects the expert: under the rule `token` these are the tokens that it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Margins {
    /// `[S, E]`, token by token. Negative infinity for a muted expert, never NaN.
    pub values: Vec<f32>,
    /// `E`.
    pub experts: usize,
}

/// The log-odds of a probability, `ln(p / (1 − p))`: -∞ from 0 down and +∞ from 1 up.
pub fn logit(probability: f32) -> f32 {
    let p = f64::from(probability).clamp(0.0, 1.0);
    (p / (1.0 - p)).ln() as f32
}

/// The probability of log-odds.
fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

impl Scores {
    /// `E` of a layer with `tokens` in the pool.
    fn experts(&self, tokens: usize) -> usize {
        self.gate.len() / tokens.max(1)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        2 * (self.gate.len() + self.need.len()) + 4 * self.thresholds.len()
    }

    /// The thresholds in log-odds, `[E]`; empty in a model without a capacity predictor.
    pub fn threshold_logits(&self) -> Vec<f32> {
        self.thresholds.iter().map(|&threshold| logit(threshold)).collect()
    }

    /// All margins of the layer; `None` in a model without a capacity predictor.
    pub fn margins(&self) -> Option<Margins> {
        let thresholds = self.threshold_logits();
        if thresholds.is_empty() {
            return None;
        }
        let rows = self.need.chunks_exact(thresholds.len());
        let margins = rows.flat_map(|row| {
            row.iter().zip(&thresholds).map(|(need, threshold)| need.to_f32() - threshold)
        });
        Some(Margins { values: margins.collect(), experts: thresholds.len() })
    }
}

impl Margins {
    /// First-order answer to "what if all thresholds were shifted by this many log-odds": one mask for each token.
    /// Activations stay as they were in this run, and the rule is `token`.
    pub fn masks(&self, shift: f32) -> Vec<u64> {
        let bit = |(e, &margin): (usize, &f32)| u64::from(margin > shift) << e;
        let rows = self.values.chunks_exact(self.experts.max(1));
        rows.map(|row| row.iter().enumerate().map(bit).sum()).collect()
    }

    /// `C` of these masks: pairs of token and expert whose margin exceeds the shift, over tokens.
    pub fn capacity(&self, shift: f32) -> f32 {
        let taken = self.values.iter().filter(|&&margin| margin > shift).count();
        taken as f32 * self.experts as f32 / self.values.len().max(1) as f32
    }
}

impl Trace {
    /// Whether the run recorded its scores.
    pub fn has_scores(&self) -> bool {
        let layer = self.forwards.iter().flat_map(|forward| &forward.layers).next();
        layer.is_some_and(|layer| layer.scores.is_some())
    }

    /// The scores of a layer in a pass.
    pub fn scores(&self, at: At) -> Option<&Scores> {
        self.layer(at)?.scores.as_ref()
    }

    /// The capacity predictor's log-odds for a token and an expert; `None` also in a model without one.
    pub fn need(&self, at: At, token: usize, expert: usize) -> Option<f32> {
        self.row(at, token, |scores| &scores.need)?.get(expert).copied()
    }

    /// The capacity predictor's probability, 0 to 1.
    pub fn need_probability(&self, at: At, token: usize, expert: usize) -> Option<f32> {
        self.need(at, token, expert).map(sigmoid)
    }

    /// The threshold in force for an expert, as a probability; infinite for a muted one.
    pub fn threshold(&self, at: At, expert: usize) -> Option<f32> {
        self.scores(at)?.thresholds.get(expert).copied()
    }

    /// Need minus threshold in log-odds. The rounding of f16 may turn the sign of a margin next to 0; who took the
    /// token is in the masks.
    pub fn margin(&self, at: At, token: usize, expert: usize) -> Option<f32> {
        Some(self.need(at, token, expert)? - logit(self.threshold(at, expert)?))
    }

    /// Gates of a token before their softmax, `[E]`.
    pub fn gate_logits(&self, at: At, token: usize) -> Option<Vec<f32>> {
        self.row(at, token, |scores| &scores.gate)
    }

    /// Gates of a token, `[E]`: softmax over experts, the factors of what they add. With a sigmoid router the shares of the
    /// experts in all scores, to which the factors of those that are taken are proportional. With a router by prototypes
    /// they grow with the cosines, which are the factors themselves.
    pub fn gate_probabilities(&self, at: At, token: usize) -> Option<Vec<f32>> {
        let logits = self.gate_logits(at, token)?;
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = logits.iter().map(|logit| (logit - highest).exp()).collect();
        let sum: f32 = powers.iter().sum();
        Some(powers.into_iter().map(|power| power / sum).collect())
    }

    /// The experts' scores of one token, `[E]`.
    fn row(
        &self,
        at: At,
        token: usize,
        part: impl Fn(&Scores) -> &[half::f16],
    ) -> Option<Vec<f32>> {
        let layer = self.layer(at)?;
        let scores = layer.scores.as_ref()?;
        let experts = scores.experts(layer.masks.len());
        let row = part(scores).chunks_exact(experts.max(1)).nth(token)?;
        Some(row.iter().map(|value| value.to_f32()).collect())
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use half::f16;

    use super::*;
    use crate::scheduler::Branch;
    use crate::trace::tests::trace_with_scores;

    #[test]
    fn log_odds_reach_from_one_end_to_the_other() {
        assert_eq!([0.0, -0.5].map(logit), [f32::NEG_INFINITY; 2]);
        assert_eq!([1.0, 1.5, f32::INFINITY].map(logit), [f32::INFINITY; 3]);
        assert_eq!(logit(0.5), 0.0);
        for p in [1e-6, 0.1, 0.25, 0.9, 0.999] {
            assert!((sigmoid(logit(p)) - p).abs() < 1e-6, "{p}");
        }
    }

    #[test]
    fn margins_are_positive_where_the_expert_took_the_token() {
        let trace = trace_with_scores();
        for forward in trace.forwards() {
            let at = At { step: forward.step, layer: 0, branch: forward.branch };
            let layer = trace.layer(at).unwrap();
            let margins = layer.scores.as_ref().unwrap().margins().unwrap();
            assert_eq!(margins.masks(0.0), layer.masks);
            assert_eq!(margins.capacity(0.0), layer.capacity());
            assert_eq!(margins.capacity(f32::NEG_INFINITY), 3.0);
            for (token, mask) in layer.masks.iter().enumerate() {
                for expert in 0..3 {
                    let margin = trace.margin(at, token, expert).unwrap();
                    assert_eq!(margin, margins.values[token * 3 + expert]);
                    assert_eq!(margin > 0.0, mask >> expert & 1 == 1);
                }
            }
        }
    }

    #[test]
    fn a_margin_that_equals_the_shift_is_not_above_it() {
        let margins = Margins { values: vec![0.5, 0.25, -1.0, 0.75], experts: 2 };
        assert_eq!(margins.masks(0.5), [0b00, 0b10]);
        assert_eq!(margins.capacity(0.5), 0.5);
        assert_eq!(margins.masks(0.25), [0b01, 0b10]);
    }

    #[test]
    fn bytes_are_counted() {
        let trace = trace_with_scores();
        let scores = trace.forwards()[0].layers[0].scores.as_ref().unwrap();
        assert_eq!(scores.bytes(), (12 + 12) * 2 + 3 * 4);
        assert_eq!(trace.bytes(), 6 * (4 * 4 + 60));
    }

    #[test]
    fn a_token_is_read_from_its_own_row() {
        let trace = trace_with_scores();
        let at = At { step: 0, layer: 1, branch: Branch::Conditional };
        let scores = trace.scores(at).unwrap();
        for token in 0..4 {
            let want: Vec<f32> = scores.gate[token * 3..][..3].iter().map(|g| g.to_f32()).collect();
            assert_eq!(trace.gate_logits(at, token).unwrap(), want);
            let gates = trace.gate_probabilities(at, token).unwrap();
            assert!((gates.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            let ratio = (want[0] - want[2]).exp();
            assert!((gates[0] / gates[2] / ratio - 1.0).abs() < 1e-5);
            assert!((gates.iter().copied().fold(0.0, f32::max) - gates[0]).abs() < 1.0);
        }
        let need = trace.need(at, 2, 1).unwrap();
        assert_eq!(f16::from_f32(need), scores.need[7]);
        assert!((logit(trace.need_probability(at, 2, 1).unwrap()) - need).abs() < 1e-3);
        assert_eq!(trace.margin(at, 4, 0), None, "no such token");
        assert_eq!(trace.margin(at, 0, 3), None, "no such expert");
        assert_eq!(crate::trace::tests::trace().margin(at, 0, 0), None, "no scores");
    }
}
