//! Keeps a part of an image during sampling: outside of a mask the sample becomes the image at a noise level.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// `x = mask·x + (1 − mask)·(signal·image + noise·ε)`, in place.
pub struct KeepImage<'a> {
    /// `[2]`: signal and noise, rewritten for every step.
    pub level: &'a Tensor,
    /// `[3, count]`: image, noise and mask.
    pub kept: &'a Tensor,
    /// All latent slots in one buffer.
    pub latents: &'a Tensor,
    /// First element of the sample.
    pub first: usize,
    /// Numbers in all samples, `B·C·height·width`.
    pub count: usize,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    first: u32,
}

impl Kernel for KeepImage<'_> {
    const SHADER: Shader = shader!("keep_image", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        assert_eq!((self.level.len(), self.kept.len()), (2, 3 * self.count));
        Params { count: self.count as u32, first: self.first as u32 }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.level, self.kept, self.latents]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.count, LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, read, run, spiky, tensor};

    #[test]
    fn the_mask_chooses_between_sample_and_noised_image() {
        let (count, first) = (131, 37);
        let before = spiky(first + count + 5, 1, 1.0);
        let (image, noise) = (spiky(count, 2, 1.0), spiky(count, 3, 1.0));
        // Whole, half and not at all.
        let mask: Vec<f32> = (0..count).map(|at| (at % 3) as f32 / 2.0).collect();
        for level in [[0.25_f32, 0.75], [1.0, 0.0]] {
            let latents = tensor(&[before.len()], &before);
            run(&KeepImage {
                level: &tensor(&[2], &level),
                kept: &tensor(&[3, count], &[&image[..], &noise, &mask].concat()),
                latents: &latents,
                first,
                count,
            });
            let got = read(&latents);
            let mut want = before.clone();
            for at in 0..count {
                let [signal, noisy] = level.map(f64::from);
                let known = signal * f64::from(image[at]) + noisy * f64::from(noise[at]);
                let mask = f64::from(mask[at]);
                let x = mask * f64::from(before[first + at]) + (1.0 - mask) * known;
                want[first + at] = x as f32;
            }
            assert_close(&got, &want, 1e-5, 1e-6);
            for at in 0..count {
                let place = first + at;
                if mask[at].to_bits() == 1.0_f32.to_bits() {
                    assert_eq!(got[place].to_bits(), before[place].to_bits(), "redrawn: {at}");
                }
                if mask[at].to_bits() == 0 && level[1].to_bits() == 0 {
                    assert_eq!(got[place].to_bits(), image[at].to_bits(), "kept: {at}");
                }
            }
        }
    }
}
