//! A linear layer on the processor.

use super::cpu_math::CpuMath;
use crate::checkpoint::{Checkpoint, CheckpointError, StoredRows};
use crate::model::{Config, LinearSpec, Storage, file_bytes};
#[cfg(feature = "compact")]
use crate::simd::kept::KeptMatrix;
#[cfg(feature = "compact")]
use crate::simd::low::LowMatrix;
use crate::simd::matmul::Matrix;

/// Whether the processor holds a model's weights in the format of their file. Small models are f32: they need little
/// memory, and widening weights for each product takes time.
pub(super) fn keeps_format(config: &Config) -> bool {
    const LARGE: u64 = 128 << 20;
    cfg!(feature = "compact") && file_bytes(config, Storage::F32) > LARGE
}

/// How weights are held, and how products are computed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hold {
    /// Format of products.
    pub(super) math: CpuMath,
    /// Whether weights for products in f32 stay in the format of the file.
    #[cfg_attr(
        not(feature = "compact"),
        expect(dead_code, reason = "without `compact` all weights are f32")
    )]
    pub(super) is_kept: bool,
}

/// Weight `[out, in]` in panels, and bias `[out]` where there is one.
#[derive(Debug, Default)]
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
}

/// A weight matrix.
#[derive(Debug)]
enum Weight {
    F32(Matrix),
    /// In the format of the file, for products in f32.
    #[cfg(feature = "compact")]
    Kept(KeptMatrix),
    /// For products in less than f32.
    #[cfg(feature = "compact")]
    Low(LowMatrix),
}

impl Default for Weight {
    fn default() -> Self {
        Self::F32(Matrix::default())
    }
}

impl Weight {
    /// Packs rows that a file holds in `storage`.
    #[cfg_attr(
        not(feature = "compact"),
        expect(unused_variables, reason = "without `compact` all weights are f32")
    )]
    fn new(rows: StoredRows, storage: Storage, hold: Hold) -> Self {
        #[cfg(feature = "compact")]
        if let Some(low) = hold.math.low() {
            return Self::Low(LowMatrix::new(low, &rows));
        } else if hold.is_kept
            && let Some(kept) = KeptMatrix::new(&rows, storage)
        {
            return Self::Kept(kept);
        }
        let (outputs, inputs) = (rows.len(), rows.width());
        Self::F32(Matrix::new(outputs, inputs, &rows.decode()))
    }
}

impl Linear {
    /// Packs rows that a file holds in `storage`.
    pub(super) fn new(
        rows: StoredRows,
        bias: Option<Vec<f32>>,
        (storage, hold): (Storage, Hold),
    ) -> Self {
        Self { weight: Weight::new(rows, storage, hold), bias }
    }

    /// Reads and packs a layer.
    pub(super) fn read(
        checkpoint: &Checkpoint,
        spec: &LinearSpec,
        hold: Hold,
    ) -> Result<Self, CheckpointError> {
        let name = &spec.weight.name;
        let bias = spec.bias.as_ref().map(|bias| checkpoint.read(&bias.name)).transpose()?;
        Ok(Self::new(checkpoint.rows(name)?, bias, (checkpoint.storage(name)?, hold)))
    }

    /// Width of the result.
    pub(super) fn outputs(&self) -> usize {
        match &self.weight {
            Weight::F32(matrix) => matrix.outputs(),
            #[cfg(feature = "compact")]
            Weight::Kept(matrix) => matrix.outputs(),
            #[cfg(feature = "compact")]
            Weight::Low(matrix) => matrix.outputs(),
        }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> u64 {
        let weight = match &self.weight {
            Weight::F32(matrix) => matrix.bytes(),
            #[cfg(feature = "compact")]
            Weight::Kept(matrix) => matrix.bytes(),
            #[cfg(feature = "compact")]
            Weight::Low(matrix) => matrix.bytes(),
        };
        weight + self.bias.as_ref().map_or(0, |bias| size_of_val(&**bias) as u64)
    }

    /// `out[r] = x(r)·Wᵀ + bias`, `[rows, out]`.
    pub(super) fn apply<'a>(&self, x: impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
        let rows: Vec<&[f32]> = (0..out.len() / self.outputs()).map(x).collect();
        let bias = self.bias.as_deref();
        match &self.weight {
            Weight::F32(matrix) => matrix.apply(bias, &rows, out),
            #[cfg(feature = "compact")]
            Weight::Kept(matrix) => matrix.apply(bias, &rows, out),
            #[cfg(feature = "compact")]
            Weight::Low(matrix) => matrix.apply(bias, &rows, out),
        }
    }
}
