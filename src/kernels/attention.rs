//! Self-attention inside each sample: `softmax(q·kᵀ/√d)·v` for every head, without a mask.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Gpu, Kernel, Profile, Tape, Tensor};

/// Attention over all heads of all samples.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// `[B·T, 3·H·d]`: queries of all heads, then keys, then values.
    pub qkv: &'a Tensor,
    /// `B`
    pub batch: usize,
    /// `H`
    pub heads: usize,
    /// `[B·T, H·d]`
    pub y: &'a Tensor,
}

/// The widest head that the kernels' private arrays hold; `MAX_QUADS` in the shaders, times four.
pub const MAX_HEAD_DIM: usize = 128;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Params {
    tokens: u32,
    heads: u32,
    scale: f32,
}

impl Attention<'_> {
    /// Records the kernel that suits the device.
    pub fn record(&self, gpu: &Gpu, tape: &mut Tape, scope: &str) {
        match gpu.profile {
            Profile::Gpu => tape.push(gpu, scope, &AttentionTile(*self)),
            Profile::Software => tape.push(gpu, scope, &AttentionSoftware(*self)),
        }
    }

    /// `T`
    fn tokens(&self) -> usize {
        self.y.shape[0] / self.batch
    }

    /// `d / 4`
    fn quads(&self) -> usize {
        self.y.shape[1] / self.heads / 4
    }

    fn params(&self) -> Params {
        let [rows, width] = [self.y.shape[0], self.y.shape[1]];
        let head_dim = width / self.heads;
        assert_eq!(*self.qkv.shape, [rows, 3 * width], "queries, keys and values");
        assert!(head_dim.is_multiple_of(4) && head_dim <= MAX_HEAD_DIM, "heads of {head_dim}");
        assert_eq!((width % self.heads, rows % self.batch), (0, 0), "whole heads and samples");
        Params {
            tokens: self.tokens() as u32,
            heads: self.heads as u32,
            scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }

    fn groups(&self, queries: usize) -> [u32; 3] {
        [self.tokens().div_ceil(queries) as u32, self.heads as u32, self.batch as u32]
    }
}

/// For GPUs: tiles of keys and values in workgroup memory.
pub(super) struct AttentionTile<'a>(Attention<'a>);

impl Kernel for AttentionTile<'_> {
    const NAME: &'static str = "attention";
    const SOURCE: &'static str = concat!(
        include_str!("../../shaders/attention.wgsl"),
        include_str!("../../shaders/shared/attention.wgsl"),
    );
    type Params = Params;

    fn params(&self) -> Params {
        self.0.params()
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.0.qkv, self.0.y]
    }

    fn constants(&self) -> Vec<(&'static str, f64)> {
        let quads = self.0.quads();
        // Keys and values of 16 bytes per quad in 16 KiB, and no more than pay off.
        let keys = (16_384 / (2 * 16 * quads)).min(64);
        vec![("QUADS", quads as f64), ("KEYS", keys as f64)]
    }

    fn groups(&self) -> [u32; 3] {
        /// `LANES` in the shader.
        const LANES: usize = 64;
        self.0.groups(LANES)
    }
}

/// For software adapters: registers only.
pub(super) struct AttentionSoftware<'a>(Attention<'a>);

impl Kernel for AttentionSoftware<'_> {
    const NAME: &'static str = "attention_software";
    const SOURCE: &'static str = concat!(
        include_str!("../../shaders/attention_software.wgsl"),
        include_str!("../../shaders/shared/attention.wgsl"),
    );
    type Params = Params;

    fn params(&self) -> Params {
        self.0.params()
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.0.qkv, self.0.y]
    }

    fn constants(&self) -> Vec<(&'static str, f64)> {
        vec![("QUADS", self.0.quads() as f64)]
    }

    fn groups(&self) -> [u32; 3] {
        /// Four for each of 8 lanes.
        const QUERIES: usize = 32;
        self.0.groups(QUERIES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, poisoned, read, run, spiky, tensor};

    fn reference(qkv: &[f32], batch: usize, tokens: usize, heads: usize, d: usize) -> Vec<f32> {
        let width = heads * d;
        let row = |b: usize, t: usize, part: usize, h: usize| -> Vec<f64> {
            let at = ((b * tokens + t) * 3 + part) * width + h * d;
            qkv[at..at + d].iter().map(|&v| f64::from(v)).collect()
        };
        let mut y = vec![0.0; batch * tokens * width];
        for b in 0..batch {
            for h in 0..heads {
                for t in 0..tokens {
                    let q = row(b, t, 0, h);
                    let score = |key: usize| -> f64 {
                        let k = row(b, key, 1, h);
                        q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt()
                    };
                    let scores: Vec<_> = (0..tokens).map(score).collect();
                    let highest = scores.iter().copied().fold(f64::MIN, f64::max);
                    let weights: Vec<_> = scores.iter().map(|s| (s - highest).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for i in 0..d {
                        let sum: f64 = (0..tokens).map(|k| weights[k] * row(b, k, 2, h)[i]).sum();
                        y[(b * tokens + t) * width + h * d + i] = (sum / total) as f32;
                    }
                }
            }
        }
        y
    }

    #[test]
    fn matches_the_reference_in_both_variants() {
        // One key; a head of the smallest and the largest width; more keys than a tile, more queries than
        // a workgroup; the widths of the paper's models (24, 64, 72) and of larger ones (80, 96).
        for (batch, tokens, heads, d) in [
            (1, 1, 1, 4),
            (2, 70, 3, 24),
            (1, 65, 2, 64),
            (1, 33, 2, 72),
            (1, 29, 1, 80),
            (1, 41, 1, 96),
            (2, 17, 1, 128),
        ] {
            let width = heads * d;
            // Spikes of 10 · 10 in queries and keys: exp overflows without the running maximum.
            let qkv = spiky(batch * tokens * 3 * width, 1, 2.0);
            let want = reference(&qkv, batch, tokens, heads, d);
            let qkv = tensor(&[batch * tokens, 3 * width], &qkv);
            for variant in 0..2 {
                let y = poisoned(&[batch * tokens, width]);
                let call = Attention { qkv: &qkv, batch, heads, y: &y };
                if variant == 0 {
                    run(&AttentionTile(call));
                } else {
                    run(&AttentionSoftware(call));
                }
                // Scores up to a few hundred round at 3e-5, which exp turns into a relative error of the
                // weights; values are up to 20.
                assert_close(&read(&y), &want, 1e-3, 1e-4);
            }
        }
    }
}
