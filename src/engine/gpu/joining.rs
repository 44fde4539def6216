//! Both branches of guidance in one pass.
//!
//! Guidance asks for a pass with the labels and prompts of the run, and for one without them. Both see the same sample
//! at the same time, so one pass over `2B` samples can compute them, with a token pool for each branch: half the
//! dispatches, and weights are read once. No row of a product depends on its neighbours and every pool chooses for
//! itself, so the results are those of two passes, bit by bit.

use super::activations::{bytes, sizes};
use crate::gpu::Profile;
use crate::kernels::packed_rows;
use crate::model::{Config, choices};
use crate::scheduler::{Branch, Instruction, Latent};

choices! {
    /// How a GPU computes the branches of guidance; the results are the same. [`Branches::are_joined`] decides.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum Branches: "form of guidance" {
        #[default]
        Suitable = ("suitable", "Suitable", "In one pass where that suits model, batch and device."),
        Together = ("together", "Together", "In one pass where the device has room for it."),
        Apart = ("apart", "Apart", "In two passes, one after the other."),
    }
}

/// Operations of the largest dispatch in a joined pass. More keep a GPU busy by themselves, so that joining would gain
/// a few per cent. They also take longer than the 8 ms that a user interface hands out at once, on an integrated GPU
/// with half a TFLOP/s, and a dispatch cannot be cut.
const MOST_OPERATIONS: u64 = 1 << 32;

impl Branches {
    /// Whether a guided step of `batch` samples computes both branches in one pass: the one place that decides.
    ///
    /// Nothing of a joined pass may have to be split, because parts of the experts' rows are added in another order
    /// than the whole. Unless it was asked for, branches are also kept apart where a dispatch would become too long:
    /// with large products, and on software adapters, where dispatches cost little and last long.
    pub fn are_joined(
        self,
        config: &Config,
        batch: usize,
        profile: Profile,
        binding_limit: u64,
    ) -> bool {
        let fits = || is_whole(config, 2 * batch, binding_limit);
        let is_short = || largest_dispatch(config, 2 * batch) <= MOST_OPERATIONS;
        match self {
            Self::Suitable => profile == Profile::Gpu && is_short() && fits(),
            Self::Together => fits(),
            Self::Apart => false,
        }
    }
}

/// Whether every buffer of a pass over so many samples fits a binding, and the experts' rows need no parts.
fn is_whole(config: &Config, batch: usize, binding_limit: u64) -> bool {
    let tokens = batch * config.stream_tokens();
    let rows = |columns| packed_rows(binding_limit, config.num_experts, tokens, columns);
    let worst = config.num_experts * tokens;
    let fits = |shape: &[usize]| bytes(shape) <= binding_limit;
    [config.expert_hidden, config.hidden_size].into_iter().all(|columns| rows(columns) == worst)
        && sizes(config, batch, binding_limit).iter().all(|(_, shape)| fits(shape))
}

/// Multiplications and additions of the largest dispatch in a pass over so many samples, experts at C = 1.
fn largest_dispatch(config: &Config, batch: usize) -> u64 {
    let [tokens, d, ffn] =
        [config.stream_tokens(), config.hidden_size, config.ffn_hidden.max(config.expert_hidden)]
            .map(|n| n as u64);
    let attention = (config.num_heads * config.head_dim) as u64;
    let widest = (3 * attention).max(ffn).max(config.shared_hidden as u64);
    2 * batch as u64 * tokens * (d * widest).max(2 * tokens * attention)
}

/// One instruction, or two that are carried out as one.
pub(super) enum Part<'a> {
    /// Forward passes over both branches, the results in this output and the next.
    Joined {
        input: Latent,
        output: Latent,
        time: f32,
    },
    Single(&'a Instruction),
}

impl<'a> Part<'a> {
    /// The parts of a step, with branches joined or apart.
    pub(super) fn of_step(ops: &'a [Instruction], joins: bool) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut rest = ops;
        while let [op, after @ ..] = rest {
            let joined = after.first().filter(|_| joins).and_then(|next| Self::joined(op, next));
            rest = if joined.is_some() { &after[1..] } else { after };
            parts.push(joined.unwrap_or(Self::Single(op)));
        }
        parts
    }

    /// Both as one, where they are the two branches of the same sample at the same time.
    fn joined(first: &Instruction, second: &Instruction) -> Option<Self> {
        use Branch::{Conditional, Unconditional};
        let (
            &Instruction::Forward { input, output, time, branch: Conditional },
            &Instruction::Forward {
                input: other,
                output: after,
                time: other_time,
                branch: Unconditional,
            },
        ) = (first, second)
        else {
            return None;
        };
        let (Latent::Output(to), Latent::Output(next)) = (output, after) else { return None };
        let is_same = input == other && time.to_bits() == other_time.to_bits();
        (is_same && next == to + 1).then_some(Self::Joined { input, output, time })
    }

    /// Time and labels of the forward passes that it stands for.
    pub(super) fn passes(&self) -> Vec<(f32, Branch)> {
        match *self {
            Self::Joined { time, .. } => {
                vec![(time, Branch::Conditional), (time, Branch::Unconditional)]
            }
            Self::Single(op) => op.passes(),
        }
    }

    /// Those of [`Part::passes`] whose routing is recorded.
    pub(super) fn recorded_passes(&self) -> Vec<(f32, Branch)> {
        match *self {
            Self::Joined { input, .. } if !input.is_recorded() => Vec::new(),
            Self::Joined { .. } => self.passes(),
            Self::Single(op) => op.recorded_passes(),
        }
    }
}

#[cfg(test)]
#[path = "joining_tests.rs"]
mod tests;
