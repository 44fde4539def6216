//! Tests of [`super`]: both variants against sums in f64.

use super::super::planes::{from_quads, to_quads};
use super::super::weights::stored;
use super::*;
use crate::gpu::testing::{
    PROFILES, assert_close, gpu, poisoned, read, run_variant, spiky, tensor,
};

/// A layer and an image for it.
struct Case {
    size: usize,
    from: [usize; 2],
    enlarge: bool,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    weights: ConvWeights,
}

impl Case {
    fn new(
        channels: [usize; 2],
        size: usize,
        from: [usize; 2],
        enlarge: bool,
        precision: WeightPrecision,
    ) -> Self {
        let [inputs, outputs] = channels;
        let x = spiky(inputs * from[0] * from[1], 1, 1.0);
        let w = spiky(outputs * inputs * size * size, 2, 0.2);
        let w = stored(&w, inputs * size * size, precision);
        let bias = spiky(outputs, 3, 1.0);
        let sizes = [outputs, inputs, size];
        let weights = ConvWeights::upload(gpu(), "test", sizes, &w, Some(&bias), precision);
        Self { size, from, enlarge, x, w, bias, weights }
    }

    fn to(&self) -> [usize; 2] {
        self.from.map(|n| n << usize::from(self.enlarge))
    }

    fn pixels(&self) -> usize {
        self.to()[0] * self.to()[1]
    }

    fn reference(&self) -> Vec<f64> {
        let Self { x, w: weights, bias, size, from, enlarge, .. } = self;
        reference(Inputs { x, weights, bias, size: *size, from: *from, enlarge: *enlarge })
    }

    /// All inputs to all outputs.
    fn call<'a>(&'a self, x: &'a Tensor, y: &'a Tensor) -> Conv2d<'a> {
        Conv2d {
            x,
            weights: &self.weights,
            y,
            images: 1,
            size: self.to(),
            enlarge: self.enlarge,
            inputs: (0, self.weights.in_quads),
            outputs: (0, self.weights.out_quads),
            y_first: 0,
            bias: true,
            add: false,
            activation: Activation::None,
        }
    }

    fn image(&self) -> Vec<f32> {
        to_quads(&self.x, self.from[0] * self.from[1])
    }
}

/// Sums of up to 9·36 terms of size 10·2: rounding stays below 324·20·2⁻²⁴ ≈ 4e-4.
fn close(got: &[f32], want: &[f64]) {
    let want: Vec<_> = want.iter().map(|&v| v as f32).collect();
    assert_close(got, &want, 1e-3, 1e-5);
}

#[test]
fn matches_the_reference_in_both_variants_and_precisions() {
    use WeightPrecision::{F16, F32};
    for (channels, size, from, enlarge, precision) in [
        ([1, 1], 1, [1, 1], false, F32),
        ([4, 8], 3, [1, 1], false, F32),
        // Widths and heights below, at and above the tiles; channels that leave quads unfilled.
        ([5, 7], 3, [9, 17], false, F32),
        ([12, 36], 3, [8, 16], false, F16),
        ([36, 3], 1, [19, 33], false, F16),
        ([8, 12], 3, [5, 9], true, F32),
    ] {
        let case = Case::new(channels, size, from, enlarge, precision);
        let x = tensor(&[case.image().len()], &case.image());
        let quads = case.weights.out_quads;
        for profile in PROFILES {
            let y = poisoned(&[4 * quads * case.pixels()]);
            run_variant(&case.call(&x, &y), profile);
            let got = read(&y);
            close(&from_quads(&got, channels[1], case.pixels()), &case.reference());
            let padding =
                from_quads(&got, 4 * quads, case.pixels()).split_off(channels[1] * case.pixels());
            // The next layer multiplies them by zero, which does not help against NaN.
            assert!(padding.iter().all(|&v| v == 0.0), "padded channels are zeros");
        }
    }
}

#[test]
fn inputs_and_outputs_may_lie_in_several_buffers() {
    let case = Case::new([28, 44], 3, [7, 11], false, WeightPrecision::F32);
    let (pixels, image) = (case.pixels(), case.image());
    // Inputs in 5 and 2 quads, outputs in 3 and 8, the second of which is computed in two dispatches.
    let parts = [(0, 5), (5, 7)].map(|(from, to)| {
        let part = &image[4 * from * pixels..4 * to * pixels];
        (from, to, tensor(&[part.len()], part))
    });
    let want: Vec<f64> = case.reference().iter().map(|v| v.max(0.0)).collect();
    for profile in PROFILES {
        let ys = [poisoned(&[4 * 3 * pixels]), poisoned(&[4 * 8 * pixels])];
        for (y, outputs, y_first) in [(0, (0, 3), 0), (1, (3, 9), 0), (1, (9, 11), 6)] {
            for (from, to, x) in &parts {
                let is_last = *to == 7;
                let call = Conv2d {
                    inputs: (*from, *to),
                    outputs,
                    y_first,
                    bias: *from == 0,
                    add: *from > 0,
                    activation: if is_last { Activation::Relu } else { Activation::None },
                    ..case.call(x, &ys[y])
                };
                run_variant(&call, profile);
            }
        }
        let got: Vec<f32> = ys.iter().flat_map(read).collect();
        close(&from_quads(&got, 44, pixels), &want);
    }
}

#[test]
fn a_residual_is_added_before_the_clamp() {
    let case = Case::new([8, 8], 3, [6, 10], false, WeightPrecision::F32);
    let x = tensor(&[case.image().len()], &case.image());
    let before = spiky(8 * case.pixels(), 9, 3.0);
    let want: Vec<f64> = case
        .reference()
        .iter()
        .zip(&before)
        .zip((0..8).flat_map(|o| vec![f64::from(case.bias[o]); case.pixels()]))
        .map(|((sum, before), bias)| (sum - bias + f64::from(*before)).max(0.0))
        .collect();
    for profile in PROFILES {
        let y = tensor(&[before.len()], &to_quads(&before, case.pixels()));
        let activation = Activation::Relu;
        let call = Conv2d { bias: false, add: true, activation, ..case.call(&x, &y) };
        run_variant(&call, profile);
        close(&from_quads(&read(&y), 8, case.pixels()), &want);
    }
}

#[test]
fn images_side_by_side_do_not_see_each_other() {
    // Heights below, at and above the tiles, so that a tile ends inside an image.
    for (channels, from) in [([7, 6], [9, 9]), ([24, 24], [8, 17]), ([6, 3], [3, 5])] {
        let case = Case::new(channels, 3, from, false, WeightPrecision::F32);
        let (pixels, images) = (case.pixels(), 3);
        let x = spiky(images * channels[0] * pixels, 4, 1.0);
        let all: Vec<_> = x.chunks_exact(channels[0] * pixels).collect();
        // Channel by channel: all images form one tall image, with other neighbours.
        let lain: Vec<f32> = (0..channels[0])
            .flat_map(|c| all.iter().flat_map(move |x| &x[c * pixels..][..pixels]))
            .copied()
            .collect();
        let lain = to_quads(&lain, images * pixels);
        let x = tensor(&[lain.len()], &lain);
        for profile in PROFILES {
            let y = poisoned(&[4 * case.weights.out_quads * images * pixels]);
            let activation = Activation::Silu;
            run_variant(&Conv2d { images, activation, ..case.call(&x, &y) }, profile);
            let got = from_quads(&read(&y), channels[1], images * pixels);
            for (i, x) in all.iter().enumerate() {
                let Case { w: weights, bias, .. } = &case;
                let want = reference(Inputs { x, weights, bias, size: 3, from, enlarge: false });
                let want: Vec<f64> = want.iter().map(|v| v / (1.0 + (-v).exp())).collect();
                let got: Vec<f32> = (0..channels[1])
                    .flat_map(|o| &got[(o * images + i) * pixels..][..pixels])
                    .copied()
                    .collect();
                close(&got, &want);
            }
        }
    }
}

#[test]
fn dispatches_are_cut_where_they_would_take_too_long() {
    let values = vec![0.0; 100 * 8 * 9];
    let weights =
        ConvWeights::upload(gpu(), "test", [100, 8, 3], &values, None, WeightPrecision::F32);
    let cut = |most: u64| output_chunks(&weights, 2, 10, 0..25, most).collect::<Vec<_>>();
    assert_eq!(cut(u64::MAX / 2), [(0, 25)]);
    // 16·9·2·10 = 2880 multiply-adds for a quad; never less than a workgroup's share.
    assert_eq!(cut(2880 * 16), [(0, 16), (16, 25)]);
    assert_eq!(cut(1), [(0, 8), (8, 16), (16, 24), (24, 25)]);
}
