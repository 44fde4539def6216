//! The experts of one block: their weights on the device, and the recording of all that happens
//! between routing and the residual stream, whatever has to be split to fit a binding.

use std::fmt::Display;
use std::ops::Range;

use super::weights::{WeightPrecision, pack_stored};
use super::{CombineExperts, ExpertLinear, Form, Masks, NextNorm, Source};
use crate::checkpoint::StoredRows;
use crate::gpu::{Gpu, Tape, Tensor};

/// The same layer of all experts: `[E, N, K]`, and biases `[E, N]`.
#[derive(Debug)]
pub struct ExpertBank {
    /// Runs of whole experts, as many as fit one binding.
    parts: Vec<(Range<usize>, Tensor)>,
    bias: Option<Tensor>,
    experts: usize,
    rows: usize,
    columns: usize,
    precision: WeightPrecision,
}

impl ExpertBank {
    /// An unfilled bank of `experts` matrices of `rows` (N) by `columns` (K, a multiple of 4).
    ///
    /// # Panics
    /// When the matrix of a single expert does not fit a binding.
    pub fn new(
        gpu: &Gpu,
        label: &str,
        [experts, rows, columns]: [usize; 3],
        has_bias: bool,
        precision: WeightPrecision,
    ) -> Self {
        assert!(columns.is_multiple_of(4), "{label}: K = {columns} is no multiple of 4");
        let words = precision.row_words(columns);
        let at_once = (gpu.binding_limit / (4 * rows * words) as u64).min(experts as u64) as usize;
        assert!(at_once > 0, "{label}: {rows} x {columns} weights do not fit a binding");
        let parts = (0..experts)
            .step_by(at_once)
            .map(|first| {
                let held = first..(first + at_once).min(experts);
                let tensor = Tensor::empty(gpu, label, &[held.len(), rows, words]);
                (held, tensor)
            })
            .collect();
        let bias = has_bias.then(|| Tensor::empty(gpu, format!("{label} bias"), &[experts, rows]));
        Self { parts, bias, experts, rows, columns, precision }
    }

    /// Fills one expert's matrix, `[N, K]`. Integers of the bank's precision stay what they are.
    ///
    /// # Panics
    /// When there is no such expert, or the shape is another.
    pub fn write(&self, gpu: &Gpu, expert: usize, matrix: &StoredRows<'_>) {
        assert_eq!([matrix.len(), matrix.width()], [self.rows, self.columns], "expert {expert}");
        let words = pack_stored(matrix, self.columns, self.precision);
        let part = self.parts.iter().find(|(held, _)| held.contains(&expert));
        let (held, tensor) = part.unwrap_or_else(|| panic!("no expert {expert}"));
        tensor.write_at(gpu, (expert - held.start) * words.len(), &words);
    }

    /// Fills one expert's bias, `[N]`.
    ///
    /// # Panics
    /// When the bank has no biases, or does not have this one.
    pub fn write_bias(&self, gpu: &Gpu, expert: usize, values: &[f32]) {
        assert_eq!(values.len(), self.rows, "bias of expert {expert}");
        let bias = self.bias.as_ref().unwrap_or_else(|| panic!("experts without biases"));
        bias.write_at(gpu, expert * self.rows, values);
    }

    /// `E`, `N`, `K`.
    pub fn shape(&self) -> [usize; 3] {
        [self.experts, self.rows, self.columns]
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        let weights = self.parts.iter().map(|(_, tensor)| tensor.bytes()).sum::<u64>();
        weights + self.bias.as_ref().map_or(0, Tensor::bytes)
    }

    /// Records this layer for some packed rows, one dispatch for each part of the bank.
    fn record<S: Clone + Display>(
        &self,
        gpu: &Gpu,
        tape: &mut Tape<S>,
        scope: &S,
        call: &Call<'_>,
    ) {
        for (i, (held, weights)) in self.parts.iter().enumerate() {
            let bias = self.bias.as_ref();
            let form = match call.layer {
                Layer::Gelu => Form::Gelu(bias),
                Layer::SwiGlu(up) => Form::SwiGlu {
                    up: &up.parts[i].1,
                    biases: bias.zip(up.bias.as_ref()).map(<[_; 2]>::from),
                },
                Layer::Down => Form::Linear(bias),
            };
            let layer = ExpertLinear {
                x: call.x,
                source: call.source,
                counts: call.assignments.counts,
                chosen: call.assignments.chosen,
                weights,
                precision: self.precision,
                experts: held.clone(),
                form,
                rows: call.rows.clone(),
                y: call.y,
                y_first: call.y_first,
            };
            tape.push(gpu, scope.clone(), &layer);
        }
    }
}

/// What routing decided: outputs of [`RouteScore`](super::RouteScore) and
/// [`RouteSelect`](super::RouteSelect).
#[derive(Clone, Copy)]
pub struct Assignments<'a> {
    /// Softmax over experts, `[S, E]`.
    pub gate: &'a Tensor,
    /// `n_e`, `[E]`.
    pub counts: &'a Tensor,
    /// Position of each token in the list of each expert, or [`NOT_TAKEN`](super::NOT_TAKEN), `[S, E]`.
    pub positions: &'a Tensor,
    /// Tokens of each expert, `[E, S]`.
    pub chosen: &'a Tensor,
}

/// The experts' networks on the tokens that they took, added to the residual stream:
/// `x += gate_mlp ⊙ Σ_e gate[s,e]·FFN_e(h[s])`.
pub struct Experts<'a> {
    /// Modulated tokens, `[S, D]`.
    pub h: &'a Tensor,
    /// Who takes which token.
    pub assignments: Assignments<'a>,
    /// `W₁` of the GELU form, or the gate projection of `SwiGLU`: `[E, M, D]`.
    pub first: &'a ExpertBank,
    /// The up projection of `SwiGLU`, `[E, M, D]`.
    pub second: Option<&'a ExpertBank>,
    /// `W₂`, or the down projection: `[E, D, M]`.
    pub down: &'a ExpertBank,
    /// Room for hidden rows, `[n, M]`. With fewer than `E·S` rows the work is done in parts.
    pub hidden: &'a Tensor,
    /// Room for output rows, `[n, D]`; likewise.
    pub output: &'a Tensor,
    /// All modulation vectors, `[B, columns]`.
    pub modulation: &'a Tensor,
    /// First column of this block's `gate_mlp`.
    pub gate_column: usize,
    /// Out: who took each token.
    pub masks: Masks<'a>,
    /// In and out: the residual stream, `[B, T, D]`.
    pub x: &'a Tensor,
    /// The layer norm that follows, where the device does it on the way.
    pub norm: Option<NextNorm>,
    /// Out: what comes of it, `[S, D]`; may be `h`, which is used up by then.
    pub next: &'a Tensor,
}

enum Layer<'a> {
    Gelu,
    SwiGlu(&'a ExpertBank),
    Down,
}

struct Call<'a> {
    layer: Layer<'a>,
    assignments: Assignments<'a>,
    x: &'a Tensor,
    source: Source,
    rows: Range<usize>,
    y: &'a Tensor,
    y_first: usize,
}

/// More memory than this is not worth asking for: experts take about as many rows as there are tokens,
/// a small part of the worst case, so the dispatches for later parts of it mostly find nothing to do.
const ROOM: u64 = 256 << 20;

/// Rows that a buffer for packed rows should have: the worst case `E·S`, or what fits one binding and
/// a moderate amount of memory.
pub fn packed_rows(binding_limit: u64, experts: usize, tokens: usize, columns: usize) -> usize {
    let rows = binding_limit.min(ROOM) / (4 * columns as u64);
    (experts * tokens).min(rows as usize)
}

impl Experts<'_> {
    /// Records three dispatches where everything fits: up, down, combine.
    ///
    /// # Panics
    /// When shapes do not fit: a bug.
    pub fn record<S: Clone + Display>(&self, gpu: &Gpu, tape: &mut Tape<S>, scope: S) {
        let [experts, m, d] = self.first.shape();
        assert_eq!(self.down.shape(), [experts, d, m], "down projection");
        if let Some(second) = self.second {
            assert_eq!(second.shape(), self.first.shape(), "SwiGLU");
            assert_eq!(second.precision, self.first.precision, "SwiGLU");
        }
        let worst = experts * self.assignments.gate.shape[0];
        for rows in split(0..worst, self.output.shape[0]) {
            for part in split(rows.clone(), self.hidden.shape[0]) {
                self.layers(gpu, tape, &scope, &part, rows.start);
            }
            let combine = CombineExperts {
                gate: self.assignments.gate,
                positions: self.assignments.positions,
                counts: self.assignments.counts,
                y: self.output,
                modulation: self.modulation,
                gate_column: self.gate_column,
                masks: self.masks,
                x: self.x,
                // When all parts are there.
                norm: self.norm.filter(|_| rows.end == worst),
                h: self.next,
                rows,
            };
            tape.push(gpu, scope.clone(), &combine);
        }
    }

    /// Both layers for the packed rows `rows`; `output` begins with packed row `first`.
    fn layers<S: Clone + Display>(
        &self,
        gpu: &Gpu,
        tape: &mut Tape<S>,
        scope: &S,
        rows: &Range<usize>,
        first: usize,
    ) {
        let up = Call {
            layer: self.second.map_or(Layer::Gelu, Layer::SwiGlu),
            assignments: self.assignments,
            x: self.h,
            source: Source::Tokens,
            rows: rows.clone(),
            y: self.hidden,
            y_first: rows.start,
        };
        self.first.record(gpu, tape, scope, &up);
        let down = Call {
            layer: Layer::Down,
            assignments: self.assignments,
            x: self.hidden,
            source: Source::Rows(rows.start),
            rows: rows.clone(),
            y: self.output,
            y_first: first,
        };
        self.down.record(gpu, tape, scope, &down);
    }
}

/// Cuts a range into pieces of at most `size`.
fn split(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(size.max(1)).map(move |first| first..(first + size).min(end))
}

#[cfg(test)]
#[path = "experts_tests.rs"]
mod tests;
