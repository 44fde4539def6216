//! PNG files of any kind as pixels.

use std::io::Cursor;

use super::RgbImage;

/// Most pixels of a file that is read, so that a small file cannot take all memory.
pub(super) const MOST_PIXELS: u64 = 1 << 26;

/// Why a PNG file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PngReadError {
    /// Another kind of file, or a damaged one.
    #[error("not a PNG file that can be read: {0}")]
    Decoding(#[from] png::DecodingError),
    /// More pixels than are read.
    #[error("the image has {width}×{height} pixels; at most {} million are read", most / 1_000_000)]
    TooLarge {
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
        /// Most pixels that are read.
        most: u64,
    },
    /// A file without pixels.
    #[error("the image is empty")]
    Empty,
}

impl RgbImage {
    /// Reads a PNG of any kind: grey or coloured, with a palette, of up to 16 bits, of a moving one its first image. What
    /// is transparent is laid over white.
    ///
    /// # Errors
    /// When the file is no PNG, is damaged, or has more than 64 million pixels.
    pub fn read_png(file: &[u8]) -> Result<Self, PngReadError> {
        Self::read_png_within(file, MOST_PIXELS)
    }

    /// As [`RgbImage::read_png`], for files of at most `most` pixels; larger ones are refused before they are decoded.
    ///
    /// # Errors
    /// As [`RgbImage::read_png`], with this limit.
    pub fn read_png_within(file: &[u8], most: u64) -> Result<Self, PngReadError> {
        let mut decoder = png::Decoder::new(Cursor::new(file));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info()?;
        let (width, height) = (reader.info().width, reader.info().height);
        let too_large = PngReadError::TooLarge { width, height, most };
        if u64::from(width) * u64::from(height) > most {
            return Err(too_large);
        }
        let mut bytes = vec![0; reader.output_buffer_size().ok_or(too_large)?];
        let frame = reader.next_frame(&mut bytes)?;
        bytes.truncate(frame.buffer_size());
        let channels = frame.color_type.samples();
        let pixels = bytes.chunks_exact(channels).flat_map(|pixel| {
            let (colour, alpha) = match *pixel {
                [grey] => ([grey; 3], 255),
                [grey, alpha] => ([grey; 3], alpha),
                [r, g, b] => ([r, g, b], 255),
                [r, g, b, alpha, ..] => ([r, g, b], alpha),
                [] => ([0; 3], 0),
            };
            over_white(colour, alpha)
        });
        Self::from_raw(width, height, pixels.collect()).ok_or(PngReadError::Empty)
    }

    /// An image from `[height, width, 4]` bytes with transparency, laid over white; `None` where the length does not fit or
    /// a side is 0.
    pub fn from_rgba(width: u32, height: u32, rgba: &[u8]) -> Option<Self> {
        let (pixels, rest) = rgba.as_chunks::<4>();
        let pixels = pixels.iter().flat_map(|&[r, g, b, alpha]| over_white([r, g, b], alpha));
        let image = Self::from_raw(width, height, pixels.collect());
        image.filter(|_| rest.is_empty())
    }
}

fn over_white(colour: [u8; 3], alpha: u8) -> [u8; 3] {
    let alpha = u16::from(alpha);
    colour.map(|c| ((u16::from(c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(kind: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 2, 1);
        encoder.set_color(kind);
        encoder.set_depth(depth);
        if kind == png::ColorType::Indexed {
            encoder.set_palette(vec![9, 8, 7, 1, 2, 3]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        file
    }

    #[test]
    fn files_of_every_kind_become_pixels() {
        use png::BitDepth::{Eight, One, Sixteen};
        use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        let read = |kind, depth, data: &[u8]| {
            RgbImage::read_png(&png(kind, depth, data)).unwrap().pixels().to_vec()
        };
        assert_eq!(read(Rgb, Eight, &[1, 2, 3, 4, 5, 6]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(read(Rgba, Eight, &[10, 20, 30, 255, 0, 0, 0, 0]), [10, 20, 30, 255, 255, 255]);
        assert_eq!(read(GrayscaleAlpha, Eight, &[0, 51, 7, 255]), [204, 204, 204, 7, 7, 7]);
        assert_eq!(read(Grayscale, One, &[0b0100_0000]), [0, 0, 0, 255, 255, 255]);
        assert_eq!(read(Grayscale, Sixteen, &[200, 0, 100, 0]), [200, 200, 200, 100, 100, 100]);
        assert_eq!(read(Indexed, One, &[0b0100_0000]), [9, 8, 7, 1, 2, 3]);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(RgbImage::read_png(b"GIF89a").is_err());
        let whole = png(png::ColorType::Rgb, png::BitDepth::Eight, &[1; 6]);
        assert!(RgbImage::read_png(&whole[..40]).is_err());
        // A header that claims more than is read.
        let mut large = Vec::new();
        let encoder = png::Encoder::new(&mut large, 1 << 16, 1 << 16);
        let mut writer = encoder.write_header().unwrap();
        writer.write_chunk(png::chunk::IDAT, &[0]).unwrap();
        drop(writer);
        let error = RgbImage::read_png(&large).unwrap_err().to_string();
        assert!(error.contains("65536×65536"), "{error}");
    }

    #[test]
    fn transparency_is_laid_over_white() {
        let image = RgbImage::from_rgba(1, 1, &[0, 100, 200, 0]).unwrap();
        assert_eq!(image.pixels(), [255; 3]);
        assert!(RgbImage::from_rgba(1, 1, &[0; 5]).is_none());
        assert!(RgbImage::from_rgba(1, 1, &[0; 8]).is_none());
    }
}
