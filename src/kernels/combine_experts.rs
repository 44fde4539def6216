//! Adds the experts' outputs to their tokens: `x += gate ⊙ (Σ_e G[s,e]·y[row] + shared)`.

use std::ops::Range;

use super::NO_SLOT;
use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    tokens: u32,
    experts: u32,
    quads: u32,
    sample_tokens: u32,
    modulation_stride: u32,
    modulation_first: u32,
    row_first: u32,
    row_end: u32,
}

/// Arguments.
pub struct CombineExperts<'a> {
    /// Softmax over experts, `[S, E]`.
    pub gates: &'a Tensor,
    /// Slot map, `[S, E]`.
    pub slots: &'a Tensor,
    /// `n_e`, `[E]`.
    pub counts: &'a Tensor,
    /// Output of the experts for the packed rows `rows`, `[at least rows.len(), D]`.
    pub y: &'a Tensor,
    /// Packed rows in `y`. Where they come in parts, one dispatch per part, in ascending order, adds
    /// the same terms in the same order: `x` is the accumulator.
    pub rows: Range<usize>,
    /// All modulation vectors, `[B, columns]`.
    pub modulation: &'a Tensor,
    /// First column of this block's `gate_mlp`; a multiple of 4.
    pub gate_column: usize,
    /// Output of the shared expert, `[S, D]`; give it with one part only.
    pub shared: Option<&'a Tensor>,
    /// In and out: the residual stream, `[B, T, D]`.
    pub x: &'a Tensor,
}

impl CombineExperts<'_> {
    /// S, E, D.
    fn sizes(&self) -> (usize, usize, usize) {
        let &[tokens, experts] = &*self.gates.shape else { panic!("gates {:?}", self.gates.shape) };
        (tokens, experts, self.x.len() / tokens)
    }
}

impl Kernel for CombineExperts<'_> {
    const SHADER: Shader = shader!("combine_experts", sizes: [LANES], consts: [NONE = NO_SLOT]);
    type Params = Params;

    fn params(&self) -> Params {
        let (tokens, experts, d) = self.sizes();
        let &[samples, columns] = &*self.modulation.shape else {
            panic!("modulation {:?}", self.modulation.shape)
        };
        assert_eq!(self.slots.shape, self.gates.shape);
        assert_eq!(self.counts.len(), experts);
        assert_eq!(self.x.len(), tokens * d, "x {:?}", self.x.shape);
        assert!(tokens.is_multiple_of(samples), "{tokens} tokens in {samples} samples");
        assert!(self.y.len() >= self.rows.len() * d, "y {:?}, rows {:?}", self.y.shape, self.rows);
        assert!(self.gate_column + d <= columns, "gate at {} of {columns}", self.gate_column);
        for n in [d, columns, self.gate_column] {
            assert!(n.is_multiple_of(4), "{n} columns: read four at a time");
        }
        if let Some(shared) = self.shared {
            assert_eq!(shared.len(), tokens * d, "shared {:?}", shared.shape);
        }
        Params {
            tokens: tokens as u32,
            experts: experts as u32,
            quads: d as u32 / 4,
            sample_tokens: (tokens / samples) as u32,
            modulation_stride: columns as u32 / 4,
            modulation_first: self.gate_column as u32 / 4,
            row_first: self.rows.start as u32,
            row_end: self.rows.end as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let shared = self.shared.unwrap_or(self.y);
        vec![self.gates, self.slots, self.counts, self.y, self.modulation, shared, self.x]
    }

    fn constants(&self, _: Profile) -> Vec<(&'static str, f64)> {
        vec![("HAS_SHARED", f64::from(u8::from(self.shared.is_some())))]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.x.len() / 4, LANES)
    }
}

/// Inputs of [`reference()`], all row-major.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// `[S, E]`.
    pub gates: &'a [f32],
    /// Tokens of each expert.
    pub lists: &'a [Vec<u32>],
    /// All packed rows, `[Σ n_e, D]`.
    pub y: &'a [f32],
    /// This block's `gate_mlp`, `[B, D]`.
    pub gate: &'a [f32],
    /// `[S, D]` or nothing.
    pub shared: Option<&'a [f32]>,
    /// `[S, D]`, before.
    pub x: &'a [f32],
}

/// The same on the processor, in f64: `x` afterwards, `[S, D]`.
#[cfg(test)]
pub(crate) fn reference(i: Inputs<'_>, samples: usize) -> Vec<f64> {
    let d = i.gate.len() / samples;
    let experts = i.lists.len();
    let tokens = i.x.len() / d;
    let mut sum = vec![0.0; i.x.len()];
    let mut rows = i.y.chunks(d);
    for (e, list) in i.lists.iter().enumerate() {
        for (&s, row) in list.iter().zip(&mut rows) {
            let s = s as usize;
            for (sum, &y) in sum[s * d..(s + 1) * d].iter_mut().zip(row) {
                *sum += f64::from(i.gates[s * experts + e]) * f64::from(y);
            }
        }
    }
    (0..i.x.len())
        .map(|j| {
            let gate = i.gate[j / d / (tokens / samples) * d + j % d];
            let shared = i.shared.map_or(0.0, |v| f64::from(v[j]));
            f64::from(i.x[j]) + f64::from(gate) * (sum[j] + shared)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, read, run, spiky, tensor};
    use crate::kernels::route_select::reference_slots;

    fn narrow(v: &[f64]) -> Vec<f32> {
        v.iter().map(|&x| x as f32).collect()
    }

    /// Lists of every kind: empty, full, partial.
    fn lists(tokens: usize, experts: usize) -> Vec<Vec<u32>> {
        let takes = |s: usize, e: usize| match e % 4 {
            0 => (s * 5 + e).is_multiple_of(3),
            1 => true,
            2 => false,
            _ => s == tokens - 1,
        };
        (0..experts)
            .map(|e| (0..tokens as u32).filter(|&s| takes(s as usize, e)).collect())
            .collect()
    }

    fn check(b: usize, t: usize, e: usize, d: usize, parts: usize, has_shared: bool) {
        let s = b * t;
        let lists = lists(s, e);
        let counts: Vec<u32> = lists.iter().map(|l| l.len() as u32).collect();
        let rows = counts.iter().sum::<u32>() as usize;
        let gates = spiky(s * e, 1, 0.1);
        let y = spiky(rows * d, 2, 1.0);
        let shared = spiky(s * d, 3, 1.0);
        let before = spiky(s * d, 4, 1.0);
        // The gate lies between other columns that must not be read: NaN.
        let (columns, gate_column) = (3 * d + 8, d + 4);
        let gate = spiky(b * d, 5, 1.0);
        let mut modulation = vec![f32::NAN; b * columns];
        for (row, gate) in modulation.chunks_mut(columns).zip(gate.chunks(d)) {
            row[gate_column..gate_column + d].copy_from_slice(gate);
        }
        let x = tensor(&[b, t, d], &before);
        // Worst-case rows, as the engine allocates them; the last part reaches beyond the valid rows.
        let part = (s * e).div_ceil(parts);
        for p in 0..parts {
            let range = p * part..((p + 1) * part).min(s * e);
            let mut held = vec![f32::NAN; range.len() * d];
            let valid = rows.clamp(range.start, range.end) - range.start;
            held[..valid * d].copy_from_slice(&y[range.start.min(rows) * d..][..valid * d]);
            run(&CombineExperts {
                gates: &tensor(&[s, e], &gates),
                slots: &tensor(&[s, e], &reference_slots(&lists, s)),
                counts: &tensor(&[e], &counts),
                y: &tensor(&[range.len(), d], &held),
                rows: range,
                modulation: &tensor(&[b, columns], &modulation),
                gate_column,
                shared: (has_shared && p == 0).then_some(&tensor(&[s, d], &shared)),
                x: &x,
            });
        }
        let inputs = Inputs {
            gates: &gates,
            lists: &lists,
            y: &y,
            gate: &gate,
            shared: has_shared.then_some(&*shared),
            x: &before,
        };
        // Sums of up to 32 terms of size ≤ 10, times a gate ≤ 10.
        assert_close(&read(&x), &narrow(&reference(inputs, b)), 1e-4, 1e-5);
    }

    #[test]
    fn tokens_gather_exactly_their_rows() {
        for (b, t, e, d) in
            [(1, 1, 1, 4), (2, 9, 3, 12), (3, 77, 8, 20), (1, 257, 32, 64), (7, 251, 4, 8)]
        {
            check(b, t, e, d, 1, false);
        }
    }

    #[test]
    fn the_shared_expert_is_added_to_every_token() {
        check(2, 19, 4, 16, 1, true);
    }

    #[test]
    fn rows_may_come_in_parts() {
        for parts in [2, 3, 7] {
            check(2, 33, 5, 12, parts, false);
            check(2, 33, 5, 12, parts, true);
        }
    }
}
