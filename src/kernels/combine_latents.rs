//! Weighted sums of samples and model outputs, of which a solver's step consists.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Most terms of one sum.
pub const MAX_TERMS: usize = 8;

/// Where a sample or a model output lies in the buffer of latents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First element.
    pub first: usize,
    /// Numbers per sample, of which a sum uses the first `sample_len`.
    pub stride: usize,
}

/// `output = Σ factors[i]·terms[i]`
pub struct CombineLatents<'a> {
    /// `[8]`, rewritten for every step.
    pub factors: &'a Tensor,
    /// All latents in one buffer.
    pub latents: &'a Tensor,
    /// At most eight.
    pub terms: &'a [Region],
    /// First element of the sum, `[B, sample_len]`; may be one of the terms.
    pub output: usize,
    /// `B`
    pub batch: usize,
    /// Numbers in a sample.
    pub sample_len: usize,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    sample_len: u32,
    terms: u32,
    first: u32,
    firsts: [u32; MAX_TERMS],
    strides: [u32; MAX_TERMS],
}

impl Kernel for CombineLatents<'_> {
    const SHADER: Shader = shader!("combine_latents", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        assert!(self.terms.len() <= MAX_TERMS, "{} terms", self.terms.len());
        let of_terms = |f: fn(&Region) -> usize| {
            let mut values = [0; MAX_TERMS];
            values.iter_mut().zip(self.terms).for_each(|(v, term)| *v = f(term) as u32);
            values
        };
        Params {
            count: (self.batch * self.sample_len) as u32,
            sample_len: self.sample_len as u32,
            terms: self.terms.len() as u32,
            first: self.output as u32,
            firsts: of_terms(|term| term.first),
            strides: of_terms(|term| term.stride),
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.factors, self.latents]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.batch * self.sample_len, LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, read, run, spiky, tensor};

    #[test]
    fn sums_the_first_channels_of_every_term() {
        let (batch, sample_len) = (3, 35);
        for count in [1, 2, 5, 8] {
            // Latents of 1 and 2 times the sample's length, one after the other.
            let mut end = 0;
            let regions: Vec<_> = (0..count)
                .map(|i| {
                    let region = Region { first: end, stride: sample_len * (1 + i % 2) };
                    end += batch * region.stride;
                    region
                })
                .collect();
            let before = spiky(end, 1, 1.0);
            let factors = spiky(MAX_TERMS, 2, 1.0);
            let latents = tensor(&[end], &before);
            // The output is the first term: a step of a solver in place.
            run(&CombineLatents {
                factors: &tensor(&[MAX_TERMS], &factors),
                latents: &latents,
                terms: &regions,
                output: 0,
                batch,
                sample_len,
            });
            let mut want = before.clone();
            for (at, sum) in want[..batch * sample_len].iter_mut().enumerate() {
                let (sample, offset) = (at / sample_len, at % sample_len);
                let term = |(i, region): (usize, &Region)| {
                    let x = before[region.first + sample * region.stride + offset];
                    f64::from(factors[i]) * f64::from(x)
                };
                *sum = regions.iter().enumerate().map(term).sum::<f64>() as f32;
            }
            // Eight products of size 100 in f32.
            assert_close(&read(&latents), &want, 1e-4, 1e-6);
        }
    }
}
