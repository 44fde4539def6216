//! One layer of the experts' feed-forward networks over ragged token lists, as one dispatch.
//!
//! `expert up` gathers tokens and ends in the activation; `expert down` reads the packed rows it left:
//! row r of expert e is `r = Σ_{i<e} n_i + place`. No size is known on the host, so the dispatch is
//! sized for the worst case and surplus workgroups exit early; an indirect dispatch would cost
//! more, because browsers check its arguments with a dispatch of their own.
//!
//! Tile sizes. A pool of a few hundred to a few thousand tokens leaves 32 to 256 rows for each expert.
//! Tiles of 32 rows waste half a tile per expert on average, tiles of 64 twice that; in return 64 rows
//! would read a quarter less from the cache per product, which pays only when rows are plenty.
//! Columns run fastest over workgroups, so concurrent ones share an expert's matrix.

use std::ops::Range;

use super::weights::WeightPrecision;
use crate::gpu::{Kernel, MAX_GROUPS, Profile, Shader, Tensor};

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    tokens: u32,
    columns: u32,
    quads: u32,
    expert_first: u32,
    expert_end: u32,
    row_first: u32,
    row_end: u32,
    x_first: u32,
    y_first: u32,
}

/// Where a row's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `x` is `[S, K]`: the token that the row stands for.
    Tokens,
    /// `x` is `[rows, K]`: the row itself; the tensor begins with this packed row.
    Rows(usize),
}

/// What the layer computes of its input.
#[derive(Clone, Copy)]
pub enum Form<'a> {
    /// `W x + b`; the bias is that of all experts, f32, `[E, N]`.
    Linear(Option<&'a Tensor>),
    /// `gelu_tanh(W x + b)`.
    Gelu(Option<&'a Tensor>),
    /// `silu(W x + b) ⊙ (U x + c)`.
    SwiGlu {
        /// U, like `weights`, of the same experts.
        up: &'a Tensor,
        /// b and c, as those of the other forms.
        biases: Option<[&'a Tensor; 2]>,
    },
}

/// One layer of some experts.
#[derive(Clone)]
pub struct ExpertLinear<'a> {
    /// Input, `[S, K]` or `[rows, K]`; the last extent is K, a multiple of 4.
    pub x: &'a Tensor,
    /// How to read it.
    pub source: Source,
    /// `n_e`, `[E]`.
    pub counts: &'a Tensor,
    /// Tokens of each expert, `[E, S]`.
    pub chosen: &'a Tensor,
    /// Matrices of the experts in `experts`, `[experts, N, words]`: see [`WeightPrecision::row_words`].
    pub weights: &'a Tensor,
    /// What those words are.
    pub precision: WeightPrecision,
    /// Which experts `weights` holds: all, or a part where one binding cannot hold all.
    pub experts: Range<usize>,
    /// What is computed.
    pub form: Form<'a>,
    /// Packed rows to compute: `0..E·S`, or a part where one binding cannot hold the worst case.
    pub rows: Range<usize>,
    /// Out: `[rows, N]`; the last extent is N.
    pub y: &'a Tensor,
    /// The packed row that `y` begins with.
    pub y_first: usize,
}

/// What a workgroup owns on GPUs, in lanes; each sums a block of [`BLOCK`] by [`BLOCK`].
const LANES: (usize, usize) = (16, 8);

/// Rows and columns of a lane's sums on GPUs, and its columns on software adapters.
const BLOCK: usize = 4;

/// Lanes of a workgroup on software adapters.
const SOFTWARE_LANES: usize = 16;

/// Rows of a workgroup on software adapters.
const SOFTWARE_ROWS: usize = 8;

impl ExpertLinear<'_> {
    fn columns(&self) -> usize {
        self.y.shape[self.y.shape.len() - 1]
    }

    fn inputs(&self) -> usize {
        self.x.shape[self.x.shape.len() - 1]
    }
}

impl Kernel for ExpertLinear<'_> {
    /// Tiles in workgroup memory.
    const SHADER: Shader = shader!(
        "expert_linear",
        shared: ["product_tile", "expert_linear", "weights", "activation"],
        sizes: [LANES_X = LANES.0, LANES_Y = LANES.1]
    );
    /// Registers only, no barriers.
    const SOFTWARE: Option<Shader> = Some(shader!(
        "expert_linear_software",
        shared: ["expert_linear", "weights", "activation"],
        sizes: [LANES_X = SOFTWARE_LANES],
        consts: [TILE_ROWS = SOFTWARE_ROWS]
    ));
    type Params = Params;

    fn params(&self) -> Params {
        let &[experts, tokens] = &*self.chosen.shape else {
            panic!("chosen {:?}", self.chosen.shape)
        };
        let (n, k, held) = (self.columns(), self.inputs(), self.experts.len());
        assert!(k.is_multiple_of(4), "K = {k} is no multiple of 4");
        assert_eq!(self.counts.len(), experts);
        assert!(held > 0 && self.experts.end <= experts, "{:?} of {experts}", self.experts);
        assert!(
            self.weights.len() == held * n * self.precision.row_words(k),
            "{} weights {:?} for {held} experts, N = {n}, K = {k}",
            self.precision,
            self.weights.shape
        );
        match self.form {
            Form::Linear(bias) | Form::Gelu(bias) => {
                assert!(bias.is_none_or(|b| b.len() == experts * n), "bias is that of all experts");
            }
            Form::SwiGlu { up, biases } => {
                assert_eq!(up.len(), self.weights.len(), "SwiGLU matrices");
                let are_whole = biases.iter().flatten().all(|b| b.len() == experts * n);
                assert!(are_whole, "biases are those of all experts");
            }
        }
        let x_first = match self.source {
            Source::Tokens => {
                assert_eq!(self.x.len(), tokens * k, "x {:?}", self.x.shape);
                0
            }
            Source::Rows(first) => {
                assert!(
                    first <= self.rows.start && self.x.len() >= (self.rows.end - first) * k,
                    "x {:?} from row {first}, rows {:?}",
                    self.x.shape,
                    self.rows
                );
                first
            }
        };
        assert!(
            self.y_first <= self.rows.start && self.y.len() >= (self.rows.end - self.y_first) * n,
            "y {:?} from row {}, rows {:?}",
            self.y.shape,
            self.y_first,
            self.rows
        );
        Params {
            tokens: tokens as u32,
            columns: n as u32,
            quads: k as u32 / 4,
            expert_first: self.experts.start as u32,
            expert_end: self.experts.end as u32,
            row_first: self.rows.start as u32,
            row_end: self.rows.end as u32,
            x_first: x_first as u32,
            y_first: self.y_first as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        // A binding cannot be empty: what a form lacks is bound to the weights and not read.
        let none = self.weights;
        let (up, [bias, up_bias]) = match self.form {
            Form::Linear(bias) | Form::Gelu(bias) => (none, [bias.unwrap_or(none), none]),
            Form::SwiGlu { up, biases } => (up, biases.unwrap_or([none; 2])),
        };
        vec![self.x, self.counts, self.chosen, self.weights, up, bias, up_bias, self.y]
    }

    fn constants(&self, _: Profile) -> Vec<(&'static str, f64)> {
        let (activation, has_bias) = match self.form {
            Form::Linear(bias) => (0.0, bias.is_some()),
            Form::Gelu(bias) => (1.0, bias.is_some()),
            Form::SwiGlu { biases, .. } => (2.0, biases.is_some()),
        };
        let flag = |on: bool| f64::from(u8::from(on));
        vec![
            self.precision.constant(),
            ("GATHERS", flag(self.source == Source::Tokens)),
            ("ACTIVATION", activation),
            ("HAS_BIAS", flag(has_bias)),
        ]
    }

    /// All columns in x, and in y and z as many row tiles as any routing can need.
    fn groups(&self, profile: Profile) -> [u32; 3] {
        let (tile_columns, tile_rows) = match profile {
            Profile::Gpu => (BLOCK * LANES.0, BLOCK * LANES.1),
            Profile::Software => (BLOCK * SOFTWARE_LANES, SOFTWARE_ROWS),
        };
        let columns = match self.form {
            // Half of a workgroup's columns are the second factor.
            Form::SwiGlu { .. } => 2 * self.columns(),
            _ => self.columns(),
        };
        let tiles =
            worst_tiles(self.rows.len(), self.experts.len(), self.chosen.shape[1], tile_rows);
        let deep = tiles.div_ceil(MAX_GROUPS as usize);
        [columns.div_ceil(tile_columns) as u32, tiles.div_ceil(deep) as u32, deep as u32]
    }
}

/// The most tiles of `size` rows that lists of up to `tokens` rows for each of `experts` can need,
/// of which at most `rows` rows count. Every list can end in one tile that is not full.
fn worst_tiles(rows: usize, experts: usize, tokens: usize, size: usize) -> usize {
    let rows = rows.min(experts * tokens);
    ((rows + experts * (size - 1)) / size).min(experts * tokens.div_ceil(size)).max(1)
}

/// How [`reference()`] finishes a row.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReferenceForm {
    /// `W x + b`.
    Linear,
    /// `gelu_tanh(W x + b)`.
    Gelu,
    /// `silu(W x) ⊙ (U x)`.
    SwiGlu,
}

/// One expert's layer for one row, in f64. `w` and `up` are `[N, K]`; `bias` is `[N]`, with that of `up` behind it, or
/// empty.
#[cfg(test)]
pub(crate) fn reference(
    form: ReferenceForm,
    x: &[f32],
    w: &[f32],
    up: &[f32],
    bias: &[f32],
) -> Vec<f64> {
    let dot =
        |w: &[f32]| -> f64 { w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum() };
    let row = |n: usize| n * x.len()..(n + 1) * x.len();
    let count = w.len() / x.len();
    let bias = |n: usize| bias.get(n).map_or(0.0, |&b| f64::from(b));
    (0..count)
        .map(|n| {
            let z = dot(&w[row(n)]) + bias(n);
            match form {
                ReferenceForm::Linear => z,
                ReferenceForm::Gelu => {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3));
                    0.5 * z * (1.0 + inner.tanh())
                }
                ReferenceForm::SwiGlu => {
                    z / (1.0 + (-z).exp()) * (dot(&up[row(n)]) + bias(count + n))
                }
            }
        })
        .collect()
}

#[cfg(test)]
#[path = "expert_linear_tests.rs"]
mod tests;
