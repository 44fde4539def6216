//! The latent-sized buffers of an engine and the arithmetic between them.

use crate::model::Config;
use crate::scheduler::{Denoise, Deviation, Latent};

/// All slots of an engine; those that a solver does not use stay empty.
pub(super) struct Slots {
    /// `C·h·w`
    sample_len: usize,
    /// `C_out·h·w`
    output_len: usize,
    /// `h·w`
    plane: usize,
    /// `[B, C, h, w]`
    pub(super) latent: Vec<f32>,
    /// `[B, C, h, w]`
    stage: Vec<f32>,
    /// `[B, C, h, w]` each
    rates: Vec<Vec<f32>>,
    /// `[B, C_out, h, w]` each
    pub(super) outputs: Vec<Vec<f32>>,
    /// A temporary result, because its destination may be one of the operands
    combined: Vec<f32>,
}

/// `Output(0)` to `Output(3)`.
const OUTPUTS: usize = 4;

/// `Rate(0)` to `Rate(6)`.
const RATES: usize = 7;

impl Slots {
    pub(super) fn new(config: &Config, batch: usize) -> Self {
        let (sample_len, output_len) = (config.sample_len(), config.output_len());
        Self {
            sample_len,
            output_len,
            plane: config.plane(),
            latent: vec![0.0; batch * sample_len],
            stage: vec![0.0; batch * sample_len],
            rates: vec![Vec::new(); RATES],
            outputs: vec![vec![0.0; batch * output_len]; OUTPUTS],
            combined: vec![0.0; batch * sample_len],
        }
    }

    /// A slot of the sample's size, `[B, C, h, w]`.
    pub(super) fn sample(&self, slot: Latent) -> &[f32] {
        assert!(!matches!(slot, Latent::Output(_)), "{slot:?} is no sample");
        self.values(slot).0
    }

    /// The values of a slot, and their number per sample.
    fn values(&self, slot: Latent) -> (&[f32], usize) {
        match slot {
            Latent::Sample => (&self.latent, self.sample_len),
            Latent::Trial => (&self.stage, self.sample_len),
            Latent::Velocity(n) => (&self.rates[usize::from(n)], self.sample_len),
            Latent::Output(n) => (&self.outputs[usize::from(n)], self.output_len),
        }
    }

    /// `output = Σ factor·slot`.
    pub(super) fn combine(&mut self, output: Latent, terms: &[(f32, Latent)]) {
        let mut combined = std::mem::take(&mut self.combined);
        combined.resize(self.latent.len(), 0.0);
        combined.fill(0.0);
        for &(factor, slot) in terms {
            let (from, stride) = self.values(slot);
            assert!(!from.is_empty(), "{slot:?} is read before it is written");
            let sums = combined.chunks_exact_mut(self.sample_len);
            for (sum, from) in sums.zip(from.chunks_exact(stride)) {
                sum.iter_mut().zip(from).for_each(|(sum, x)| *sum += factor * x);
            }
        }
        self.combined = self.replace(output, combined);
    }

    /// Gives a slot of the sample's size other numbers, and returns those that it had.
    pub(super) fn replace(&mut self, slot: Latent, values: Vec<f32>) -> Vec<f32> {
        let slot = match slot {
            Latent::Sample => &mut self.latent,
            Latent::Trial => &mut self.stage,
            Latent::Velocity(n) => &mut self.rates[usize::from(n)],
            Latent::Output(_) => panic!("{slot:?} is written by passes only"),
        };
        std::mem::replace(slot, values)
    }

    /// One step back through the diffusion process.
    pub(super) fn denoise(&mut self, step: &Denoise) {
        let Self { sample_len, output_len, plane, .. } = *self;
        let guided = step.guided_channels * plane;
        for (at, x) in self.latent.iter_mut().enumerate() {
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
