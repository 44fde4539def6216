//! Softmax of rows in place, for attention whose heads are too wide for [`super::Attention`].

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, spread};

/// Arguments.
pub struct Softmax<'a> {
    /// `[rows, stride]`
    pub x: &'a Tensor,
    /// Numbers of a row that count; those after them become zeros.
    pub columns: usize,
    /// Multiplies the scores.
    pub scale: f32,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    rows: u32,
    columns: u32,
    stride: u32,
    scale: f32,
}

impl Kernel for Softmax<'_> {
    const SHADER: Shader = shader!("softmax");
    type Params = Params;

    fn params(&self) -> Params {
        let &[rows, stride] = &*self.x.shape else { panic!("x {:?}", self.x.shape) };
        assert!((1..=stride).contains(&self.columns), "{} of {stride} columns", self.columns);
        Params {
            rows: rows as u32,
            columns: self.columns as u32,
            stride: stride as u32,
            scale: self.scale,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.x]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        spread(self.x.shape[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, read, run, spiky, tensor};

    #[test]
    fn rows_sum_to_one_and_padding_is_zero() {
        for (rows, columns, stride) in [(1, 1, 4), (3, 63, 64), (70, 65, 68), (5, 1000, 1000)] {
            // Scores of up to 2000 in steps of 0.1: exp overflows without the maximum.
            let scores = spiky(rows * stride, 7, 200.0);
            let scale = 0.1;
            let mut want = Vec::new();
            for row in scores.chunks(stride) {
                let z: Vec<f64> = row[..columns].iter().map(|&v| 0.1 * f64::from(v)).collect();
                let top = z.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = z.iter().map(|v| (v - top).exp()).sum();
                want.extend(z.iter().map(|v| ((v - top).exp() / sum) as f32));
                want.extend(vec![0.0; stride - columns]);
            }
            // What lies in the padding must not matter.
            let mut dirty = scores;
            for row in dirty.chunks_mut(stride) {
                row[columns..].fill(f32::NAN);
            }
            let x = tensor(&[rows, stride], &dirty);
            run(&Softmax { x: &x, columns, scale });
            assert_close(&read(&x), &want, 1e-6, 3e-5);
        }
    }
}
