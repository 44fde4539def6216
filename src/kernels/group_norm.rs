//! Group norm with SiLU, `y = act((x - mean)·scale + bias)`: the last of its three kernels, and the tests
//! of all of them.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Normalises the channels of one buffer.
pub struct GroupNorm<'a> {
    /// `[quads, pixels, 4]` at the front of the tensor; nothing to work in place.
    pub x: Option<&'a Tensor>,
    /// Mean, scale and bias of all channels, from [`super::GroupFold`].
    pub table: &'a Tensor,
    /// Pixels of a channel.
    pub pixels: usize,
    /// Quads of channels in `y`.
    pub quads: usize,
    /// First of them among all channels of the feature map.
    pub first_quad: usize,
    /// Whether SiLU follows.
    pub silu: bool,
    /// `[quads, pixels, 4]` at the front of the tensor.
    pub y: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    count: u32,
    pixels: u32,
    first_quad: u32,
    total_quads: u32,
}

impl Kernel for GroupNorm<'_> {
    const SHADER: Shader = shader!("group_norm", shared: ["activation"], sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let total = self.table.shape[1] / 4;
        let count = self.quads * self.pixels;
        assert!(self.first_quad + self.quads <= total, "{} of {total}", self.first_quad);
        for tensor in [self.y, self.x.unwrap_or(self.y)] {
            assert!(tensor.len() >= 4 * count, "{:?}", tensor.shape);
        }
        Params {
            count: count as u32,
            pixels: self.pixels as u32,
            first_quad: self.first_quad as u32,
            total_quads: total as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        // Something must be bound, but not `y` a second time.
        vec![self.x.unwrap_or(self.table), self.table, self.y]
    }

    fn constants(&self, _: Profile) -> Vec<(&'static str, f64)> {
        let flag = |is_set: bool| f64::from(u8::from(is_set));
        vec![("IN_PLACE", flag(self.x.is_none())), ("SILU", flag(self.silu))]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.quads * self.pixels, LANES)
    }
}

/// The whole norm on the processor, in f64: `x` and the result are `[C, pixels]`, `weights` is `[2, C]`.
#[cfg(test)]
pub(crate) fn reference(
    x: &[f32],
    weights: &[f32],
    group: usize,
    eps: f64,
    silu: bool,
) -> Vec<f64> {
    let channels = weights.len() / 2;
    let pixels = x.len() / channels;
    let mut y = Vec::with_capacity(x.len());
    for (g, values) in x.chunks_exact(group * pixels).enumerate() {
        let size = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / size;
        let squares = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
        let factor = 1.0 / (squares / size + eps).sqrt();
        for (i, &v) in values.iter().enumerate() {
            let c = g * group + i / pixels;
            let z = (f64::from(v) - mean) * factor * f64::from(weights[c])
                + f64::from(weights[channels + c]);
            y.push(if silu { z / (1.0 + (-z).exp()) } else { z });
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{assert_close, poisoned, read, run, spiky, tensor};
    use crate::kernels::group_stats::CHUNK;
    use crate::kernels::planes::{from_quads, to_quads};
    use crate::kernels::{GroupFold, GroupStats};

    /// Runs the three kernels on a feature map that lies in two buffers, cut at quad `cut`.
    fn check(channels: usize, group: usize, pixels: usize, cut: usize, offset: f32) {
        let what = format!("{channels} channels by {group}, {pixels} pixels, cut at {cut}");
        let x: Vec<f32> = spiky(channels * pixels, 1, 2.0).iter().map(|v| v + offset).collect();
        let weights = spiky(2 * channels, 2, 1.0);
        let quads = channels.div_ceil(4);
        let lain = to_quads(&x, pixels);
        let weight_tensor = tensor(&[2, channels], &weights);
        let partial = poisoned(&[pixels.div_ceil(CHUNK), quads, 2, 4]);
        let table = poisoned(&[3, 4 * quads]);
        let parts = [(0, cut), (cut, quads)].into_iter().filter(|(from, to)| from < to);
        let buffers: Vec<_> = parts
            .map(|(from, to)| {
                let part = &lain[4 * from * pixels..4 * to * pixels];
                (from, to - from, tensor(&[part.len()], part))
            })
            .collect();
        for (first_quad, quads, x) in &buffers {
            let (first_quad, quads) = (*first_quad, *quads);
            run(&GroupStats { x, pixels, quads, first_quad, partial: &partial });
        }
        let weights_on_device = &weight_tensor;
        run(&GroupFold {
            partial: &partial,
            weights: weights_on_device,
            pixels,
            group,
            eps: 1e-6,
            table: &table,
        });
        for (silu, in_place) in [(true, true), (false, false)] {
            let mut got = Vec::new();
            for (first_quad, quads, x) in &buffers {
                let (first_quad, quads) = (*first_quad, *quads);
                let copy = tensor(&[x.len()], &read(x));
                let y = if in_place { copy } else { poisoned(&[x.len()]) };
                let from = (!in_place).then_some(x);
                let (table, y) = (&table, &y);
                run(&GroupNorm { x: from, table, pixels, quads, first_quad, silu, y });
                got.extend(read(y));
            }
            let want = reference(&x, &weights, group, 1e-6, silu);
            let want: Vec<f32> = want.into_iter().map(|v| v as f32).collect();
            // Values in units of a deviation of about 5: an offset of 1000 rounds them at 1e-5.
            assert_close(&from_quads(&got, channels, pixels), &want, 2e-5 + 1e-7 * offset, 1e-5);
            let padding = &got[channels / 4 * 4 * pixels..];
            let is_padding = |i: usize| i % 4 >= channels % 4;
            assert!(
                !channels.is_multiple_of(4) || padding.is_empty(),
                "{what}: nothing beyond the channels"
            );
            assert!(
                padding.iter().enumerate().filter(|(i, _)| is_padding(*i)).all(|(_, v)| *v == 0.0),
                "{what}: padded channels are zeros"
            );
        }
    }

    #[test]
    fn matches_the_reference_at_odd_sizes_and_over_buffers() {
        check(4, 4, 1, 1, 0.0);
        // Groups of three channels straddle quads and buffers; 6 channels leave two of padding.
        check(6, 3, 35, 1, 0.0);
        check(12, 2, 77, 2, 0.0);
        check(32, 8, 65, 8, 0.0);
        // Two whole pieces and a short one; an offset that a single pass over squares would not survive.
        check(8, 4, 2 * CHUNK + 77, 1, 1000.0);
    }
}
