//! A linear layer on the processor.

use crate::checkpoint::{Checkpoint, CheckpointError, StoredRows};
use crate::model::{LinearSpec, Storage};
use crate::simd::low::{Low, LowMatrix};
use crate::simd::matmul::Matrix;

/// Weight `[out, in]` in panels, and bias `[out]` where there is one.
#[derive(Debug, Default)]
pub(super) struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Option<Vec<f32>>,
}

/// How the product is computed.
#[derive(Debug)]
pub(super) enum Weight {
    /// In f32, with weights in the format of the file.
    F32(Matrix),
    /// In less.
    Low(LowMatrix),
}

impl Default for Weight {
    fn default() -> Self {
        Self::F32(Matrix::default())
    }
}

impl Weight {
    /// Packs rows that a file holds in `storage`; as f32 if `widened`.
    pub(super) fn new(
        rows: &StoredRows,
        storage: Storage,
        (low, widened): (Option<Low>, bool),
    ) -> Self {
        match low {
            None if widened => {
                let (outputs, inputs) = (rows.len(), rows.width());
                Self::F32(Matrix::new(outputs, inputs, &rows.clone().decode()))
            }
            None => Self::F32(Matrix::stored(rows, storage)),
            Some(low) => Self::Low(LowMatrix::new(low, rows)),
        }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::F32(matrix) => matrix.bytes(),
            Self::Low(matrix) => matrix.bytes(),
        }
    }
}

impl Linear {
    /// Reads and packs a layer, whose products are in f32 unless `how` ([`Weight::new`]) says otherwise.
    pub(super) fn read(
        checkpoint: &Checkpoint,
        spec: &LinearSpec,
        how: (Option<Low>, bool),
    ) -> Result<Self, CheckpointError> {
        let name = &spec.weight.name;
        let weight = Weight::new(&checkpoint.rows(name)?, checkpoint.storage(name)?, how);
        let bias = spec.bias.as_ref().map(|bias| checkpoint.read(&bias.name)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// Width of the result.
    pub(super) fn outputs(&self) -> usize {
        match &self.weight {
            Weight::F32(matrix) => matrix.outputs(),
            Weight::Low(matrix) => matrix.outputs(),
        }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.weight.bytes() + self.bias.as_ref().map_or(0, |bias| size_of_val(&**bias) as u64)
    }

    /// `out[r] = x(r)·Wᵀ + bias`, `[rows, out]`.
    pub(super) fn apply<'a>(&self, x: impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
        match &self.weight {
            Weight::F32(matrix) => matrix.apply(self.bias.as_deref(), x, out),
            Weight::Low(matrix) => matrix.apply(self.bias.as_deref(), x, out),
        }
    }
}
