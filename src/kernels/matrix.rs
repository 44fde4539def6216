//! A weight matrix on the device, padded to a multiple of four columns, and split by rows where it would not fit
//! one storage binding or the precision changes.

use std::ops::Range;

use super::weights::{WeightPrecision, pack_stored};
use crate::checkpoint::StoredRows;
use crate::gpu::{Gpu, Tensor};

/// Weights `[N, K]` and bias `[N]` of one linear layer.
#[derive(Debug)]
pub struct Matrix {
    /// Row blocks, in order.
    pub(super) parts: Vec<Part>,
    /// `[N]`; zeros where the layer has no bias.
    pub(super) bias: Tensor,
    rows: usize,
    columns: usize,
}

/// Some rows of a matrix.
#[derive(Debug)]
pub(super) struct Part {
    /// First row, and one past the last.
    pub(super) rows: Range<usize>,
    /// `[rows, words]`: see [`WeightPrecision::row_words`].
    pub(super) weights: Tensor,
    /// What the words are.
    pub(super) precision: WeightPrecision,
}

impl Matrix {
    /// An unfilled matrix of `rows` (`N`) by `columns` (`K`); the bias is zero.
    ///
    /// # Panics
    /// When a single row does not fit a binding.
    pub fn new(
        gpu: &Gpu,
        label: &str,
        rows: usize,
        columns: usize,
        precision: WeightPrecision,
    ) -> Self {
        Self::split(gpu, label, &[(rows, precision)], columns, gpu.binding_limit)
    }

    /// As [`Matrix::new`], of several layers one below the other: the rows of each, and what they are stored as.
    ///
    /// # Panics
    /// As [`Matrix::new`].
    pub fn stacked(
        gpu: &Gpu,
        label: &str,
        layers: &[(usize, WeightPrecision)],
        columns: usize,
    ) -> Self {
        Self::split(gpu, label, layers, columns, gpu.binding_limit)
    }

    /// As [`Matrix::stacked`], with parts of at most `limit` bytes.
    pub(super) fn split(
        gpu: &Gpu,
        label: &str,
        layers: &[(usize, WeightPrecision)],
        columns: usize,
        limit: u64,
    ) -> Self {
        let columns = columns.next_multiple_of(4);
        let (mut parts, mut rows) = (Vec::new(), 0);
        for run in layers.chunk_by(|a, b| a.1 == b.1) {
            let (first, precision) = (rows, run[0].1);
            rows += run.iter().map(|layer| layer.0).sum::<usize>();
            let words = precision.row_words(columns);
            let at_once = (limit / (4 * words as u64)).min(rows as u64) as usize;
            assert!(at_once > 0, "{label}: a row of {columns} weights does not fit a binding");
            parts.extend((first..rows).step_by(at_once).map(|start| {
                let end = rows.min(start + at_once);
                let weights = Tensor::empty(gpu, label, &[end - start, words]);
                Part { rows: start..end, weights, precision }
            }));
        }
        let bias = Tensor::upload(gpu, format!("{label} bias"), &[rows], &vec![0.0_f32; rows]);
        Self { parts, bias, rows, columns }
    }

    /// The numbers of a tensor `[N, K]` that a kernel writes, as a factor in a product: f32, no bias.
    ///
    /// # Panics
    /// When K is not a multiple of four.
    pub fn of_tensor(gpu: &Gpu, tensor: &Tensor) -> Self {
        let &[rows, columns] = &*tensor.shape else { panic!("{:?}", tensor.shape) };
        assert!(columns.is_multiple_of(4), "{}: {columns} columns", tensor.label);
        let bias = Tensor::upload(gpu, "no bias", &[rows], &vec![0.0_f32; rows]);
        let (weights, precision) = (tensor.clone(), WeightPrecision::F32);
        let parts = vec![Part { rows: 0..rows, weights, precision }];
        Self { parts, bias, rows, columns }
    }

    /// `N`, the outputs of the layer.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `K`, the inputs of the layer, padded.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Weights `[N, K]` and bias `[N]` in f32, for kernels that bind them whole.
    ///
    /// # Panics
    /// When the weights are split, or not f32.
    pub fn whole(&self) -> [&Tensor; 2] {
        match &self.parts[..] {
            [Part { weights, precision: WeightPrecision::F32, .. }] => [weights, &self.bias],
            parts => panic!("{} in {} parts", self.bias.label, parts.len()),
        }
    }

    /// How the rows are stored, part by part.
    pub(super) fn layout(&self) -> impl Iterator<Item = (&Range<usize>, WeightPrecision)> {
        self.parts.iter().map(|part| (&part.rows, part.precision))
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.bias.bytes() + self.parts.iter().map(|part| part.weights.bytes()).sum::<u64>()
    }

    /// Fills rows from `first` on; the padding becomes zero. Integers of the matrix's precision stay what they are.
    ///
    /// # Panics
    /// When the rows do not fit the matrix.
    pub fn write_rows(&self, gpu: &Gpu, first: usize, rows: &StoredRows<'_>) {
        assert_eq!(rows.width().next_multiple_of(4), self.columns, "row width");
        assert!(first + rows.len() <= self.rows, "rows {first}.. of {}", self.rows);
        for part in &self.parts {
            let start = part.rows.start.max(first);
            let end = part.rows.end.min(first + rows.len());
            if start < end {
                let some = rows.slice(start - first..end - first);
                let words = pack_stored(&some, self.columns, part.precision);
                let row_words = part.weights.shape[1];
                part.weights.write_at(gpu, (start - part.rows.start) * row_words, &words);
            }
        }
    }

    /// Fills the bias from row `first` on.
    ///
    /// # Panics
    /// When it does not fit the matrix.
    pub fn write_bias(&self, gpu: &Gpu, first: usize, values: &[f32]) {
        self.bias.write_at(gpu, first, values);
    }
}
