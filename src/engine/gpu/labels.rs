//! The labels of the samples of a pass, on the device.

use crate::gpu::{Gpu, Tensor};
use crate::model::LabelRow;

/// Rows of the label tables, or blends of two, for the samples of a pass.
pub(super) struct Labels {
    /// Numbers of rows, and of those that are blended into them, `[2, tables, samples]`.
    pub(super) rows: Tensor,
    /// Share of the latter, `[tables, samples]`.
    pub(super) shares: Tensor,
}

impl Labels {
    pub(super) fn new(gpu: &Gpu, tables: usize, batch: usize) -> Self {
        Self {
            rows: Tensor::empty(gpu, "label rows", &[2, tables, batch]),
            shares: Tensor::empty(gpu, "label shares", &[tables, batch]),
        }
    }

    /// Writes the rows of all tables, `[tables][samples]`, as one list.
    pub(super) fn write(&self, gpu: &Gpu, labels: &[LabelRow]) {
        let rows: Vec<u32> =
            [0, 1].iter().flat_map(|&i| labels.iter().map(move |l| l.rows[i])).collect();
        self.rows.write(gpu, &rows);
        self.shares.write(gpu, &labels.iter().map(|label| label.share).collect::<Vec<_>>());
    }
}
