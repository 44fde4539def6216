//! Processors without the instructions of `x86.rs`.

use pulp::Simd;

use super::super::matmul::{Line, PANEL};
use super::super::operands::{Accept, Operands};
use super::widened_f16;

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

/// Does not exist here.
#[derive(Clone, Copy)]
pub(in super::super) enum LineWidener {}

impl LineWidener {
    /// None.
    pub(in super::super) fn of<S: Simd>(_: S) -> Option<Self> {
        None
    }

    /// Never called here.
    pub(in super::super) fn widen<S: Simd>(self, _: &[u16; PANEL]) -> S::f32s {
        match self {}
    }
}

/// Finite f16 as f32.
#[inline(always)]
pub(in super::super) fn widen_f16(lines: &[[u16; PANEL]], out: &mut [Line]) {
    for (out, line) in out.iter_mut().zip(lines) {
        out.0 = line.map(widened_f16);
    }
}
