//! Feed-forward networks and the MoE layer.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use web_time::Instant;

use super::activations::{Activations, add_rows, row_of};
use super::router::{RouteSelect, route, weigh_chosen, weigh_nearest};
use super::weights::{Linear, OnCpu};
use crate::engine::contract;
use crate::model::{
    Config, Ffn, Gate, Kind, LabelRow, Moe, NOT_ASKED, Router, Routing, Selection, Shifts,
};
use crate::simd::math::{add_scaled, dot, gelu, sigmoid, silu, silu_times, softmax_rows};
use crate::simd::threads::{Scratch, row_chunk};

impl Ffn<Linear> {
    /// `out[r] = network(x(r))` for every row of `out`, `[rows, D]`.
    pub(super) fn apply<'a>(
        &self,
        x: impl Fn(usize) -> &'a [f32] + Copy,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let Scratch { hidden, up, .. } = scratch;
        match self {
            Self::Gelu { fc1, fc2 } | Self::Silu { fc1, fc2 } => {
                let m = fc1.outputs();
                hidden.resize(out.len() / fc2.outputs() * m, 0.0);
                fc1.apply(x, hidden);
                let activate = if matches!(self, Self::Silu { .. }) { silu } else { gelu };
                activate(hidden);
                fc2.apply(|r| row_of(hidden, m, r), out);
            }
            Self::SwiGlu { gate_proj, up_proj, down_proj } => {
                let m = gate_proj.outputs();
                let rows = out.len() / down_proj.outputs();
                hidden.resize(rows * m, 0.0);
                up.resize(rows * m, 0.0);
                gate_proj.apply(x, hidden);
                up_proj.apply(x, up);
                silu_times(hidden, up);
                down_proj.apply(|r| row_of(hidden, m, r), out);
            }
        }
    }
}

/// Routing of a layer, and what is recorded of it.
#[derive(Clone, Copy)]
pub(super) struct LayerRouter<'a> {
    pub(super) routing: Routing,
    /// Experts that take none, one bit each
    pub(super) muted: u64,
    /// Thresholds that are moved, and the block that looks for its own among them
    pub(super) shifts: &'a Shifts,
    pub(super) block: usize,
    /// For each label table, `[B]`
    pub(super) labels: &'a [Vec<LabelRow>],
    pub(super) record_scores: bool,
}

/// `x += gate_mlp ⊙ Σ_e gate[e]·FFN_e(h)` over the experts that take a token, in ascending order, plus the
/// shared expert.
pub(super) fn moe(
    config: &Config,
    layer: &Moe<OnCpu>,
    a: &mut Activations,
    router: LayerRouter<'_>,
) {
    let begin = Instant::now();
    let mut thresholds = router.routing.thresholds(&layer.expert_threshold, router.muted);
    router.shifts.apply(router.block, &mut thresholds);
    let thresholds = &thresholds;
    a.record(router.record_scores);
    match &layer.gate {
        Gate::Linear(gate) => score(config, (layer, gate), a),
        Gate::Prototypes(prototypes) => compare(config, prototypes, router.labels, a),
    }
    if let Some(scores) = &mut a.scores {
        scores.thresholds.clone_from(thresholds);
    }
    let select = RouteSelect { gate: &a.gate, need: &a.need, thresholds, muted: router.muted };
    let selection = Selection::of(config, router.routing.rule, a.masks.len());
    route(selection, config.num_experts, &select, &mut a.masks);
    a.assignments.collect(&a.masks, config.num_experts);
    a.router_ms = begin.elapsed().as_secs_f32() * 1e3;
    compute_experts(config, layer, a);

    let (d, e) = (config.hidden_size, config.num_experts);
    let Activations { x, h, modulation, gate, masks, assignments, expert_output, scratch, .. } = a;
    add_rows(config, x, Some(&modulation[5]), scratch, |first, out, scratch| {
        match &layer.shared_experts {
            Some(ffn) => ffn.apply(|r| row_of(h, d, first + r), scratch, out),
            None => out.fill(0.0),
        }
        for (token, y) in (first..).zip(out.chunks_exact_mut(d)) {
            let experts = (0..e).filter(|e| masks[token] >> e & 1 == 1);
            let rows = &assignments.rows[assignments.firsts[token]..];
            for (expert, &row) in experts.zip(rows) {
                add_scaled(y, gate[token * e + expert], row_of(expert_output, d, row));
            }
        }
    });
}

/// Gate and capacity predictor, for every token and expert.
fn score(config: &Config, (layer, weight): (&Moe<OnCpu>, &Linear), a: &mut Activations) {
    let (d, e) = (config.hidden_size, config.num_experts);
    let Activations { h, gate, need, scores, scratch, .. } = a;
    let rows = row_chunk(h.len() / d);
    let (gate_record, need_record) = match scores {
        Some(contract::Scores { gate, need, .. }) => (&mut gate[..], &mut need[..]),
        None => Default::default(),
    };
    let chunks =
        gate.par_chunks_mut(rows * e).zip(recorded(gate_record, rows * e, h.len() / d * e));
    chunks.enumerate().for_each(|(chunk, (gate, record))| {
        weight.apply(|r| row_of(h, d, chunk * rows + r), gate);
        if let (Router::Sigmoid { scale }, Some(bias)) = (config.router, &layer.selection_bias) {
            sigmoid(gate);
            if !record.is_empty() {
                keep(record, &gate.iter().map(|&score| libm::logf(score)).collect::<Vec<_>>());
            }
            for row in gate.chunks_exact_mut(e) {
                weigh_chosen(row, bias, config.experts_of_token(), scale);
            }
        } else {
            keep(record, gate);
            softmax_rows(gate, e, 1.0);
        }
    });
    let Some([first, second]) = &layer.capacity_predictor else { return };
    let chunks =
        need.par_chunks_mut(rows * e).zip(recorded(need_record, rows * e, h.len() / d * e));
    chunks.enumerate().for_each(|(chunk, (need, record))| {
        scratch.with(|Scratch { hidden, .. }| {
            hidden.resize(need.len() / e * d, 0.0);
            first.apply(|r| row_of(h, d, chunk * rows + r), hidden);
            silu(hidden);
            second.apply(|r| row_of(hidden, d, r), need);
            keep(record, need);
            sigmoid(need);
        });
    });
}

/// With a router by prototypes: the cosines of tokens and prototypes, of which a token keeps the largest as its weight if it
/// chooses. The tokens of samples without a label have the weight 1 for the last expert.
fn compare(config: &Config, prototypes: &[f32], labels: &[Vec<LabelRow>], a: &mut Activations) {
    let (d, e, t) = (config.hidden_size, config.num_experts, config.stream_tokens());
    let is_unlabelled =
        |sample: usize| config.unconditional_row().is_some_and(|null| labels[0][sample].is(null));
    let inverse: Vec<f32> = prototypes.chunks_exact(d).map(inverse_length).collect();
    let Activations { h, gate, scores, .. } = a;
    let rows = row_chunk(h.len() / d);
    let record = scores.as_mut().map_or(&mut [][..], |scores| &mut scores.gate);
    let chunks = gate.par_chunks_mut(rows * e).zip(recorded(record, rows * e, h.len() / d * e));
    chunks.enumerate().for_each(|(chunk, (gate, record))| {
        for (token, scores) in (chunk * rows..).zip(gate.chunks_exact_mut(e)) {
            scores.fill(NOT_ASKED);
            if is_unlabelled(token / t) {
                scores[e - 1] = 1.0;
                continue;
            }
            let x = row_of(h, d, token);
            let own = inverse_length(x);
            let each = scores.iter_mut().zip(prototypes.chunks_exact(d)).zip(&inverse);
            each.for_each(|((score, other), inverse)| *score = dot(x, other) * own * inverse);
        }
        keep(record, gate);
        if config.kind == Kind::Tc {
            gate.chunks_exact_mut(e).for_each(weigh_nearest);
        }
    });
}

/// `1/‖x‖`, bounded as in PyTorch's `normalize`.
fn inverse_length(x: &[f32]) -> f32 {
    1.0 / dot(x, x).sqrt().max(1e-12)
}

/// For each chunk of `len` scores the memory to record them: empty unless they are recorded.
fn recorded(scores: &mut [f16], chunk: usize, len: usize) -> Vec<&mut [f16]> {
    let mut parts: Vec<&mut [f16]> = scores.chunks_mut(chunk).collect();
    parts.resize_with(len.div_ceil(chunk), Default::default);
    parts
}

/// Rounds logits for the record. What f16 cannot hold becomes its largest number rather than an infinity.
fn keep(record: &mut [f16], logits: &[f32]) {
    if record.is_empty() {
        return;
    }
    record.convert_from_f32_slice(logits);
    for value in record.iter_mut().filter(|value| value.is_infinite()) {
        *value = f16::MAX.copysign(*value);
    }
}

/// `expert_output = FFN_e(h)` for every token that an expert takes.
fn compute_experts(config: &Config, layer: &Moe<OnCpu>, a: &mut Activations) {
    /// Tokens that one task should have at most.
    const MOST_TOKENS: usize = 96;
    let d = config.hidden_size;
    let Activations { h, assignments, expert_output, scratch, .. } = a;
    expert_output.resize(assignments.chosen.len() * d, 0.0);
    // The tasks' outputs lie one after the other, as do their tokens.
    let mut rest = expert_output.as_mut_slice();
    let mut tasks = Vec::new();
    for (expert, bounds) in layer.experts.iter().zip(assignments.starts.windows(2)) {
        for tokens in assignments.chosen[bounds[0]..bounds[1]].chunks(MOST_TOKENS) {
            let (out, after) = rest.split_at_mut(tokens.len() * d);
            rest = after;
            tasks.push((expert, tokens, out));
        }
    }
    tasks.into_par_iter().with_max_len(1).for_each(|(expert, tokens, out)| {
        scratch.with(|scratch| expert.apply(|r| row_of(h, d, tokens[r]), scratch, out));
    });
}
