//! A step of the reverse diffusion process: what DDPM and DDIM do between two passes through the model.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Tensor, lanes};

/// Numbers that change from step to step: guidance scale; `√(1/ᾱ)`, `√(1/ᾱ - 1)`; 1 to clip; factors of
/// `x₀` and `x` in the mean; σ; `log β̃`, `log β`; 0 for no noise, 1 for σ as given, 2 for a learned σ.
pub const NUMBERS: usize = 10;

/// `x = mean(x, ε) + σ·noise`, in place; the formulas are in the shader.
pub struct DenoiseLatents<'a> {
    /// `[10]`, see [`NUMBERS`].
    pub numbers: &'a Tensor,
    /// `[B, sample_len]`; read where the last of the numbers is not 0.
    pub noise: &'a Tensor,
    /// All latent slots in one buffer.
    pub latents: &'a Tensor,
    /// First element of the sample, `[B, sample_len]`.
    pub first: usize,
    /// First elements of the conditional and the unconditional output, `[B, output_len]`.
    pub outputs: [usize; 2],
    /// `B`
    pub batch: usize,
    /// Numbers in a sample.
    pub sample_len: usize,
    /// Numbers of an output in one sample.
    pub output_len: usize,
    /// The first numbers of each sample that guidance changes.
    pub guided: usize,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    sample_len: u32,
    output_len: u32,
    guided: u32,
    first: u32,
    conditional: u32,
    unconditional: u32,
}

impl Kernel for DenoiseLatents<'_> {
    const NAME: &'static str = "denoise";
    const SOURCE: &'static str = include_str!("../../shaders/denoise.wgsl");
    type Params = Params;

    fn params(&self) -> Params {
        assert_eq!(self.numbers.len(), NUMBERS);
        assert_eq!(self.noise.len(), self.batch * self.sample_len);
        assert!(self.guided <= self.sample_len && self.sample_len <= self.output_len);
        Params {
            count: (self.batch * self.sample_len) as u32,
            sample_len: self.sample_len as u32,
            output_len: self.output_len as u32,
            guided: self.guided as u32,
            first: self.first as u32,
            conditional: self.outputs[0] as u32,
            unconditional: self.outputs[1] as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.numbers, self.noise, self.latents]
    }

    fn groups(&self) -> [u32; 3] {
        /// `LANES` in the shader.
        const LANES: usize = 64;
        lanes(self.batch * self.sample_len, LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, read, run, spiky, tensor};

    /// The sample after the step, in f64.
    fn reference(n: &[f32], noise: &[f32], before: &[f32], call: &DenoiseLatents) -> Vec<f32> {
        let n: Vec<f64> = n.iter().map(|&v| f64::from(v)).collect();
        let value = |at: usize| f64::from(before[at]);
        let mut after = before.to_vec();
        for at in 0..call.batch * call.sample_len {
            let place = at / call.sample_len * call.output_len + at % call.sample_len;
            let x = value(call.first + at);
            let mut predicted = value(call.outputs[0] + place);
            if at % call.sample_len < call.guided {
                let plain = value(call.outputs[1] + place);
                predicted = plain + n[0] * (predicted - plain);
            }
            let mut start = n[1] * x - n[2] * predicted;
            if n[3] > 0.0 {
                start = start.clamp(-1.0, 1.0);
            }
            let share = |place: usize| f64::midpoint(value(place + call.sample_len), 1.0);
            let deviation = match n[9] as u32 {
                0 => 0.0,
                1 => n[6],
                _ => {
                    let share = share(call.outputs[0] + place);
                    (0.5 * (share * n[8] + (1.0 - share) * n[7])).exp()
                }
            };
            let result = n[4] * start + n[5] * x + deviation * f64::from(noise[at]);
            after[call.first + at] = result as f32;
        }
        after
    }

    #[test]
    fn matches_the_reference_with_and_without_guidance_noise_and_clipping() {
        let (batch, sample_len) = (3, 36);
        for (output_len, guided, clip, kind) in
            [(72, 27, 0.0, 2.0), (72, 0, 1.0, 2.0), (36, 36, 1.0, 1.0), (36, 9, 0.0, 0.0)]
        {
            let first = 5;
            let outputs = [200, 200 + batch * output_len];
            let before = spiky(outputs[1] + batch * output_len, 3, 0.3);
            let numbers = [1.5, 1.2, 0.7, clip, 0.4, 0.6, 0.25, -6.0, -3.0, kind];
            // Without noise the kernel must not look at it.
            let noise = if kind > 0.0 {
                spiky(batch * sample_len, 4, 1.0)
            } else {
                vec![f32::NAN; batch * sample_len]
            };
            let latents = tensor(&[before.len()], &before);
            let (numbers_in, noise_in) =
                (tensor(&[NUMBERS], &numbers), tensor(&[noise.len()], &noise));
            let call = DenoiseLatents {
                numbers: &numbers_in,
                noise: &noise_in,
                latents: &latents,
                first,
                outputs,
                batch,
                sample_len,
                output_len,
                guided,
            };
            run(&call);
            let noise = if kind > 0.0 { noise } else { vec![0.0; noise.len()] };
            let want = reference(&numbers, &noise, &before, &call);
            // Sums of four numbers up to 50 in f32; exp of arguments up to 6.
            assert_close(&read(&latents), &want, 2e-5, 2e-5);
        }
    }
}
