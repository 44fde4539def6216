//! Storage formats of tensors in a file.

use super::config::Config;
use super::spec::TensorSpec;

/// Numbers of a row that share a scale in int4.
pub const INT4_GROUP: usize = 32;

/// How a checkpoint's numbers are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Four bytes a number.
    F32,
    /// Two.
    F16,
    /// One byte, plus a four-byte scale per row; only large matrices, the rest stays f32.
    Int8,
    /// Half a byte, plus a two-byte scale per 32 values of a row; only large matrices, the rest stays f32.
    Int4,
}

impl Storage {
    /// How one tensor is stored in a file whose large matrices are stored this way.
    #[must_use]
    pub fn of(self, tensor: &TensorSpec) -> Self {
        if !tensor.is_matrix() {
            return Self::F32;
        }
        match self {
            // The file gives a row's length in bytes, two values in each.
            Self::Int4 if !tensor.shape[1].is_multiple_of(2) => Self::Int8,
            storage => storage,
        }
    }

    /// Bytes of a tensor that is stored this way.
    pub fn bytes(self, tensor: &TensorSpec) -> u64 {
        match (self, &tensor.shape[..]) {
            (Self::F16, _) => 2 * tensor.elements(),
            (Self::Int8, &[rows, _]) => tensor.elements() + 4 * rows as u64,
            (Self::Int4, &[rows, columns]) => {
                (rows * (columns.div_ceil(2) + 2 * columns.div_ceil(INT4_GROUP))) as u64
            }
            _ => 4 * tensor.elements(),
        }
    }
}

/// Bytes of the tensors in a file.
pub fn file_bytes(config: &Config, storage: Storage) -> u64 {
    config.stored_tensors().iter().map(|t| storage.of(t).bytes(t)).sum()
}
