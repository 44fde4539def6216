//! Which precision the weights of a model get on a graphics device.

use crate::checkpoint::Checkpoint;
use crate::kernels::WeightPrecision;

/// What a user wants large matrices to be on a graphics device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightChoice {
    /// int8 where all large matrices of the file are int8 rows, which is exact and takes the least memory; else f16.
    #[default]
    Auto,
    /// This, whatever the file has.
    Exactly(WeightPrecision),
}

impl From<WeightPrecision> for WeightChoice {
    fn from(precision: WeightPrecision) -> Self {
        Self::Exactly(precision)
    }
}

impl WeightChoice {
    /// The precision for a checkpoint.
    pub fn resolve(self, checkpoint: &Checkpoint) -> WeightPrecision {
        match self {
            Self::Exactly(precision) => precision,
            Self::Auto if checkpoint.is_int8() => WeightPrecision::Int8,
            Self::Auto => WeightPrecision::F16,
        }
    }
}
