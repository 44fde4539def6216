//! Samples to patches: the rows that the patch embedding multiplies.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Where the samples lie and how they are cut.
pub struct Patchify<'a> {
    /// All latents in one buffer.
    pub latents: &'a Tensor,
    /// First element of the latent to read, `[B, C, h, w]`.
    pub first: usize,
    /// `B`. Where `y` has rows for more samples, the same ones are read again.
    pub samples: usize,
    /// `C`
    pub channels: usize,
    /// Height and width of a sample.
    pub size: [usize; 2],
    /// Side of a patch.
    pub patch: usize,
    /// Rows of a sample in `y`. Those beyond its patches become zeros.
    pub rows: usize,
    /// `[n·B·rows, K]`, `K = C·patch²` rounded up to a multiple of four; the rounding becomes zeros.
    pub y: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    columns: u32,
    tokens: u32,
    sample_rows: u32,
    channels: u32,
    height: u32,
    width: u32,
    patch_side: u32,
    first: u32,
    samples: u32,
}

impl Kernel for Patchify<'_> {
    const SHADER: Shader = shader!("patchify", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let [height, width] = self.size.map(|side| side as u32);
        let tokens = self.size.iter().map(|side| side / self.patch).product::<usize>();
        let sample_len = self.channels * self.size.iter().product::<usize>();
        assert!(self.first + self.samples * sample_len <= self.latents.len());
        assert!(tokens <= self.rows && self.y.shape[0].is_multiple_of(self.rows), "whole samples");
        assert!(self.channels * self.patch * self.patch <= self.y.shape[1]);
        Params {
            count: self.y.len() as u32,
            columns: self.y.shape[1] as u32,
            tokens: tokens as u32,
            sample_rows: self.rows as u32,
            channels: self.channels as u32,
            height,
            width,
            patch_side: self.patch as u32,
            first: self.first as u32,
            samples: self.samples as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.latents, self.y]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.y.len(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{poisoned, read, run, spiky, tensor};

    fn reference(x: &[f32], batch: usize, call: &Patchify) -> Vec<f32> {
        let Patchify { channels, size, patch: p, .. } = *call;
        let [height, width] = size;
        let across = width / p;
        let mut y = vec![0.0; call.y.len()];
        for b in 0..batch {
            for c in 0..channels {
                for row in 0..height {
                    for column in 0..width {
                        let t = row / p * across + column / p;
                        let k = (c * p + row % p) * p + column % p;
                        let from = ((b * channels + c) * height + row) * width + column;
                        y[(b * call.rows + t) * call.y.shape[1] + k] = x[from];
                    }
                }
            }
        }
        y
    }

    #[test]
    fn copies_every_number_to_its_patch_and_pads_with_zeros() {
        for (samples, copies, channels, size, patch, more) in [
            (1, 1, 1, [1, 1], 1, 0),
            (3, 1, 4, [6, 6], 2, 0),
            (2, 2, 3, [3, 9], 3, 5),
            (2, 1, 1, [8, 2], 2, 1),
        ] {
            let first = 5;
            let batch = copies * samples;
            let len = samples * channels * size[0] * size[1];
            let latents = spiky(first + len + 3, 1, 1.0);
            let columns = (channels * patch * patch).next_multiple_of(4);
            let rows = size[0] / patch * (size[1] / patch) + more;
            let y = poisoned(&[batch * rows, columns]);
            let latents_tensor = tensor(&[latents.len()], &latents);
            let latents_in = &latents_tensor;
            let call = Patchify {
                latents: latents_in,
                first,
                samples,
                channels,
                size,
                patch,
                rows,
                y: &y,
            };
            run(&call);
            // Copies: exact.
            let x = latents[first..first + len].repeat(copies);
            assert_eq!(read(&y), reference(&x, batch, &call));
        }
    }
}
