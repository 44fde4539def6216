//! The conditioning vector that modulates every block, from time and labels: `SiLU(t_emb + Σ label rows)`.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Width of the sinusoidal time embedding.
pub const TIME_WIDTH: usize = 256;

/// The sinusoidal embedding of one time, cosines first:
/// `cos(t·f_k) ‖ sin(t·f_k)`, `f_k = 10000^(−k/128)`.
///
/// Computed here and not in a shader: WGSL promises no accuracy for arguments beyond π, and `t` goes up
/// to 999. It is 256 numbers per sample and step.
pub fn time_embedding(time: f32) -> Vec<f32> {
    let half = TIME_WIDTH / 2;
    let angles = (0..half).map(|k| {
        // In f32 like the official code: the product decides the phase of the fastest waves.
        let frequency = (-(10_000.0_f32.ln()) * k as f32 / half as f32).exp();
        f64::from(time * frequency)
    });
    let cosines = angles.clone().map(|angle| angle.cos() as f32);
    cosines.chain(angles.map(|angle| angle.sin() as f32)).collect()
}

/// The condition of every sample.
pub struct EmbedCondition<'a> {
    /// Time embedding after its MLP, `[B, D]`.
    pub time: &'a Tensor,
    /// All label tables one below the other, `[rows of all tables, D]`.
    pub labels: &'a Tensor,
    /// Rows of `labels` to add, `[tables, B]`, u32.
    pub rows: &'a Tensor,
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
}

impl Kernel for EmbedCondition<'_> {
    const SHADER: Shader = shader!("embed_condition", shared: ["activation"], sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let [batch, hidden] = [self.y.shape[0], self.y.shape[1]];
        assert_eq!(self.time.shape, self.y.shape);
        assert_eq!((self.labels.shape[1], self.rows.shape[1]), (hidden, batch));
        Params { batch: batch as u32, hidden: hidden as u32, tables: self.rows.shape[0] as u32 }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.time, self.labels, self.rows, self.y]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.y.len(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, poisoned, read, run, spiky, tensor};

    fn reference(time: &[f32], labels: &[f32], rows: &[u32], batch: usize) -> Vec<f32> {
        let hidden = time.len() / batch;
        let condition = |(at, &t): (usize, &f32)| {
            let (b, d) = (at / hidden, at % hidden);
            let of_table = |of_samples: &[u32]| labels[of_samples[b] as usize * hidden + d];
            let c = f64::from(t) + rows.chunks(batch).map(|r| f64::from(of_table(r))).sum::<f64>();
            (c / (1.0 + (-c).exp())) as f32
        };
        time.iter().enumerate().map(condition).collect()
    }

    #[test]
    fn adds_a_row_of_every_table() {
        for (batch, hidden, tables) in [(1, 4, 1), (5, 36, 3), (3, 68, 0)] {
            let time = spiky(batch * hidden, 1, 10.0);
            let labels = spiky(7 * hidden, 2, 1.0);
            let rows: Vec<u32> = (0..tables * batch).map(|i| (3 * i as u32 + 1) % 7).collect();
            let y = poisoned(&[batch, hidden]);
            run(&EmbedCondition {
                time: &tensor(&[batch, hidden], &time),
                labels: &tensor(&[7, hidden], &labels),
                rows: &tensor(&[tables, batch], &rows),
                y: &y,
            });
            // A few f32 operations on numbers up to 100.
            assert_close(&read(&y), &reference(&time, &labels, &rows, batch), 2e-5, 1e-5);
        }
    }

    #[test]
    fn the_time_embedding_has_the_official_values() {
        // From the official module: cosines first, frequencies falling.
        let e = time_embedding(0.5);
        let picked = [e[0], e[1], e[64], e[127], e[128], e[129], e[192], e[255]];
        let want = [
            0.877_582_6,
            0.893_693_3,
            0.999_987_5,
            1.0,
            0.479_425_55,
            0.448_678_4,
            0.004_999_98,
            5.373e-5,
        ];
        assert_close(&picked, &want, 1e-7, 1e-6);
        let e = time_embedding(999.0);
        let want = [0.999_649_8, 0.963_785_3, -0.026_460_75, -0.266_679_4];
        // The reference's own phase is rounded to 6e-5 at 999 radians.
        assert_close(&[e[0], e[1], e[128], e[129]], &want, 1e-4, 0.0);
    }
}
