//! Samples as pixels on the screen, and the arrangement of images.

use egui::{Color32, ColorImage, Rect, Vec2, pos2, vec2};

/// A grid of images that are all of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Images.
    pub count: usize,
    /// Images in a row.
    pub columns: usize,
}

impl Grid {
    /// As square as possible.
    pub fn new(count: usize) -> Self {
        let root = count.isqrt();
        Self { count, columns: if root * root < count { root + 1 } else { root }.max(1) }
    }

    /// Rows, at least one.
    pub fn rows(self) -> usize {
        self.count.div_ceil(self.columns).max(1)
    }

    /// Where image `index` of `size` (height and width, in any unit) lies in `area`, as large as it can be; `gap` is
    /// between columns and below every row.
    pub fn cell(self, area: Rect, index: usize, gap: Vec2, size: [usize; 2]) -> Rect {
        let (columns, rows) = (self.columns as f32, self.rows() as f32);
        let wide = (area.width() - gap.x * (columns - 1.0)) / columns;
        let high = (area.height() - gap.y * rows) / rows;
        let [height, width] = size.map(|side| side.max(1) as f32);
        let scale = (wide / width).min(high / height);
        let cell = vec2((width * scale).max(1.0), (height * scale).max(1.0));
        let used = vec2(columns * (cell.x + gap.x) - gap.x, rows * (cell.y + gap.y));
        let (x, y) = (index % self.columns, index / self.columns);
        let corner = area.center() - used / 2.0;
        let corner = corner + vec2(x as f32 * (cell.x + gap.x), y as f32 * (cell.y + gap.y));
        Rect::from_min_size(corner, cell)
    }

    /// The part of a texture that holds all images without gaps where image `index` is.
    pub fn uv(self, index: usize) -> Rect {
        let size = vec2(1.0 / self.columns as f32, 1.0 / self.rows() as f32);
        let (x, y) = ((index % self.columns) as f32, (index / self.columns) as f32);
        Rect::from_min_size(pos2(x * size.x, y * size.y), size)
    }
}

/// Images `[B, 3, h, w]` in [-1, 1], `size` being (h, w), in one image, arranged as `grid` without gaps; of so many pixels that
/// it would have more than `most` along a side, every second, third, … is left out.
pub fn image(samples: &[f32], size: [usize; 2], grid: Grid, most: usize) -> ColorImage {
    let plane = size[0] * size[1];
    let longer = (grid.columns * size[1]).max(grid.rows() * size[0]);
    let every = longer.div_ceil(most.max(1)).max(1);
    let [high, wide] = size.map(|side| side.div_ceil(every));
    let (width, height) = (grid.columns * wide, grid.rows() * high);
    let mut image = ColorImage::filled([width, height], Color32::TRANSPARENT);
    // The cast saturates, and turns NaN into 0.
    let byte = |value: f32| (value * 127.5 + 127.5).round() as u8;
    for (i, sample) in samples.chunks_exact(3 * plane).take(grid.count).enumerate() {
        let (left, top) = (i % grid.columns * wide, i / grid.columns * high);
        for (y, x) in (0..high).flat_map(|y| (0..wide).map(move |x| (y, x))) {
            let at = y * every * size[1] + x * every;
            let channel = |c: usize| byte(sample[c * plane + at]);
            let pixel = Color32::from_rgb(channel(0), channel(1), channel(2));
            image.pixels[(top + y) * width + left + x] = pixel;
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_as_square_as_possible() {
        let shape = |count| (Grid::new(count).columns, Grid::new(count).rows());
        assert_eq!(shape(1), (1, 1));
        assert_eq!(shape(2), (2, 1));
        assert_eq!(shape(5), (3, 2));
        assert_eq!(shape(16), (4, 4));
        assert_eq!(shape(0), (1, 1));
    }

    #[test]
    fn cells_fill_the_area_without_overlapping() {
        let area = Rect::from_min_size(pos2(10.0, 20.0), vec2(300.0, 200.0));
        let grid = Grid::new(6);
        for size in [[8, 8], [8, 12], [30, 10]] {
            let cell = |i| grid.cell(area, i, vec2(4.0, 18.0), size);
            for a in 0..6 {
                assert!(area.expand(0.01).contains_rect(cell(a)));
                let [height, width] = size.map(|side| side as f32);
                assert!((cell(a).width() / cell(a).height() - width / height).abs() < 1e-3);
                for b in 0..a {
                    assert!(!cell(a).shrink(0.1).intersects(cell(b)));
                }
            }
        }
    }

    #[test]
    fn pixels_land_where_they_belong() {
        // Two images: the first red with a black last pixel, the second white.
        let mut frame = vec![1.0_f32; 24];
        frame[3] = -1.0;
        frame[4..12].fill(-1.0);
        let image = image(&frame, [2, 2], Grid::new(2), 1000);
        assert_eq!(image.size, [4, 2]);
        assert_eq!(image.pixels[0], Color32::RED);
        assert_eq!(image.pixels[4 + 1], Color32::BLACK);
        assert_eq!(image.pixels[2], Color32::WHITE);
    }

    #[test]
    fn what_is_missing_stays_empty_and_what_is_too_large_is_thinned() {
        let nothing = image(&[], [2, 2], Grid::new(1), 1000);
        assert_eq!(nothing.pixels, vec![Color32::TRANSPARENT; 4]);
        // Each image is a ramp of 5 × 5; two next to each other have room for 3 × 3.
        let ramp: Vec<f32> = (0..25).map(|i| i as f32 / 12.0 - 1.0).collect();
        let both = ramp.repeat(6);
        let thin = image(&both, [5, 5], Grid::new(2), 9);
        assert_eq!(thin.size, [6, 3]);
        let grey = |i: usize| Color32::from_gray((i as f32 / 12.0 * 127.5).round() as u8);
        assert_eq!(thin.pixels[..3], [grey(0), grey(2), grey(4)]);
        assert_eq!(thin.pixels[6 + 4], grey(12));
    }

    #[test]
    fn wide_images_stay_wide() {
        // Two ramps of two rows and three columns, one above the other.
        let ramp: Vec<f32> = (0..6).map(|i| i as f32 / 3.0 - 1.0).collect();
        let both = image(&ramp.repeat(6), [2, 3], Grid { count: 2, columns: 1 }, 1000);
        assert_eq!(both.size, [3, 4]);
        let grey = |i: usize| Color32::from_gray((i as f32 / 3.0 * 127.5).round() as u8);
        assert_eq!(both.pixels[6..], (0..6).map(grey).collect::<Vec<_>>());
        assert_eq!(both.pixels[..6], both.pixels[6..]);
    }
}
