//! What the instructions for products in bf16 and int8 read, and where their sums go.

use bytemuck::{Pod, Zeroable};

use super::matmul::PANEL;

/// One word of inputs of one panel: sixteen outputs, two bf16 or four bytes each.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Words(pub(super) [u32; PANEL]);

/// What a product reads.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// Words of a row.
    pub(super) words: usize,
    /// Rounded inputs, `[rows, words]`.
    pub(super) rows: &'a [u32],
    /// `[panels, words]`
    pub(super) lines: &'a [Words],
}

/// Takes the sums of a row and a panel.
pub(super) type Accept<'a> = dyn FnMut(usize, usize, &[u32; PANEL]) + 'a;
