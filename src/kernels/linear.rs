//! Linear layers with activation and residual fused: `y = epilogue(act(x·Wᵀ + b))`.

use std::fmt::Display;

use bytemuck::{Pod, Zeroable};

use super::matrix::{Matrix, Part};
use super::pixels::Pixels;
use crate::gpu::{Gpu, Kernel, Profile, Shader, Tape, Tensor, Tile, Tiling};

/// The nonlinearity between the sum and the epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `z`
    None,
    /// `z·σ(z)`
    Silu,
    /// `½z(1 + tanh(√(2/π)(z + 0.044715z³)))`
    Gelu,
}

/// Where the activated sum `v` goes.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// `y = v`
    Store,
    /// `y += v`: the end of a residual branch without a gate.
    Add,
    /// `y += gate ⊙ v`: the end of a residual branch.
    Gated {
        /// The modulation `[B, columns]` that holds the gate.
        modulation: &'a Tensor,
        /// The gate's first column.
        first: usize,
        /// `T`, rows of `y` that share a gate.
        tokens: usize,
    },
    /// `y[s] = v + table[s mod T]`: the position embedding, `[T, N]`.
    Table(&'a Tensor),
    /// The rows are patches of images, which begin at element `first` of `y`, of any shape.
    Pixels {
        /// Where each number goes.
        places: &'a Pixels,
        /// First element of the images.
        first: usize,
    },
}

/// One linear layer.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// `[S, K]`
    pub x: &'a Tensor,
    /// `[N, K]` and bias.
    pub weights: &'a Matrix,
    /// `[N, K]` and bias: makes the layer the first half of a `SwiGLU`, `silu(W·x + b) ⊙ (U·x + c)`, which is stored.
    pub up: Option<&'a Matrix>,
    /// Not used where `up` is given.
    pub activation: Activation,
    /// What to do with the result.
    pub epilogue: Epilogue<'a>,
    /// `[S, N]`
    pub y: &'a Tensor,
}

impl<'a> Linear<'a> {
    /// `y = x·Wᵀ + b`; the methods below change what happens to the sum.
    pub fn new(x: &'a Tensor, weights: &'a Matrix, y: &'a Tensor) -> Self {
        let (activation, epilogue) = (Activation::None, Epilogue::Store);
        Self { x, weights, up: None, activation, epilogue, y }
    }

    /// Applies `SiLU`.
    #[must_use]
    pub fn silu(self) -> Self {
        Self { activation: Activation::Silu, ..self }
    }

    /// Becomes the first layer of a feed-forward network: GELU, or `SwiGLU` where there is an up projection.
    #[must_use]
    pub fn gelu_or_swiglu(self, up: Option<&'a Matrix>) -> Self {
        Self { activation: Activation::Gelu, up, ..self }
    }

    /// Has an epilogue other than a plain store.
    #[must_use]
    pub fn ending(self, epilogue: Epilogue<'a>) -> Self {
        Self { epilogue, ..self }
    }

    /// Records the layer, one dispatch for each part of the weights.
    ///
    /// # Panics
    /// When shapes do not fit: a bug.
    pub fn record<S: Clone + Display>(&self, gpu: &Gpu, tape: &mut Tape<S>, scope: S) {
        self.check();
        for call in self.calls(gpu.tiling) {
            tape.push(gpu, scope.clone(), &call);
        }
    }

    pub(super) fn check(&self) {
        let Self { x, y, weights, .. } = self;
        assert_eq!(x.shape[1], weights.columns(), "{}: inputs", weights.bias.label);
        if let Epilogue::Pixels { places, first } = self.epilogue {
            let [rows, columns] = [places.table.shape[0], places.table.shape[1]];
            assert_eq!(columns, weights.rows(), "{}: outputs", weights.bias.label);
            assert!(x.shape[0].is_multiple_of(rows), "whole samples");
            let samples = x.shape[0] / rows;
            assert!(first + samples * places.sample_len <= y.len(), "room for {samples} samples");
        } else {
            assert_eq!(*y.shape, [x.shape[0], weights.rows()], "{}: outputs", weights.bias.label);
        }
        if let Some(up) = self.up {
            assert_eq!((up.rows(), up.columns()), (weights.rows(), weights.columns()), "SwiGLU");
            assert!(up.layout().eq(weights.layout()), "SwiGLU");
            assert!(matches!(self.epilogue, Epilogue::Store), "SwiGLU");
        }
    }

    /// One call for each part, with the tile that suits its size.
    pub(super) fn calls(&self, tiling: Tiling) -> impl Iterator<Item = Call<'_>> {
        self.weights.parts.iter().enumerate().map(move |(i, part)| {
            let up = &self.up.unwrap_or(self.weights).parts[i].weights;
            let call = Call { linear: self, part, up, tile: Tile::Large };
            let [x, y, _] = call.groups(Profile::Gpu);
            Call { tile: tiling.tile(x * y), ..call }
        })
    }
}

/// A [`Linear`] over one part of its weights.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    linear: &'a Linear<'a>,
    part: &'a Part,
    up: &'a Tensor,
    /// On GPUs.
    tile: Tile,
}

/// Rows and columns of a lane's sums on GPUs.
const BLOCK: usize = 4;

/// Lanes of a workgroup on software adapters: one SIMD vector.
const LANES: usize = 8;

/// Rows of a lane's sums on software adapters.
const ROWS: usize = 8;

/// Columns of a lane's sums on software adapters.
const COLUMNS: usize = 16;

/// The uniform of `shaders/shared/linear.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) rows: u32,
    pub(super) columns: u32,
    pub(super) quads: u32,
    pub(super) first: u32,
    pub(super) stride: u32,
    pub(super) y_first: u32,
    pub(super) side_rows: u32,
    pub(super) side_stride: u32,
    pub(super) side_first: u32,
    pub(super) activation: u32,
    pub(super) epilogue: u32,
    pub(super) norm_rows: u32,
    pub(super) norm_stride: u32,
    pub(super) shift_quad: u32,
    pub(super) scale_quad: u32,
    pub(super) keeps_normal: u32,
    pub(super) centring: f32,
}

impl<'a> Call<'a> {
    /// Rows of the layer.
    pub(super) fn x(&self) -> &'a Tensor {
        self.linear.x
    }
}

impl Kernel for Call<'_> {
    /// Tiles in workgroup memory.
    const SHADER: Shader = shader!(
        "linear",
        shared: ["linear_tile", "product_tile", "linear", "weights", "activation"]
    );
    /// Registers only.
    const SOFTWARE: Option<Shader> = Some(shader!(
        "linear_software",
        shared: ["linear", "weights", "activation"],
        sizes: [LANES],
        consts: [ROWS, COLUMNS]
    ));
    type Params = Params;

    fn params(&self) -> Params {
        let Linear { x, weights, up, activation, epilogue, .. } = *self.linear;
        let (side_rows, side_stride, side_first) = match epilogue {
            Epilogue::Store | Epilogue::Add => (1, 0, 0),
            Epilogue::Gated { modulation, first, tokens } => (tokens, modulation.shape[1], first),
            Epilogue::Table(table) | Epilogue::Pixels { places: Pixels { table, .. }, .. } => {
                (table.shape[0], table.shape[1], 0)
            }
        };
        let (stride, y_first) = match epilogue {
            Epilogue::Pixels { places, first } => (places.sample_len, first),
            _ => (weights.rows(), 0),
        };
        let activation = match (up, activation) {
            (Some(_), _) => 3,
            (None, Activation::None) => 0,
            (None, Activation::Silu) => 1,
            (None, Activation::Gelu) => 2,
        };
        let epilogue = match epilogue {
            Epilogue::Store => 0,
            Epilogue::Gated { .. } => 1,
            Epilogue::Table(_) => 2,
            Epilogue::Add => 3,
            Epilogue::Pixels { .. } => 4,
        };
        Params {
            rows: x.shape[0] as u32,
            columns: self.part.rows.len() as u32,
            quads: (weights.columns() / 4) as u32,
            first: self.part.rows.start as u32,
            stride: stride as u32,
            y_first: y_first as u32,
            side_rows: side_rows as u32,
            side_stride: side_stride as u32,
            side_first: side_first as u32,
            activation,
            epilogue,
            ..Params::zeroed()
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let Linear { x, weights, up, epilogue, y, .. } = *self.linear;
        let bias = &weights.bias;
        let side = match epilogue {
            // Something must be bound.
            Epilogue::Store | Epilogue::Add => up.map_or(bias, |up| &up.bias),
            Epilogue::Gated { modulation: side, .. } | Epilogue::Table(side) => side,
            Epilogue::Pixels { places, .. } => &places.table,
        };
        vec![x, &self.part.weights, self.up, bias, side, y]
    }

    fn constants(&self, profile: Profile) -> Vec<(&'static str, f64)> {
        let mut constants = vec![self.part.precision.constant()];
        if profile == Profile::Gpu {
            let lanes = self.tile.lanes() as f64;
            constants.extend([("LANES_X", lanes), ("LANES_Y", lanes)]);
        }
        constants
    }

    fn groups(&self, profile: Profile) -> [u32; 3] {
        let (rows, sums) = match profile {
            Profile::Gpu => (BLOCK * self.tile.lanes(), BLOCK * self.tile.lanes()),
            Profile::Software => (ROWS, COLUMNS * LANES),
        };
        // `SwiGLU` pairs two sums.
        let columns = if self.linear.up.is_some() { sums / 2 } else { sums };
        let all_rows = self.linear.x.shape[0];
        [self.part.rows.len().div_ceil(columns) as u32, all_rows.div_ceil(rows) as u32, 1]
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
