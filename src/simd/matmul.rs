//! The matrix product behind every linear layer: `out = x·Wᵀ + bias` for weights that never change.
//!
//! A weight matrix is stored once, when it is loaded, in the panels of [`super::panels`]. A tile of the
//! product, six rows by one panel (two with AVX-512), stays in registers while the panel is read
//! sequentially, so nothing is rearranged at run time and an expert with few tokens streams its weights
//! at memory bandwidth. Panels that are not f32 are widened a block of inputs at a time, into the nearest
//! cache; the sums of a block go on where those of the block before ended.
//!
//! Every sum runs over the inputs in their order, whatever the tile, so a row of the result does
//! not depend on which rows are computed with it.

use bytemuck::Zeroable;
use pulp::{Arch, Simd, WithSimd};

use super::panels::{Line, PANEL, Panels};
use crate::checkpoint::StoredRows;
use crate::model::Storage;

/// Rows of a tile. By one panel, 6 rows × 2 vectors of eight are 12 of the 16 registers that AVX2 has; by two panels,
/// 6 × 2 vectors of sixteen are 12 of the 32 that AVX-512 has: enough sums to hide the latency of a multiply-add.
const TILE: usize = 6;

/// Inputs of a panel that are widened at once.
const BLOCK: usize = 256;

/// A matrix `[outputs, inputs]` in panels, padded with zeros to a whole number of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matrix {
    outputs: usize,
    inputs: usize,
    panels: Panels,
}

impl Matrix {
    /// Packs a row-major `[outputs, inputs]` matrix, the layout of `Linear.weight`.
    pub(crate) fn new(outputs: usize, inputs: usize, weight: &[f32]) -> Self {
        let mut matrix = Self::default();
        matrix.pack_rows(outputs, inputs, |o| &weight[o * inputs..][..inputs]);
        matrix
    }

    /// Packs the rows of a file and keeps their format, `storage`. The products are those of the decoded rows.
    pub(crate) fn stored(rows: &StoredRows, storage: Storage) -> Self {
        let panels = Panels::stored(rows, storage);
        Self { outputs: rows.len(), inputs: rows.width(), panels }
    }

    /// Bytes that the weights take.
    pub(crate) fn bytes(&self) -> u64 {
        self.panels.bytes()
    }

    /// Packs rows `[inputs]`, one for each output; reuses the memory of the matrix before.
    pub(crate) fn pack_rows<'a>(
        &mut self,
        outputs: usize,
        inputs: usize,
        row: impl Fn(usize) -> &'a [f32],
    ) {
        for (p, panel) in self.resize(outputs, inputs).chunks_exact_mut(inputs).enumerate() {
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
        let lines = self.resize(outputs, inputs);
        for i in 0..inputs {
            for (p, part) in column(i)[..outputs].chunks(PANEL).enumerate() {
                lines[p * inputs + i].0[..part.len()].copy_from_slice(part);
            }
        }
    }

    /// Width of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Makes room for f32.
    fn resize(&mut self, outputs: usize, inputs: usize) -> &mut [Line] {
        let is_same = (self.outputs, self.inputs) == (outputs, inputs);
        (self.outputs, self.inputs) = (outputs, inputs);
        if !matches!(self.panels, Panels::F32(_)) {
            self.panels = Panels::default();
        }
        let Panels::F32(lines) = &mut self.panels else { return &mut [] };
        if !is_same {
            lines.clear();
            lines.resize(outputs.div_ceil(PANEL) * inputs, Line::zeroed());
        }
        lines
    }

    /// `out[r] = x[r]·Wᵀ + bias` for every row of `out`, `[rows, outputs]`; `x(r)` is row `r`, `[inputs]`.
    pub(crate) fn apply<'a>(
        &self,
        bias: Option<&[f32]>,
        x: impl Fn(usize) -> &'a [f32],
        out: &mut [f32],
    ) {
        self.apply_segments(bias, 1, |r, _| x(r), out);
    }

    /// As [`Matrix::apply`] for rows that lie in several places: `x(r, s)` is part `s` of row `r`, all of
    /// one length, `[inputs / segments]`. A convolution reads its neighbourhood that way, without a copy.
    pub(crate) fn apply_segments<'a>(
        &self,
        bias: Option<&[f32]>,
        segments: usize,
        x: impl Fn(usize, usize) -> &'a [f32],
        out: &mut [f32],
    ) {
        let is_wide = matches!(self.panels, Panels::F32(_));
        let wide = vec![Line::zeroed(); if is_wide { 0 } else { 2 * BLOCK }];
        Arch::new().dispatch(Product { matrix: self, bias, segments, x, out, wide });
    }
}

/// The arguments of [`Matrix::apply`], passed into code for this processor.
struct Product<'m, X> {
    matrix: &'m Matrix,
    bias: Option<&'m [f32]>,
    segments: usize,
    x: X,
    out: &'m mut [f32],
    /// Room for a block of each panel of a tile, unless they are f32 already
    wide: Vec<Line>,
}

impl<'a, X: Fn(usize, usize) -> &'a [f32]> WithSimd for Product<'_, X> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.run::<S, 1, 2>(simd),
            8 => self.run::<S, 2, 1>(simd),
            4 => self.run::<S, 4, 1>(simd),
            _ => self.run::<S, 16, 1>(simd),
        }
    }
}

impl<'a, X: Fn(usize, usize) -> &'a [f32]> Product<'_, X> {
    /// `V` vectors make a panel, `P` panels a tile; panels that are left over make tiles of their own.
    #[inline(always)]
    fn run<S: Simd, const V: usize, const P: usize>(mut self, simd: S) {
        let panels = self.matrix.outputs.div_ceil(PANEL);
        let whole = panels - panels % P;
        for first in (0..whole).step_by(P) {
            self.columns::<S, V, P>(simd, first);
        }
        for first in whole..panels {
            self.columns::<S, V, 1>(simd, first);
        }
    }

    /// The columns of `P` panels, from panel `first` on.
    #[inline(always)]
    fn columns<S: Simd, const V: usize, const P: usize>(&mut self, simd: S, first: usize) {
        let Matrix { inputs, ref panels, .. } = *self.matrix;
        if let Panels::F32(lines) = panels {
            let panels =
                std::array::from_fn(|p| vectors::<S, V>(&lines[(first + p) * inputs..][..inputs]));
            self.rows::<S, V, P>(simd, first, 0, panels);
            return;
        }
        assert_eq!(self.segments, 1, "convolutions are f32");
        let mut room = std::mem::take(&mut self.wide);
        let wide = room.as_chunks_mut::<BLOCK>().0;
        for start in (0..inputs).step_by(BLOCK) {
            let end = inputs.min(start + BLOCK);
            for (p, wide) in wide[..P].iter_mut().enumerate() {
                panels.widen(inputs, first + p, start..end, &mut wide[..end - start]);
            }
            let block = std::array::from_fn(|p| vectors::<S, V>(&wide[p][..end - start]));
            self.rows::<S, V, P>(simd, first, start, block);
        }
        self.wide = room;
    }

    /// All rows by the inputs from `start` on that `panels` hold. Sums begin with the bias, or with those so far.
    #[inline(always)]
    fn rows<S: Simd, const V: usize, const P: usize>(
        &mut self,
        simd: S,
        first: usize,
        start: usize,
        panels: [&[[S::f32s; V]]; P],
    ) {
        let outputs = self.matrix.outputs;
        let columns = |p: usize| {
            let start = (first + p) * PANEL;
            start..outputs.min(start + PANEL)
        };
        let mut bias = [Line::zeroed(); P];
        if let Some(values) = self.bias {
            for (p, line) in bias.iter_mut().enumerate() {
                let part = &values[columns(p)];
                line.0[..part.len()].copy_from_slice(part);
            }
        }
        let n = panels[0].len() / self.segments;
        for (t, rows) in self.out.chunks_mut(TILE * outputs).enumerate() {
            let x = |r: usize, s: usize| &(self.x)(t * TILE + r, s)[start..][..n];
            let mut sums = [[Line::zeroed(); P]; TILE];
            let begin = if start == 0 {
                Begin::Bias(&bias)
            } else {
                for (row, sum) in rows.chunks_exact(outputs).zip(&mut sums) {
                    for (p, sum) in sum.iter_mut().enumerate() {
                        let row = &row[columns(p)];
                        sum.0[..row.len()].copy_from_slice(row);
                    }
                }
                Begin::Sums
            };
            match rows.len() / outputs {
                1 => tile::<S, V, P, 1>(simd, n, x, panels, begin, &mut sums),
                2 => tile::<S, V, P, 2>(simd, n, x, panels, begin, &mut sums),
                3 => tile::<S, V, P, 3>(simd, n, x, panels, begin, &mut sums),
                4 => tile::<S, V, P, 4>(simd, n, x, panels, begin, &mut sums),
                5 => tile::<S, V, P, 5>(simd, n, x, panels, begin, &mut sums),
                _ => tile::<S, V, P, 6>(simd, n, x, panels, begin, &mut sums),
            }
            for (row, sum) in rows.chunks_exact_mut(outputs).zip(&sums) {
                for (p, sum) in sum.iter().enumerate() {
                    let row = &mut row[columns(p)];
                    // With a constant length this is two moves instead of a call.
                    match row.first_chunk_mut::<PANEL>() {
                        Some(whole) => *whole = sum.0,
                        None => row.copy_from_slice(&sum.0[..row.len()]),
                    }
                }
            }
        }
    }
}

/// A panel as vectors.
#[inline(always)]
fn vectors<S: Simd, const V: usize>(panel: &[Line]) -> &[[S::f32s; V]] {
    S::as_simd_f32s(bytemuck::cast_slice(panel)).0.as_chunks::<V>().0
}

/// What the sums of a tile begin with.
#[derive(Clone, Copy)]
enum Begin<'a, const P: usize> {
    Bias(&'a [Line; P]),
    /// With themselves.
    Sums,
}

/// The innermost loop: `R` rows, in segments of `n` inputs, by `P` panels, all sums in registers.
#[inline(always)]
fn tile<'a, S: Simd, const V: usize, const P: usize, const R: usize>(
    simd: S,
    n: usize,
    x: impl Fn(usize, usize) -> &'a [f32],
    panels: [&[[S::f32s; V]]; P],
    begin: Begin<P>,
    sums: &mut [[Line; P]; TILE],
) {
    let load = |lines: &[Line; P]| -> [[S::f32s; V]; P] {
        std::array::from_fn(|p| std::array::from_fn(|v| S::as_simd_f32s(&lines[p].0).0[v]))
    };
    let mut acc: [[[S::f32s; V]; P]; R] = match begin {
        Begin::Bias(bias) => [load(bias); R],
        Begin::Sums => std::array::from_fn(|r| load(&sums[r])),
    };
    for s in 0..panels[0].len() / n {
        let rows: [&[f32]; R] = std::array::from_fn(|r| &x(r, s)[..n]);
        let parts: [&[[S::f32s; V]]; P] = std::array::from_fn(|p| &panels[p][s * n..][..n]);
        for i in 0..n {
            for r in 0..R {
                let x = simd.splat_f32s(rows[r][i]);
                for p in 0..P {
                    for v in 0..V {
                        acc[r][p][v] = simd.mul_add_e_f32s(x, parts[p][i][v], acc[r][p][v]);
                    }
                }
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (sum, acc) in sums.iter_mut().zip(acc) {
            S::as_mut_simd_f32s(&mut sum.0).0.copy_from_slice(&acc);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::StoredValues;

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
            let row = |r: usize| &x[r * inputs..][..inputs];
            Matrix::new(outputs, inputs, &weight).apply(Some(&bias), row, &mut by_rows);
            let transposed: Vec<f32> =
                (0..inputs * outputs).map(|i| weight[i % outputs * inputs + i / outputs]).collect();
            let mut matrix = Matrix::default();
            matrix.pack_columns(outputs, inputs, |i| &transposed[i * outputs..]);
            let mut by_columns = vec![f32::NAN; rows * outputs];
            matrix.apply(Some(&bias), row, &mut by_columns);
            assert_eq!(by_rows, by_columns);
            if inputs.is_multiple_of(3) {
                let mut by_segments = vec![f32::NAN; rows * outputs];
                let n = inputs / 3;
                let part = |r: usize, s: usize| &row(r)[s * n..][..n];
                matrix.apply_segments(Some(&bias), 3, part, &mut by_segments);
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

    /// Longer than a block, at every tile height: the bits of the product of the decoded rows.
    #[test]
    fn stored_weights_give_the_bits_of_decoded_ones() {
        for (rows, inputs, outputs) in [(1, 700, 33), (5, 256, 16), (13, 515, 50), (96, 40, 7)] {
            let value = |i: usize| f32::from(half::f16::from_f32((i as f32 * 0.7).sin() * 2.0));
            let weight: Vec<f32> = (0..outputs * inputs).map(value).collect();
            let x: Vec<f32> = (0..rows * inputs).map(|i| (i as f32 * 1.3).cos()).collect();
            let bias: Vec<f32> = (0..outputs).map(value).collect();
            let bytes: Vec<u8> = (0..outputs * inputs).map(|i| (i * 73 % 256) as u8).collect();
            let scales: Vec<f32> = (0..outputs).map(|o| 0.01 + o as f32 * 1e-3).collect();
            let int8 = StoredValues::Int8 { numbers: &bytes, scales: scales.into() };
            let floats = StoredValues::Floats(weight.into());
            for (values, storage) in [(floats, Storage::F16), (int8, Storage::Int8)] {
                let stored = StoredRows::new(inputs, values);
                let matrix = Matrix::stored(&stored, storage);
                assert!(matrix.bytes() < 3 * (outputs.next_multiple_of(PANEL) * inputs) as u64);
                let row = |r: usize| &x[r * inputs..][..inputs];
                let (mut got, mut want) =
                    (vec![f32::NAN; rows * outputs], vec![0.0; rows * outputs]);
                matrix.apply(Some(&bias), row, &mut got);
                Matrix::new(outputs, inputs, &stored.decode()).apply(Some(&bias), row, &mut want);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(&want), "{rows}x{inputs}x{outputs} {storage:?}");
            }
        }
    }
}
