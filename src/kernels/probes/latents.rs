//! What schedulers do with images and predictions.

use super::Bench;
use super::numbers::{SAMPLES, numbers};
use crate::kernels::combine_latents::Region;
use crate::kernels::denoise::Numbers;
use crate::kernels::{CombineLatents, DenoiseLatents, KeepImage, ShiftImage};

/// Numbers of a sample, and pixels in the probe of the detail head: 5 by 7.
pub(super) const SAMPLE: usize = 35;

pub(super) fn combine(bench: &mut Bench) {
    let stride = 2 * SAMPLE;
    let latents = bench.tensor(&[3 * SAMPLES * stride], &numbers(3 * SAMPLES * stride, 70, 1.0));
    let terms = [0, 1, 2].map(|i| Region { first: i * SAMPLES * stride, stride });
    bench.push(&CombineLatents {
        factors: &bench.tensor(&[8], &numbers(8, 71, 1.0)),
        latents: &latents,
        terms: &terms,
        output: 0,
        batch: SAMPLES,
        sample_len: SAMPLE,
    });
    bench.add("combine_latents", "combine_latents".into(), &latents, 0..SAMPLES * SAMPLE, false);
}

/// Signal and noise of what is kept of an image.
pub(super) const LEVEL: [f32; 2] = [0.25, 0.75];

/// Image, noise and mask: redrawn, half, and kept.
pub(super) fn kept() -> [Vec<f32>; 3] {
    let count = SAMPLES * SAMPLE;
    let mask = (0..count).map(|i| (i % 3) as f32 / 2.0).collect();
    [numbers(count, 77, 1.0), numbers(count, 78, 1.0), mask]
}

pub(super) fn keep(bench: &mut Bench) {
    let count = SAMPLES * SAMPLE;
    let latents = bench.tensor(&[count], &numbers(count, 76, 1.0));
    bench.push(&KeepImage {
        level: &bench.tensor(&[2], &LEVEL),
        kept: &bench.tensor(&[3, count], &kept().concat()),
        latents: &latents,
        first: 0,
        count,
    });
    bench.expect("keep_image", "keep_image", &latents);
}

/// Pixels down and to the right, and the size of the images that are shifted.
pub(super) const SHIFT: ([usize; 2], [usize; 2]) = ([2, 4], [5, 7]);

pub(super) fn shift(bench: &mut Bench) {
    let (by, size) = SHIFT;
    let count = 2 * size[0] * size[1];
    let latents = bench.tensor(&[2 * count], &numbers(2 * count, 79, 1.0));
    let shift = ShiftImage { latents: &latents, input: 0, output: count, planes: 2, size, by };
    bench.push(&shift);
    bench.expect("shift_image", "shift_image", &latents);
}

/// A guided step of DDPM with a learned variance.
pub(super) const DENOISING: Numbers = Numbers {
    guidance: 1.5,
    predict_latent: 1.2,
    predict_noise: 0.7,
    mean_start: 0.4,
    mean_latent: 0.6,
    deviation: 0.0,
    low: -3.0,
    high: -1.0,
    clip: 1,
    noise: 2,
};

pub(super) fn denoise(bench: &mut Bench) {
    let slot = SAMPLES * SAMPLE;
    let latents = bench.tensor(&[5 * slot], &numbers(5 * slot, 72, 1.0));
    let steps = bench.output(&[Numbers::LEN]);
    DENOISING.write(bench.gpu, &steps);
    bench.push(&DenoiseLatents {
        numbers: &steps,
        noise: &bench.tensor(&[slot], &numbers(slot, 73, 1.0)),
        latents: &latents,
        first: 0,
        outputs: [slot, 3 * slot],
        batch: SAMPLES,
        sample_len: SAMPLE,
        output_len: 2 * SAMPLE,
        guided: SAMPLE,
    });
    bench.add("denoise", "denoise".into(), &latents, 0..slot, false);
}
