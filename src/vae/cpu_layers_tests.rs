//! Tests of [`super`] against the f64 references of the GPU kernels.

use super::*;
use crate::gpu::testing::{assert_close, spiky};
use crate::kernels::{conv2d, group_norm};

/// `[C, pixels]` to `[pixels, C]`, and back with the two numbers exchanged.
fn transposed(x: &[f32], rows: usize) -> Vec<f32> {
    let columns = x.len() / rows;
    (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

/// A layer with random weights, in the order in which a file has them.
fn layer(channels: [usize; 2], kernel: usize, w: &[f32], bias: &[f32]) -> ConvWeights {
    let [inputs, outputs] = channels;
    let taps = kernel * kernel;
    let ordered: Vec<f32> = (0..w.len())
        .map(|i| {
            let (o, tap, c) = (i / (taps * inputs), i / inputs % taps, i % inputs);
            w[(o * inputs + c) * taps + tap]
        })
        .collect();
    let matrix = Matrix::new(outputs, taps * inputs, &ordered);
    ConvWeights { matrix, bias: Some(bias.to_vec()), kernel }
}

#[test]
fn convolutions_match_the_reference_whole_and_in_slices() {
    for (channels, kernel, size, enlarge) in [
        ([1, 1], 3, [1, 1], false),
        ([5, 7], 3, [9, 17], false),
        ([20, 33], 1, [4, 5], false),
        ([8, 16], 3, [6, 35], true),
    ] {
        let [inputs, outputs] = channels;
        let x = spiky(inputs * size[0] * size[1], 1, 1.0);
        let w = spiky(outputs * inputs * kernel * kernel, 2, 0.2);
        let bias = spiky(outputs, 3, 1.0);
        let want = conv2d::reference(conv2d::Inputs {
            x: &x,
            weights: &w,
            bias: &bias,
            size: kernel,
            from: size,
            enlarge,
        });
        let weights = layer(channels, kernel, &w, &bias);
        let lain = transposed(&x, inputs);
        let source = Source { x: &lain, size, channels: inputs, enlarge };
        let [height, width] = source.extent();
        for (add, relu) in [(false, false), (true, true)] {
            let before = spiky(want.len(), 4, if add { 2.0 } else { 0.0 });
            let expected: Vec<f64> = want
                .iter()
                .zip(&before)
                .map(|(w, b)| w + f64::from(*b))
                .map(|v| if relu { v.max(0.0) } else { v })
                .collect();
            let (name, has_bias) = (String::new(), true);
            let conv = Conv { name, kernel, has_bias, from: 0, to: 0, enlarge, add, relu };
            let start = || {
                if add { transposed(&before, outputs) } else { vec![f32::NAN; before.len()] }
            };
            let mut whole = start();
            conv_rows(&weights, &conv, &source, 0, &mut whole);
            let got = transposed(&whole, height * width);
            // As the GPU kernel's test: up to 9·20 terms of size 20.
            assert_close(&got, &narrow(&expected), 1e-3, 1e-5);
            let mut sliced = start();
            for (row, slice) in sliced.chunks_mut(width * outputs).enumerate() {
                conv_rows(&weights, &conv, &source, row, slice);
            }
            assert_eq!(sliced, whole, "rows do not depend on their neighbours in a slice");
        }
    }
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
