//! Which tokens each expert takes: counts, lists and positions, without a read-back.
//! The result is a function of the inputs alone, bit by bit (see the shader for how).

use crate::gpu::{Kernel, Profile, Shader, Tensor};
#[cfg(test)]
use crate::model::NOT_ASKED;
use crate::model::Selection;

/// The position where an expert does not take a token.
pub const NOT_TAKEN: u32 = u32::MAX;

/// The threshold of an expert that takes no tokens. Not infinity, because WGSL does not promise what comparing with
/// that gives.
pub const MUTED: f32 = 2.0;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    tokens: u32,
    experts: u32,
    segment: u32,
    rule: u32,
    k: u32,
    alone: u32,
}

/// Arguments. Ties go to the lowest token (for [`Selection::TokenChoice`]: expert).
pub struct RouteSelect<'a> {
    /// Softmax over experts, `[S, E]`; never negative. With token choice the only weight of a token that is not 0 may have
    /// any sign, with expert choice all may.
    pub gate: &'a Tensor,
    /// Sigmoid of the capacity predictor, `[S, E]`; read by `Pool` and `Token` only.
    pub need: &'a Tensor,
    /// Thresholds to compare with, `[E]`, strictly: the checkpoint's, a fixed γ, or shifted. An expert with a
    /// threshold above 1 ([`MUTED`]) takes no token under any rule; `ExpertChoice` and `TokenChoice` read nothing else of it.
    pub thresholds: &'a Tensor,
    /// The rule.
    pub selection: Selection,
    /// Out, u32: `n_e`, `[E]`.
    pub counts: &'a Tensor,
    /// Out, u32: position of the token in the expert's list or [`NOT_TAKEN`], `[S, E]`.
    pub positions: &'a Tensor,
    /// Out, u32: tokens of each expert, ascending, `[E, S]`; row e is valid up to `n_e`.
    pub chosen: &'a Tensor,
}

impl Kernel for RouteSelect<'_> {
    const SHADER: Shader = shader!("route_select", consts: [NONE = NOT_TAKEN]);
    type Params = Params;

    fn params(&self) -> Params {
        let &[tokens, experts] = &*self.gate.shape else { panic!("gate {:?}", self.gate.shape) };
        assert_eq!(self.counts.len(), experts);
        assert_eq!(self.positions.shape, [tokens, experts]);
        assert_eq!(self.chosen.shape, [experts, tokens]);
        let mut is_alone = false;
        let (rule, segment, k) = match self.selection {
            Selection::Pool { pool } => {
                assert!(tokens.is_multiple_of(pool), "pools of {pool} in {tokens}");
                (0, pool, 0)
            }
            Selection::Token => (1, tokens, 0),
            Selection::ExpertChoice { sample, k, alone } => {
                is_alone = alone;
                assert!(
                    tokens.is_multiple_of(sample) && k <= sample,
                    "{k} of {sample} in {tokens}"
                );
                (2, sample, k)
            }
            Selection::TokenChoice { k } => (3, tokens, k),
        };
        if rule < 2 {
            assert_eq!(self.need.shape, self.gate.shape);
        }
        assert_eq!(self.thresholds.len(), experts);
        Params {
            tokens: tokens as u32,
            experts: experts as u32,
            segment: segment as u32,
            rule,
            k: k as u32,
            alone: is_alone.into(),
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.gate, self.need, self.thresholds, self.counts, self.positions, self.chosen]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        let segments = match self.selection {
            Selection::ExpertChoice { sample: segment, .. } | Selection::Pool { pool: segment } => {
                self.gate.shape[0] / segment
            }
            Selection::Token | Selection::TokenChoice { .. } => 1,
        };
        [self.gate.shape[1] as u32, segments as u32, 1]
    }
}

/// The tokens of each expert, ascending: the same on the processor, by sorting.
#[cfg(test)]
pub(crate) fn reference(
    gate: &[f32],
    need: &[f32],
    thresholds: &[f32],
    experts: usize,
    selection: Selection,
) -> Vec<Vec<u32>> {
    let tokens = gate.len() / experts;
    let passes = |s: usize, e: usize| need[s * experts + e] > thresholds[e];
    // Stable, so that equal gates stay in token order.
    let largest = |range: std::ops::Range<usize>, n: usize, e: usize| -> Vec<u32> {
        let mut order: Vec<usize> = range.collect();
        order.sort_by(|&a, &b| gate[b * experts + e].total_cmp(&gate[a * experts + e]));
        let mut taken: Vec<u32> = order[..n].iter().map(|&s| s as u32).collect();
        taken.sort_unstable();
        taken
    };
    let is_choice = |s: usize, e: usize, k: usize| {
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| gate[s * experts + b].total_cmp(&gate[s * experts + a]));
        order.iter().take(k).any(|&i| i == e)
    };
    let of = |e: usize| -> Vec<u32> {
        match selection {
            _ if thresholds[e] > 1.0 => Vec::new(),
            Selection::Pool { pool } => (0..tokens)
                .step_by(pool)
                .flat_map(|first| {
                    let range = first..first + pool;
                    let n = range.clone().filter(|&s| passes(s, e)).count();
                    largest(range, n, e)
                })
                .collect(),
            Selection::Token => (0..tokens).filter(|&s| passes(s, e)).map(|s| s as u32).collect(),
            Selection::ExpertChoice { sample, k, alone } => (0..tokens)
                .step_by(sample)
                .flat_map(|first| {
                    let count = match alone {
                        true if gate[first * experts + e] <= NOT_ASKED => 0,
                        true if e + 1 == experts => sample,
                        _ => k,
                    };
                    largest(first..first + sample, count, e)
                })
                .collect(),
            Selection::TokenChoice { k } => {
                (0..tokens).filter(|&s| is_choice(s, e, k)).map(|s| s as u32).collect()
            }
        }
    };
    (0..experts).map(of).collect()
}

/// The positions `[S, E]` of these lists.
#[cfg(test)]
pub(crate) fn reference_positions(lists: &[Vec<u32>], tokens: usize) -> Vec<u32> {
    let mut positions = vec![NOT_TAKEN; tokens * lists.len()];
    for (e, list) in lists.iter().enumerate() {
        for (position, &s) in list.iter().enumerate() {
            positions[s as usize * lists.len() + e] = position as u32;
        }
    }
    positions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gpu::testing::{poisoned, read_u32, run, spiky, tensor};

    /// Routes on the device and compares every output with the reference, exactly.
    fn check(gate: &[f32], need: &[f32], thresholds: &[f32], selection: Selection) {
        let e = thresholds.len();
        let s = gate.len() / e;
        let (counts, positions, chosen) = (poisoned(&[e]), poisoned(&[s, e]), poisoned(&[e, s]));
        run(&RouteSelect {
            gate: &tensor(&[s, e], gate),
            need: &tensor(&[s, e], need),
            thresholds: &tensor(&[e], thresholds),
            selection,
            counts: &counts,
            positions: &positions,
            chosen: &chosen,
        });
        let want = reference(gate, need, thresholds, e, selection);
        let counts = read_u32(&counts);
        let chosen = read_u32(&chosen);
        for (i, list) in want.iter().enumerate() {
            let n = counts[i] as usize;
            assert_eq!(n, list.len(), "{selection:?}: count of expert {i} of {e}, {s} tokens");
            assert_eq!(
                chosen[i * s..i * s + n],
                **list,
                "{selection:?}: expert {i} of {e}, {s} tokens"
            );
        }
        // Equal to the reference's map, so also a bijection between places and tokens.
        assert_eq!(read_u32(&positions), reference_positions(&want, s), "{selection:?}: positions");
    }

    /// Rows that sum to 1, from few distinct values where `levels` is small: many ties.
    fn softmax_rows(s: usize, e: usize, seed: u32, levels: f32) -> Vec<f32> {
        let mut rows = spiky(s * e, seed, 2.0);
        for row in rows.chunks_mut(e) {
            for v in row.iter_mut() {
                *v = (*v * levels).round() / levels;
            }
            let sum: f32 = row.iter().map(|v| v.exp()).sum();
            for v in row.iter_mut() {
                *v = v.exp() / sum;
            }
        }
        rows
    }

    fn sigmoids(len: usize, seed: u32) -> Vec<f32> {
        spiky(len, seed, 1.5).into_iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect()
    }

    #[test]
    fn both_rules_choose_the_exact_sets_at_awkward_sizes() {
        for (s, e) in [
            (1, 1),
            (2, 3),
            (77, 5),
            (255, 4),
            (256, 4),
            (257, 4),
            (1024, 16),
            (1757, 32),
            (4099, 2),
        ] {
            let gate = softmax_rows(s, e, 11, 1e4);
            let need = sigmoids(s * e, 12);
            let thresholds: Vec<f32> = (0..e).map(|i| 0.3 + 0.4 * i as f32 / e as f32).collect();
            check(&gate, &need, &thresholds, Selection::Pool { pool: s });
            check(&gate, &need, &thresholds, Selection::Token);
        }
    }

    #[test]
    fn pools_choose_as_each_would_alone() {
        for (pools, pool, e) in [(2, 1, 3), (2, 64, 8), (3, 77, 5), (2, 513, 4)] {
            let s = pools * pool;
            let gate = softmax_rows(s, e, 61, 20.0);
            let need = sigmoids(s * e, 62);
            let mut thresholds: Vec<f32> = (0..e).map(|i| 0.3 + 0.1 * i as f32).collect();
            check(&gate, &need, &thresholds, Selection::Pool { pool });
            let alone = |range: std::ops::Range<usize>| {
                let part = |values: &[f32]| values[range.start * e..range.end * e].to_vec();
                let (gate, need) = (part(&gate), part(&need));
                reference(&gate, &need, &thresholds, e, Selection::Pool { pool })
            };
            let together = reference(&gate, &need, &thresholds, e, Selection::Pool { pool });
            for (i, list) in together.iter().enumerate() {
                let of_pools = (0..pools).flat_map(|p| {
                    let first = p * pool;
                    let own = alone(first..first + pool).swap_remove(i);
                    own.into_iter().map(move |s| s + first as u32)
                });
                assert!(of_pools.eq(list.iter().copied()), "expert {i}");
            }
            thresholds[1] = MUTED;
            check(&gate, &need, &thresholds, Selection::Pool { pool });
        }
    }

    #[test]
    fn ties_at_the_cut_go_to_the_lowest_tokens() {
        // All gates equal: the first n tokens win, whatever n is.
        let (s, e) = (700, 3);
        let gate = vec![1.0 / 3.0; s * e];
        let need = sigmoids(s * e, 21);
        check(&gate, &need, &[0.2, 0.5, 0.8], Selection::Pool { pool: s });
        // A few distinct values, so that the cut falls inside a tie.
        let few = softmax_rows(s, e, 22, 1.0);
        check(&few, &need, &[0.4, 0.5, 0.6], Selection::Pool { pool: s });
        check(&few, &need, &[0.4, 0.5, 0.6], Selection::Pool { pool: s / 2 });
        check(
            &softmax_rows(s, e, 22, 1.0),
            &need,
            &[0.4, 0.5, 0.6],
            Selection::TokenChoice { k: 2 },
        );
    }

    #[test]
    fn an_expert_may_take_no_token_or_every_token() {
        for s in [5, 256, 777] {
            let gate = softmax_rows(s, 4, 31, 50.0);
            let need = sigmoids(s * 4, 32);
            // No score exceeds 1; all exceed 0, as in a fresh model; equality does not count.
            let mut tied = need.clone();
            for p in tied.iter_mut().skip(3).step_by(4) {
                *p = 0.5;
            }
            for selection in [Selection::Pool { pool: s }, Selection::Token] {
                check(&gate, &tied, &[1.0, 0.0, 0.5, 0.5], selection);
            }
        }
    }

    #[test]
    fn the_cut_is_found_among_gates_that_differ_in_their_last_bit() {
        let (s, e) = (600, 2);
        let base = 0.25f32.to_bits();
        // A permutation of 600 neighbouring floats, and zeros and subnormals for the other expert.
        let gate: Vec<f32> = (0..s as u32)
            .flat_map(|i| [f32::from_bits(base + i * 7 % 600), f32::from_bits(i * 11 % 600 / 2)])
            .collect();
        let need: Vec<f32> = (0..s * e).map(|i| (i % 10) as f32 / 10.0).collect();
        check(&gate, &need, &[0.35, 0.55], Selection::Pool { pool: s });
    }

    #[test]
    fn baselines_route_by_sample_and_by_token() {
        for (samples, t, e, k) in [(1, 7, 2, 3), (3, 64, 4, 16), (5, 257, 3, 85), (2, 300, 8, 300)]
        {
            let gate = softmax_rows(samples * t, e, 41, 20.0);
            // Their need is not read: NaN must not matter.
            let nothing = vec![f32::NAN; gate.len()];
            let none = vec![0.0; e];
            check(&gate, &nothing, &none, Selection::ExpertChoice { sample: t, k, alone: false });
            for k in 0..=e.min(3) {
                check(&gate, &nothing, &none, Selection::TokenChoice { k });
            }
        }
    }

    #[test]
    fn experts_choose_by_cosines_and_the_last_one_has_samples_of_its_own() {
        for (samples, t, e, k) in [(1, 7, 2, 3), (4, 64, 4, 16), (5, 257, 3, 85), (3, 300, 8, 300)]
        {
            let is_alone = |token: usize| token / t % 3 == 1;
            // From -1 to 1, many of them equal.
            let mut gate: Vec<f32> = spiky(samples * t * e, 71, 1.0);
            for v in &mut gate {
                *v = (v.clamp(-1.0, 1.0) * 20.0).round() / 20.0;
            }
            let nothing = vec![f32::NAN; gate.len()];
            let mut thresholds = vec![0.0; e];
            check(
                &gate,
                &nothing,
                &thresholds,
                Selection::ExpertChoice { sample: t, k, alone: false },
            );
            for (token, row) in gate.chunks_mut(e).enumerate() {
                row[e - 1] = NOT_ASKED;
                if is_alone(token) {
                    row.fill(NOT_ASKED);
                    row[e - 1] = 1.0;
                }
            }
            let selection = Selection::ExpertChoice { sample: t, k, alone: true };
            check(&gate, &nothing, &thresholds, selection);
            thresholds[0] = MUTED;
            check(&gate, &nothing, &thresholds, selection);
            thresholds[e - 1] = MUTED;
            check(&gate, &nothing, &thresholds, selection);
        }
    }

    #[test]
    fn a_muted_expert_takes_no_token_under_any_rule() {
        let (samples, t, e) = (3, 100, 4);
        let gate = softmax_rows(samples * t, e, 51, 20.0);
        let need = sigmoids(samples * t * e, 52);
        let selections = [
            Selection::Pool { pool: samples * t },
            Selection::Pool { pool: t },
            Selection::Token,
            Selection::ExpertChoice { sample: t, k: 30, alone: false },
            Selection::TokenChoice { k: 2 },
        ];
        for selection in selections {
            for muted in [vec![0.5, MUTED, 0.5, 0.5], vec![MUTED; 4]] {
                check(&gate, &need, &muted, selection);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_scores_select_the_reference_sets(
            s in 1usize..600,
            e in 1usize..9,
            seed in 1u32..1_000_000,
            levels in prop::sample::select(vec![0.5f32, 2.0, 1e4]),
            thresholds in prop::collection::vec(0.0f32..1.0, 8),
        ) {
            let gate = softmax_rows(s, e, seed, levels);
            let need = sigmoids(s * e, seed + 1);
            check(&gate, &need, &thresholds[..e], Selection::Pool { pool: s });
            let pool = if s % 2 == 0 { s / 2 } else { 1 };
            check(&gate, &need, &thresholds[..e], Selection::Pool { pool });
            check(&gate, &need, &thresholds[..e], Selection::Token);
        }
    }
}
