//! Processors without the instructions of `x86.rs`.

use super::super::low::{Accept, Operands};
use super::super::panels::{Line, PANEL, widened_f16};

/// Whether [`bf16_product`] works.
pub(in super::super) fn has_bf16() -> bool {
    false
}

/// Whether [`int8_product`] works.
pub(in super::super) fn has_int8() -> bool {
    false
}

/// Never called here.
pub(in super::super) fn bf16_product(_: &Operands, _: &mut Accept) {
    unreachable!("models with bf16 products are refused");
}

/// Never called here.
pub(in super::super) fn int8_product(_: &Operands, _: &mut Accept) {
    unreachable!("models with int8 products are refused");
}

/// Finite f16 as f32.
#[inline(always)]
pub(in super::super) fn widen_f16(lines: &[[u16; PANEL]], out: &mut [Line]) {
    for (out, line) in out.iter_mut().zip(lines) {
        for (out, &bits) in out.0.iter_mut().zip(line) {
            *out = widened_f16(bits);
        }
    }
}
