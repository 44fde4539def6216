//! Decoding of stored numbers to f32.

use half::{bf16, f16};
use safetensors::Dtype;

/// Whether [`decode`] supports the type.
pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Decodes little-endian floats. The bytes may lie at any address, so they are copied, not cast.
pub(super) fn decode(dtype: Dtype, raw: &[u8]) -> Vec<f32> {
    let half = |convert: fn([u8; 2]) -> f32| -> Vec<f32> {
        raw.as_chunks::<2>().0.iter().map(|&b| convert(b)).collect()
    };
    match dtype {
        Dtype::F16 => half(|b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => half(|b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F32 => raw.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        other => unreachable!("{other:?} is rejected when a checkpoint is opened"),
    }
}
