//! Pixels of a picture as rows, for attention.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Tensor, lanes};

/// Arguments.
pub struct TokensFromPlanes<'a> {
    /// The picture, `[quads, pixels, 4]` at the front of the tensor.
    pub x: &'a Tensor,
    /// Quads of channels that the picture's buffer holds.
    pub quads: usize,
    /// First of them among the columns of a row.
    pub first_quad: usize,
    /// Pixels of the picture.
    pub pixels: usize,
    /// Pixel of the first row.
    pub first_pixel: usize,
    /// Out: `[rows, C]`; rows beyond the last pixel become zeros.
    pub y: &'a Tensor,
}

/// The uniform.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Params {
    rows: u32,
    quads: u32,
    first_quad: u32,
    row_quads: u32,
    pixels: u32,
    first_pixel: u32,
}

impl TokensFromPlanes<'_> {
    /// The tensor of rows.
    fn tokens(&self) -> &Tensor {
        self.y
    }
}

impl Kernel for TokensFromPlanes<'_> {
    const NAME: &'static str = "tokens_from_planes";
    const SOURCE: &'static str = include_str!("../../shaders/tokens_from_planes.wgsl");
    type Params = Params;

    fn params(&self) -> Params {
        let &[rows, width] = &*self.tokens().shape else { panic!("{:?}", self.tokens().shape) };
        assert!(width.is_multiple_of(4), "{width} columns");
        assert!(4 * (self.first_quad + self.quads) <= width, "{} quads", self.quads);
        assert!(self.x.len() >= 4 * self.quads * self.pixels, "{:?}", self.x.shape);
        Params {
            rows: rows as u32,
            quads: self.quads as u32,
            first_quad: self.first_quad as u32,
            row_quads: width as u32 / 4,
            pixels: self.pixels as u32,
            first_pixel: self.first_pixel as u32,
        }
    }

    fn tensors(&self) -> Vec<&Tensor> {
        vec![self.x, self.y]
    }

    fn groups(&self) -> [u32; 3] {
        lanes(self.tokens().shape[0] * self.quads, 64)
    }
}
