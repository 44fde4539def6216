//! Layer norm or RMS norm of queries and keys, head by head, before attention.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};
use crate::model::NormForm;

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Where the queries and keys lie.
pub struct HeadNorm<'a> {
    /// Layer norm or RMS norm.
    pub form: NormForm,
    /// `[4, d]`: weight and bias for queries, weight and bias for keys. An RMS norm has no biases: `[2, d]`.
    pub affine: &'a Tensor,
    /// `H`
    pub heads: usize,
    /// Added to the variance.
    pub eps: f32,
    /// `[S, 3·H·d]`: queries, keys and values; the first two are changed.
    pub qkv: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    heads: u32,
    quads: u32,
    eps: f32,
    centring: f32,
}

impl HeadNorm<'_> {
    /// One lane for each query and key.
    fn count(&self) -> usize {
        self.qkv.shape[0] * 2 * self.heads
    }
}

impl Kernel for HeadNorm<'_> {
    const SHADER: Shader = shader!("head_norm", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let head_dim = self.affine.shape[1];
        let rows = if self.form == NormForm::Rms { 2 } else { 4 };
        assert_eq!(self.affine.shape[0], rows, "two norms");
        assert_eq!(self.qkv.shape[1], 3 * self.heads * head_dim, "heads of {head_dim}");
        assert!(head_dim.is_multiple_of(4), "heads of {head_dim}");
        Params {
            count: self.count() as u32,
            heads: self.heads as u32,
            quads: (head_dim / 4) as u32,
            eps: self.eps,
            centring: self.form.centring(),
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.affine, self.qkv]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.count(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, read, run, spiky, tensor};

    fn reference(
        x: &mut [f32],
        (form, affine): (NormForm, &[f32]),
        [heads, d]: [usize; 2],
        eps: f64,
    ) {
        for row in x.chunks_exact_mut(3 * heads * d) {
            for (at, head) in row.chunks_exact_mut(d).take(2 * heads).enumerate() {
                let is_key = at / heads;
                let sum = head.iter().map(|&v| f64::from(v)).sum::<f64>();
                let zeros = vec![0.0; d];
                let (mean, weight, bias) = match form {
                    NormForm::Layer => (
                        sum / d as f64,
                        &affine[2 * is_key * d..][..d],
                        &affine[(2 * is_key + 1) * d..][..d],
                    ),
                    NormForm::Rms => (0.0, &affine[is_key * d..][..d], &zeros[..]),
                };
                let square = |v: &f32| (f64::from(*v) - mean).powi(2);
                let variance = head.iter().map(square).sum::<f64>() / d as f64;
                for (i, v) in head.iter_mut().enumerate() {
                    let normal = (f64::from(*v) - mean) / (variance + eps).sqrt();
                    *v = (normal * f64::from(weight[i]) + f64::from(bias[i])) as f32;
                }
            }
        }
    }

    #[test]
    fn normalises_queries_and_keys_and_leaves_values() {
        for (form, rows, heads, d, eps) in [
            (NormForm::Layer, 1, 1, 4, 1e-5),
            (NormForm::Layer, 7, 3, 24, 1e-6),
            (NormForm::Layer, 33, 2, 96, 0.5),
            (NormForm::Rms, 1, 1, 4, 1e-5),
            (NormForm::Rms, 7, 3, 24, 1e-6),
        ] {
            let norms = if form == NormForm::Rms { 2 } else { 4 };
            let affine = spiky(norms * d, 1, 1.0);
            let mut x = spiky(rows * 3 * heads * d, 2, 3.0);
            let qkv = tensor(&[rows, 3 * heads * d], &x);
            run(&HeadNorm { form, affine: &tensor(&[norms, d], &affine), heads, eps, qkv: &qkv });
            reference(&mut x, (form, &affine), [heads, d], f64::from(eps));
            // A handful of roundings of numbers up to 100.
            assert_close(&read(&qkv), &x, 1e-5, 1e-5);
        }
    }
}
