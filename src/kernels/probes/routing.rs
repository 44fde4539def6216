//! The kernels that score tokens for experts and select them.

use super::Bench;
use super::experts::POOL;
use super::numbers::{numbers, shares};
use crate::kernels::{Choice, Predictor, RecordedScores, RoutePrototypes, RouteScore, RouteSelect};
use crate::model::{NOT_ASKED, Selection};

pub(super) fn record(bench: &mut Bench) {
    route_score(bench);
    route_select(bench);
}

/// Experts of the probes of scores.
pub(super) const SCORED: usize = 5;

fn route_score(bench: &mut Bench) {
    let [s, _, d, _] = POOL;
    let e = SCORED;
    let hidden = bench.tensor(&[s, d], &numbers(s * d, 41, 1.0));
    let weight = bench.tensor(&[e, d], &numbers(e * d, 43, 0.5));
    let bias = bench.tensor(&[e], &numbers(e, 44, 0.5));
    let [gate, need] = [(); 2].map(|()| bench.output(&[s, e]));
    bench.push(&RouteScore {
        x: &bench.tensor(&[s, d], &numbers(s * d, 40, 1.0)),
        gate_weight: &bench.tensor(&[e, d], &numbers(e * d, 42, 0.5)),
        predictor: Some(Predictor { hidden: &hidden, weight: &weight, bias: &bias }),
        choice: None,
        gate: &gate,
        need: &need,
        scores: RecordedScores { to: &bench.tensor::<f32>(&[0], &[]), first: 0 },
    });
    bench.expect("gate", "route_score", &gate);
    bench.expect("need", "route_score", &need);
}

/// Experts of a token, and the sum of their weights.
pub(super) const CHOICE: (usize, f32) = (3, 2.5);

pub(super) fn sigmoid_router(bench: &mut Bench) {
    let [s, _, d, _] = POOL;
    let (gate, need) = (bench.output(&[s, SCORED]), bench.output(&[s, SCORED]));
    let (experts, scale) = CHOICE;
    bench.push(&RouteScore {
        x: &bench.tensor(&[s, d], &numbers(s * d, 40, 1.0)),
        gate_weight: &bench.tensor(&[SCORED, d], &numbers(SCORED * d, 42, 0.5)),
        predictor: None,
        choice: Some(Choice {
            bias: &bench.tensor(&[SCORED], &numbers(SCORED, 44, 0.5)),
            experts,
            scale,
        }),
        gate: &gate,
        need: &need,
        scores: RecordedScores { to: &bench.tensor::<u32>(&[0], &[]), first: 0 },
    });
    bench.expect("sigmoid router", "route_score", &gate);
}

/// Rows of the samples for the router by prototypes, and the one that stands for no label.
pub(super) const LABELLED: ([u32; 2], u32) = ([4, 9], 9);

pub(super) fn prototype_router(bench: &mut Bench) {
    let [s, _, d, _] = POOL;
    let (rows, null) = LABELLED;
    for (name, tokens_choose) in [("prototype router", true), ("prototype router, scores", false)] {
        let gate = bench.output(&[s, SCORED]);
        bench.push(&RoutePrototypes {
            x: &bench.tensor(&[s, d], &numbers(s * d, 40, 1.0)),
            prototypes: &bench.tensor(&[SCORED - 1, d], &numbers((SCORED - 1) * d, 42, 0.5)),
            rows: &bench.tensor(&[2, 1, 2], &rows.repeat(2)),
            shares: &bench.tensor(&[1, 2], &[0.0_f32; 2]),
            unconditional_row: Some(null),
            tokens_choose,
            gate: &gate,
            scores: RecordedScores { to: &bench.tensor::<u32>(&[0], &[]), first: 0 },
        });
        bench.expect(name, "route_prototypes", &gate);
    }
    let [s, e] = SELECTED;
    let (counts, positions) = (bench.output(&[e]), bench.output(&[s, e]));
    bench.push(&RouteSelect {
        gate: &bench.tensor(&[s, e], &cosines()),
        need: &bench.tensor(&[s, e], &cosines()),
        thresholds: &bench.tensor(&[e], &THRESHOLDS),
        selection: ALONE,
        counts: &counts,
        positions: &positions,
        chosen: &bench.output(&[e, s]),
    });
    bench.expect_exactly("counts, alone", "route_select", &counts);
    bench.expect_exactly("positions, alone", "route_select", &positions);
}

/// The selection of experts with prototypes; the second sample is the last expert's alone.
pub(super) const ALONE: Selection = Selection::ExpertChoice { sample: 150, k: 40, alone: true };

/// Scores for it, `[S, E]`.
pub(super) fn cosines() -> Vec<f32> {
    let [s, e] = SELECTED;
    let mut scores = numbers(s * e, 52, 1.0);
    for (token, row) in scores.chunks_mut(e).enumerate() {
        row[e - 1] = NOT_ASKED;
        if token >= s / 2 {
            row.fill(NOT_ASKED);
            row[e - 1] = 1.0;
        }
    }
    scores
}

/// Rules of selection, with names of counts and positions.
pub(super) const SELECTIONS: [(&str, &str, Selection); 4] = [
    ("counts, pool", "positions, pool", Selection::Pool { pool: 150 }),
    ("counts, token", "positions, token", Selection::Token),
    (
        "counts, sample",
        "positions, sample",
        Selection::ExpertChoice { sample: 150, k: 40, alone: false },
    ),
    ("counts, choice", "positions, choice", Selection::TokenChoice { k: 2 }),
];
/// Tokens and experts of the probes of selection: more tokens than a workgroup has lanes.
pub(super) const SELECTED: [usize; 2] = [300, 3];
pub(super) const THRESHOLDS: [f32; 3] = [0.3, 0.5, 0.9];

fn route_select(bench: &mut Bench) {
    let [s, e] = SELECTED;
    let gate = bench.tensor(&[s, e], &shares(s * e, 50));
    let need = bench.tensor(&[s, e], &shares(s * e, 51));
    let thresholds = bench.tensor(&[e], &THRESHOLDS);
    for (count_name, place_name, selection) in SELECTIONS {
        let (counts, positions) = (bench.output(&[e]), bench.output(&[s, e]));
        bench.push(&RouteSelect {
            gate: &gate,
            need: &need,
            thresholds: &thresholds,
            selection,
            counts: &counts,
            positions: &positions,
            chosen: &bench.output(&[e, s]),
        });
        bench.expect_exactly(count_name, "route_select", &counts);
        bench.expect_exactly(place_name, "route_select", &positions);
    }
}
