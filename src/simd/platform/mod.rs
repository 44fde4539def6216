//! Instructions that portable code cannot name: the only unsafe code of this folder, all of it in `x86.rs`.

#[cfg(not(target_arch = "x86_64"))]
mod other;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(not(target_arch = "x86_64"))]
pub(super) use other::{bf16_product, has_bf16, has_int8, int8_product, widen_f16};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{bf16_product, has_bf16, has_int8, int8_product, widen_f16};
