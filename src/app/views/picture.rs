//! Samples as pixels on the screen, and how pictures are arranged.

use egui::{Color32, ColorImage, Rect, Vec2, pos2, vec2};

use crate::model::Config;

/// Latents of a variational autoencoder have about unit variance: three deviations fill the range.
const LATENT_RANGE: f32 = 3.0;

/// A grid of square pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Pictures.
    pub count: usize,
    /// Pictures in a row.
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

    /// Where picture `index` lies in `area`; `gap` is between columns and below every row.
    pub fn cell(self, area: Rect, index: usize, gap: Vec2) -> Rect {
        let (columns, rows) = (self.columns as f32, self.rows() as f32);
        let wide = (area.width() - gap.x * (columns - 1.0)) / columns;
        let high = (area.height() - gap.y * rows) / rows;
        let side = wide.min(high).max(1.0);
        let used = vec2(columns * (side + gap.x) - gap.x, rows * (side + gap.y));
        let (x, y) = (index % self.columns, index / self.columns);
        let corner = area.center() - used / 2.0;
        let corner = corner + vec2(x as f32 * (side + gap.x), y as f32 * (side + gap.y));
        Rect::from_min_size(corner, vec2(side, side))
    }

    /// The part of a texture that holds all pictures without gaps where picture `index` is.
    pub fn uv(self, index: usize) -> Rect {
        let size = vec2(1.0 / self.columns as f32, 1.0 / self.rows() as f32);
        let (x, y) = ((index % self.columns) as f32, (index / self.columns) as f32);
        Rect::from_min_size(pos2(x * size.x, y * size.y), size)
    }
}

/// All pictures of a frame `[B, C, size, size]` in one image, arranged as `grid` without gaps. Pixels are in
/// [-1, 1]; of latents the first three channels are shown as red, green and blue.
pub fn image(config: &Config, frame: &[f32], grid: Grid) -> ColorImage {
    let (size, channels) = (config.input_size, config.in_channels);
    let plane = size * size;
    let (width, height) = (grid.columns * size, grid.rows() * size);
    let mut image = ColorImage::filled([width, height], Color32::TRANSPARENT);
    let factor = if config.pixels { 1.0 } else { 1.0 / LATENT_RANGE };
    // The cast saturates, and turns NaN into 0.
    let byte = |value: f32| (value * factor * 127.5 + 127.5).round() as u8;
    for (i, sample) in frame.chunks_exact(channels * plane).take(grid.count).enumerate() {
        let channel =
            |c: usize, at: usize| byte(sample[if channels >= 3 { c * plane } else { 0 } + at]);
        let (left, top) = (i % grid.columns * size, i / grid.columns * size);
        for at in 0..plane {
            let pixel = Color32::from_rgb(channel(0, at), channel(1, at), channel(2, at));
            image.pixels[(top + at / size) * width + left + at % size] = pixel;
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pixels: bool, channels: usize) -> Config {
        let space = if pixels { "pixels" } else { "latents" };
        Config::from_json(&format!(
            r#"{{"kind":"dense","t_kind":"flow","space":"{space}","params":{{"input_size":2,"in_channels":{channels},
            "num_classes":10,"patch_size":2,"depth":1,"hidden_size":64,"num_heads":4}}}}"#
        ))
        .unwrap()
    }

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
        for a in 0..6 {
            assert!(area.expand(0.01).contains_rect(grid.cell(area, a, vec2(4.0, 18.0))));
            for b in 0..a {
                assert!(!grid.cell(area, a, vec2(4.0, 18.0)).shrink(0.1).intersects(grid.cell(
                    area,
                    b,
                    vec2(4.0, 18.0)
                )));
            }
        }
    }

    #[test]
    fn pixels_land_where_they_belong() {
        // Two pictures: the first red with a black last pixel, the second white.
        let mut frame = vec![1.0_f32; 24];
        frame[3] = -1.0;
        frame[4..12].fill(-1.0);
        let image = image(&config(true, 3), &frame, Grid::new(2));
        assert_eq!(image.size, [4, 2]);
        assert_eq!(image.pixels[0], Color32::RED);
        assert_eq!(image.pixels[4 + 1], Color32::BLACK);
        assert_eq!(image.pixels[2], Color32::WHITE);
    }

    #[test]
    fn models_that_draw_no_rgb_pixels_are_shown_too() {
        let latents = image(&config(false, 4), &[0.0; 16], Grid::new(1));
        assert_eq!(latents.pixels, vec![Color32::from_gray(128); 4]);
        let grey = image(&config(true, 1), &[-1.0, 1.0, 0.0, f32::NAN], Grid::new(1));
        assert_eq!(grey.pixels[..3], [Color32::BLACK, Color32::WHITE, Color32::from_gray(128)]);
        // A frame with fewer pictures than the grid leaves the rest empty.
        assert_eq!(
            image(&config(true, 3), &[], Grid::new(1)).pixels,
            vec![Color32::TRANSPARENT; 4]
        );
    }
}
