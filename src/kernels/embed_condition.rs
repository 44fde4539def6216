//! The conditioning vector that modulates every block, from time, text and labels: `SiLU(t_emb + text + Σ label
//! rows)`, where a row may be a blend of two.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// The condition of every sample.
pub struct EmbedCondition<'a> {
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
    batch: u32,
    hidden: u32,
    tables: u32,
    has_text: u32,
}

impl Kernel for EmbedCondition<'_> {
    const SHADER: Shader =
        shader!("embed_condition", shared: ["labels", "activation"], sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let [batch, hidden] = [self.y.shape[0], self.y.shape[1]];
        assert_eq!(self.time.shape, self.y.shape);
        let tables = self.shares.shape[0];
        assert_eq!((self.labels.shape[1], self.shares.shape[1]), (hidden, batch));
        assert_eq!(self.rows.shape, [2, tables, batch]);
        if let Some(pooled) = self.pooled {
            assert_eq!(pooled.shape, self.y.shape);
        }
        Params {
            batch: batch as u32,
            hidden: hidden as u32,
            tables: tables as u32,
            has_text: self.pooled.is_some().into(),
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        // Something must be bound.
        let pooled = self.pooled.unwrap_or(self.time);
        vec![self.labels, self.rows, self.shares, self.time, pooled, self.y]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.y.len(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, poisoned, read, run, spiky, tensor};

    /// `time` with what the prompts add.
    fn reference(
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
    fn adds_a_row_or_a_blend_of_every_table() {
        for (batch, hidden, tables) in [(1, 4, 1), (5, 36, 3), (3, 68, 0)] {
            let time = spiky(batch * hidden, 1, 10.0);
            let labels = spiky(7 * hidden, 2, 1.0);
            let rows: Vec<u32> = (0..2 * tables * batch).map(|i| (3 * i as u32 + 1) % 7).collect();
            let shares: Vec<f32> = (0..tables * batch).map(|i| (i % 4) as f32 / 4.0).collect();
            let y = poisoned(&[batch, hidden]);
            let text = spiky(batch * hidden, 3, 1.0);
            let pooled = tensor(&[batch, hidden], &text);
            let has_text = batch > 1;
            run(&EmbedCondition {
                time: &tensor(&[batch, hidden], &time),
                pooled: has_text.then_some(&pooled),
                labels: &tensor(&[7, hidden], &labels),
                rows: &tensor(&[2, tables, batch], &rows),
                shares: &tensor(&[tables, batch], &shares),
                y: &y,
            });
            let text = text.iter().map(|v| if has_text { *v } else { 0.0 });
            let time: Vec<f32> = time.iter().zip(text).map(|(t, v)| t + v).collect();
            // A few f32 operations on numbers up to 100.
            let want = reference(&time, &labels, &rows, &shares, batch);
            assert_close(&read(&y), &want, 2e-5, 1e-5);
        }
    }
}
