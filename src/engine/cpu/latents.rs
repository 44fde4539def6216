//! The latents of an engine: sample-sized buffers, and the arithmetic between them.

use std::sync::Arc;

use crate::engine::Keep;
use crate::model::Config;
use crate::scheduler::{Denoise, Deviation, Latent, Level, within_image};

/// All latents of an engine; those that a solver does not use stay empty.
pub(super) struct Latents {
    /// `C·h·w`
    sample_len: usize,
    /// `C_out·h·w`
    output_len: usize,
    /// `h·w`
    plane: usize,
    /// `w`
    width: usize,
    /// `[B, C, h, w]`
    pub(super) sample: Vec<f32>,
    /// `[B, C, h, w]`
    trial: Vec<f32>,
    /// `[B, C, h, w]`
    shifted: Vec<f32>,
    /// `[B, C, h, w]` each
    velocities: Vec<Vec<f32>>,
    /// `[B, C_out, h, w]` each
    pub(super) outputs: Vec<Vec<f32>>,
    /// The image of which a part is kept
    pub(super) kept: Option<Arc<Keep>>,
    /// A temporary result, because its destination may be one of the operands
    combined: Vec<f32>,
}

impl Latents {
    pub(super) fn new(config: &Config, batch: usize) -> Self {
        let (sample_len, output_len) = (config.sample_len(), config.output_len());
        Self {
            sample_len,
            output_len,
            plane: config.plane(),
            width: config.input_size[1],
            sample: vec![0.0; batch * sample_len],
            trial: vec![0.0; batch * sample_len],
            shifted: Vec::new(),
            velocities: vec![Vec::new(); Latent::VELOCITIES],
            outputs: vec![vec![0.0; batch * output_len]; Latent::OUTPUTS],
            kept: None,
            combined: vec![0.0; batch * sample_len],
        }
    }

    /// A latent of the sample's size, `[B, C, h, w]`.
    pub(super) fn sample(&self, latent: Latent) -> &[f32] {
        assert!(!matches!(latent, Latent::Output(_)), "{latent:?} is no sample");
        self.values(latent).0
    }

    /// The values of a latent, and their number per sample.
    fn values(&self, latent: Latent) -> (&[f32], usize) {
        match latent {
            Latent::Sample => (&self.sample, self.sample_len),
            Latent::Trial => (&self.trial, self.sample_len),
            Latent::Shifted => (&self.shifted, self.sample_len),
            Latent::Velocity(n) => (&self.velocities[usize::from(n)], self.sample_len),
            Latent::Output(n) => (&self.outputs[usize::from(n)], self.output_len),
        }
    }

    /// `output = Σ factor·latent`.
    pub(super) fn combine(&mut self, output: Latent, terms: &[(f32, Latent)]) {
        let mut combined = std::mem::take(&mut self.combined);
        combined.resize(self.sample.len(), 0.0);
        combined.fill(0.0);
        for &(factor, latent) in terms {
            let (from, stride) = self.values(latent);
            assert!(!from.is_empty(), "{latent:?} is read before it is written");
            let sums = combined.chunks_exact_mut(self.sample_len);
            for (sum, from) in sums.zip(from.chunks_exact(stride)) {
                sum.iter_mut().zip(from).for_each(|(sum, x)| *sum += factor * x);
            }
        }
        self.combined = self.replace(output, combined);
    }

    /// `output = input`, shifted in a circle by so many pixels down and to the right.
    pub(super) fn shift(&mut self, input: Latent, output: Latent, by: [i32; 2]) {
        let mut moved = std::mem::take(&mut self.combined);
        moved.resize(self.sample.len(), 0.0);
        let height = self.plane / self.width;
        let [down, right] = within_image(by, [height, self.width]);
        let planes = self.sample(input).chunks_exact(self.plane);
        for (to, from) in moved.chunks_exact_mut(self.plane).zip(planes) {
            for (y, row) in from.chunks_exact(self.width).enumerate() {
                let to = &mut to[(y + down) % height * self.width..][..self.width];
                to[right..].copy_from_slice(&row[..self.width - right]);
                to[..right].copy_from_slice(&row[self.width - right..]);
            }
        }
        self.combined = self.replace(output, moved);
    }

    /// Gives a latent of the sample's size other numbers, and returns those that it had.
    pub(super) fn replace(&mut self, latent: Latent, values: Vec<f32>) -> Vec<f32> {
        let buffer = match latent {
            Latent::Sample => &mut self.sample,
            Latent::Trial => &mut self.trial,
            Latent::Shifted => &mut self.shifted,
            Latent::Velocity(n) => &mut self.velocities[usize::from(n)],
            Latent::Output(_) => panic!("{latent:?} is written by passes only"),
        };
        std::mem::replace(buffer, values)
    }

    /// `sample = mask·sample + (1 − mask)·(signal·image + noise·ε)`.
    pub(super) fn keep(&mut self, level: Level) {
        let kept = self.kept.as_ref().expect("the run came with an image to keep");
        let Keep { image, noise, mask } = &**kept;
        let known = image.iter().zip(noise).map(|(x, e)| level.signal * x + level.noise * e);
        for ((x, known), mask) in self.sample.iter_mut().zip(known).zip(mask) {
            *x = mask * *x + (1.0 - mask) * known;
        }
    }

    /// One step back through the diffusion process.
    pub(super) fn denoise(&mut self, step: &Denoise) {
        let Self { sample_len, output_len, plane, .. } = *self;
        let guided = step.guided_channels * plane;
        for (at, x) in self.sample.iter_mut().enumerate() {
            let (sample, offset) = (at / sample_len, at % sample_len);
            let from = sample * output_len + offset;
            let mut noise = self.outputs[0][from];
            if offset < guided {
                let null = self.outputs[1][from];
                noise = null + step.guidance * (noise - null);
            }
            let mut start = step.predict[0] * *x - step.predict[1] * noise;
            if step.clip {
                start = start.clamp(-1.0, 1.0);
            }
            let mean = step.mean[0] * start + step.mean[1] * *x;
            *x = mean;
            if let Some(noise) = &step.noise {
                let deviation = match step.deviation {
                    Deviation::Fixed(deviation) => deviation,
                    Deviation::Learned { low, high } => {
                        let f = f32::midpoint(self.outputs[0][from + sample_len], 1.0);
                        // Of `libm`, so that every machine draws the same image.
                        libm::expf(0.5 * (f * high + (1.0 - f) * low))
                    }
                };
                *x += deviation * noise[at];
            }
        }
    }
}
