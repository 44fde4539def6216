//! First half of a group norm: mean and squared deviations of each channel, in pieces of [`CHUNK`] pixels.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor};

/// Pixels in a piece. Pieces are joined by [`super::GroupFold`]; sums inside them go through a tree, so
/// no sum is longer than some hundred terms, and none depends on how work is spread.
pub const CHUNK: usize = 4096;

/// Statistics of the channels of one buffer.
pub struct GroupStats<'a> {
    /// `[quads, pixels, 4]` at the front of the tensor.
    pub x: &'a Tensor,
    /// Pixels of a channel.
    pub pixels: usize,
    /// Quads of channels in `x`.
    pub quads: usize,
    /// First of them among all channels of the feature map.
    pub first_quad: usize,
    /// `[chunks, all quads, 2, 4]`: means, then sums of squared deviations.
    pub partial: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    pixels: u32,
    first_quad: u32,
    total_quads: u32,
}

impl Kernel for GroupStats<'_> {
    const SHADER: Shader = shader!("group_stats", sizes: [CHUNK]);
    type Params = Params;

    fn params(&self) -> Params {
        let total = self.partial.shape[1];
        assert_eq!(*self.partial.shape, [self.pixels.div_ceil(CHUNK), total, 2, 4]);
        assert!(self.first_quad + self.quads <= total, "{} of {total}", self.first_quad);
        assert!(self.x.len() >= 4 * self.quads * self.pixels, "x {:?}", self.x.shape);
        Params {
            pixels: self.pixels as u32,
            first_quad: self.first_quad as u32,
            total_quads: total as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.x, self.partial]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        [self.pixels.div_ceil(CHUNK) as u32, self.quads as u32, 1]
    }
}
