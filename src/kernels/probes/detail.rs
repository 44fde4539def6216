//! The detail head: a convolution, and how its pixels come and go.

use super::latents::SAMPLE;
use super::numbers::{SAMPLES, numbers};
use super::{Bench, Exact};
use crate::kernels::conv2d::Activation;
use crate::kernels::detail_pixels::Way;
use crate::kernels::{Conv2d, ConvWeights, DetailPixels, WeightPrecision};

/// Inputs, outputs, height and width of the probe of a convolution.
pub(super) const CONVOLUTION: [usize; 4] = [8, 12, 9, 17];

pub(super) fn record(bench: &mut Bench) {
    let [inputs, outputs, height, width] = CONVOLUTION;
    let weights = Exact::new(outputs, inputs * 9, 81).values();
    let bias = numbers(outputs, 82, 1.0);
    let (shape, precision) = ([outputs, inputs, 3], WeightPrecision::F32);
    let layer = ConvWeights::upload(bench.gpu, "probe", shape, &weights, Some(&bias), precision);
    let len = inputs * height * width;
    let x = bench.tensor(&[len], &numbers(len, 80, 1.0));
    let y = bench.output(&[outputs * height * width]);
    bench.push(&Conv2d {
        x: &x,
        weights: &layer,
        y: &y,
        images: 1,
        size: [height, width],
        enlarge: false,
        inputs: (0, inputs / 4),
        outputs: (0, outputs / 4),
        y_first: 0,
        bias: true,
        add: false,
        activation: Activation::Silu,
    });
    bench.expect("conv2d", "conv2d", &y);

    let channels = 3;
    let len = SAMPLES * channels * SAMPLE;
    let latents = bench.tensor(&[2 * len], &numbers(2 * len, 83, 1.0));
    let quads = bench.output(&[8 * SAMPLES * SAMPLE]);
    let ends = DetailPixels {
        latents: &latents,
        predicted: 0,
        noised: len,
        samples: SAMPLES,
        channels,
        size: [5, 7],
        phase: None,
        times: &bench.tensor(&[SAMPLES], &[0.25_f32, 0.75]),
        quads: &quads,
        way: Way::Join,
    };
    bench.push(&ends);
    bench.push(&DetailPixels { way: Way::Add, ..ends });
    bench.expect_exactly("detail_pixels, joined", "detail_pixels", &quads);
    // The prediction doubled.
    bench.expect_exactly("detail_pixels, added", "detail_pixels", &latents);
}
