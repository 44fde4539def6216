//! Attention inside each sample, `softmax(q·kᵀ/√d)·v` for every head: of tokens to each other, or of
//! image tokens to the tokens of a prompt.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor};

/// Attention over all heads of all samples.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// `[B·T, …]`: queries of all heads in the first `H·d` columns.
    queries: &'a Tensor,
    /// `[rows, …]`: keys of all heads, then values.
    memory: &'a Tensor,
    /// First column of the keys.
    first_key: usize,
    /// `[B, 2]`, u32: first row and number of the keys that a sample sees; at least one key.
    spans: Option<&'a Tensor>,
    /// `B`
    batch: usize,
    /// `H`
    heads: usize,
    /// `[B·T, H·d]`
    y: &'a Tensor,
}

/// The widest head that the kernels take: what the lanes of a workgroup hold in registers.
pub const MAX_HEAD_DIM: usize = 4 * MAX_QUADS;

/// The same in quads.
const MAX_QUADS: usize = 32;

/// Queries of a workgroup on GPUs.
const QUERIES: usize = 32;

/// Lanes of a workgroup on software adapters, one SIMD vector; each has four queries.
const SOFTWARE_LANES: usize = 8;

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    tokens: u32,
    keys: u32,
    heads: u32,
    query_quads: u32,
    memory_quads: u32,
    first_key: u32,
    has_spans: u32,
    scale: f32,
}

impl<'a> Attention<'a> {
    /// The tokens of each sample to each other: `qkv` is `[B·T, 3·H·d]`, `y` is `[B·T, H·d]`.
    ///
    /// # Panics
    /// When the shapes do not fit: a bug.
    pub fn to_itself(qkv: &'a Tensor, batch: usize, heads: usize, y: &'a Tensor) -> Self {
        assert_eq!(qkv.shape, [y.shape[0], 3 * y.shape[1]], "queries, keys and values");
        let first_key = y.shape[1];
        Self { queries: qkv, memory: qkv, first_key, spans: None, batch, heads, y }
    }

    /// The tokens of each sample, `queries` and `y` `[B·T, H·d]`, to some rows of `memory`,
    /// `[rows, 2·H·d]`: `spans`, `[B, 2]`, names for each sample the first row and how many there are.
    ///
    /// # Panics
    /// When the shapes do not fit: a bug.
    pub fn to_memory(
        queries: &'a Tensor,
        memory: &'a Tensor,
        spans: &'a Tensor,
        heads: usize,
        y: &'a Tensor,
    ) -> Self {
        assert_eq!(queries.shape, y.shape, "a query for each result");
        assert_eq!(memory.shape[1], 2 * y.shape[1], "keys and values");
        let batch = spans.shape[0];
        Self { queries, memory, first_key: 0, spans: None, batch, heads, y }.within(spans)
    }

    /// Restricts which rows each sample sees, as in [`Attention::to_memory`].
    ///
    /// # Panics
    /// When there is not one span for each sample: a bug.
    #[must_use]
    pub fn within(self, spans: &'a Tensor) -> Self {
        assert_eq!(spans.shape, [self.batch, 2], "a span for each sample");
        Self { spans: Some(spans), ..self }
    }

    /// `T`
    fn tokens(&self) -> usize {
        self.y.shape[0] / self.batch
    }

    /// `d / 4`
    fn quads(&self) -> usize {
        self.y.shape[1] / self.heads / 4
    }
}

impl Kernel for Attention<'_> {
    /// Tiles of keys and values in workgroup memory.
    const SHADER: Shader = shader!("attention", shared: ["attention"], consts: [QUERIES]);
    /// Registers only.
    const SOFTWARE: Option<Shader> = Some(shader!(
        "attention_software",
        shared: ["attention"],
        sizes: [LANES = SOFTWARE_LANES],
        consts: [MAX_QUADS]
    ));
    type Params = Params;

    fn params(&self) -> Params {
        let [rows, width] = [self.y.shape[0], self.y.shape[1]];
        let head_dim = width / self.heads;
        assert!(head_dim.is_multiple_of(4) && head_dim <= MAX_HEAD_DIM, "heads of {head_dim}");
        assert_eq!((width % self.heads, rows % self.batch), (0, 0), "whole heads and samples");
        Params {
            tokens: self.tokens() as u32,
            keys: (self.memory.shape[0] / self.batch) as u32,
            heads: self.heads as u32,
            query_quads: (self.queries.shape[1] / 4) as u32,
            memory_quads: (self.memory.shape[1] / 4) as u32,
            first_key: (self.first_key / 4) as u32,
            has_spans: u32::from(self.spans.is_some()),
            scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        // Something must be bound.
        vec![self.queries, self.memory, self.spans.unwrap_or(self.memory), self.y]
    }

    fn constants(&self, profile: Profile) -> Vec<(&'static str, f64)> {
        let quads = self.quads();
        // Two quads of the result for each lane of a row.
        let lanes = if quads <= 16 { 8 } else { 16 };
        match profile {
            Profile::Gpu => vec![("QUADS", quads as f64), ("LANES_X", f64::from(lanes))],
            Profile::Software => vec![("QUADS", quads as f64)],
        }
    }

    fn groups(&self, profile: Profile) -> [u32; 3] {
        let queries = match profile {
            Profile::Gpu => QUERIES,
            Profile::Software => 4 * SOFTWARE_LANES,
        };
        [self.tokens().div_ceil(queries) as u32, self.heads as u32, self.batch as u32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{PROFILES, assert_close, poisoned, read, run_variant, spiky, tensor};

    /// Numbers with `columns` in a row, of which a head's begin at some column.
    struct Rows<'a> {
        values: &'a [f32],
        columns: usize,
    }

    impl Rows<'_> {
        fn head(&self, row: usize, column: usize, d: usize) -> Vec<f64> {
            let at = row * self.columns + column;
            self.values[at..at + d].iter().map(|&v| f64::from(v)).collect()
        }
    }

    /// `spans` has first row and number of the keys of each sample, which begin at column `first_key`.
    fn reference(
        queries: &Rows,
        memory: &Rows,
        first_key: usize,
        spans: &[[u32; 2]],
        tokens: usize,
        heads: usize,
        d: usize,
    ) -> Vec<f32> {
        let width = heads * d;
        let mut y = vec![0.0; spans.len() * tokens * width];
        for (b, &[first, count]) in spans.iter().enumerate() {
            let rows = first as usize..(first + count) as usize;
            for (h, t) in (0..heads).flat_map(|h| (0..tokens).map(move |t| (h, t))) {
                let q = queries.head(b * tokens + t, h * d, d);
                let score = |row: usize| -> f64 {
                    let k = memory.head(row, first_key + h * d, d);
                    q.iter().zip(&k).map(|(q, k)| q * k).sum::<f64>() / (d as f64).sqrt()
                };
                let scores: Vec<_> = rows.clone().map(score).collect();
                let highest = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<_> = scores.iter().map(|s| (s - highest).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mut sums = vec![0.0; d];
                for (row, weight) in rows.clone().zip(&weights) {
                    let v = memory.head(row, first_key + width + h * d, d);
                    sums.iter_mut().zip(v).for_each(|(sum, v)| *sum += weight / total * v);
                }
                let out = &mut y[(b * tokens + t) * width + h * d..][..d];
                out.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum as f32);
            }
        }
        y
    }

    fn check(call: &Attention, want: &[f32]) {
        for profile in PROFILES {
            let y = poisoned(&call.y.shape);
            run_variant(&Attention { y: &y, ..*call }, profile);
            // Scores up to a few hundred round at 3e-5, which exp turns into a relative error of the
            // weights; values are up to 20.
            assert_close(&read(&y), want, 1e-3, 1e-4);
        }
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
            let rows = Rows { values: &qkv, columns: 3 * width };
            let own = |b: usize| [(b * tokens) as u32, tokens as u32];
            let spans: Vec<_> = (0..batch).map(own).collect();
            let want = reference(&rows, &rows, width, &spans, tokens, heads, d);
            let qkv = tensor(&[batch * tokens, 3 * width], &qkv);
            let y = poisoned(&[batch * tokens, width]);
            check(&Attention::to_itself(&qkv, batch, heads, &y), &want);
        }
    }

    #[test]
    fn sees_only_the_rows_of_its_span() {
        // Fewer keys than queries and more; one key; more keys than a tile of 64; a span that two samples
        // share, one at the very end, rows that are not used.
        let cases: [(usize, usize, usize, &[[u32; 2]]); 3] = [
            (9, 2, 8, &[[0, 1], [11, 7], [11, 7]]),
            (1, 3, 24, &[[3, 97], [0, 3]]),
            (70, 1, 128, &[[99, 1], [20, 33]]),
        ];
        for (tokens, heads, d, spans) in cases {
            let (width, batch, rows) = (heads * d, spans.len(), 100);
            let queries = spiky(batch * tokens * width, 2, 2.0);
            let mut memory = spiky(rows * 2 * width, 3, 2.0);
            for (row, values) in memory.chunks_exact_mut(2 * width).enumerate() {
                let seen = |s: &[u32; 2]| (s[0]..s[0] + s[1]).contains(&(row as u32));
                if !spans.iter().any(seen) {
                    values.fill(f32::NAN);
                }
            }
            let want = reference(
                &Rows { values: &queries, columns: width },
                &Rows { values: &memory, columns: 2 * width },
                0,
                spans,
                tokens,
                heads,
                d,
            );
            let queries = tensor(&[batch * tokens, width], &queries);
            let memory = tensor(&[rows, 2 * width], &memory);
            let spans = tensor(&[batch, 2], spans.as_flattened());
            let y = poisoned(&[batch * tokens, width]);
            check(&Attention::to_memory(&queries, &memory, &spans, heads, &y), &want);
        }
    }

    #[test]
    fn tokens_look_at_each_other_within_a_span() {
        let (batch, tokens, heads, d) = (3, 11, 3, 4);
        let width = heads * d;
        let spans = [[0, 5], [11, 11], [22, 2]];
        let qkv = spiky(batch * tokens * 3 * width, 4, 2.0);
        let rows = Rows { values: &qkv, columns: 3 * width };
        let want = reference(&rows, &rows, width, &spans, tokens, heads, d);
        let qkv = tensor(&[batch * tokens, 3 * width], &qkv);
        let spans = tensor(&[batch, 2], spans.as_flattened());
        let y = poisoned(&[batch * tokens, width]);
        check(&Attention::to_itself(&qkv, batch, heads, &y).within(&spans), &want);
    }
}
