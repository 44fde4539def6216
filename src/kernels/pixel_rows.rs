//! Pixels of an image as rows, and rows back to their pixels: the two ends of attention over an image.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Kernel, Profile, Shader, Tensor, lanes};

/// Lanes of a workgroup.
const LANES: usize = 64;

/// Which way numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Rows become pixels of the image; rows beyond the last pixel become zeros.
    ToRows,
    /// Rows are added to the image; those beyond the last pixel are left out.
    AddToPixels,
}

/// Arguments.
#[derive(Clone, Copy)]
pub struct PixelRows<'a> {
    /// `[rows, C]`
    pub rows: &'a Tensor,
    /// Some channels of the image, `[quads, pixels, 4]` at the front of the tensor.
    pub image: &'a Tensor,
    /// Which of the two is written.
    pub way: Way,
    /// Quads of channels in `image`.
    pub quads: usize,
    /// First of them among the columns of a row.
    pub first_quad: usize,
    /// Pixels of the image.
    pub pixels: usize,
    /// Pixel of the first row.
    pub first_pixel: usize,
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

impl Kernel for PixelRows<'_> {
    const SHADER: Shader = shader!("pixel_rows", sizes: [LANES]);
    type Params = Params;

    fn params(&self) -> Params {
        let &[rows, width] = &*self.rows.shape else { panic!("{:?}", self.rows.shape) };
        assert!(width.is_multiple_of(4), "{width} columns");
        assert!(4 * (self.first_quad + self.quads) <= width, "{} quads", self.quads);
        assert!(self.image.len() >= 4 * self.quads * self.pixels, "{:?}", self.image.shape);
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
        match self.way {
            Way::ToRows => vec![self.image, self.rows],
            Way::AddToPixels => vec![self.rows, self.image],
        }
    }

    fn constants(&self, _: Profile) -> Vec<(&'static str, f64)> {
        vec![("ADD", f64::from(u8::from(self.way == Way::AddToPixels)))]
    }

    fn groups(&self, _: Profile) -> [u32; 3] {
        lanes(self.rows.shape[0] * self.quads, LANES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::testing::{poisoned, read, run, spiky, tensor};
    use crate::kernels::planes::{from_quads, to_quads};

    #[test]
    fn pixels_become_rows_and_return_to_their_places() {
        // Channels in two buffers; a block of rows in the middle, and one that ends beyond the image.
        let (channels, pixels, cut) = (20, 35, 2);
        let image = spiky(channels * pixels, 1, 1.0);
        let lain = to_quads(&image, pixels);
        let parts = [(0, cut), (cut, channels / 4)];
        for (first_pixel, rows) in [(0, 1), (7, 13), (30, 9)] {
            let tokens = poisoned(&[rows, channels]);
            let added = spiky(rows * channels, 2, 1.0);
            let added_tensor = tensor(&[rows, channels], &added);
            let mut summed = Vec::new();
            for (first_quad, end) in parts {
                let quads = end - first_quad;
                let part = &lain[4 * first_quad * pixels..4 * end * pixels];
                let x = tensor(&[part.len()], part);
                let (rows, image, way) = (&tokens, &x, Way::ToRows);
                let call = PixelRows { rows, image, way, quads, first_quad, pixels, first_pixel };
                run(&call);
                run(&PixelRows { rows: &added_tensor, way: Way::AddToPixels, ..call });
                summed.extend(read(&x));
            }
            let mut want = image.clone();
            let got = read(&tokens);
            for (r, c) in (0..rows).flat_map(|r| (0..channels).map(move |c| (r, c))) {
                let pixel = first_pixel + r;
                let value = if pixel < pixels { image[c * pixels + pixel] } else { 0.0 };
                // Copies, and one sum of two numbers: exact.
                assert_eq!(got[r * channels + c].to_bits(), value.to_bits(), "row {r}, column {c}");
                if pixel < pixels {
                    want[c * pixels + pixel] += added[r * channels + c];
                }
            }
            assert_eq!(from_quads(&summed, channels, pixels), want);
        }
    }
}
