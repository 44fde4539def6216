//! Token vectors back to images.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Where the token vectors lie and where the images go.
pub struct Unpatchify<'a> {
    /// Rows of a sample in `x`; those beyond its patches are not read.
    pub rows: usize,
    /// `[B·rows, patch²·C]`, channel fastest.
    pub x: &'a Tensor,
    /// All latents in one buffer.
    pub latents: &'a Tensor,
    /// First element of the latent to write, `[B, C, h, w]`.
    pub first: usize,
    /// `C`, channels of the model's output.
    pub channels: usize,
    /// Height and width of a sample.
    pub size: [usize; 2],
    /// Side of a patch.
    pub patch: usize,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    sample_rows: u32,
    channels: u32,
    height: u32,
    width: u32,
    patch_side: u32,
    first: u32,
}

impl Unpatchify<'_> {
    /// Numbers of all images.
    fn count(&self) -> usize {
        self.x.shape[0] / self.rows * self.channels * self.size.iter().product::<usize>()
    }
}

impl Kernel for Unpatchify<'_> {
    const SHADER: Shader = shader!("unpatchify", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let [height, width] = self.size.map(|side| side as u32);
        let tokens = self.size.iter().map(|side| side / self.patch).product::<usize>();
        assert_eq!(self.x.shape[1], self.patch * self.patch * self.channels);
        assert!(tokens <= self.rows && self.x.shape[0].is_multiple_of(self.rows), "whole samples");
        assert!(self.first + self.count() <= self.latents.len());
        Params {
            count: self.count() as u32,
            sample_rows: self.rows as u32,
            channels: self.channels as u32,
            height,
            width,
            patch_side: self.patch as u32,
            first: self.first as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.x, self.latents]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.count(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{read, run, spiky, tensor};

    fn reference(x: &[f32], batch: usize, call: &Unpatchify) -> Vec<f32> {
        let Unpatchify { channels, size, patch: p, .. } = *call;
        let [height, width] = size;
        let across = width / p;
        let mut y = Vec::new();
        for b in 0..batch {
            for c in 0..channels {
                for row in 0..height {
                    for column in 0..width {
                        let t = row / p * across + column / p;
                        let k = (row % p * p + column % p) * channels + c;
                        y.push(x[(b * call.rows + t) * p * p * channels + k]);
                    }
                }
            }
        }
        y
    }

    #[test]
    fn copies_every_number_to_its_pixel_and_touches_nothing_else() {
        for (batch, channels, size, patch, more) in
            [(1, 1, [1, 1], 1, 0), (3, 8, [6, 6], 2, 0), (2, 3, [3, 9], 3, 4), (2, 1, [8, 2], 2, 1)]
        {
            let (first, len) = (5, batch * channels * size[0] * size[1]);
            let rows = size[0] / patch * (size[1] / patch) + more;
            let columns = patch * patch * channels;
            let x = spiky(batch * rows * columns, 1, 1.0);
            let before = spiky(first + len + 3, 2, 1.0);
            let latents = tensor(&[before.len()], &before);
            let x_tensor = tensor(&[batch * rows, columns], &x);
            let call =
                Unpatchify { x: &x_tensor, latents: &latents, first, channels, size, patch, rows };
            run(&call);
            let mut want = before;
            want[first..first + len].copy_from_slice(&reference(&x, batch, &call));
            // Copies: exact.
            assert_eq!(read(&latents), want);
        }
    }
}
