//! A cheap preview of a latent: linear combinations of its channels. (Without a decoder, see
//! `principal`.)
//!
//! The factors are fitted to the decoder: it decodes a latent of waves once, the
//! image is averaged over the pixels of each latent cell, and the linear map from a cell to its mean
//! colour with the least squared error is kept. It shows the composition while a model is sampling, without
//! detail.

use super::Decoder;
use crate::engine::EngineError;

/// A linear map from latent cells to colours.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentPreview {
    /// For red, green and blue: a factor for each channel, then a constant.
    rows: [Vec<f64>; 3],
    explained: f32,
}

/// Added to the diagonal, relative to it: keeps channels that never vary from dividing by zero.
const RIDGE: f64 = 1e-9;

impl LatentPreview {
    /// Fits the map to a decoder, which decodes one latent for it and is waited for. Half a dozen cells along
    /// a side are enough: make a small decoder for this.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn of(decoder: &mut dyn Decoder) -> Result<Self, EngineError> {
        let shape = decoder.latent_shape();
        let latent = Self::calibration(shape);
        let image = decoder.decode_now(&latent)?;
        Ok(Self::fit(&latent, shape, &image, decoder.image_shape()[1] / shape[1]))
    }

    /// A latent `[C, height, width]` to fit with: waves of several lengths, different in every channel, about
    /// as strong as a model's latents.
    pub fn calibration([channels, height, width]: [usize; 3]) -> Vec<f32> {
        let wave = |c: usize, y: usize, x: usize| -> f32 {
            let term = |k: usize| {
                // Multiples of the golden ratio never meet, so no two channels have the same waves.
                let turn = std::f64::consts::TAU * 0.618_033_988_749_895 * (3 * c + k + 1) as f64;
                let length = [0.35, 0.9, 2.1][k];
                let along = x as f64 * libm::cos(turn) + y as f64 * libm::sin(turn);
                libm::sin(length * along + 5.0 * turn)
            };
            (0..3).map(term).sum::<f64>() as f32
        };
        (0..channels * height * width)
            .map(|i| wave(i / (height * width), i / width % height, i % width))
            .collect()
    }

    /// Fits the map to latents `[B, C, height, width]` and what a decoder made of them, `[B, 3, …]`
    /// with `factor` pixels along each cell.
    ///
    /// # Panics
    /// When the numbers do not fit each other.
    pub fn fit(
        latents: &[f32],
        [channels, height, width]: [usize; 3],
        images: &[f32],
        factor: usize,
    ) -> Self {
        let cells = height * width;
        let batch = latents.len() / (channels * cells);
        assert_eq!(latents.len(), batch * channels * cells, "whole latents");
        assert_eq!(images.len(), batch * 3 * cells * factor * factor, "an image for each latent");
        let n = channels + 1;
        // Normal equations: n rows of n sums of products, then three of products with the colours.
        let mut sums = vec![vec![0.0; n + 3]; n];
        let mut squares = [0.0; 3];
        let mut totals = [0.0; 3];
        for (latent, image) in latents
            .chunks_exact(channels * cells)
            .zip(images.chunks_exact(3 * cells * factor * factor))
        {
            for cell in 0..cells {
                let mut row: Vec<f64> =
                    (0..channels).map(|c| f64::from(latent[c * cells + cell])).collect();
                row.push(1.0);
                let at = [cell / width * factor, cell % width * factor];
                let colour = mean_colour(image, at, factor, [height * factor, width * factor]);
                for i in 0..3 {
                    squares[i] += colour[i] * colour[i];
                    totals[i] += colour[i];
                }
                row.extend(colour);
                for i in 0..n {
                    for j in 0..n + 3 {
                        sums[i][j] += row[i] * row[j];
                    }
                }
            }
        }
        let products: Vec<Vec<f64>> = sums.iter().map(|row| row[n..].to_vec()).collect();
        let rows = solve(sums, n);
        // Residual of a least-squares solution: Σ y² - Σ w·(Σ x y).
        let count = (batch * cells) as f64;
        let (mut left, mut all) = (0.0, 0.0);
        for i in 0..3 {
            let fitted: f64 = rows[i].iter().zip(&products).map(|(w, p)| w * p[i]).sum();
            left += squares[i] - fitted;
            all += squares[i] - totals[i] * totals[i] / count;
        }
        let explained = if all > 0.0 { (1.0 - left / all) as f32 } else { 1.0 };
        Self { rows, explained }
    }

    /// For red, green and blue a factor for each channel, then a constant.
    pub(super) fn from_rows(rows: [Vec<f64>; 3], explained: f32) -> Self {
        Self { rows, explained }
    }

    /// Latent channels.
    pub fn channels(&self) -> usize {
        self.rows[0].len() - 1
    }

    /// Share of the variance that the map explained where it was fitted, of colours or, without a decoder, of
    /// latents; 1 is all.
    pub fn explained(&self) -> f32 {
        self.explained
    }

    /// Latents `[B, C, cells]` as images `[B, 3, cells]` in about [-1, 1].
    ///
    /// # Panics
    /// When the values do not form whole latents.
    pub fn images(&self, latents: &[f32], cells: usize) -> Vec<f32> {
        let len = self.channels() * cells;
        assert!(latents.len().is_multiple_of(len), "whole latents");
        latents.chunks_exact(len).flat_map(|latent| self.rgb(latent)).collect()
    }

    /// One latent `[C, cells]` as an image `[3, cells]` in about [-1, 1].
    ///
    /// # Panics
    /// When the latent is not a whole number of channels.
    pub fn rgb(&self, latent: &[f32]) -> Vec<f32> {
        let channels = self.channels();
        let cells = latent.len() / channels;
        assert_eq!(latent.len(), channels * cells, "whole channels");
        let colour = |row: &Vec<f64>, cell: usize| {
            let terms = (0..channels).map(|c| row[c] * f64::from(latent[c * cells + cell]));
            (terms.sum::<f64>() + row[channels]) as f32
        };
        self.rows.iter().flat_map(|row| (0..cells).map(move |cell| colour(row, cell))).collect()
    }
}

/// Mean colour of a square of an image `[3, height, width]`.
fn mean_colour(
    image: &[f32],
    [top, left]: [usize; 2],
    side: usize,
    [height, width]: [usize; 2],
) -> [f64; 3] {
    let mean = |channel: usize| {
        let rows = (top..top + side).map(|y| (channel * height + y) * width + left);
        let pixels = rows.flat_map(|at| &image[at..at + side]);
        pixels.map(|&v| f64::from(v)).sum::<f64>() / (side * side) as f64
    };
    [0, 1, 2].map(mean)
}

/// Solves `n` equations for three right sides by elimination with pivots.
fn solve(mut m: Vec<Vec<f64>>, n: usize) -> [Vec<f64>; 3] {
    for (i, row) in m.iter_mut().enumerate() {
        row[i] += RIDGE * row[i].max(1.0);
    }
    for i in 0..n {
        let pivot = (i..n).max_by(|&a, &b| m[a][i].abs().total_cmp(&m[b][i].abs())).unwrap_or(i);
        m.swap(i, pivot);
        let top = m[i].clone();
        for (_, row) in m.iter_mut().enumerate().filter(|(r, _)| *r != i) {
            let factor = row[i] / top[i];
            row.iter_mut().zip(&top).for_each(|(v, t)| *v -= factor * t);
        }
    }
    [0, 1, 2].map(|k| (0..n).map(|i| m[i][n + k] / m[i][i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_decoder_is_found_exactly() {
        let shape = [4, 6, 5];
        let latents = LatentPreview::calibration(shape);
        let rows =
            [[0.3, -0.2, 0.1, 0.05, 0.1], [0.0, 0.4, -0.3, 0.2, -0.2], [-0.1, 0.1, 0.6, -0.5, 0.0]];
        let factor = 3;
        let (height, width) = (6 * factor, 5 * factor);
        let image: Vec<f32> = (0..3 * height * width)
            .map(|i| {
                let (c, y, x) = (i / (height * width), i / width % height, i % width);
                let cell = y / factor * 5 + x / factor;
                let sum: f32 = (0..4).map(|k| rows[c][k] * latents[k * 30 + cell]).sum();
                // Detail inside a cell that averages out.
                sum + rows[c][4] + if (x % 3, y % 3) == (1, 1) { 0.8 } else { -0.1 }
            })
            .collect();
        let preview = LatentPreview::fit(&latents, shape, &image, factor);
        for (got, want) in preview.rows.iter().zip(&rows) {
            for (g, w) in got.iter().zip(&want[..4]) {
                assert!((g - f64::from(*w)).abs() < 1e-5, "{got:?}, {want:?} is right");
            }
        }
        assert!(preview.explained() > 0.999, "{}", preview.explained());
        let colours = preview.rgb(&latents);
        let mean = mean_colour(&image, [2 * factor, 3 * factor], factor, [height, width]);
        for c in 0..3 {
            assert!((f64::from(colours[c * 30 + 2 * 5 + 3]) - mean[c]).abs() < 1e-4);
        }
    }

    #[test]
    fn a_decoder_that_is_not_linear_is_explained_in_part() {
        let shape = [2, 8, 8];
        let latents = LatentPreview::calibration(shape);
        let image: Vec<f32> =
            (0..3 * 64).map(|i| (latents[i % 64] * latents[64 + i % 64]).sin()).collect();
        let preview = LatentPreview::fit(&latents, shape, &image, 1);
        assert!((0.0..0.5).contains(&preview.explained()), "{}", preview.explained());
    }

    #[test]
    fn channels_that_never_vary_do_no_harm() {
        let preview = LatentPreview::fit(&[0.0; 8], [2, 2, 2], &[0.5; 12], 1);
        assert!(preview.rgb(&[0.0; 8]).iter().all(|v| (v - 0.5).abs() < 1e-4));
    }
}
