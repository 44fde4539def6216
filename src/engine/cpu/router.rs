//! Which expert takes which token: the selections of the routing rules and of the baselines.
//!
//! A routing is one bit mask per token of the pool, bit `e` for expert `e`. Where two scores are equal
//! the lower token (or, with token choice, the lower expert) wins, so every device agrees.

use std::cmp::Reverse;

use crate::model::{NOT_ASKED, Selection};

/// What selections look at, over all `S` tokens of a pass.
pub(super) struct RouteSelect<'a> {
    /// Weights of the experts, `[S, E]`: softmax of the gate, what [`weigh_chosen`] or [`weigh_nearest`] leaves, or cosines.
    pub(super) gate: &'a [f32],
    /// Sigmoid of the capacity predictor, `[S, E]`; empty unless the model is a `DiffMoE`.
    pub(super) need: &'a [f32],
    /// The thresholds in force, `[E]`; empty likewise.
    pub(super) thresholds: &'a [f32],
    /// Experts that take no tokens, one bit each.
    pub(super) muted: u64,
}

/// Fills `masks`, `[S]`.
pub(super) fn route(selection: Selection, experts: usize, select: &RouteSelect, masks: &mut [u64]) {
    masks.fill(0);
    match selection {
        Selection::TokenChoice { k } => token_choice(k, experts, select.gate, masks),
        Selection::ExpertChoice { sample, k, alone } => {
            let gates = select.gate.chunks_exact(sample * experts);
            for (gate, masks) in gates.zip(masks.chunks_exact_mut(sample)) {
                for e in 0..experts {
                    // All tokens of a sample are asked, or none.
                    let count = match alone {
                        true if gate[e] <= NOT_ASKED => 0,
                        true if e + 1 == experts => sample,
                        _ => k,
                    };
                    take_best(count, e, experts, gate, masks);
                }
            }
        }
        Selection::Pool { pool } => {
            let [gates, needs] =
                [select.gate, select.need].map(|scores| scores.chunks_exact(pool * experts));
            for ((gate, need), masks) in gates.zip(needs).zip(masks.chunks_exact_mut(pool)) {
                for e in 0..experts {
                    let above = predicted(e, need, select.thresholds).filter(|&above| above);
                    take_best(above.count(), e, experts, gate, masks);
                }
            }
        }
        Selection::Token => {
            for e in 0..experts {
                let above = predicted(e, select.need, select.thresholds);
                for (mask, above) in masks.iter_mut().zip(above) {
                    *mask |= u64::from(above) << e;
                }
            }
        }
    }
    // An infinite threshold has kept them out already where there are thresholds.
    if select.muted != 0 {
        for mask in masks {
            *mask &= !select.muted;
        }
    }
}

/// For each token, whether the capacity predictor selects it for expert `e`: strictly above the threshold.
fn predicted(e: usize, need: &[f32], thresholds: &[f32]) -> impl Iterator<Item = bool> {
    let threshold = thresholds[e];
    need.iter().skip(e).step_by(thresholds.len()).map(move |&p| p > threshold)
}

/// Expert `e` takes the `count` tokens with the highest gate scores.
fn take_best(count: usize, e: usize, experts: usize, gate: &[f32], masks: &mut [u64]) {
    let mut order: Vec<usize> = (0..masks.len()).collect();
    if count < order.len() {
        let score = |token: usize| gate[token * experts + e];
        let better = |a: &usize, b: &usize| score(*b).total_cmp(&score(*a)).then(a.cmp(b));
        order.select_nth_unstable_by(count, better);
        order.truncate(count);
    }
    for token in order {
        masks[token] |= 1 << e;
    }
}

/// Each token takes its `count` best experts. The bits of numbers that are not negative sort like the numbers; and those of
/// any weight that [`weigh_nearest`] leaves come after those of the zeros beside it.
fn token_choice(count: usize, experts: usize, gate: &[f32], masks: &mut [u64]) {
    for (mask, scores) in masks.iter_mut().zip(gate.chunks_exact(experts)) {
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by_key(|&e| Reverse(scores[e].to_bits()));
        for &e in order.iter().take(count) {
            *mask |= 1 << e;
        }
    }
}

/// With a sigmoid router: a token takes the `count` experts whose scores are largest after adding `bias`, the first of equal
/// ones. Their scores become weights, which sum to `scale` if there are several; those of the others become 0, so
/// that [`token_choice`] finds the same experts.
pub(super) fn weigh_chosen(scores: &mut [f32], bias: &[f32], count: usize, scale: f32) {
    /// Keeps the sum above 0, as in the code of DeepSeek-V3.
    const LEAST: f32 = 1e-20;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| (scores[b] + bias[b]).total_cmp(&(scores[a] + bias[a])));
    let (chosen, others) = order.split_at(count);
    let sum = chosen.iter().map(|&e| scores[e]).sum::<f32>() + LEAST;
    let factor = if count > 1 { scale / sum } else { scale };
    for &e in chosen {
        scores[e] *= factor;
    }
    for &e in others {
        scores[e] = 0.0;
    }
}

/// With a router by prototypes: the largest cosine of a token, the first of equal ones, is a weight, whatever its sign. Those of
/// the other experts become 0.
pub(super) fn weigh_nearest(cosines: &mut [f32]) {
    let mut nearest = 0;
    for (e, cosine) in cosines.iter().enumerate() {
        if *cosine > cosines[nearest] {
            nearest = e;
        }
    }
    let weight = cosines[nearest];
    cosines.fill(0.0);
    cosines[nearest] = weight;
}

/// For each expert the tokens that it takes, in ascending order, one after the other.
#[derive(Debug, Default)]
pub(super) struct Assignments {
    /// Token numbers, grouped by expert.
    pub(super) chosen: Vec<usize>,
    /// Where each expert's group starts, and the end: `[E + 1]`.
    pub(super) starts: Vec<usize>,
    /// The rows of each token, in the order of its experts; `firsts` gives the ranges.
    pub(super) rows: Vec<usize>,
    /// Where each token's part of `rows` starts, and the end: `[S + 1]`.
    pub(super) firsts: Vec<usize>,
}

impl Assignments {
    /// Turns masks into lists, both ways round.
    pub(super) fn collect(&mut self, masks: &[u64], experts: usize) {
        let takes = |mask: u64, e: usize| mask >> e & 1 == 1;
        self.firsts.clear();
        self.firsts.push(0);
        let mut rows = 0;
        for mask in masks {
            rows += mask.count_ones() as usize;
            self.firsts.push(rows);
        }
        self.rows.clear();
        self.rows.resize(rows, 0);
        self.chosen.clear();
        self.starts.clear();
        // Experts come in ascending order, so each token's rows do too.
        let mut filled = self.firsts.clone();
        for e in 0..experts {
            self.starts.push(self.chosen.len());
            for (token, _) in masks.iter().enumerate().filter(|(_, mask)| takes(**mask, e)) {
                self.rows[filled[token]] = self.chosen.len();
                filled[token] += 1;
                self.chosen.push(token);
            }
        }
        self.starts.push(self.chosen.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Config, Routing, RoutingRule};

    fn config(kind: &str, capacity: f32) -> Config {
        Config::from_json(&format!(
            r#"{{"kind":"{kind}","t_kind":"flow","params":{{"input_size":4,"num_classes":1,"patch_size":2,
            "depth":2,"hidden_size":16,"num_heads":2,"MoE_config":{{"num_experts":2,"capacity":{capacity}}}}}}}"#
        ))
        .unwrap()
    }

    const GATE: [f32; 16] =
        [0.5, 0.5, 0.9, 0.1, 0.5, 0.5, 0.2, 0.8, 0.5, 0.5, 0.6, 0.4, 0.6, 0.4, 0.1, 0.9];

    fn routed(config: &Config, routing: Routing, need: &[f32]) -> Vec<u64> {
        let mut masks = vec![u64::MAX; 8];
        route_muted(config, routing, need, 0, &mut masks);
        masks
    }

    fn route_muted(config: &Config, routing: Routing, need: &[f32], muted: u64, masks: &mut [u64]) {
        let checkpoint = if need.is_empty() { &[][..] } else { &[0.5, 0.25] };
        let thresholds = &routing.thresholds(checkpoint, muted);
        let selection = Selection::of(config, routing.rule, 8);
        route(selection, 2, &RouteSelect { gate: &GATE, need, thresholds, muted }, masks);
    }

    #[test]
    fn the_lowest_token_wins_a_tie() {
        // k = 4/2·0.5 = 1 in each sample of four tokens; then k = 2, where tokens 0 and 2 tie.
        assert_eq!(routed(&config("ec", 0.5), Routing::default(), &[]), [0, 1, 0, 2, 0, 1, 0, 2]);
        assert_eq!(routed(&config("ec", 1.0), Routing::default(), &[]), [3, 1, 0, 2, 2, 1, 1, 2]);
    }

    #[test]
    fn a_token_chooses_the_first_of_equal_experts() {
        assert_eq!(routed(&config("tc", 1.0), Routing::default(), &[]), [1, 1, 1, 2, 1, 1, 1, 2]);
        assert_eq!(routed(&config("tc", 2.0), Routing::default(), &[]), [3; 8]);
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these numbers are exact")]
    fn a_bias_selects_experts_and_leaves_their_weights() {
        let weighed = |bias: [f32; 4], count, scale| {
            let mut scores = [0.5, 0.25, 0.75, 0.25];
            weigh_chosen(&mut scores, &bias, count, scale);
            scores
        };
        assert_eq!(weighed([0.0; 4], 2, 2.5), [1.0, 0.0, 1.5, 0.0]);
        assert_eq!(weighed([0.0, 0.0, -1.0, 0.5], 2, 3.0), [2.0, 0.0, 0.0, 1.0]);
        assert_eq!(weighed([-1.0, 0.0, -1.0, 0.0], 1, 2.0), [0.0, 0.5, 0.0, 0.0], "no division");
        let all = weighed([0.0; 4], 4, 1.75);
        assert_eq!(all, [0.5, 0.25, 0.75, 0.25]);
        let mut none = [0.0; 3];
        weigh_chosen(&mut none, &[0.0; 3], 2, 1.0);
        assert_eq!(none, [0.0; 3], "no division by 0");
    }

    #[test]
    fn the_nearest_prototype_is_taken_whatever_the_sign_of_its_cosine() {
        for (cosines, weights, mask) in [
            ([-0.5, 0.25, 0.75, 0.75], [0.0, 0.0, 0.75, 0.0], 0b100),
            ([-0.5, -0.25, -0.75, -0.25], [0.0, -0.25, 0.0, 0.0], 0b10),
            ([-65_504.0, -65_504.0, -65_504.0, 1.0], [0.0, 0.0, 0.0, 1.0], 0b1000),
        ] {
            let mut gate = cosines;
            weigh_nearest(&mut gate);
            assert_eq!(gate.map(f32::to_bits), weights.map(f32::to_bits));
            let mut masks = [0];
            token_choice(1, 4, &gate, &mut masks);
            assert_eq!(masks, [mask]);
        }
    }

    #[test]
    fn experts_take_the_tokens_of_their_prototypes_and_the_last_one_those_without_a_label() {
        let no = NOT_ASKED;
        // Three samples of two tokens; the second is without a label.
        let gate = [
            -0.5, 0.25, no, -0.25, 0.5, no, no, no, 1.0, no, no, 1.0, 0.5, -0.5, no, 0.5, -0.75, no,
        ];
        let masks = |k, alone, muted| {
            let mut masks = [u64::MAX; 6];
            let select = RouteSelect { gate: &gate, need: &[], thresholds: &[], muted };
            route(Selection::ExpertChoice { sample: 2, k, alone }, 3, &select, &mut masks);
            masks
        };
        assert_eq!(masks(1, true, 0), [0, 0b11, 0b100, 0b100, 0b11, 0]);
        assert_eq!(masks(2, true, 0), [0b11, 0b11, 0b100, 0b100, 0b11, 0b11]);
        assert_eq!(masks(1, true, 0b101), [0, 0b10, 0, 0, 0b10, 0]);
        assert_eq!(masks(1, false, 0), [0b100, 0b11, 0b111, 0, 0b111, 0]);
    }

    #[test]
    fn the_two_rules_agree_on_numbers_but_not_on_tokens() {
        let config = config("diffmoe", 1.0);
        // Expert 0 is predicted for tokens 0, 2 and 7 (0.5 itself is not above 0.5), expert 1 for 6.
        let mut need = [0.0; 16];
        for (token, value) in [(0, 0.6), (2, 0.7), (3, 0.5), (7, 0.51)] {
            need[token * 2] = value;
        }
        need[6 * 2 + 1] = 0.3;
        let with = |rule, shift| Routing { rule, shift, ..Routing::default() };
        let token = routed(&config, with(RoutingRule::Token, 0.0), &need);
        assert_eq!(token, [1, 0, 1, 0, 0, 0, 2, 1]);
        let pool = routed(&config, with(RoutingRule::Pool, 0.0), &need);
        assert_eq!(pool, [0, 1, 0, 0, 0, 1, 1, 2]);
        let fewer = routed(&config, with(RoutingRule::Token, 0.06), &need);
        assert_eq!(fewer, [1, 0, 1, 0, 0, 0, 0, 0]);
        let all = Routing {
            rule: RoutingRule::Pool,
            gamma: Some(-1.0),
            shift: 9.0,
            ..Routing::default()
        };
        assert_eq!(routed(&config, all, &need), [3; 8]);
    }

    #[test]
    fn a_muted_expert_takes_nothing_and_the_others_what_they_took() {
        let mut need = [0.0; 16];
        for (i, value) in need.iter_mut().enumerate() {
            *value = (i * 7 % 16) as f32 / 16.0;
        }
        for (kind, need) in [("diffmoe", &need[..]), ("ec", &[]), ("tc", &[])] {
            let config = config(kind, 1.0);
            for rule in [RoutingRule::Token, RoutingRule::Pool] {
                let routing = Routing { rule, ..Routing::default() };
                let all = routed(&config, routing, need);
                for muted in 0..4 {
                    let mut masks = vec![u64::MAX; 8];
                    route_muted(&config, routing, need, muted, &mut masks);
                    let want: Vec<u64> = all.iter().map(|mask| mask & !muted).collect();
                    assert_eq!(masks, want, "{kind}, {rule:?}, {muted:b}");
                }
            }
        }
    }

    #[test]
    fn lists_lead_from_experts_to_tokens_and_back() {
        let mut lists = Assignments::default();
        lists.collect(&[0b101, 0, 0b100, 0b111], 3);
        assert_eq!(lists.chosen, [0, 3, 3, 0, 2, 3]);
        assert_eq!(lists.starts, [0, 2, 3, 6]);
        assert_eq!(lists.firsts, [0, 2, 2, 3, 6]);
        assert_eq!(lists.rows, [0, 3, 4, 1, 2, 5]);
    }
}
