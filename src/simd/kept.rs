//! Matrix products in f32 with weights that stay in the format of their file: half the memory or less, the same bits.
//!
//! Panels are widened into memory of the thread, once for all rows of a product. With AVX-512, f16 is widened by the
//! first tile of rows as it goes along, so that conversion and memory keep step with arithmetic; an expert with a
//! few tokens then takes no longer than with f32, which is twice as much to read.

use std::cell::RefCell;

use bytemuck::Zeroable;
use pulp::{Arch, Simd, WithSimd};

use super::formats::Panels;
use super::matmul::{Columns, Line, PANEL, Rows, TILE, Tiled, add_products, in_tiles, keep};
use super::platform::LineWidener;
use crate::checkpoint::StoredRows;
use crate::model::Storage;

thread_local! {
    /// The panels of a tile in f32.
    static WIDE: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// A matrix `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct KeptMatrix {
    outputs: usize,
    inputs: usize,
    panels: Panels,
}

impl KeptMatrix {
    /// Packs the rows of a file, which holds them in `storage`. None where only f32 has their numbers.
    pub(crate) fn new(rows: &StoredRows, storage: Storage) -> Option<Self> {
        let panels = Panels::new(rows, storage)?;
        Some(Self { outputs: rows.len(), inputs: rows.width(), panels })
    }

    /// Width of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that the weights take.
    pub(crate) fn bytes(&self) -> u64 {
        self.panels.bytes()
    }

    /// `out[r] = rows[r]·Wᵀ + bias`, `[rows, outputs]`, with the bits of the product with f32 weights.
    pub(crate) fn apply(&self, bias: Option<&[f32]>, rows: &[&[f32]], out: &mut [f32]) {
        assert_eq!(rows.len() * self.outputs, out.len(), "rows and results");
        WIDE.with_borrow_mut(|wide| {
            Arch::new().dispatch(Product { matrix: self, bias, rows, out, wide });
        });
    }
}

/// The arguments of [`KeptMatrix::apply`], passed into code for this processor.
struct Product<'m> {
    matrix: &'m KeptMatrix,
    bias: Option<&'m [f32]>,
    rows: &'m [&'m [f32]],
    out: &'m mut [f32],
    wide: &'m mut Vec<Line>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let outputs = self.matrix.outputs;
        in_tiles(simd, outputs, self);
    }
}

impl Tiled for Product<'_> {
    #[inline(always)]
    fn columns<S: Simd, const V: usize, const P: usize>(&mut self, simd: S, first: usize) {
        let KeptMatrix { outputs, inputs, ref panels } = *self.matrix;
        let columns = Columns::<P>::new(outputs, first, self.bias);
        if self.wide.len() < P * inputs {
            self.wide.resize(P * inputs, Line::zeroed());
        }
        let wide = &mut self.wide[..P * inputs];
        let mut done = 0;
        if let (Panels::F16(lines), Some(widener)) = (panels, LineWidener::of(simd)) {
            let lines = &lines[first * inputs..][..P * inputs];
            let rows = &self.rows[..TILE.min(self.rows.len())];
            let tile = First { simd, widener, rows, lines, columns: &columns };
            done = rows.len();
            let out = &mut self.out[..done * outputs];
            match done {
                0 => {}
                1 => tile.product::<1>(wide, out),
                2 => tile.product::<2>(wide, out),
                3 => tile.product::<3>(wide, out),
                4 => tile.product::<4>(wide, out),
                5 => tile.product::<5>(wide, out),
                _ => tile.product::<6>(wide, out),
            }
        } else {
            for (p, wide) in wide.chunks_exact_mut(inputs).enumerate() {
                panels.widen(inputs, first + p, wide);
            }
        }
        let rows = Rows { parts: &self.rows[done..], segments: 1 };
        columns.product::<S, V>(simd, rows, wide, &mut self.out[done * outputs..]);
    }
}

/// The first rows by `P` panels of f16, in vectors of sixteen.
struct First<'m, S, const P: usize> {
    simd: S,
    widener: LineWidener,
    /// `[inputs]` each.
    rows: &'m [&'m [f32]],
    /// `[P, inputs]`
    lines: &'m [[u16; PANEL]],
    columns: &'m Columns<P>,
}

impl<S: Simd, const P: usize> First<'_, S, P> {
    /// `R` rows, to `out`; leaves the panels in f32 in `wide`, `[P, inputs]`.
    #[inline(always)]
    fn product<const R: usize>(&self, wide: &mut [Line], out: &mut [f32]) {
        let n = self.lines.len() / P;
        let mut rows = [&[][..]; R];
        for (row, all) in rows.iter_mut().zip(self.rows) {
            *row = &all[..n];
        }
        let mut lines = [&[][..]; P];
        for (lines, all) in lines.iter_mut().zip(self.lines.chunks_exact(n)) {
            *lines = &all[..n];
        }
        let mut panels: [&mut [Line]; P] = std::array::from_fn(|_| Default::default());
        for (panel, wide) in panels.iter_mut().zip(wide.chunks_exact_mut(n)) {
            *panel = &mut wide[..n];
        }
        let mut acc = [self.columns.bias::<S, 1>(self.simd); R];
        for i in 0..n {
            let mut weights = [[self.simd.splat_f32s(0.0)]; P];
            for p in 0..P {
                weights[p][0] = self.widener.widen::<S>(&lines[p][i]);
                S::as_mut_simd_f32s(&mut panels[p][i].0).0[0] = weights[p][0];
            }
            add_products(self.simd, rows, i, &weights, &mut acc);
        }
        let mut sums = [[Line::zeroed(); P]; TILE];
        keep::<S, 1, P, R>(acc, &mut sums);
        self.columns.store(&sums, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::StoredValues;
    use crate::simd::matmul::{Matrix, rows_of};

    /// At every tile height, with and without rows after the first tile: the bits of the product of decoded rows.
    #[test]
    fn stored_weights_give_the_bits_of_decoded_ones() {
        for (rows, inputs, outputs) in [
            (1, 700, 33),
            (2, 31, 48),
            (3, 8, 1),
            (4, 65, 32),
            (5, 256, 16),
            (6, 129, 20),
            (13, 515, 50),
            (96, 40, 7),
        ] {
            let value = |i: usize| f32::from(half::f16::from_f32((i as f32 * 0.7).sin() * 2.0));
            let weight: Vec<f32> = (0..outputs * inputs).map(value).collect();
            let x: Vec<f32> = (0..rows * inputs).map(|i| (i as f32 * 1.3).cos()).collect();
            let bias: Vec<f32> = (0..outputs).map(value).collect();
            let bytes: Vec<u8> = (0..outputs * inputs).map(|i| (i * 73 % 256) as u8).collect();
            let scales: Vec<f32> = (0..outputs).map(|o| 0.01 + o as f32 * 1e-3).collect();
            let int8 = StoredValues::Int8 { numbers: &bytes, scales: scales.into() };
            let wide: Vec<f32> =
                weight.iter().map(|&w| half::bf16::from_f32(w * 1e9).into()).collect();
            let brain = StoredValues::Floats(wide.into());
            let floats = StoredValues::Floats(weight.into());
            for (values, storage) in
                [(floats, Storage::F16), (brain, Storage::F16), (int8, Storage::Int8)]
            {
                let stored = StoredRows::new(inputs, values);
                let matrix = KeptMatrix::new(&stored, storage).unwrap();
                assert!(matrix.bytes() < 3 * (outputs.next_multiple_of(PANEL) * inputs) as u64);
                let x = rows_of(&x, inputs);
                let (mut got, mut want) =
                    (vec![f32::NAN; rows * outputs], vec![0.0; rows * outputs]);
                matrix.apply(Some(&bias), &x, &mut got);
                Matrix::new(outputs, inputs, &stored.decode()).apply(Some(&bias), &x, &mut want);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(&want), "{rows}x{inputs}x{outputs} {storage:?}");
            }
        }
    }
}
