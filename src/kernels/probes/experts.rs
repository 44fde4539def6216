//! The layers of experts, after the choice of their tokens.

use super::numbers::{SAMPLES, numbers, shares};
use super::{Bench, Exact};
use crate::gpu::Profile;
use crate::kernels::weights::pack_stored;
use crate::kernels::{
    CombineExperts, ExpertLinear, Form, Masks, NOT_TAKEN, NextNorm, Source, WeightPrecision,
};
use crate::model::NormForm;

/// Tokens, experts, columns and hidden columns of the probes of experts.
pub(super) const POOL: [usize; 4] = [20, 3, 16, 24];

/// The tokens of each expert: every second one, none, and some.
pub(super) fn lists() -> [Vec<u32>; 3] {
    [(0..20).step_by(2).collect(), Vec::new(), vec![1, 2, 3, 5, 8, 13, 19]]
}

pub(super) fn counts() -> Vec<u32> {
    lists().iter().map(|list| list.len() as u32).collect()
}

/// `[E, S]`
fn chosen() -> Vec<u32> {
    let mut chosen = vec![0; POOL[1] * POOL[0]];
    for (row, list) in chosen.chunks_mut(POOL[0]).zip(lists()) {
        row[..list.len()].copy_from_slice(&list);
    }
    chosen
}

/// `[S, E]`
fn positions() -> Vec<u32> {
    let mut positions = vec![NOT_TAKEN; POOL[0] * POOL[1]];
    for (e, list) in lists().iter().enumerate() {
        for (position, &token) in (0..).zip(list) {
            positions[token as usize * POOL[1] + e] = position;
        }
    }
    positions
}

pub(super) fn layers(bench: &mut Bench, precision: WeightPrecision) {
    let [s, e, d, m] = POOL;
    let taken = counts().iter().sum::<u32>() as usize;
    let counts = bench.tensor(&[e], &counts());
    let chosen = bench.tensor(&[e, s], &chosen());
    let tokens = bench.tensor(&[s, d], &numbers(s * d, 20, 1.0));
    let rows = bench.tensor(&[e * s, m], &numbers(e * s * m, 21, 1.0));
    let up_bias = bench.tensor(&[e, m], &numbers(e * m, 22, 1.0));
    let down_bias = bench.tensor(&[e, d], &numbers(e * d, 25, 1.0));
    for (name, gathers) in [("experts, up", true), ("experts, down", false)] {
        let [columns, inputs] = if gathers { [m, d] } else { [d, m] };
        let exact = Exact::new(e * columns, inputs, 23 + u32::from(gathers));
        let words = pack_stored(&exact.rows(precision), inputs, precision);
        let shape = [e, columns, words.len() / (e * columns)];
        let weights = bench.tensor(&shape, &words);
        let y = bench.output(&[e * s, columns]);
        bench.push(&ExpertLinear {
            x: if gathers { &tokens } else { &rows },
            source: if gathers { Source::Tokens } else { Source::Rows(0) },
            counts: &counts,
            chosen: &chosen,
            weights: &weights,
            precision,
            experts: 0..e,
            form: if gathers { Form::Gelu(Some(&up_bias)) } else { Form::Linear(Some(&down_bias)) },
            rows: 0..e * s,
            y: &y,
            y_first: 0,
        });
        let kernel = format!("expert_linear, {precision} weights");
        bench.add(name, kernel, &y, 0..taken * columns, false);
    }
}

pub(super) fn combine(bench: &mut Bench) {
    let [s, e, d, _] = POOL;
    let taken = counts().iter().sum::<u32>() as usize;
    let columns = 3 * d;
    let x = bench.tensor(&[s, d], &numbers(s * d, 30, 1.0));
    let (masks, normal) = (bench.output(&[s]), bench.output(&[s, d]));
    let is_gpu = bench.gpu.profile == Profile::Gpu;
    bench.push(&CombineExperts {
        gate: &bench.tensor(&[s, e], &shares(s * e, 31)),
        positions: &bench.tensor(&[s, e], &positions()),
        counts: &bench.tensor(&[e], &counts()),
        y: &bench.tensor(&[taken, d], &numbers(taken * d, 32, 1.0)),
        rows: 0..taken,
        modulation: &bench.tensor(&[SAMPLES, columns], &numbers(SAMPLES * columns, 33, 1.0)),
        gate_column: 0,
        masks: Masks { to: &masks, first: 0 },
        x: &x,
        norm: is_gpu.then_some(NextNorm { shift: d, scale: 2 * d, form: NormForm::Layer }),
        h: &normal,
    });
    bench.expect("combine_experts", "combine_experts", &x);
    bench.expect_exactly("masks", "combine_experts", &masks);
    if is_gpu {
        bench.expect("combine_experts, norm", "combine_experts", &normal);
    }
}
