//! Rotary position embedding: queries and keys are turned by angles of their token, before attention.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Where the queries and keys lie.
pub struct RotateHeads<'a> {
    /// `[T, d/2, 2]`: cosine and sine; row `s mod T` is that of token `s`.
    pub angles: &'a Tensor,
    /// `H`
    pub heads: usize,
    /// `[S, 3·H·d]`: queries, keys and values; the first two are changed.
    pub qkv: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    heads: u32,
    pairs: u32,
    tokens: u32,
}

impl RotateHeads<'_> {
    /// One lane for each pair of numbers.
    fn count(&self) -> usize {
        self.qkv.shape[0] * 2 * self.heads * self.angles.shape[1]
    }
}

impl Kernel for RotateHeads<'_> {
    const SHADER: Shader = shader!("rotate_heads", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let &[tokens, pairs, 2] = &*self.angles.shape else {
            panic!("angles {:?}", self.angles.shape)
        };
        assert_eq!(self.qkv.shape[1], 3 * self.heads * 2 * pairs, "heads of {pairs} pairs");
        assert!(pairs.is_multiple_of(2), "heads of {pairs} pairs");
        assert!(self.qkv.shape[0].is_multiple_of(tokens), "samples of {tokens} tokens");
        Params {
            count: self.count() as u32,
            heads: self.heads as u32,
            pairs: pairs as u32,
            tokens: tokens as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.angles, self.qkv]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.count(), LANES)
    }
}

/// The same on the processor, in f64: all of `x`, `[S, 3·H·d]`, with angles `[T, d/2, 2]`.
#[cfg(test)]
pub(crate) fn reference(x: &[f32], angles: &[f32], [tokens, heads, d]: [usize; 3]) -> Vec<f64> {
    let value = |(at, &v): (usize, &f32)| {
        let (token, part, i) = (at / (3 * heads * d), at / (heads * d) % 3, at % d);
        if part == 2 {
            return f64::from(v);
        }
        // The number that it is paired with, before or after it in the same half.
        let (quarter, is_second) = (d / 4, i % (d / 2) >= d / 4);
        let other = f64::from(x[if is_second { at - quarter } else { at + quarter }]);
        let pair = i / (d / 2) * quarter + i % quarter;
        let [cos, sin] = [0, 1].map(|n| f64::from(angles[(token % tokens * d / 2 + pair) * 2 + n]));
        f64::from(v) * cos + if is_second { other * sin } else { -other * sin }
    };
    x.iter().enumerate().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, read, run, spiky, tensor};

    #[test]
    fn turns_queries_and_keys_and_leaves_values() {
        for (samples, tokens, heads, d) in
            [(1, 1, 1, 4), (3, 7, 3, 24), (2, 33, 2, 96), (1, 5, 1, 12)]
        {
            let x = spiky(samples * tokens * 3 * heads * d, 2, 3.0);
            let angles = spiky(tokens * d, 1, 1.0);
            let qkv = tensor(&[samples * tokens, 3 * heads * d], &x);
            run(&RotateHeads { angles: &tensor(&[tokens, d / 2, 2], &angles), heads, qkv: &qkv });
            let want = reference(&x, &angles, [tokens, heads, d]);
            let want: Vec<f32> = want.into_iter().map(|v| v as f32).collect();
            // Two products and a sum of numbers up to 100.
            assert_close(&read(&qkv), &want, 1e-4, 1e-5);
        }
    }
}
