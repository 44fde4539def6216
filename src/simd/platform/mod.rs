//! Instructions that portable code cannot name: the only unsafe code of this folder, all of it in `x86.rs`.

#[cfg(not(target_arch = "x86_64"))]
mod other;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(not(target_arch = "x86_64"))]
pub(super) use other::{LineWidener, bf16_product, has_bf16, has_int8, int8_product, widen_f16};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{LineWidener, bf16_product, has_bf16, has_int8, int8_product, widen_f16};

/// A finite f16 as f32, in operations that every processor has as vectors.
#[inline(always)]
pub(super) fn widened_f16(bits: u16) -> f32 {
    /// The exponents' offsets differ by 112; one more makes room for the hidden bit of a subnormal number.
    const OFFSET: u32 = 112 << 23;
    const SMALLEST: u32 = 113 << 23;
    let [sign, rest] = [u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13];
    let normal = f32::from_bits(rest + OFFSET);
    let subnormal = f32::from_bits(rest + SMALLEST) - f32::from_bits(SMALLEST);
    let value = if rest < 1 << 23 { subnormal } else { normal };
    f32::from_bits(value.to_bits() | sign)
}
