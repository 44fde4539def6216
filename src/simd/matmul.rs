//! The matrix product behind every linear layer: `out = x·Wᵀ + bias` for weights that never change.
//!
//! A weight matrix is stored once, when it is loaded, in *panels* of sixteen output features: all
//! sixteen weights of input 0, then of input 1, and so on. A tile of the product, six rows by one
//! panel (two panels with AVX-512, two rows in a browser), stays in registers while the panel is
//! read sequentially, so nothing is rearranged at run time and an expert with few tokens streams its
//! weights at memory bandwidth.
//!
//! Every sum runs over the inputs in their order, whatever the tile, so a row of the result does
//! not depend on which rows are computed with it.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use pulp::{Arch, Simd, WithSimd};

use crate::platform::ROWS_BY_FOUR;

/// Output features per panel.
pub(crate) const PANEL: usize = 16;
/// Rows of a tile. By one panel, 6 rows × 2 vectors of eight are 12 of the 16 registers that AVX2 has; by two panels,
/// 6 × 2 vectors of sixteen are 12 of the 32 that AVX-512 has: enough sums to hide the latency of a multiply-add.
/// Where vectors have four numbers, it is [`ROWS_BY_FOUR`].
pub(super) const TILE: usize = 6;

/// One input's weights in one panel; aligned so that no vector straddles two cache lines.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [f32; PANEL]);

/// A matrix `[outputs, inputs]` in panels, padded with zeros to a whole number of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matrix {
    outputs: usize,
    inputs: usize,
    /// `[panels, inputs]` lines.
    lines: Vec<Line>,
}

impl Matrix {
    /// Packs a row-major `[outputs, inputs]` matrix, the layout of `Linear.weight`.
    pub(crate) fn new(outputs: usize, inputs: usize, weight: &[f32]) -> Self {
        let mut matrix = Self::default();
        matrix.pack_rows(outputs, inputs, |o| &weight[o * inputs..][..inputs]);
        matrix
    }

    /// Packs rows `[inputs]`, one for each output; reuses the memory of the matrix before.
    pub(crate) fn pack_rows<'a>(
        &mut self,
        outputs: usize,
        inputs: usize,
        row: impl Fn(usize) -> &'a [f32],
    ) {
        self.resize(outputs, inputs);
        for (p, panel) in self.lines.chunks_exact_mut(inputs).enumerate() {
            for (column, o) in (p * PANEL..outputs).take(PANEL).enumerate() {
                for (line, &w) in panel.iter_mut().zip(row(o)) {
                    line.0[column] = w;
                }
            }
        }
    }

    /// Packs columns `[outputs]`, one for each input; reuses the memory of the matrix before.
    pub(crate) fn pack_columns<'a>(
        &mut self,
        outputs: usize,
        inputs: usize,
        column: impl Fn(usize) -> &'a [f32],
    ) {
        self.resize(outputs, inputs);
        for i in 0..inputs {
            for (p, part) in column(i)[..outputs].chunks(PANEL).enumerate() {
                self.lines[p * inputs + i].0[..part.len()].copy_from_slice(part);
            }
        }
    }

    /// Width of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that the weights take.
    pub(crate) fn bytes(&self) -> u64 {
        size_of_val(&*self.lines) as u64
    }

    fn resize(&mut self, outputs: usize, inputs: usize) {
        let lines = outputs.div_ceil(PANEL) * inputs;
        if (self.outputs, self.inputs) != (outputs, inputs) {
            self.lines.clear();
            self.lines.resize(lines, Line::zeroed());
        }
        (self.outputs, self.inputs) = (outputs, inputs);
    }

    /// `out[r] = rows[r]·Wᵀ + bias`, `[rows, outputs]`, for rows of `[inputs]`.
    pub(crate) fn apply(&self, bias: Option<&[f32]>, rows: &[&[f32]], out: &mut [f32]) {
        self.apply_segments(bias, 1, rows, out);
    }

    /// As [`Matrix::apply`] for rows that lie in several places: `parts`, `[rows, segments]`, are all of one length,
    /// `[inputs / segments]`. A convolution reads its neighbourhood that way, without a copy.
    pub(crate) fn apply_segments(
        &self,
        bias: Option<&[f32]>,
        segments: usize,
        parts: &[&[f32]],
        out: &mut [f32],
    ) {
        assert_eq!(parts.len() * self.outputs, segments * out.len(), "rows and results");
        let rows = Rows { parts, segments };
        Arch::new().dispatch(Product { matrix: self, bias, rows, out });
    }
}

/// Rows of `width`, as [`Matrix::apply`] takes them.
pub(crate) fn rows_of(values: &[f32], width: usize) -> Vec<&[f32]> {
    values.chunks_exact(width).collect()
}

/// The inputs of a product. They are slices rather than a closure: the loops below are compiled for each kind of vector
/// and each tile height, and with closures for each caller as well, which took most of the library's compile time.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// `[rows, segments]`
    pub(super) parts: &'a [&'a [f32]],
    pub(super) segments: usize,
}

/// The arguments of [`Matrix::apply`], passed into code for this processor.
struct Product<'m> {
    matrix: &'m Matrix,
    bias: Option<&'m [f32]>,
    rows: Rows<'m>,
    out: &'m mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let outputs = self.matrix.outputs;
        in_tiles(simd, outputs, self);
    }
}

/// A product that is computed tile by tile.
pub(super) trait Tiled {
    /// The columns of a tile of `P` panels, from panel `first` on; `V` vectors make a panel.
    fn columns<S: Simd, const V: usize, const P: usize>(&mut self, simd: S, first: usize);
}

/// All columns of a product with so many outputs, in the tiles that suit the vectors.
#[inline(always)]
pub(super) fn in_tiles<S: Simd, T: Tiled>(simd: S, outputs: usize, product: T) {
    match S::F32_LANES {
        16 => each_tile::<S, T, 1, 2>(simd, outputs, product),
        8 => each_tile::<S, T, 2, 1>(simd, outputs, product),
        4 => each_tile::<S, T, 4, 1>(simd, outputs, product),
        _ => each_tile::<S, T, 16, 1>(simd, outputs, product),
    }
}

/// Panels that are left over make tiles of their own.
#[inline(always)]
fn each_tile<S: Simd, T: Tiled, const V: usize, const P: usize>(
    simd: S,
    outputs: usize,
    mut product: T,
) {
    let panels = outputs.div_ceil(PANEL);
    let whole = panels - panels % P;
    for first in (0..whole).step_by(P) {
        product.columns::<S, V, P>(simd, first);
    }
    for first in whole..panels {
        product.columns::<S, V, 1>(simd, first);
    }
}

impl Tiled for Product<'_> {
    #[inline(always)]
    fn columns<S: Simd, const V: usize, const P: usize>(&mut self, simd: S, first: usize) {
        let Matrix { outputs, inputs, ref lines } = *self.matrix;
        let panels = &lines[first * inputs..][..P * inputs];
        let columns = Columns::<P>::new(outputs, first, self.bias);
        columns.product::<S, V>(simd, self.rows, panels, self.out);
    }
}

/// The columns that `P` panels give.
pub(super) struct Columns<const P: usize> {
    outputs: usize,
    first: usize,
    bias: [Line; P],
}

impl<const P: usize> Columns<P> {
    /// Those of panels `first` to `first + P` of a product with `outputs` columns.
    #[inline(always)]
    pub(super) fn new(outputs: usize, first: usize, bias: Option<&[f32]>) -> Self {
        let mut columns = Self { outputs, first, bias: [Line::zeroed(); P] };
        if let Some(values) = bias {
            for p in 0..P {
                let part = &values[columns.of(p)];
                columns.bias[p].0[..part.len()].copy_from_slice(part);
            }
        }
        columns
    }

    #[inline(always)]
    fn of(&self, p: usize) -> Range<usize> {
        let start = (self.first + p) * PANEL;
        start..self.outputs.min(start + PANEL)
    }

    /// The bias as vectors, with which sums begin.
    #[inline(always)]
    pub(super) fn bias<S: Simd, const V: usize>(&self, simd: S) -> [[S::f32s; V]; P] {
        let mut bias = [[simd.splat_f32s(0.0); V]; P];
        for (vectors, line) in bias.iter_mut().zip(&self.bias) {
            vectors.copy_from_slice(S::as_simd_f32s(&line.0).0);
        }
        bias
    }

    /// Stores the sums of up to six rows, `[rows, outputs]`.
    #[inline(always)]
    pub(super) fn store(&self, sums: &[[Line; P]; TILE], rows: &mut [f32]) {
        for (row, sum) in rows.chunks_exact_mut(self.outputs).zip(sums) {
            for (p, sum) in sum.iter().enumerate() {
                let row = &mut row[self.of(p)];
                // With a constant length this is two moves instead of a call.
                match row.first_chunk_mut::<PANEL>() {
                    Some(whole) => *whole = sum.0,
                    None => row.copy_from_slice(&sum.0[..row.len()]),
                }
            }
        }
    }

    /// `out`, `[rows, outputs]`, by `panels` of f32, `[P, inputs]`.
    #[inline(always)]
    pub(super) fn product<S: Simd, const V: usize>(
        &self,
        simd: S,
        rows: Rows,
        panels: &[Line],
        out: &mut [f32],
    ) {
        let panels = S::as_simd_f32s(bytemuck::cast_slice(panels)).0.as_chunks::<V>().0;
        let most = if S::F32_LANES == 4 { ROWS_BY_FOUR } else { TILE };
        let mut sums = [[Line::zeroed(); P]; TILE];
        let parts = rows.parts.chunks(most * rows.segments);
        for (parts, out) in parts.zip(out.chunks_mut(most * self.outputs)) {
            let rows = Rows { parts, ..rows };
            match out.len() / self.outputs {
                1 => self.tile::<S, V, 1>(simd, rows, panels, &mut sums),
                // Known when this is compiled: where tiles have two rows, higher ones are left out.
                height if height == 2 || most == 2 => {
                    self.tile::<S, V, 2>(simd, rows, panels, &mut sums);
                }
                3 => self.tile::<S, V, 3>(simd, rows, panels, &mut sums),
                4 => self.tile::<S, V, 4>(simd, rows, panels, &mut sums),
                5 => self.tile::<S, V, 5>(simd, rows, panels, &mut sums),
                _ => self.tile::<S, V, 6>(simd, rows, panels, &mut sums),
            }
            self.store(&sums, out);
        }
    }

    /// `R` rows by `P` panels.
    #[inline(always)]
    #[expect(
        clippy::needless_range_loop,
        reason = "iterators stay calls in the builds that tests run"
    )]
    fn tile<S: Simd, const V: usize, const R: usize>(
        &self,
        simd: S,
        rows: Rows,
        panels: &[[S::f32s; V]],
        sums: &mut [[Line; P]; TILE],
    ) {
        let mut acc = [self.bias::<S, V>(simd); R];
        let inputs = panels.len() / P;
        let n = inputs / rows.segments;
        for s in 0..rows.segments {
            let (mut xs, mut weights) = ([&[][..]; R], [&[][..]; P]);
            for (r, x) in xs.iter_mut().enumerate() {
                *x = &rows.parts[r * rows.segments + s][..n];
            }
            for (p, weights) in weights.iter_mut().enumerate() {
                *weights = &panels[p * inputs + s * n..][..n];
            }
            for i in 0..n {
                let mut line = [[simd.splat_f32s(0.0); V]; P];
                for p in 0..P {
                    line[p] = weights[p][i];
                }
                add_products(simd, xs, i, &line, &mut acc);
            }
        }
        keep::<S, V, P, R>(acc, sums);
    }
}

/// The innermost step: input `i` of `R` rows by its weights in `P` panels, all sums in registers.
#[inline(always)]
pub(super) fn add_products<S: Simd, const V: usize, const P: usize, const R: usize>(
    simd: S,
    rows: [&[f32]; R],
    i: usize,
    weights: &[[S::f32s; V]; P],
    acc: &mut [[[S::f32s; V]; P]; R],
) {
    // Iterators would stay calls in the builds that tests run.
    for r in 0..R {
        let x = simd.splat_f32s(rows[r][i]);
        for p in 0..P {
            for v in 0..V {
                acc[r][p][v] = simd.mul_add_e_f32s(x, weights[p][v], acc[r][p][v]);
            }
        }
    }
}

/// Moves sums from registers to lines.
#[inline(always)]
pub(super) fn keep<S: Simd, const V: usize, const P: usize, const R: usize>(
    acc: [[[S::f32s; V]; P]; R],
    sums: &mut [[Line; P]; TILE],
) {
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (sum, acc) in sums.iter_mut().zip(acc) {
            S::as_mut_simd_f32s(&mut sum.0).0.copy_from_slice(&acc);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Odd sizes on both sides of tile and panel, against sums in f64.
    #[test]
    fn every_tile_height_and_panel_rest_gives_the_product() {
        for (rows, inputs, outputs) in
            [(1, 1, 1), (2, 5, 17), (3, 24, 16), (4, 33, 15), (5, 8, 48), (6, 7, 31), (13, 64, 40)]
        {
            let value = |i: usize, seed: f64| ((i as f64 * 0.7 + seed).sin() * 2.0) as f32;
            let weight: Vec<f32> = (0..outputs * inputs).map(|i| value(i, 0.3)).collect();
            let x: Vec<f32> = (0..rows * inputs).map(|i| value(i, 1.1)).collect();
            let bias: Vec<f32> = (0..outputs).map(|i| value(i, 2.0)).collect();
            let mut by_rows = vec![f32::NAN; rows * outputs];
            let all = rows_of(&x, inputs);
            Matrix::new(outputs, inputs, &weight).apply(Some(&bias), &all, &mut by_rows);
            let transposed: Vec<f32> =
                (0..inputs * outputs).map(|i| weight[i % outputs * inputs + i / outputs]).collect();
            let mut matrix = Matrix::default();
            matrix.pack_columns(outputs, inputs, |i| &transposed[i * outputs..]);
            let mut by_columns = vec![f32::NAN; rows * outputs];
            matrix.apply(Some(&bias), &all, &mut by_columns);
            assert_eq!(by_rows, by_columns);
            if inputs.is_multiple_of(3) {
                let mut by_segments = vec![f32::NAN; rows * outputs];
                let n = inputs / 3;
                let parts: Vec<&[f32]> = all.iter().flat_map(|row| row.chunks(n)).collect();
                matrix.apply_segments(Some(&bias), 3, &parts, &mut by_segments);
                assert_eq!(by_rows, by_segments);
            }
            for (at, &got) in by_rows.iter().enumerate() {
                let (r, o) = (at / outputs, at % outputs);
                let want: f64 = (0..inputs)
                    .map(|i| f64::from(x[r * inputs + i]) * f64::from(weight[o * inputs + i]))
                    .sum::<f64>()
                    + f64::from(bias[o]);
                assert!((f64::from(got) - want).abs() < 1e-4, "{rows}x{inputs}x{outputs} at {at}");
            }
        }
    }
}
