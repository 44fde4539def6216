//! Tokens that carry the labels of a sample, put behind those of its patches: `x[T + n] = positions[n] + Σ label rows`.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// The tokens of every sample.
pub struct EmbedContext<'a> {
    /// All label tables one below the other, `[rows of all tables, D]`.
    pub labels: &'a Tensor,
    /// Rows of `labels` to add, then those that are blended into them, `[2, tables, B]`, u32.
    pub rows: &'a Tensor,
    /// Share of the latter, `[tables, B]`; 0 adds the first row as it is.
    pub shares: &'a Tensor,
    /// `[N, D]`
    pub positions: &'a Tensor,
    /// The residual stream, `[B·(T + N), D]`, of which the last `N` rows of each sample are written.
    pub x: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    batch: u32,
    hidden: u32,
    tables: u32,
    context: u32,
    sample_tokens: u32,
}

impl EmbedContext<'_> {
    /// Numbers to write.
    fn count(&self) -> usize {
        self.shares.shape[1] * self.positions.len()
    }
}

impl Kernel for EmbedContext<'_> {
    const SHADER: Shader = shader!("embed_context", shared: ["labels"], sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let [tables, batch] = [self.shares.shape[0], self.shares.shape[1]];
        let [context, hidden] = [self.positions.shape[0], self.positions.shape[1]];
        let tokens = self.x.shape[0];
        assert_eq!((self.labels.shape[1], self.x.shape[1]), (hidden, hidden), "columns");
        assert_eq!(self.rows.shape, [2, tables, batch]);
        assert!(tokens.is_multiple_of(batch) && context <= tokens / batch, "whole samples");
        Params {
            batch: batch as u32,
            hidden: hidden as u32,
            tables: tables as u32,
            context: context as u32,
            sample_tokens: (tokens / batch) as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.labels, self.rows, self.shares, self.positions, self.x]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.count(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, read, run, spiky, tensor};

    #[test]
    fn writes_behind_the_patches_of_each_sample_and_nowhere_else() {
        for (batch, tokens, context, tables, d) in
            [(1, 1, 1, 1, 4), (3, 5, 2, 2, 20), (2, 9, 32, 1, 68)]
        {
            let all = 7;
            let labels = spiky(all * d, 1, 1.0);
            let rows: Vec<u32> = (0..2 * tables * batch).map(|i| (i * 5 % all) as u32).collect();
            let shares: Vec<f32> = (0..tables * batch).map(|i| [0.0, 0.25, 1.0][i % 3]).collect();
            let positions = spiky(context * d, 2, 1.0);
            let before = spiky(batch * (tokens + context) * d, 3, 1.0);
            let x = tensor(&[batch * (tokens + context), d], &before);
            run(&EmbedContext {
                labels: &tensor(&[all, d], &labels),
                rows: &tensor(&[2, tables, batch], &rows),
                shares: &tensor(&[tables, batch], &shares),
                positions: &tensor(&[context, d], &positions),
                x: &x,
            });
            let mut want = before;
            for (b, sample) in want.chunks_mut((tokens + context) * d).enumerate() {
                for (n, token) in sample[tokens * d..].chunks_mut(d).enumerate() {
                    for (i, value) in token.iter_mut().enumerate() {
                        let of = |j: usize, which: usize| {
                            let row = rows[(which * tables + j) * batch + b] as usize;
                            f64::from(labels[row * d + i])
                        };
                        let label = |j: usize| {
                            let share = f64::from(shares[j * batch + b]);
                            (1.0 - share) * of(j, 0) + share * of(j, 1)
                        };
                        let sum = (0..tables).map(label).sum::<f64>();
                        *value = (sum + f64::from(positions[n * d + i])) as f32;
                    }
                }
            }
            // A handful of roundings of numbers up to 10.
            assert_close(&read(&x), &want, 1e-5, 1e-6);
        }
    }
}
