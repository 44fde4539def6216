//! Adds the experts' outputs to their tokens: `x += gate ⊙ Σ_e G[s,e]·y[row]`. It also records which experts took a
//! token, and on GPUs it computes the layer norm that follows.

use std::ops::Range;

use super::NOT_TAKEN;
use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes, spread};
use crate::model::NormForm;

/// Lanes of a workgroup on software adapters.
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
    mask_first: u32,
    normalises: u32,
    shift_quad: u32,
    scale_quad: u32,
    centring: f32,
}

/// Words of a token's mask: a bit for each expert.
pub const fn mask_words(experts: usize) -> usize {
    experts.div_ceil(32)
}

/// The masks of tokens from their words, the lowest first.
pub fn joined_masks(words: &[u32], of_token: usize) -> Vec<u64> {
    let joined =
        |words: &[u32]| words.iter().rev().fold(0, |mask, &word| mask << 32 | u64::from(word));
    words.chunks_exact(of_token.max(1)).map(joined).collect()
}

/// Where the experts of each token are remembered.
#[derive(Clone, Copy)]
pub struct Masks<'a> {
    /// Out, u32: one bit for each expert, in [`mask_words`] for each token.
    pub to: &'a Tensor,
    /// Tokens before the first.
    pub first: usize,
}

/// The layer norm of the rows that come out, with adaLN's scale and shift.
#[derive(Clone, Copy)]
pub struct NextNorm {
    /// First column of the shift in the modulation; a multiple of 4.
    pub shift: usize,
    /// First column of the scale; a multiple of 4.
    pub scale: usize,
    /// Layer norm or RMS norm.
    pub form: NormForm,
}

/// Arguments.
pub struct CombineExperts<'a> {
    /// Softmax over experts, `[S, E]`.
    pub gate: &'a Tensor,
    /// Position of each token in the list of each expert, or [`NOT_TAKEN`], `[S, E]`.
    pub positions: &'a Tensor,
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
    /// Out: the masks of S tokens.
    pub masks: Masks<'a>,
    /// In and out: the residual stream, `[B, T, D]`.
    pub x: &'a Tensor,
    /// The layer norm that follows; `None` on software adapters, where it is a kernel of its own, and for all parts
    /// but the last.
    pub norm: Option<NextNorm>,
    /// Out: what comes of it, `[S, D]`; left alone without one.
    pub h: &'a Tensor,
}

impl CombineExperts<'_> {
    /// S, E, D.
    fn sizes(&self) -> (usize, usize, usize) {
        let &[tokens, experts] = &*self.gate.shape else { panic!("gate {:?}", self.gate.shape) };
        (tokens, experts, self.x.len() / tokens)
    }
}

impl Kernel for CombineExperts<'_> {
    /// A workgroup per token.
    const SHADER: Shader = shader!("combine_experts", shared: ["combine_experts", "row_total"], consts: [NONE = NOT_TAKEN]);
    /// A lane per four columns of a token.
    const SOFTWARE: Option<Shader> = Some(shader!(
        "combine_experts_software",
        shared: ["combine_experts"],
        sizes: [LANES],
        consts: [NONE = NOT_TAKEN]
    ));
    type Params = Params;

    fn params(&self) -> Params {
        let (tokens, experts, d) = self.sizes();
        let &[samples, columns] = &*self.modulation.shape else {
            panic!("modulation {:?}", self.modulation.shape)
        };
        assert_eq!(self.positions.shape, self.gate.shape);
        assert_eq!(self.counts.len(), experts);
        assert_eq!(self.x.len(), tokens * d, "x {:?}", self.x.shape);
        assert!(
            (self.masks.first + tokens) * mask_words(experts) <= self.masks.to.len(),
            "masks {:?}",
            self.masks.to.shape
        );
        assert!(tokens.is_multiple_of(samples), "{tokens} tokens in {samples} samples");
        assert!(self.y.len() >= self.rows.len() * d, "y {:?}, rows {:?}", self.y.shape, self.rows);
        assert!(self.gate_column + d <= columns, "gate at {} of {columns}", self.gate_column);
        assert_eq!(self.h.len(), tokens * d, "h {:?}", self.h.shape);
        let none = NextNorm { shift: 0, scale: 0, form: NormForm::Layer };
        let NextNorm { shift, scale, form } = self.norm.unwrap_or(none);
        assert!(shift.max(scale) + d <= columns, "shift at {shift}, scale at {scale} of {columns}");
        for n in [d, columns, self.gate_column, shift, scale] {
            assert!(n.is_multiple_of(4), "{n} columns: read four at a time");
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
            mask_first: (self.masks.first * mask_words(experts)) as u32,
            normalises: self.norm.is_some().into(),
            shift_quad: shift as u32 / 4,
            scale_quad: scale as u32 / 4,
            centring: form.centring(),
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let given = [self.gate, self.positions, self.counts, self.y, self.modulation];
        given.into_iter().chain([self.masks.to, self.x, self.h]).collect()
    }

    fn groups(&self, profile: Profile) -> [u32; 3] {
        match profile {
            Profile::Gpu => spread(self.gate.shape[0]),
            Profile::Software => lanes(self.x.len() / 4, LANES),
        }
    }
}

/// Inputs of [`reference()`], all row-major.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// `[S, E]`.
    pub gate: &'a [f32],
    /// Tokens of each expert.
    pub lists: &'a [Vec<u32>],
    /// All packed rows, `[Σ n_e, D]`.
    pub y: &'a [f32],
    /// This block's `gate_mlp`, `[B, D]`.
    pub gate_mlp: &'a [f32],
    /// `[S, D]`, before.
    pub x: &'a [f32],
}

/// The same on the processor, in f64: `x` afterwards, `[S, D]`.
#[cfg(test)]
pub(crate) fn reference(i: Inputs<'_>, samples: usize) -> Vec<f64> {
    let d = i.gate_mlp.len() / samples;
    let experts = i.lists.len();
    let tokens = i.x.len() / d;
    let mut sum = vec![0.0; i.x.len()];
    let mut rows = i.y.chunks(d);
    for (e, list) in i.lists.iter().enumerate() {
        for (&s, row) in list.iter().zip(&mut rows) {
            let s = s as usize;
            for (sum, &y) in sum[s * d..(s + 1) * d].iter_mut().zip(row) {
                *sum += f64::from(i.gate[s * experts + e]) * f64::from(y);
            }
        }
    }
    (0..i.x.len())
        .map(|j| {
            let gate = i.gate_mlp[j / d / (tokens / samples) * d + j % d];
            f64::from(i.x[j]) + f64::from(gate) * sum[j]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{
        PROFILES, assert_close, poisoned, read, read_u32, run_variant, spiky, tensor,
    };
    use crate::kernels::Modulate;
    use crate::kernels::route_select::reference_positions;

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

    /// One combination in some parts, and what comes of it in both variants.
    fn check(b: usize, t: usize, e: usize, d: usize, parts: usize) {
        let s = b * t;
        let lists = lists(s, e);
        let counts: Vec<u32> = lists.iter().map(|l| l.len() as u32).collect();
        let rows = counts.iter().sum::<u32>() as usize;
        let gate = spiky(s * e, 1, 0.1);
        let form = if parts % 2 == 1 { NormForm::Layer } else { NormForm::Rms };
        let y = spiky(rows * d, 2, 1.0);
        let before = spiky(s * d, 4, 1.0);
        // Gate, shift and scale lie between other columns that must not be read: NaN.
        let columns = 5 * d + 16;
        let [gate_column, shift, scale] = [d + 4, 2 * d + 8, 3 * d + 12];
        let all = [5, 6, 7].map(|seed| spiky(b * d, seed, 1.0));
        let mut modulation = vec![f32::NAN; b * columns];
        for (first, values) in [gate_column, shift, scale].into_iter().zip(&all) {
            for (row, values) in modulation.chunks_mut(columns).zip(values.chunks(d)) {
                row[first..first + d].copy_from_slice(values);
            }
        }
        let inputs = Inputs { gate: &gate, lists: &lists, y: &y, gate_mlp: &all[0], x: &before };
        let want = narrow(&reference(inputs, b));
        let modulation = tensor(&[b, columns], &modulation);
        for profile in PROFILES {
            let x = tensor(&[b, t, d], &before);
            let h = poisoned(&[s, d]);
            let words = mask_words(e);
            let masks = tensor(&[s + 5, words], &vec![7u32; (s + 5) * words]);
            // Worst-case rows, as the engine allocates them; the last part reaches beyond the valid rows.
            let part = (s * e).div_ceil(parts);
            for p in 0..parts {
                let range = p * part..((p + 1) * part).min(s * e);
                let mut held = vec![f32::NAN; range.len() * d];
                let valid = rows.clamp(range.start, range.end) - range.start;
                held[..valid * d].copy_from_slice(&y[range.start.min(rows) * d..][..valid * d]);
                let is_last = p + 1 == parts && profile == Profile::Gpu;
                let call = CombineExperts {
                    gate: &tensor(&[s, e], &gate),
                    positions: &tensor(&[s, e], &reference_positions(&lists, s)),
                    counts: &tensor(&[e], &counts),
                    y: &tensor(&[range.len(), d], &held),
                    rows: range,
                    modulation: &modulation,
                    gate_column,
                    masks: Masks { to: &masks, first: 3 },
                    x: &x,
                    norm: is_last.then_some(NextNorm { shift, scale, form }),
                    h: &h,
                };
                run_variant(&call, profile);
            }
            let mask_of = |s: u32| {
                let took = lists.iter().enumerate().filter(|(_, list)| list.contains(&s));
                took.map(|(e, _)| 1u64 << e).sum::<u64>()
            };
            let marks: Vec<u64> = (0..s as u32).map(mask_of).collect();
            let got = read_u32(&masks);
            let (before, got) = got.split_at(3 * words);
            let (got, after) = got.split_at(s * words);
            assert_eq!(joined_masks(got, words), marks, "bits of tokens");
            assert!(before.iter().chain(after).all(|&word| word == 7), "nothing beside them");
            // Sums of up to 32 terms of size ≤ 10, times a gate ≤ 10.
            assert_close(&read(&x), &want, 1e-4, 1e-5);
            if profile == Profile::Gpu {
                // Exactly what the kernel for layer norms makes of the same rows.
                let alone = poisoned(&[s, d]);
                let x = x.part(&[s, d]);
                let call = Modulate {
                    x: &x,
                    norm: form,
                    modulation: &modulation,
                    shift,
                    scale,
                    y: &alone,
                };
                run_variant(&call, profile);
                assert_eq!(read(&h), read(&alone));
            } else {
                assert!(read(&h).iter().all(|v| v.is_nan()), "nobody asked for it");
            }
        }
    }

    #[test]
    fn tokens_gather_exactly_their_rows() {
        for (b, t, e, d) in [
            (1, 1, 1, 4),
            (2, 9, 3, 12),
            (3, 77, 8, 20),
            (1, 257, 32, 64),
            (7, 251, 4, 300),
            (2, 19, 33, 8),
            (1, 40, 64, 12),
        ] {
            check(b, t, e, d, 1);
        }
    }

    #[test]
    fn rows_may_come_in_parts() {
        for parts in [2, 3, 7] {
            check(2, 33, 5, 12, parts);
        }
    }
}
