//! Small images of the labels, on one sheet inside an atlas.

use crate::model::Config;
use crate::pixels::{RgbImage, rgb};
use crate::trace::atlas::Thumbnails;

/// Longest side of a small image.
const SIDE: usize = 16;
/// Images in a row of the sheet.
const COLUMNS: usize = 16;
/// Bits of a colour that are kept: at this size the others are not seen, and they would double the file.
const KEPT: u8 = 0b1111_1000;

/// Pixels that become one, along a side.
fn factor(config: &Config) -> usize {
    config.input_size.iter().max().map_or(1, |side| side.div_ceil(SIDE))
}

fn size(config: &Config) -> [usize; 2] {
    config.input_size.map(|side| side / factor(config))
}

/// A sample as `[height, width, 3]` bytes of a small image; `None` where samples are no pixels.
pub(super) fn small(config: &Config, sample: &[f32]) -> Option<Vec<u8>> {
    if !config.makes_pixels() {
        return None;
    }
    let (pixels, width, factor) =
        (rgb(sample, config.input_size), config.input_size[1], factor(config));
    let [rows, columns] = size(config);
    let mut small = Vec::with_capacity(3 * rows * columns);
    for at in 0..rows * columns {
        let (top, left) = (at / columns * factor, at % columns * factor);
        for channel in 0..3 {
            let inside = (0..factor * factor)
                .map(|i| 3 * ((top + i / factor) * width + left + i % factor) + channel);
            let sum: usize = inside.map(|place| usize::from(pixels[place])).sum();
            let mean = sum as f32 / (factor * factor) as f32;
            // The middle of what the kept bits stand for; white stays white.
            small.push((mean as u8 & KEPT) | (mean as u8 >> 5));
        }
    }
    Some(small)
}

/// The small images beside each other, in the order of the labels.
pub(super) fn sheet(config: &Config, small: &[Option<Vec<u8>>]) -> Option<Thumbnails> {
    let [rows, columns] = size(config);
    let small: Vec<&Vec<u8>> = small.iter().flatten().collect();
    let across = COLUMNS.min(small.len());
    if across == 0 || small.iter().any(|image| image.len() != 3 * rows * columns) {
        return None;
    }
    let down = small.len().div_ceil(across);
    let mut pixels = vec![u8::MAX; 3 * rows * columns * across * down];
    for (i, image) in small.iter().enumerate() {
        for (y, line) in image.chunks_exact(3 * columns).enumerate() {
            let row = (i / across * rows + y) * across + i % across;
            pixels[3 * columns * row..][..3 * columns].copy_from_slice(line);
        }
    }
    let sheet = RgbImage::from_raw((across * columns) as u32, (down * rows) as u32, pixels)?;
    let png = base64::encode(sheet.to_small_png().ok()?);
    Some(Thumbnails { size: [rows, columns], columns: across, png })
}
