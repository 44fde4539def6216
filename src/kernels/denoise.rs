//! A step of the reverse diffusion process: the update of DDPM and DDIM between two forward passes.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Gpu, Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// What changes from step to step. The formulas are in the shader.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Numbers {
    /// Guidance scale.
    pub guidance: f32,
    /// Factor of `x` in `x₀`, `√(1/ᾱ)`.
    pub predict_latent: f32,
    /// Factor of the predicted noise in `x₀`, `√(1/ᾱ - 1)`.
    pub predict_noise: f32,
    /// Factor of `x₀` in the mean.
    pub mean_start: f32,
    /// Factor of `x` in the mean.
    pub mean_latent: f32,
    /// σ, where [`Numbers::noise`] is 1.
    pub deviation: f32,
    /// `log β̃`, where [`Numbers::noise`] is 2.
    pub low: f32,
    /// `log β`, where [`Numbers::noise`] is 2.
    pub high: f32,
    /// 1 to clip `x₀` to [-1, 1].
    pub clip: u32,
    /// 0 for no noise, 1 for σ as given, 2 for a learned σ.
    pub noise: u32,
}

impl Numbers {
    /// Elements of a tensor that holds them.
    pub const LEN: usize = size_of::<Self>() / 4;

    /// Replaces what a tensor of [`Numbers::LEN`] elements holds, in order with the work on the queue.
    pub fn write(self, gpu: &Gpu, tensor: &Tensor) {
        tensor.write(gpu, bytemuck::cast_slice::<Self, u32>(&[self]));
    }
}

/// `x = mean(x, ε) + σ·noise`, in place; the formulas are in the shader.
pub struct DenoiseLatents<'a> {
    /// [`Numbers`].
    pub numbers: &'a Tensor,
    /// `[B, sample_len]`; read where [`Numbers::noise`] is not 0.
    pub noise: &'a Tensor,
    /// All latents in one buffer.
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
    const SHADER: Shader = shader!("denoise", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        assert_eq!(self.numbers.len(), Numbers::LEN);
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

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.batch * self.sample_len, LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, gpu, poisoned, read, run, spiky, tensor};

    /// The sample after the step, in f64.
    fn reference(n: Numbers, noise: &[f32], before: &[f32], call: &DenoiseLatents) -> Vec<f32> {
        let value = |at: usize| f64::from(before[at]);
        let mut after = before.to_vec();
        for at in 0..call.batch * call.sample_len {
            let place = at / call.sample_len * call.output_len + at % call.sample_len;
            let x = value(call.first + at);
            let mut predicted = value(call.outputs[0] + place);
            if at % call.sample_len < call.guided {
                let plain = value(call.outputs[1] + place);
                predicted = plain + f64::from(n.guidance) * (predicted - plain);
            }
            let mut start =
                f64::from(n.predict_latent) * x - f64::from(n.predict_noise) * predicted;
            if n.clip == 1 {
                start = start.clamp(-1.0, 1.0);
            }
            let share = |place: usize| f64::midpoint(value(place + call.sample_len), 1.0);
            let deviation = match n.noise {
                0 => 0.0,
                1 => f64::from(n.deviation),
                _ => {
                    let share = share(call.outputs[0] + place);
                    (0.5 * (share * f64::from(n.high) + (1.0 - share) * f64::from(n.low))).exp()
                }
            };
            let mean = f64::from(n.mean_start) * start + f64::from(n.mean_latent) * x;
            let result = mean + deviation * f64::from(noise[at]);
            after[call.first + at] = result as f32;
        }
        after
    }

    #[test]
    fn matches_the_reference_with_and_without_guidance_noise_and_clipping() {
        let (batch, sample_len) = (3, 36);
        for (output_len, guided, clip, kind) in
            [(72, 27, 0, 2), (72, 0, 1, 2), (36, 36, 1, 1), (36, 9, 0, 0)]
        {
            let first = 5;
            let outputs = [200, 200 + batch * output_len];
            let before = spiky(outputs[1] + batch * output_len, 3, 0.3);
            let numbers = Numbers {
                guidance: 1.5,
                predict_latent: 1.2,
                predict_noise: 0.7,
                mean_start: 0.4,
                mean_latent: 0.6,
                deviation: 0.25,
                low: -6.0,
                high: -3.0,
                clip,
                noise: kind,
            };
            // Without noise the kernel must not look at it.
            let noise = if kind > 0 {
                spiky(batch * sample_len, 4, 1.0)
            } else {
                vec![f32::NAN; batch * sample_len]
            };
            let latents = tensor(&[before.len()], &before);
            let (numbers_in, noise_in) =
                (poisoned(&[Numbers::LEN]), tensor(&[noise.len()], &noise));
            numbers.write(gpu(), &numbers_in);
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
            let noise = if kind > 0 { noise } else { vec![0.0; noise.len()] };
            let want = reference(numbers, &noise, &before, &call);
            // Sums of four numbers up to 50 in f32; exp of arguments up to 6.
            assert_close(&read(&latents), &want, 2e-5, 2e-5);
        }
    }
}
