//! Samples as pixels: grids of images, PNG files, still and moving, and the texts inside them.

mod animation;
#[cfg(feature = "jpeg")]
mod jpeg;
mod lettering;
mod photo;
mod read;
mod resample;
mod table;
mod texts;

use std::path::Path;

pub use animation::{Timing, animation};
pub use photo::{ImageFormat, ImageReadError};
pub use read::PngReadError;
pub use resample::enlarged;
pub use table::table;
pub use texts::{PngTextError, text};

/// Pixels of eight bits per channel, red, green and blue, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

/// Why a PNG could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PngError {
    /// The encoder refused it.
    #[error("the image cannot be encoded as PNG: {0}")]
    Encoding(#[from] png::EncodingError),
    /// The file could not be written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A grid of more pixels than [`MOST_PIXELS`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a grid of {count} images of {width}×{height} pixels each exceeds {} million pixels; choose fewer images or a \
     smaller scale",
    MOST_PIXELS / 1_000_000
)]
pub struct GridTooLarge {
    /// Images.
    pub count: usize,
    /// Pixels across each, enlarged.
    pub width: u64,
    /// Pixels down each, enlarged.
    pub height: u64,
}

impl RgbImage {
    /// An image from `[height, width, 3]` bytes; `None` where the length does not fit or a side is 0.
    pub fn from_raw(width: u32, height: u32, pixels: Vec<u8>) -> Option<Self> {
        let len = 3 * width as usize * height as usize;
        (len > 0 && pixels.len() == len).then_some(Self { width, height, pixels })
    }

    /// Pixels per row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Red, green and blue of a pixel.
    ///
    /// # Panics
    /// When `x` or `y` lies outside.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        assert!(x < self.width && y < self.height, "({x}, {y}) lies outside the image");
        let at = 3 * (y as usize * self.width as usize + x as usize);
        [self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]]
    }

    /// The image as a PNG file, with text chunks `(keyword, text)` that image tools show; [`text`] reads them.
    ///
    /// # Errors
    /// When a keyword is empty or longer than 79 bytes.
    pub fn to_png(&self, texts: &[(&str, String)]) -> Result<Vec<u8>, PngError> {
        self.encode(texts, png::Compression::Fast)
    }

    /// The image as a PNG file in fewer bytes, which takes longer.
    ///
    /// # Errors
    /// As [`RgbImage::to_png`].
    pub fn to_small_png(&self) -> Result<Vec<u8>, PngError> {
        self.encode(&[], png::Compression::High)
    }

    fn encode(
        &self,
        texts: &[(&str, String)],
        compression: png::Compression,
    ) -> Result<Vec<u8>, PngError> {
        let mut file = Vec::new();
        let mut encoder = self.encoder(&mut file, texts)?;
        encoder.set_compression(compression);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(file)
    }

    /// Writes the image as a PNG file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), PngError> {
        Ok(std::fs::write(path, self.to_png(&[])?)?)
    }

    /// An encoder for images of this size.
    fn encoder<'a>(
        &self,
        file: &'a mut Vec<u8>,
        texts: &[(&str, String)],
    ) -> Result<png::Encoder<'static, &'a mut Vec<u8>>, PngError> {
        let mut encoder = png::Encoder::new(file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        // Enlarged pixels are rows and columns that repeat; this finds both.
        encoder.set_filter(png::Filter::Adaptive);
        for (keyword, text) in texts {
            // Plain chunks are read by more programs, and know Latin-1 alone.
            if text.is_ascii() {
                encoder.add_text_chunk((*keyword).to_owned(), text.clone())?;
            } else {
                encoder.add_itxt_chunk((*keyword).to_owned(), text.clone())?;
            }
        }
        Ok(encoder)
    }

    fn put(&mut self, x: u32, y: u32, rgb: [u8; 3]) {
        let at = 3 * (y as usize * self.width as usize + x as usize);
        self.pixels[at..at + 3].copy_from_slice(&rgb);
    }
}

/// Pixels between the images of a grid.
const GAP: u32 = 4;
/// The longer side of an image in a grid is at least this long, so that 32 pixels can be looked at.
const MIN_SIDE: usize = 128;

/// Default enlargement of a grid of `count` images of `size` (height and width): to at least
/// 128 pixels along the longer side; one image alone not at all.
pub fn default_scale(count: usize, [height, width]: [usize; 2]) -> u32 {
    if count > 1 { MIN_SIDE.div_ceil(height.max(width)) as u32 } else { 1 }
}

/// Maximum number of pixels of a grid, which takes 800 MB in memory.
pub const MOST_PIXELS: u64 = 1 << 28;

/// Width and height of the [`grid`] of `count` images of `size` (height and width), to be checked before sampling.
///
/// # Errors
/// When it would have more than [`MOST_PIXELS`].
pub fn grid_extent(
    count: usize,
    size: [usize; 2],
    scale: Option<u32>,
) -> Result<[u32; 2], GridTooLarge> {
    let scale = u64::from(scale.unwrap_or_else(|| default_scale(count, size)));
    let [height, width] = size.map(|side| (side as u64).saturating_mul(scale));
    let columns = (count as f64).sqrt().ceil() as u64;
    let rows = (count as u64).div_ceil(columns.max(1));
    let side = |n: u64, tile: u64| {
        let gaps = n.saturating_sub(1).saturating_mul(u64::from(GAP));
        n.saturating_mul(tile).saturating_add(gaps)
    };
    let (across, down) = (side(columns, width), side(rows, height));
    match (u32::try_from(across), u32::try_from(down)) {
        (Ok(width), Ok(height)) if across.saturating_mul(down) <= MOST_PIXELS => {
            Ok([width, height])
        }
        _ => Err(GridTooLarge { count, width, height }),
    }
}

/// Arranges samples `[B, 3, h, w]` in [-1, 1], `size` being (h, w), as a grid, each enlarged by a whole factor
/// without smoothing. See [`grid_extent`] for its size.
pub fn grid(samples: &[f32], size: [usize; 2], scale: Option<u32>) -> RgbImage {
    let plane = size[0] * size[1];
    let count = (samples.len() / (3 * plane)) as u32;
    let scale = scale.unwrap_or_else(|| default_scale(count as usize, size));
    let columns = f64::from(count).sqrt().ceil() as u32;
    let rows = count.div_ceil(columns);
    let [high, wide] = size.map(|side| side as u32 * scale);
    let extent = |n: u32, tile: u32| n * tile + (n - 1) * GAP;
    let (width, height) = (extent(columns, wide), extent(rows, high));
    let white = vec![255; 3 * width as usize * height as usize];
    let mut grid = RgbImage { width, height, pixels: white };
    for (i, sample) in samples.chunks_exact(3 * plane).enumerate() {
        let (left, top) = (i as u32 % columns * (wide + GAP), i as u32 / columns * (high + GAP));
        for y in 0..high {
            for x in 0..wide {
                let at = (y / scale) as usize * size[1] + (x / scale) as usize;
                let channel = |c: usize| to_byte(sample[c * plane + at]);
                grid.put(left + x, top + y, [channel(0), channel(1), channel(2)]);
            }
        }
    }
    grid
}

/// As [`grid`], with images that are enlarged smoothly.
pub fn smooth_grid(samples: &[f32], size: [usize; 2], scale: Option<u32>) -> RgbImage {
    let count = samples.len() / (3 * size[0] * size[1]);
    let scale = scale.unwrap_or_else(|| default_scale(count, size));
    grid(&enlarged(samples, size, scale), size.map(|side| side * scale as usize), Some(1))
}

/// Samples `[B, 3, h, w]` in [-1, 1], `size` being (h, w), as pixels `[B, h, w, 3]`.
pub fn rgb(samples: &[f32], size: [usize; 2]) -> Vec<u8> {
    pixels(samples, size).flatten().collect()
}

/// Samples `[B, 3, h, w]` in [-1, 1], `size` being (h, w), as opaque pixels, four bytes each, one image after the
/// other.
pub fn rgba(samples: &[f32], size: [usize; 2]) -> Vec<u8> {
    pixels(samples, size).flat_map(|[r, g, b]| [r, g, b, 255]).collect()
}

fn pixels(samples: &[f32], [height, width]: [usize; 2]) -> impl Iterator<Item = [u8; 3]> {
    let plane = height * width;
    samples.chunks_exact(3 * plane).flat_map(move |sample| {
        (0..plane).map(move |at| [0, 1, 2].map(|c| to_byte(sample[c * plane + at])))
    })
}

/// [-1, 1] to 0..=255, to the nearest.
fn to_byte(value: f32) -> u8 {
    // The cast saturates, and turns NaN into 0.
    (value * 127.5 + 127.5).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_land_where_they_belong() {
        // Two 2×2 images: the first red with one black corner, the second white.
        let mut samples = vec![1.0_f32; 24];
        samples[4..12].fill(-1.0);
        samples[3] = -1.0;
        let grid = grid(&samples, [2, 2], Some(3));
        assert_eq!((grid.width(), grid.height()), (2 * 6 + GAP, 6));
        assert_eq!(grid.pixel(0, 0), [255, 0, 0]);
        assert_eq!(grid.pixel(5, 5), [0, 0, 0]);
        assert_eq!(grid.pixel(2, 5), [255, 0, 0], "the corner is three pixels wide");
        assert_eq!(grid.pixel(6 + GAP, 0), [255; 3]);
    }

    #[test]
    fn the_extent_of_a_grid_is_known_before() {
        for (count, size, scale) in [(1, [2, 3], None), (3, [1, 2], Some(3)), (7, [16, 32], None)] {
            let image = grid(&vec![0.0; count * 3 * size[0] * size[1]], size, scale);
            assert_eq!(grid_extent(count, size, scale), Ok([image.width(), image.height()]));
        }
        assert_eq!(grid_extent(10_000, [64, 64], None), Ok([100 * 132 - 4; 2]));
        let error = grid_extent(400, [64, 64], Some(64)).unwrap_err();
        assert_eq!(error, GridTooLarge { count: 400, width: 4096, height: 4096 });
        assert!(error.to_string().contains("exceeds 268 million pixels"), "{error}");
        assert!(grid_extent(usize::MAX, [usize::MAX, 1], Some(64)).is_err());
        assert!(grid_extent(1, [2048, 2048], Some(32)).is_err());
    }

    #[test]
    fn images_need_not_be_square() {
        // Three images of one row and two columns: red and black, twice, then white.
        let one = [1.0, -1.0, -1.0, -1.0, -1.0, -1.0];
        let samples = [one, one, [1.0; 6]].concat();
        let grid = grid(&samples, [1, 2], Some(3));
        assert_eq!((grid.width(), grid.height()), (2 * 6 + GAP, 2 * 3 + GAP));
        for (left, top) in [(0, 0), (6 + GAP, 0)] {
            assert_eq!(grid.pixel(left + 2, top + 2), [255, 0, 0]);
            assert_eq!(grid.pixel(left + 3, top), [0, 0, 0]);
        }
        assert_eq!(grid.pixel(5, 3 + GAP), [255; 3]);
        assert_eq!(default_scale(2, [16, 32]), 4);
        assert_eq!(default_scale(1, [16, 32]), 1);
        assert_eq!(rgb(&samples, [1, 2])[..6], [255, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn planes_become_pixels() {
        // Two 2×2 images: the first red, the second blue with a white pixel.
        let mut samples = [-1.0_f32; 24];
        samples[0..4].fill(1.0);
        samples[20..24].fill(1.0);
        samples[12 + 3] = 1.0;
        samples[16 + 3] = 1.0;
        let rgba = rgba(&samples, [2, 2]);
        assert_eq!(rgba[..16], [255, 0, 0, 255].repeat(4));
        assert_eq!(rgba[16..28], [0, 0, 255, 255].repeat(3));
        assert_eq!(rgba[28..], [255; 4]);
        let rgb = rgb(&samples, [2, 2]);
        assert_eq!(rgb[9..15], [255, 0, 0, 0, 0, 255]);
        assert_eq!((rgb.len(), &rgb[21..]), (24, &[255; 3][..]));
    }

    #[test]
    fn a_png_holds_pixels_and_texts() {
        let image = RgbImage::from_raw(2, 1, vec![255, 0, 10, 20, 30, 40]).unwrap();
        let texts = [("parameters", "Steps: 10, größer".to_owned()), ("plain", "a=1".to_owned())];
        let file = image.to_png(&texts).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut bytes).unwrap();
        assert_eq!(bytes, image.pixels());
        let text = &reader.info().utf8_text[0];
        assert_eq!(
            (text.keyword.as_str(), text.get_text().unwrap()),
            ("parameters", "Steps: 10, größer".into())
        );
        let text = &reader.info().uncompressed_latin1_text[0];
        assert_eq!((text.keyword.as_str(), text.text.as_str()), ("plain", "a=1"));
        assert!(image.to_png(&[("", "x".to_owned())]).is_err());
        assert_eq!(RgbImage::from_raw(2, 1, vec![0; 5]), None);
        assert_eq!(RgbImage::from_raw(0, 1, Vec::new()), None);
    }

    #[test]
    fn values_outside_the_range_are_clamped() {
        assert_eq!([-9.0, -1.0, 0.0, 1.0, 9.0, f32::NAN].map(to_byte), [0, 0, 128, 255, 255, 0]);
    }

    #[test]
    fn small_files_have_the_same_pixels() {
        let pixels: Vec<u8> = (0..3 * 16 * 9).map(|i| (i * 7 % 256) as u8).collect();
        let image = RgbImage::from_raw(16, 9, pixels).unwrap();
        let small = image.to_small_png().unwrap();
        assert_eq!(RgbImage::read_png_within(&small, 16 * 9).unwrap(), image);
        assert!(RgbImage::read_png_within(&small, 16 * 9 - 1).is_err(), "too large");
        assert!(RgbImage::read_png_within(b"hello", 16 * 9).is_err());
        assert!(small.len() <= image.to_png(&[]).unwrap().len());
    }
}
