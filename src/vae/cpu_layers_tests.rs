//! Tests of [`super`] against the f64 reference of the GPU kernel.

use super::*;
use crate::gpu::testing::{assert_close, spiky};
use crate::kernels::group_norm;

/// `[C, pixels]` to `[pixels, C]`, and back with the two numbers exchanged.
fn transposed(x: &[f32], rows: usize) -> Vec<f32> {
    let columns = x.len() / rows;
    (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

#[test]
fn norms_match_the_reference() {
    for (channels, group, size, offset, is_silu) in
        [(6, 3, [5, 7], 0.0, true), (32, 8, [1, 65], 0.0, false), (8, 4, [97, 90], 1000.0, true)]
    {
        let len = channels * size[0] * size[1];
        let x: Vec<f32> = spiky(len, 1, 2.0).iter().map(|v| v + offset).collect();
        let weights = spiky(2 * channels, 2, 1.0);
        let want = narrow(&group_norm::reference(&x, &weights, group, f64::from(EPS), is_silu));
        let (weight, bias) = weights.split_at(channels);
        let w = NormWeights { weight: weight.to_vec(), bias: bias.to_vec() };
        let norm = Norm { name: String::new(), group, from: 0, to: 0, silu: is_silu };
        let mut got = transposed(&x, channels);
        // Sums of two rows at a time, then the rows in two parts.
        let mut state = Normalising::default();
        while !state.sum(&w, group, size[1], &got, 2) {}
        let (first, rest) = got.split_at_mut(size[0] / 2 * size[1] * channels);
        state.apply(&w, &norm, size[1], first);
        state.apply(&w, &norm, size[1], rest);
        let got = transposed(&got, size[0] * size[1]);
        // Values in units of a deviation of about 5: an offset of 1000 rounds the mean at 6e-5.
        assert_close(&got, &want, 1e-5 + 1e-7 * offset, 1e-5);
    }
}
