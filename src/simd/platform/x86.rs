//! Instructions of x86-64 that neither portable code nor `pulp` offers: conversion of f16, and sums of two products of
//! bf16 (AVX-512 BF16) or four of bytes (AVX-512 VNNI) in one instruction.
//!
//! Each public function asks the processor before it calls code that is compiled for more than every x86-64 has; that
//! call is all that is unsafe here, besides one cast between types of the same 64 bytes. Memory is only reached through
//! slices.

#![expect(
    unsafe_code,
    reason = "code for a processor's extensions may only be called after asking whether it has them"
)]

use std::any::Any;
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm256_cvtph_ps, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
};

use pulp::Simd;
use pulp::x86::V4;

use super::super::matmul::{Line, PANEL};
use super::super::operands::{Accept, Operands, Words};
use super::widened_f16;

/// Rows of a tile.
const TILE: usize = 6;

/// Whether [`bf16_product`] works.
pub(in super::super) fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

/// Whether [`int8_product`] works.
pub(in super::super) fn has_int8() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// Widens sixteen f16 by one instruction, inside code for vectors of sixteen.
#[derive(Clone, Copy)]
pub(in super::super) struct LineWidener(V4);

impl LineWidener {
    /// For code that runs with these vectors.
    #[inline(always)]
    pub(in super::super) fn of<S: Simd>(simd: S) -> Option<Self> {
        <dyn Any>::downcast_ref(&simd).copied().map(Self)
    }

    /// One line.
    #[inline(always)]
    pub(in super::super) fn widen<S: Simd>(self, line: &[u16; PANEL]) -> S::f32s {
        bytemuck::cast(self.0.avx512f._mm512_cvtph_ps(bytemuck::cast(*line)))
    }
}

/// Finite f16 as f32.
pub(in super::super) fn widen_f16(lines: &[[u16; PANEL]], out: &mut [Line]) {
    if is_x86_feature_detected!("avx") && is_x86_feature_detected!("f16c") {
        // SAFETY: the processor has what the function is compiled for.
        unsafe { widen_f16_by_8(lines, out) }
    } else {
        for (out, line) in out.iter_mut().zip(lines) {
            out.0 = line.map(widened_f16);
        }
    }
}

#[target_feature(enable = "avx,f16c")]
fn widen_f16_by_8(lines: &[[u16; PANEL]], out: &mut [Line]) {
    for (out, line) in out.iter_mut().zip(lines) {
        let halves: [[u16; 8]; 2] = bytemuck::cast(*line);
        out.0 = bytemuck::cast(halves.map(|half| _mm256_cvtph_ps(bytemuck::cast(half))));
    }
}

/// Sums of products of bf16; `accept` gets the bits of f32.
///
/// # Panics
/// When [`has_bf16`] says no.
pub(in super::super) fn bf16_product(operands: &Operands, accept: &mut Accept) {
    assert!(has_bf16(), "models with bf16 products are refused");
    // SAFETY: the processor has what the function is compiled for.
    unsafe { bf16_tiles(operands, accept) }
}

/// Sums of products of unsigned bytes, in rows, with signed ones, in panels; `accept` gets integers.
///
/// # Panics
/// When [`has_int8`] says no.
pub(in super::super) fn int8_product(operands: &Operands, accept: &mut Accept) {
    assert!(has_int8(), "models with int8 products are refused");
    // SAFETY: the processor has what the function is compiled for.
    unsafe { int8_tiles(operands, accept) }
}

/// The loops around a tile of up to six rows by two panels: twelve sums in registers, enough to hide the latency of a
/// sum. Generated for each instruction, because functions with different target features cannot share a generic one.
macro_rules! tiles {
    ($name:ident, $group:ident, $one:ident, $features:literal, |$sum:ident, $x:ident, $w:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        fn $name(operands: &Operands, accept: &mut Accept) {
            let panels: Vec<&[Words]> = operands.lines.chunks_exact(operands.words).collect();
            let (pairs, last) = panels.as_chunks::<2>();
            for (pair, &panels) in pairs.iter().enumerate() {
                $group(operands, 2 * pair, panels, accept);
            }
            if let &[panel] = last {
                $group(operands, 2 * pairs.len(), [panel], accept);
            }
        }

        #[target_feature(enable = $features)]
        fn $group<const P: usize>(
            &Operands { words, rows, .. }: &Operands,
            panel: usize,
            panels: [&[Words]; P],
            accept: &mut Accept,
        ) {
            for (tile, rows) in rows.chunks(TILE * words).enumerate() {
                let mut all = [[[0; PANEL]; P]; TILE];
                let count = rows.len() / words;
                match count {
                    1 => all[..1].copy_from_slice(&$one::<1, P>(words, rows, panels)),
                    2 => all[..2].copy_from_slice(&$one::<2, P>(words, rows, panels)),
                    3 => all[..3].copy_from_slice(&$one::<3, P>(words, rows, panels)),
                    4 => all[..4].copy_from_slice(&$one::<4, P>(words, rows, panels)),
                    5 => all[..5].copy_from_slice(&$one::<5, P>(words, rows, panels)),
                    _ => all = $one::<TILE, P>(words, rows, panels),
                }
                for (r, sums) in all[..count].iter().enumerate() {
                    for (p, sums) in sums.iter().enumerate() {
                        accept(tile * TILE + r, panel + p, sums);
                    }
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn $one<const R: usize, const P: usize>(
            words: usize,
            rows: &[u32],
            panels: [&[Words]; P],
        ) -> [[[u32; PANEL]; P]; R] {
            let rows: [&[u32]; R] = std::array::from_fn(|r| &rows[r * words..][..words]);
            let panels: [&[Words]; P] = panels.map(|panel| &panel[..words]);
            let mut sums = [[_mm512_setzero_si512(); P]; R];
            for i in 0..words {
                for r in 0..R {
                    let $x = _mm512_set1_epi32(rows[r][i].cast_signed());
                    for p in 0..P {
                        let $w: __m512i = bytemuck::cast(panels[p][i].0);
                        let $sum = sums[r][p];
                        sums[r][p] = $step;
                    }
                }
            }
            sums.map(|sums| sums.map(|sum| bytemuck::cast(sum)))
        }
    };
}

tiles!(bf16_tiles, bf16_group, bf16_tile, "avx512f,avx512bf16", |sum, x, w| {
    let sum: __m512 = _mm512_castsi512_ps(sum);
    _mm512_castps_si512(_mm512_dpbf16_ps(sum, pairs(x), pairs(w)))
});

tiles!(int8_tiles, int8_group, int8_tile, "avx512f,avx512vnni", |sum, x, w| {
    _mm512_dpbusd_epi32(sum, x, w)
});

/// The same bits as 32 numbers of bf16.
#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes in which every pattern is a value.
    unsafe { std::mem::transmute(words) }
}
