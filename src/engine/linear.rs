//! A linear layer on the processor.

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::model::LinearSpec;
use crate::simd::matmul::Matrix;

/// Weight `[out, in]` in panels, and bias `[out]` where there is one; f32.
#[derive(Debug, Default)]
pub(super) struct Linear {
    pub(super) weight: Matrix,
    pub(super) bias: Option<Vec<f32>>,
}

impl Linear {
    /// Reads and packs a layer.
    pub(super) fn read(
        checkpoint: &Checkpoint,
        spec: &LinearSpec,
    ) -> Result<Self, CheckpointError> {
        let weight = checkpoint.read(&spec.weight.name)?;
        let weight = Matrix::new(spec.outputs(), spec.inputs(), &weight);
        let bias = spec.bias.as_ref().map(|bias| checkpoint.read(&bias.name)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// Width of the result.
    pub(super) fn outputs(&self) -> usize {
        self.weight.outputs()
    }

    /// `out[r] = x(r)·Wᵀ + bias`, `[rows, out]`.
    pub(super) fn apply<'a>(&self, x: impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
        self.weight.apply(self.bias.as_deref(), x, out);
    }
}
