//! The two ends of the detail head: predicted sample, noised sample, time and phases as one feature map, and the result of
//! its convolutions added to the predicted sample.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Which way numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `[x̂, z, t]`, with the phases where they are asked for, becomes `quads`; channels beyond become zeros.
    Join,
    /// The first `C` channels of `quads` are added to `x̂`.
    Add,
}

/// Arguments.
#[derive(Clone, Copy)]
pub struct DetailPixels<'a> {
    /// All latents in one buffer.
    pub latents: &'a Tensor,
    /// First element of the predicted samples `x̂`, `[B, C, height, width]`.
    pub predicted: usize,
    /// First element of the noised samples `z`, `[samples, C, height, width]`.
    pub noised: usize,
    /// Samples in `z`. Where the batch is larger, the same ones are read again.
    pub samples: usize,
    /// `C`
    pub channels: usize,
    /// `[height, width]`
    pub size: [usize; 2],
    /// Side of a patch, where the feature map also has the phases of rows and columns (`Config::phase`).
    pub phase: Option<usize>,
    /// Model time of each sample, `[B]`.
    pub times: &'a Tensor,
    /// `[quads, B, height, width, 4]` at the front of the tensor.
    pub quads: &'a Tensor,
    /// Which of the two is written.
    pub way: Way,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    channels: u32,
    plane: u32,
    batch: u32,
    samples: u32,
    predicted: u32,
    noised: u32,
    width: u32,
    patch_size: u32,
}

impl DetailPixels<'_> {
    /// Elements to write.
    fn count(&self) -> usize {
        let each = match self.way {
            Way::Join => {
                let phases = if self.phase.is_some() { 2 } else { 0 };
                (2 * self.channels + 1 + phases).next_multiple_of(4)
            }
            Way::Add => self.channels,
        };
        each * self.times.len() * self.plane()
    }

    fn plane(&self) -> usize {
        self.size[0] * self.size[1]
    }
}

impl Kernel for DetailPixels<'_> {
    const SHADER: Shader = shader!("detail_pixels", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let Self { channels, samples, predicted, noised, size: [_, width], .. } = *self;
        let (plane, patch_size) = (self.plane(), self.phase.unwrap_or(0));
        let batch = self.times.len();
        assert!(predicted + batch * channels * plane <= self.latents.len(), "x̂ from {predicted}");
        assert!(noised + samples * channels * plane <= self.latents.len(), "z from {noised}");
        let quads = match self.way {
            Way::Join => self.count(),
            Way::Add => channels.next_multiple_of(4) * batch * plane,
        };
        assert!(quads <= self.quads.len(), "quads {:?}", self.quads.shape);
        let [count, channels, plane, batch, samples, predicted, noised, width, patch_size] =
            [self.count(), channels, plane, batch, samples, predicted, noised, width, patch_size]
                .map(|n| n as u32);
        Params { count, channels, plane, batch, samples, predicted, noised, width, patch_size }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        match self.way {
            Way::Join => vec![self.latents, self.times, self.quads],
            Way::Add => vec![self.quads, self.times, self.latents],
        }
    }

    fn constants(&self, _: Profile) -> Vec<(&'static str, f64)> {
        vec![("ADD", f64::from(u8::from(self.way == Way::Add)))]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.count(), LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{poisoned, read, run, spiky, tensor};
    use crate::kernels::planes::{from_quads, to_quads};

    #[test]
    fn channels_are_joined_in_order_and_the_result_is_added_to_the_prediction_only() {
        for (batch, samples, channels, size, phase) in [
            (1, 1, 1, [1, 1], None),
            (3, 3, 3, [5, 7], None),
            (4, 2, 3, [6, 9], Some(3)),
            (2, 1, 4, [6, 11], Some(4)),
            (1, 1, 2, [4, 8], Some(1)),
        ] {
            let plane = size[0] * size[1];
            let len = channels * plane;
            let (noised, predicted) = (5, 5 + samples * len + 2);
            let before = spiky(predicted + batch * len + 3, 1, 1.0);
            let latents = tensor(&[before.len()], &before);
            let times = spiky(batch, 2, 1.0);
            let times_tensor = tensor(&[batch], &times);
            let inputs = (2 * channels + if phase.is_some() { 3 } else { 1 }).next_multiple_of(4);
            let joined = poisoned(&[inputs * batch * plane + 1]);
            let call = DetailPixels {
                latents: &latents,
                predicted,
                noised,
                samples,
                channels,
                size,
                phase,
                times: &times_tensor,
                quads: &joined,
                way: Way::Join,
            };
            run(&call);
            let got = from_quads(&read(&joined), inputs, batch * plane);
            for (c, b, p) in (0..inputs)
                .flat_map(|c| (0..batch).flat_map(move |b| (0..plane).map(move |p| (c, b, p))))
            {
                let want = match c {
                    _ if c < channels => before[predicted + (b * channels + c) * plane + p],
                    _ if c < 2 * channels => {
                        before[noised + (b % samples * channels + c - channels) * plane + p]
                    }
                    _ if c == 2 * channels => times[b],
                    _ if phase.is_some() && c <= 2 * channels + 2 => {
                        let side = phase.unwrap();
                        let at = if c == 2 * channels + 1 { p / size[1] } else { p % size[1] };
                        // As in Config::phase.
                        (2 * (at % side) + 1) as f32 / side as f32 - 1.0
                    }
                    _ => 0.0,
                };
                let got = got[(c * batch + b) * plane + p];
                if c == 2 * channels + 1 || c == 2 * channels + 2 {
                    // A quotient, which WGSL may round differently.
                    assert!((got - want).abs() < 1e-6, "{got} {want}");
                } else {
                    // Copies: exact.
                    assert_eq!(got.to_bits(), want.to_bits());
                }
            }
            assert_eq!(read(&latents), before, "nothing but the quads is written");

            let more = spiky(channels * batch * plane, 3, 1.0);
            let quads = to_quads(&more, batch * plane);
            let quads = tensor(&[quads.len()], &quads);
            run(&DetailPixels { quads: &quads, way: Way::Add, ..call });
            let mut want = before;
            for (c, b, p) in (0..channels)
                .flat_map(|c| (0..batch).flat_map(move |b| (0..plane).map(move |p| (c, b, p))))
            {
                want[predicted + (b * channels + c) * plane + p] +=
                    more[(c * batch + b) * plane + p];
            }
            // One sum of two numbers: exact.
            assert_eq!(read(&latents), want);
        }
    }
}
