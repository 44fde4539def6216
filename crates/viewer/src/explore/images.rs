//! Small images with routing over them, one pixel of the sample a pixel of the texture.

use egui::{Color32, ColorImage};

use super::colours::{Ink, mix};
use super::data::film;
use crate::palette;
use crate::session::Record;

/// One image, `[3, h, w]` in about [-1, 1].
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Image {
    pub(super) values: Vec<f32>,
    /// Height and width.
    pub(super) size: [usize; 2],
}

/// What a patch is covered with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cover {
    /// The image's lightness in a colour.
    Tint(Color32),
    /// A colour alone.
    Solid(Color32),
}

impl Image {
    /// Every second, third, … pixel, so that no side has more than `most`; whole patches stay whole as long as their
    /// pixels allow.
    pub(super) fn thinned(self, most: usize) -> Self {
        let every = self.size[0].max(self.size[1]).div_ceil(most.max(1)).max(1);
        if every == 1 {
            return self;
        }
        let [height, width] = self.size;
        let size = self.size.map(|side| side.div_ceil(every));
        let mut values = Vec::with_capacity(3 * size[0] * size[1]);
        for c in 0..3 {
            for y in 0..size[0] {
                for x in 0..size[1] {
                    values.push(self.values[(c * height + y * every) * width + x * every]);
                }
            }
        }
        Self { values, size }
    }

    /// Enlarged or thinned to a size, pixel by pixel.
    pub(super) fn scaled_to(self, size: [usize; 2]) -> Self {
        let [height, width] = self.size;
        if size == self.size || height * width == 0 {
            return self;
        }
        let mut values = Vec::with_capacity(3 * size[0] * size[1]);
        for c in 0..3 {
            for y in 0..size[0] {
                for x in 0..size[1] {
                    let at = y * height / size[0] * width + x * width / size[1];
                    values.push(self.values[c * height * width + at]);
                }
            }
        }
        Self { values, size }
    }

    fn pixel(&self, at: usize) -> Color32 {
        let plane = self.size[0] * self.size[1];
        // The cast saturates, and turns NaN into 0.
        let byte = |c: usize| (self.values[c * plane + at] * 127.5 + 127.5).round() as u8;
        Color32::from_rgb(byte(0), byte(1), byte(2))
    }

    /// The image as it is.
    pub(super) fn plain(&self) -> ColorImage {
        let pixels = (0..self.size[0] * self.size[1]).map(|at| self.pixel(at)).collect();
        ColorImage::new([self.size[1], self.size[0]], pixels)
    }

    /// Lightness of each pixel, 0 to 1, stretched over the image's range; nearly even images stay light.
    fn lightness(&self) -> Vec<f32> {
        let grey = |at: usize| {
            let p = self.pixel(at);
            0.3 * f32::from(p.r()) + 0.59 * f32::from(p.g()) + 0.11 * f32::from(p.b())
        };
        let grey: Vec<f32> = (0..self.size[0] * self.size[1]).map(grey).collect();
        let least = grey.iter().copied().fold(f32::INFINITY, f32::min);
        let most = grey.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let range = most - least;
        let stretch = |v: f32| {
            if range < 40.0 { 0.75 + (v - most) / 255.0 } else { (v - least) / range }
        };
        grey.into_iter().map(stretch).collect()
    }

    /// The patch of each pixel, counted row by row; `grid` is rows and columns.
    fn patch(&self, grid: [usize; 2], at: usize) -> usize {
        let [height, width] = self.size;
        let (y, x) = (at / width, at % width);
        y * grid[0] / height * grid[1] + x * grid[1] / width
    }

    /// The image's lightness in the colours of its patches.
    pub(super) fn covered(&self, grid: [usize; 2], cover: impl Fn(usize) -> Cover) -> ColorImage {
        let light = self.lightness();
        let pixel = |at: usize| match cover(self.patch(grid, at)) {
            Cover::Solid(colour) => colour,
            Cover::Tint(colour) => mix(Color32::BLACK, colour, 0.3 + 0.7 * light[at]),
        };
        let pixels = (0..light.len()).map(pixel).collect();
        ColorImage::new([self.size[1], self.size[0]], pixels)
    }

    /// The image lit where an expert takes its patches, and nearly gone elsewhere.
    pub(super) fn lit(
        &self,
        grid: [usize; 2],
        taken: &[bool],
        expert: usize,
        ink: Ink,
    ) -> ColorImage {
        let (tint, ground) = (palette::expert(expert), ink.look.well);
        let pixel = |at: usize| {
            let lit = taken.get(self.patch(grid, at)).copied().unwrap_or(false);
            let (over, share) = if lit { (tint, 0.3) } else { (ground, 0.8) };
            mix(self.pixel(at), over, share)
        };
        let pixels = (0..self.size[0] * self.size[1]).map(pixel).collect();
        ColorImage::new([self.size[1], self.size[0]], pixels)
    }
}

/// Images of one size beside and below each other, `across` in a row.
pub(super) fn sheet(images: &[ColorImage], across: usize) -> ColorImage {
    let Some(first) = images.first() else { return ColorImage::filled([1, 1], Color32::BLACK) };
    let [w, h] = first.size;
    let across = across.clamp(1, images.len());
    let mut sheet =
        ColorImage::filled([across * w, images.len().div_ceil(across) * h], Color32::BLACK);
    let width = sheet.size[0];
    for (i, image) in images.iter().enumerate() {
        let (left, top) = (i % across * w, i / across * h);
        for (y, row) in image.pixels.chunks_exact(w).enumerate() {
            let start = (top + y) * width + left;
            sheet.pixels[start..start + w].copy_from_slice(row);
        }
    }
    sheet
}

/// Where image `i` of `count` lies on such a sheet, in parts of its sides.
pub(super) fn place_on_sheet(i: usize, count: usize, across: usize) -> egui::Rect {
    let across = across.clamp(1, count.max(1));
    let size = egui::vec2(1.0 / across as f32, 1.0 / count.div_ceil(across).max(1) as f32);
    let corner = egui::pos2((i % across) as f32 * size.x, (i / across) as f32 * size.y);
    egui::Rect::from_min_size(corner, size)
}

/// One image at a step: what the model expects, or the sample after the step.
pub(super) fn image_at(record: &Record, step: usize, image: usize) -> Option<Image> {
    if record.is_traced() {
        let size = record.config.input_size;
        return Some(Image { values: vec![0.5; 3 * size[0] * size[1]], size });
    }
    if record.latents.is_none() {
        let values = film::frame(record, step, image)?;
        return Some(Image { values, size: record.config.input_size });
    }
    frame_image(record, step + 1, image)
}

/// One image after some steps.
pub(super) fn frame_image(record: &Record, frame: usize, image: usize) -> Option<Image> {
    let images = record.images(frame)?;
    let len = 3 * images.size[0] * images.size[1];
    let values = images.samples.chunks_exact(len).nth(image)?.to_vec();
    Some(Image { values, size: images.size })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of four pixels: a ramp in all channels.
    fn ramp() -> Image {
        let plane: Vec<f32> = (0..8).map(|i| i as f32 / 3.5 - 1.0).collect();
        Image { values: plane.repeat(3), size: [2, 4] }
    }

    #[test]
    fn patches_are_covered_in_place() {
        let image = ramp();
        // One row of two patches.
        let covered = image.covered([1, 2], |patch| {
            if patch == 0 { Cover::Solid(Color32::RED) } else { Cover::Tint(Color32::WHITE) }
        });
        assert_eq!(covered.size, [4, 2]);
        assert_eq!(covered.pixels[..2], [Color32::RED; 2]);
        assert_eq!(covered.pixels[4..6], [Color32::RED; 2]);
        assert_eq!(covered.pixels[7], Color32::WHITE, "the lightest pixel");
        assert!(covered.pixels[2].r() > 76 && covered.pixels[2].r() < 160);
        assert_eq!(image.plain().pixels[7], Color32::WHITE);
    }

    #[test]
    fn sheets_hold_images_in_their_order() {
        let one = |grey| ColorImage::filled([2, 1], Color32::from_gray(grey));
        let sheet = sheet(&[one(1), one(2), one(3)], 2);
        assert_eq!(sheet.size, [4, 2]);
        let greys: Vec<u8> = sheet.pixels.iter().map(Color32::r).collect();
        assert_eq!(greys, [1, 1, 2, 2, 3, 3, 0, 0]);
        let third = place_on_sheet(2, 3, 2);
        assert_eq!((third.min, third.size()), (egui::pos2(0.0, 0.5), egui::vec2(0.5, 0.5)));
    }

    #[test]
    fn large_images_are_thinned() {
        let thin = ramp().thinned(2);
        assert_eq!(thin.size, [1, 2]);
        assert_eq!(thin.values[..2], [-1.0, 2.0 / 3.5 - 1.0]);
        assert_eq!(ramp().thinned(4), ramp());
    }
}
