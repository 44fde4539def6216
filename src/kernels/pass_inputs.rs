//! What a forward pass begins with, in one dispatch: patches of the samples, which the patch embedding multiplies, and
//! the conditioning vectors that modulate every block.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Both.
pub struct PassInputs<'a> {
    /// The patches.
    pub patches: Patches<'a>,
    /// The conditioning vectors.
    pub conditioning: Conditioning<'a>,
}

/// Where the samples lie and how they are cut.
pub struct Patches<'a> {
    /// All latents in one buffer.
    pub latents: &'a Tensor,
    /// First element of the latent to read, `[B, C, h, w]`.
    pub first: usize,
    /// `B`. Where `y` has rows for more samples, the same ones are read again.
    pub samples: usize,
    /// `C`
    pub channels: usize,
    /// Height and width of a sample.
    pub size: [usize; 2],
    /// Side of a patch.
    pub patch: usize,
    /// Rows of a sample in `y`. Those beyond its patches become zeros.
    pub rows: usize,
    /// `[n·B·rows, K]`, `K = C·patch²` rounded up to a multiple of four; the rounding becomes zeros.
    pub y: &'a Tensor,
}

/// `SiLU(t_emb + text + Σ label rows)`, where a row may be a blend of two.
pub struct Conditioning<'a> {
    /// Time embedding after its MLP, `[B, D]`.
    pub time: &'a Tensor,
    /// What the prompts add, `[B, D]`, where the model reads text.
    pub pooled: Option<&'a Tensor>,
    /// All label tables one below the other, `[rows of all tables, D]`.
    pub labels: &'a Tensor,
    /// Rows of `labels` to add, then those that are blended into them, `[2, tables, B]`, u32.
    pub rows: &'a Tensor,
    /// Share of the latter, `[tables, B]`; 0 adds the first row as it is.
    pub shares: &'a Tensor,
    /// `[B, D]`
    pub y: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    columns: u32,
    tokens: u32,
    sample_rows: u32,
    channels: u32,
    height: u32,
    width: u32,
    patch_side: u32,
    first: u32,
    samples: u32,
    batch: u32,
    hidden: u32,
    tables: u32,
    has_text: u32,
}

impl Patches<'_> {
    /// Checks the shapes; returns the number of patches of a sample.
    fn tokens(&self) -> usize {
        let tokens = self.size.iter().map(|side| side / self.patch).product::<usize>();
        let sample_len = self.channels * self.size.iter().product::<usize>();
        assert!(self.first + self.samples * sample_len <= self.latents.len());
        assert!(tokens <= self.rows && self.y.shape[0].is_multiple_of(self.rows), "whole samples");
        assert!(self.channels * self.patch * self.patch <= self.y.shape[1]);
        tokens
    }
}

impl Conditioning<'_> {
    /// Checks the shapes; returns the number of tables.
    fn tables(&self) -> usize {
        assert_eq!(self.time.shape, self.y.shape);
        let tables = self.shares.shape[0];
        let [batch, hidden] = [self.y.shape[0], self.y.shape[1]];
        assert_eq!((self.labels.shape[1], self.shares.shape[1]), (hidden, batch));
        assert_eq!(self.rows.shape, [2, tables, batch]);
        if let Some(pooled) = self.pooled {
            assert_eq!(pooled.shape, self.y.shape);
        }
        tables
    }
}

impl Kernel for PassInputs<'_> {
    const SHADER: Shader = shader!("pass_inputs", shared: ["labels", "activation"], sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let Self { patches, conditioning } = self;
        let [height, width] = patches.size.map(|side| side as u32);
        Params {
            count: patches.y.len() as u32,
            columns: patches.y.shape[1] as u32,
            tokens: patches.tokens() as u32,
            sample_rows: patches.rows as u32,
            channels: patches.channels as u32,
            height,
            width,
            patch_side: patches.patch as u32,
            first: patches.first as u32,
            samples: patches.samples as u32,
            batch: conditioning.y.shape[0] as u32,
            hidden: conditioning.y.shape[1] as u32,
            tables: conditioning.tables() as u32,
            has_text: conditioning.pooled.is_some().into(),
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        let Conditioning { time, pooled, labels, rows, shares, y } = self.conditioning;
        // Something must be bound.
        let pooled = pooled.unwrap_or(time);
        vec![labels, rows, shares, time, pooled, y, self.patches.latents, self.patches.y]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.patches.y.len() + self.conditioning.y.len(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, poisoned, read, run, spiky, tensor};

    fn cut(x: &[f32], batch: usize, call: &Patches) -> Vec<f32> {
        let Patches { channels, size, patch: p, .. } = *call;
        let [height, width] = size;
        let across = width / p;
        let mut y = vec![0.0; call.y.len()];
        for b in 0..batch {
            for c in 0..channels {
                for row in 0..height {
                    for column in 0..width {
                        let t = row / p * across + column / p;
                        let k = (c * p + row % p) * p + column % p;
                        let from = ((b * channels + c) * height + row) * width + column;
                        y[(b * call.rows + t) * call.y.shape[1] + k] = x[from];
                    }
                }
            }
        }
        y
    }

    /// `time` with what the prompts add.
    fn conditioned(
        time: &[f32],
        labels: &[f32],
        rows: &[u32],
        shares: &[f32],
        batch: usize,
    ) -> Vec<f32> {
        let hidden = time.len() / batch;
        let condition = |(at, &t): (usize, &f32)| {
            let (b, d) = (at / hidden, at % hidden);
            let value = |row: u32| f64::from(labels[row as usize * hidden + d]);
            let of_table = |table: usize| {
                let at = table * batch + b;
                let share = f64::from(shares[at]);
                (1.0 - share) * value(rows[at]) + share * value(rows[shares.len() + at])
            };
            let c = f64::from(t) + (0..shares.len() / batch).map(of_table).sum::<f64>();
            (c / (1.0 + (-c).exp())) as f32
        };
        time.iter().enumerate().map(condition).collect()
    }

    #[test]
    fn copies_every_number_to_its_patch_and_adds_a_row_or_a_blend_of_every_table() {
        for (samples, copies, channels, size, patch, more, hidden, tables) in [
            (1, 1, 1, [1, 1], 1, 0, 4, 1),
            (3, 1, 4, [6, 6], 2, 0, 36, 3),
            (2, 2, 3, [3, 9], 3, 5, 68, 0),
            (2, 1, 1, [8, 2], 2, 1, 12, 2),
        ] {
            let first = 5;
            let batch = copies * samples;
            let len = samples * channels * size[0] * size[1];
            let latents = spiky(first + len + 3, 1, 1.0);
            let columns = (channels * patch * patch).next_multiple_of(4);
            let tokens = size[0] / patch * (size[1] / patch) + more;
            let rows_out = poisoned(&[batch * tokens, columns]);
            let latents_in = tensor(&[latents.len()], &latents);
            let patches = Patches {
                latents: &latents_in,
                first,
                samples,
                channels,
                size,
                patch,
                rows: tokens,
                y: &rows_out,
            };
            let x = latents[first..first + len].repeat(copies);
            let want_rows = cut(&x, batch, &patches);

            let time = spiky(batch * hidden, 1, 10.0);
            let labels = spiky(7 * hidden, 2, 1.0);
            let rows: Vec<u32> = (0..2 * tables * batch).map(|i| (3 * i as u32 + 1) % 7).collect();
            let shares: Vec<f32> = (0..tables * batch).map(|i| (i % 4) as f32 / 4.0).collect();
            let y = poisoned(&[batch, hidden]);
            let text = spiky(batch * hidden, 3, 1.0);
            let pooled = tensor(&[batch, hidden], &text);
            let has_text = batch > 1;
            let conditioning = Conditioning {
                time: &tensor(&[batch, hidden], &time),
                pooled: has_text.then_some(&pooled),
                labels: &tensor(&[7, hidden], &labels),
                rows: &tensor(&[2, tables, batch], &rows),
                shares: &tensor(&[tables, batch], &shares),
                y: &y,
            };
            run(&PassInputs { patches, conditioning });

            // Copies: exact.
            assert_eq!(read(&rows_out), want_rows);
            let text = text.iter().map(|v| if has_text { *v } else { 0.0 });
            let time: Vec<f32> = time.iter().zip(text).map(|(t, v)| t + v).collect();
            // A few f32 operations on numbers up to 100.
            let want = conditioned(&time, &labels, &rows, &shares, batch);
            assert_close(&read(&y), &want, 2e-5, 1e-5);
        }
    }
}
