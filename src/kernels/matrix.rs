//! A weight matrix on the device, padded to a multiple of four columns, and split by rows where it would not fit
//! one storage binding.

use super::weights::{WeightPrecision, pack_rows};
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
    precision: WeightPrecision,
}

/// Some rows of a matrix.
#[derive(Debug)]
pub(super) struct Part {
    /// First row, and one past the last.
    pub(super) rows: std::ops::Range<usize>,
    /// `[rows, words]`: see [`WeightPrecision::row_words`].
    pub(super) weights: Tensor,
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
        Self::split(gpu, label, rows, columns, precision, gpu.binding_limit)
    }

    /// As [`Matrix::new`], with parts of at most `limit` bytes.
    pub(super) fn split(
        gpu: &Gpu,
        label: &str,
        rows: usize,
        columns: usize,
        precision: WeightPrecision,
        limit: u64,
    ) -> Self {
        let columns = columns.next_multiple_of(4);
        let words = precision.row_words(columns);
        let at_once = (limit / (4 * words as u64)).min(rows as u64) as usize;
        assert!(at_once > 0, "{label}: a row of {columns} weights does not fit a binding");
        let parts = (0..rows)
            .step_by(at_once)
            .map(|start| {
                let end = rows.min(start + at_once);
                let weights = Tensor::empty(gpu, label, &[end - start, words]);
                Part { rows: start..end, weights }
            })
            .collect();
        let bias = Tensor::upload(gpu, format!("{label} bias"), &[rows], &vec![0.0_f32; rows]);
        Self { parts, bias, rows, columns, precision }
    }

    /// The numbers of a tensor `[N, K]` that a kernel writes, as a factor in a product: f32, no bias.
    ///
    /// # Panics
    /// When K is no multiple of four.
    pub fn of_tensor(gpu: &Gpu, tensor: &Tensor) -> Self {
        let &[rows, columns] = &*tensor.shape else { panic!("{:?}", tensor.shape) };
        assert!(columns.is_multiple_of(4), "{}: {columns} columns", tensor.label);
        let bias = Tensor::upload(gpu, "no bias", &[rows], &vec![0.0_f32; rows]);
        let parts = vec![Part { rows: 0..rows, weights: tensor.clone() }];
        Self { parts, bias, rows, columns, precision: WeightPrecision::F32 }
    }

    /// `N`, the outputs of the layer.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `K`, the inputs of the layer, padded.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How the weights are stored.
    pub fn precision(&self) -> WeightPrecision {
        self.precision
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.bias.bytes() + self.parts.iter().map(|part| part.weights.bytes()).sum::<u64>()
    }

    /// Fills rows from `first` on with `values`, whole rows of `width` numbers; the padding becomes zero.
    ///
    /// # Panics
    /// When the rows do not fit the matrix.
    pub fn write_rows(&self, gpu: &Gpu, first: usize, width: usize, values: &[f32]) {
        let rows = values.len() / width;
        assert_eq!(rows * width, values.len(), "whole rows");
        assert_eq!(width.next_multiple_of(4), self.columns, "row width");
        assert!(first + rows <= self.rows, "rows {first}.. of {}", self.rows);
        for part in &self.parts {
            let start = part.rows.start.max(first);
            let end = part.rows.end.min(first + rows);
            if start < end {
                let some = &values[(start - first) * width..(end - first) * width];
                let some = pad_rows(some, width, self.columns);
                let words = pack_rows(&some, self.columns, self.precision);
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

fn pad_rows(values: &[f32], width: usize, columns: usize) -> Vec<f32> {
    let padding = std::iter::repeat_n(0.0, columns - width);
    values.chunks_exact(width).flat_map(|row| row.iter().copied().chain(padding.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_to_four_columns() {
        assert_eq!(pad_rows(&[1.0, 2.0, 3.0, 4.0], 2, 4), [1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0]);
    }
}
