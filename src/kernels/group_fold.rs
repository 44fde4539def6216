//! Second half of a group norm's statistics: from pieces of channels to a scale and an offset for each.

use bytemuck::{Pod, Zeroable};

use super::group_stats::CHUNK;
use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Joins what [`super::GroupStats`] gathered.
pub struct GroupFold<'a> {
    /// `[chunks, quads, 2, 4]`
    pub partial: &'a Tensor,
    /// Weight and bias, `[2, C]`.
    pub weights: &'a Tensor,
    /// Pixels of a channel.
    pub pixels: usize,
    /// Channels that share mean and variance; divides C.
    pub group: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Out: mean, scale, bias, `[3, C rounded up to four]`.
    pub table: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    pixels: u32,
    chunk: u32,
    channels: u32,
    padded: u32,
    group: u32,
    eps: f32,
}

impl Kernel for GroupFold<'_> {
    const SHADER: Shader = shader!("group_fold", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let (channels, padded) = (self.weights.shape[1], self.table.shape[1]);
        assert!(channels.is_multiple_of(self.group), "{channels} channels by {}", self.group);
        assert_eq!(*self.table.shape, [3, channels.next_multiple_of(4)]);
        assert_eq!(*self.partial.shape, [self.pixels.div_ceil(CHUNK), padded / 4, 2, 4]);
        Params {
            pixels: self.pixels as u32,
            chunk: CHUNK as u32,
            channels: channels as u32,
            padded: padded as u32,
            group: self.group as u32,
            eps: self.eps,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.partial, self.weights, self.table]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.table.shape[1], LANES)
    }
}
