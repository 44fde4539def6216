//! Tests of [`super`] against the f64 reference of the GPU kernel.

use super::*;
use crate::gpu::testing::{assert_close, spiky};
use crate::kernels::conv2d;

/// `[C, pixels]` to `[pixels, C]`, and back with the two numbers exchanged.
fn transposed(x: &[f32], rows: usize) -> Vec<f32> {
    let columns = x.len() / rows;
    (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

fn activated(activation: Activation, v: f64) -> f64 {
    match activation {
        Activation::None => v,
        Activation::Relu => v.max(0.0),
        Activation::Silu => v / (1.0 + (-v).exp()),
    }
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
        let weights = ConvWeights::new([outputs, inputs, kernel], &w, Some(bias));
        assert_eq!(weights.outputs(), outputs);
        let lain = transposed(&x, inputs);
        let source = Source { x: &lain, size, channels: inputs, enlarge };
        let [height, width] = source.extent();
        for (add, activation) in
            [(false, Activation::None), (true, Activation::Relu), (false, Activation::Silu)]
        {
            let before = spiky(want.len(), 4, if add { 2.0 } else { 0.0 });
            let expected: Vec<f64> = want
                .iter()
                .zip(&before)
                .map(|(w, b)| activated(activation, w + f64::from(*b)))
                .collect();
            let ending = Ending { add, activation };
            let start = || {
                if add { transposed(&before, outputs) } else { vec![f32::NAN; before.len()] }
            };
            let mut whole = start();
            conv_rows(&weights, &source, 0, ending, &mut whole);
            let got = transposed(&whole, height * width);
            // As the GPU kernel's test: up to 9·20 terms of size 20.
            assert_close(&got, &narrow(&expected), 1e-3, 1e-5);
            let mut sliced = start();
            for (row, slice) in sliced.chunks_mut(width * outputs).enumerate() {
                conv_rows(&weights, &source, row, ending, slice);
            }
            assert_eq!(sliced, whole, "rows do not depend on their neighbours in a slice");
        }
    }
}
