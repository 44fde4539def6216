//! Routing at inference: the table of routing rules and the settings of a run.

use std::fmt;
use std::str::FromStr;

use super::names::choices;
use super::{Config, Kind};

choices! {
    /// How the experts of a `DiffMoE` model get their tokens at inference.
    ///
    /// The official code follows `Pool`; `Token` is the rule that the capacity predictor is trained for, and the one
    /// that keeps an image independent of its batch mates.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum RoutingRule: "routing rule" {
        #[default]
        Token = ("token", "Each token", "Each token separately: an expert takes the tokens \
            whose predicted need exceeds its threshold. An image does not depend on its batch."),
        Pool = ("pool", "Whole pool", "The paper's rule: the capacity predictor determines how \
            many tokens of the whole batch an expert takes, the gate selects them. Images of a \
            batch compete."),
    }
}

impl RoutingRule {
    /// Whether the images of a batch compete for experts, so that one depends on the others.
    pub fn couples_images(self) -> bool {
        match self {
            Self::Token => false,
            Self::Pool => true,
        }
    }
}

/// How the experts of a layer and their tokens find each other: what the kind of model and the rule come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The capacity predictor gives the number of tokens of a pool that an expert takes: those with the largest gates.
    Pool {
        /// Tokens of a pool; divides S. Pools do not compete with each other.
        pool: usize,
    },
    /// Each token separately: the tokens whose need exceeds the threshold.
    Token,
    /// EC-DiT: in each sample of `sample` tokens, the `k` tokens with the largest gates.
    ExpertChoice {
        /// T; divides S.
        sample: usize,
        /// Tokens per expert and sample, `⌊T/E · C⌋`.
        k: usize,
        /// Whether the last expert takes all tokens of some samples, of which the other experts take none. Where an
        /// expert is not asked, the gates of the sample are the least f16.
        alone: bool,
    },
    /// TC-DiT: each token goes to the `k` experts with the largest gates.
    TokenChoice {
        /// Experts per token.
        k: usize,
    },
}

/// The score of an expert that is not among those that a token may take; f16, in which scores are recorded, holds it exactly.
pub(crate) const NOT_ASKED: f32 = -65_504.0;

impl Selection {
    /// Of a model with experts, where `pool` tokens compete. The baselines route at inference as in training, whatever
    /// the rule.
    pub fn of(config: &Config, rule: RoutingRule, pool: usize) -> Self {
        match (config.kind, rule) {
            (Kind::Tc, _) => Self::TokenChoice { k: config.experts_of_token() },
            (Kind::Ec, _) => Self::ExpertChoice {
                sample: config.tokens(),
                k: config.tokens_of_expert(),
                alone: config.unconditional_row().is_some(),
            },
            (_, RoutingRule::Pool) => Self::Pool { pool },
            (_, RoutingRule::Token) => Self::Token,
        }
    }
}

/// Routing settings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Routing {
    /// The rule.
    pub rule: RoutingRule,
    /// One threshold γ for every expert and layer (paper Table 10) instead of the checkpoint's.
    pub gamma: Option<f32>,
    /// Added to the checkpoint's thresholds; positive saves compute. Ignored where `gamma` is set.
    pub shift: f32,
    /// Moves every threshold, γ included, by this many log-odds: thresholds near 0 and 1 move as far as others there.
    pub log_odds: f32,
}

impl Routing {
    /// The threshold to compare with, given the checkpoint's.
    pub fn threshold(&self, checkpoint: f32) -> f32 {
        moved(self.gamma.unwrap_or(checkpoint + self.shift), self.log_odds)
    }

    /// The thresholds in force in a layer, `[E]`: infinity where the bit of an expert in `muted` is 1, because no
    /// probability exceeds it.
    pub fn thresholds(&self, checkpoint: &[f32], muted: u64) -> Vec<f32> {
        let of = |(e, &threshold): (usize, &f32)| match muted >> e & 1 {
            0 => self.threshold(threshold),
            _ => f32::INFINITY,
        };
        checkpoint.iter().enumerate().map(of).collect()
    }
}

/// A threshold after a move by some log-odds.
pub(super) fn moved(threshold: f32, log_odds: f32) -> f32 {
    if log_odds == 0.0 {
        return threshold;
    }
    let probability = f64::from(threshold).clamp(0.0, 1.0);
    let odds = probability / (1.0 - probability) * libm::exp(f64::from(log_odds));
    if odds.is_finite() { (odds / (1.0 + odds)) as f32 } else { 1.0 }
}

/// Experts that are switched off for a run: they take no tokens, whatever the rule.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Muted {
    /// `(block, expert)`, ascending, each once.
    list: Vec<(usize, usize)>,
}

/// A muted expert that the model does not have, or text that does not name one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MutedError {
    /// Text in another form.
    #[error("invalid expert \"{0}\": expected BLOCK:EXPERT, as in 3:7")]
    Form(String),
    /// A block that does not exist or has no experts.
    #[error("block {block} has no experts; {}", blocks_with_experts(.blocks))]
    Block {
        /// The block.
        block: usize,
        /// The blocks of the model that have experts.
        blocks: Vec<usize>,
    },
    /// An expert beyond the last.
    #[error("block {block} has no expert {expert}; it has {experts}, numbered from 0")]
    Expert {
        /// The block.
        block: usize,
        /// The expert.
        expert: usize,
        /// `E`.
        experts: usize,
    },
}

fn blocks_with_experts(blocks: &[usize]) -> String {
    if blocks.is_empty() {
        return "this model has no experts".into();
    }
    let blocks: Vec<_> = blocks.iter().map(ToString::to_string).collect();
    format!("the blocks with experts are {}", blocks.join(", "))
}

impl Muted {
    /// Whether every expert works.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The muted experts as `(block, expert)`, in ascending order.
    pub fn list(&self) -> &[(usize, usize)] {
        &self.list
    }

    /// Whether an expert of a block is muted.
    pub fn contains(&self, block: usize, expert: usize) -> bool {
        self.list.binary_search(&(block, expert)).is_ok()
    }

    /// Mutes an expert, or lets it work again.
    pub fn toggle(&mut self, block: usize, expert: usize) {
        match self.list.binary_search(&(block, expert)) {
            Ok(place) => drop(self.list.remove(place)),
            Err(place) => self.list.insert(place, (block, expert)),
        }
    }

    /// Mutes all experts of a block but one.
    pub fn solo(&mut self, block: usize, expert: usize, experts: usize) {
        self.list.retain(|&(other, _)| other != block);
        self.list.extend((0..experts).filter(|&e| e != expert).map(|e| (block, e)));
        self.list.sort_unstable();
    }

    /// The muted experts of a block, one bit each.
    pub fn mask(&self, block: usize) -> u64 {
        let of_block = self.list.iter().filter(|muted| muted.0 == block);
        of_block.fold(0, |mask, &(_, expert)| mask | 1_u64.checked_shl(expert as u32).unwrap_or(0))
    }

    /// Checks that the model has these experts.
    ///
    /// # Errors
    /// The first that it does not have.
    pub fn check(&self, config: &Config) -> Result<(), MutedError> {
        for &(block, expert) in &self.list {
            if block >= config.depth || !config.is_moe(block) {
                return Err(MutedError::Block { block, blocks: config.moe_blocks() });
            }
            if expert >= config.num_experts {
                return Err(MutedError::Expert { block, expert, experts: config.num_experts });
            }
        }
        Ok(())
    }
}

impl FromIterator<(usize, usize)> for Muted {
    fn from_iter<I: IntoIterator<Item = (usize, usize)>>(experts: I) -> Self {
        let mut list: Vec<_> = experts.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        Self { list }
    }
}

/// One expert as `BLOCK:EXPERT`, several separated by commas; nothing for none.
impl fmt::Display for Muted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (block, expert)) in self.list.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{block}:{expert}")?;
        }
        Ok(())
    }
}

impl FromStr for Muted {
    type Err = MutedError;

    fn from_str(text: &str) -> Result<Self, MutedError> {
        let expert = |part: &str| {
            let (block, expert) = part.split_once(':')?;
            Some((block.trim().parse().ok()?, expert.trim().parse().ok()?))
        };
        let parts = text.split(',').filter(|part| !part.trim().is_empty());
        parts.map(|part| expert(part).ok_or_else(|| MutedError::Form(part.into()))).collect()
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these numbers are exact")]
mod tests {
    use super::*;

    #[test]
    fn images_compete_under_one_rule() {
        assert!(RoutingRule::Pool.couples_images() && !RoutingRule::Token.couples_images());
    }

    #[test]
    fn blocks_with_experts_are_listed() {
        assert_eq!(blocks_with_experts(&[]), "this model has no experts");
        assert_eq!(blocks_with_experts(&[1, 3]), "the blocks with experts are 1, 3");
    }

    #[test]
    fn thresholds_move_by_differences_or_by_log_odds() {
        let routing = Routing { shift: 0.25, ..Routing::default() };
        assert_eq!(routing.threshold(0.5), 0.75);
        assert_eq!(Routing { gamma: Some(0.3), ..routing }.threshold(0.5), 0.3);
        let by = |log_odds| Routing { log_odds, ..Routing::default() };
        assert!((by(3.0_f32.ln()).threshold(0.5) - 0.75).abs() < 1e-6);
        assert!((by(-2.0).threshold(by(2.0).threshold(0.9)) - 0.9).abs() < 1e-6);
        assert!(
            (Routing { gamma: Some(0.5), ..by(1.0) }.threshold(0.1) - 0.731_058_6).abs() < 1e-6
        );
        assert_eq!([0.0, 1.0, 7.0].map(|t| by(2.0).threshold(t)), [0.0, 1.0, 1.0]);
    }

    #[test]
    fn muted_experts_are_written_as_they_are_read() {
        let muted: Muted = "5:2, 1:7,5:2,1:0".parse().unwrap();
        assert_eq!(muted.list(), [(1, 0), (1, 7), (5, 2)]);
        assert_eq!(muted.to_string(), "1:0,1:7,5:2");
        assert_eq!([0, 1, 5].map(|block| muted.mask(block)), [0, 0b1000_0001, 0b100]);
        assert_eq!("".parse(), Ok(Muted::default()));
        for wrong in ["3", "3:", ":1", "3:x", "3:-1", "1:0,7"] {
            let error = wrong.parse::<Muted>().unwrap_err().to_string();
            assert!(error.contains("BLOCK:EXPERT"), "{error}");
        }
    }

    #[test]
    fn an_expert_is_muted_and_unmuted_and_alone() {
        let mut muted = Muted::from_iter([(1, 3)]);
        muted.toggle(1, 0);
        assert!(muted.contains(1, 0) && muted.contains(1, 3) && !muted.contains(3, 0));
        muted.toggle(1, 3);
        assert_eq!(muted.list(), [(1, 0)]);
        muted.toggle(3, 1);
        muted.solo(1, 2, 4);
        assert_eq!(muted.to_string(), "1:0,1:1,1:3,3:1");
    }
}
