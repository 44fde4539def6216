//! How experts get their tokens at inference: the table of routing rules and the settings of a run.

/// How experts get their tokens at inference (spec §4.1, §8 quirk 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RoutingRule {
    /// Official: the capacity predictor says *how many* tokens of the pool an expert takes, the gate says *which*.
    Pool,
    /// Each token for itself: an expert takes the tokens whose predicted capacity exceeds its threshold.
    /// A sample's picture then does not depend on its batch mates.
    #[default]
    Token,
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
}

impl Routing {
    /// The threshold to compare with, given the checkpoint's.
    pub fn threshold(&self, checkpoint: f32) -> f32 {
        self.gamma.unwrap_or(checkpoint + self.shift)
    }
}
