//! The format of the numbers in large products on the processor.

use super::contract::EngineError;
use crate::model::choices;
use crate::simd::describe;
#[cfg(feature = "compact")]
use crate::simd::low::Low;

choices! {
    /// The format of the numbers in the products of networks, experts and projections on the processor. Router,
    /// predictor, adaLN, norms, embedders, the final layer and the products inside attention are always f32.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub enum CpuMath: "format of products" {
        #[default]
        F32 = ("f32", "f32", "Exact to rounding, on every processor."),
        Bf16 = ("bf16", "bf16", "Weights and inputs rounded to 8 bits of precision; needs AVX-512 BF16."),
        Int8 = ("int8", "int8", "Weights and inputs rounded to whole numbers with a factor per row; needs AVX-512 VNNI."),
    }
}

impl CpuMath {
    #[cfg(feature = "compact")]
    pub(super) fn low(self) -> Option<Low> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some(Low::Bf16),
            Self::Int8 => Some(Low::Int8),
        }
    }

    /// Whether this processor has the instructions, and this build of the library uses them (feature `compact`).
    pub fn is_available(self) -> bool {
        #[cfg(feature = "compact")]
        return self.low().is_none_or(Low::is_available);
        #[cfg(not(feature = "compact"))]
        return self == Self::F32;
    }

    /// Refuses what this processor cannot do.
    pub(super) fn check(self) -> Result<(), EngineError> {
        if self.is_available() {
            return Ok(());
        }
        let needed = match self {
            Self::Int8 => "AVX-512 VNNI",
            _ => "AVX-512 BF16",
        };
        Err(EngineError::Unsupported(format!(
            "products in {self} need a processor with {needed} and the library's feature `compact`, of which one is \
             missing here: use f32"
        )))
    }

    /// The processor and how it computes.
    pub(super) fn describe(self) -> String {
        match self {
            Self::F32 => describe(),
            low => format!("{}, products in {low}", describe()),
        }
    }
}
