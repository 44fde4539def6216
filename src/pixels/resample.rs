//! Images of any size as samples of a model: cut around the centre and scaled; and enlarged images.

use super::RgbImage;

impl RgbImage {
    /// A sample `[3, height, width]` in [-1, 1]: the largest part of the image with that aspect ratio around its centre,
    /// scaled to `size` (height and width).
    pub fn to_sample(&self, size: [usize; 2]) -> Vec<f32> {
        let scaled = self.cropped(size);
        let plane = size[0] * size[1];
        (0..3 * plane).map(|at| scaled[3 * (at % plane) + at / plane] / 127.5 - 1.0).collect()
    }

    /// A mask `[height, width]` from 0 for black to 1 for white, cut and scaled as [`RgbImage::to_sample`] does.
    pub fn to_mask(&self, size: [usize; 2]) -> Vec<f32> {
        let brightness = |rgb: &[f32]| (rgb.iter().sum::<f32>() / (3.0 * 255.0)).clamp(0.0, 1.0);
        self.cropped(size).chunks_exact(3).map(brightness).collect()
    }

    /// `[height, width, 3]`, 0 to 255.
    fn cropped(&self, [height, width]: [usize; 2]) -> Vec<f32> {
        let [across, down] = [self.width, self.height].map(f64::from);
        let scale = (across / width as f64).min(down / height as f64);
        let [left, top] =
            [(across, width), (down, height)].map(|(all, side)| (all - scale * side as f64) / 2.0);
        let columns = taps(width, left, scale, self.width as usize);
        let rows = taps(height, top, scale, self.height as usize);
        // First along the rows, and only those that count.
        let mut lines = vec![0.0_f64; self.height as usize * width * 3];
        for (y, line) in lines.chunks_exact_mut(width * 3).enumerate() {
            let from = &self.pixels[3 * y * self.width as usize..][..3 * self.width as usize];
            for (pixel, taps) in line.chunks_exact_mut(3).zip(&columns) {
                for &(x, weight) in taps {
                    for c in 0..3 {
                        pixel[c] += weight * f64::from(from[3 * x + c]);
                    }
                }
            }
        }
        let mut out = Vec::with_capacity(3 * height * width);
        for taps in &rows {
            for at in 0..3 * width {
                let sum: f64 = taps.iter().map(|&(y, w)| w * lines[3 * width * y + at]).sum();
                out.push(sum as f32);
            }
        }
        out
    }
}

/// Samples `[B, 3, height, width]` of `size` (height and width), enlarged smoothly by a whole factor: `[B, 3, factor·height,
/// factor·width]`, by the cubic of Catmull and Rom, which goes through the samples.
pub fn enlarged(samples: &[f32], [height, width]: [usize; 2], factor: u32) -> Vec<f32> {
    let (columns, rows) = (cubic(width, factor), cubic(height, factor));
    let mut out = Vec::with_capacity(samples.len() * (factor * factor) as usize);
    for plane in samples.chunks_exact(height * width) {
        let along = |line: &[f32], taps: &[(usize, f32); 4]| -> f32 {
            taps.iter().map(|&(x, weight)| weight * line[x]).sum()
        };
        let lines: Vec<Vec<f32>> = plane
            .chunks_exact(width)
            .map(|line| columns.iter().map(|taps| along(line, taps)).collect())
            .collect();
        for taps in &rows {
            let sum = |x: usize| taps.iter().map(|&(y, weight)| weight * lines[y][x]).sum::<f32>();
            out.extend((0..columns.len()).map(sum));
        }
    }
    out
}

/// For each of `factor·count` pixels four of the `count`, and their weights; the outermost ones repeat beyond the edge.
fn cubic(count: usize, factor: u32) -> Vec<[(usize, f32); 4]> {
    let pixel = |i: usize| {
        let at = (i as f64 + 0.5) / f64::from(factor) - 0.5;
        let (whole, t) = (at.floor(), at - at.floor());
        let weights = [
            ((2.0 - t) * t - 1.0) * t / 2.0,
            (1.5 * t - 2.5) * t * t + 1.0,
            ((4.0 - 3.0 * t) * t + 1.0) * t / 2.0,
            (t - 1.0) * t * t / 2.0,
        ];
        std::array::from_fn(|k| {
            let place = (whole + k as f64 - 1.0).clamp(0.0, count as f64 - 1.0);
            (place as usize, weights[k] as f32)
        })
    };
    (0..count * factor as usize).map(pixel).collect()
}

/// For each of `count` pixels that begin at `start` and are `scale` source pixels wide, the source pixels and their
/// weights, which sum to 1: their mean where there are several, else an interpolation between the two nearest.
fn taps(count: usize, start: f64, scale: f64, source: usize) -> Vec<Vec<(usize, f64)>> {
    // A triangle as wide as both a source pixel and a target pixel need.
    let reach = scale.max(1.0);
    let pixel = |i: usize| {
        let centre = start + (i as f64 + 0.5) * scale;
        let from = (centre - reach).floor().max(0.0) as usize;
        let to = ((centre + reach).ceil() as usize).min(source);
        let weight = |x: usize| 1.0 - ((x as f64 + 0.5 - centre) / reach).abs();
        let taps: Vec<_> = (from..to).map(|x| (x, weight(x))).filter(|tap| tap.1 > 0.0).collect();
        let sum: f64 = taps.iter().map(|tap| tap.1).sum();
        taps.into_iter().map(|(x, weight)| (x, weight / sum)).collect()
    };
    (0..count).map(pixel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, height: u32, of: impl Fn(u32, u32) -> [u8; 3]) -> RgbImage {
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let pixels = pixels.flat_map(|(x, y)| of(x, y)).collect();
        RgbImage::from_raw(width, height, pixels).unwrap()
    }

    #[test]
    fn an_image_of_the_right_size_is_taken_as_it_is() {
        let image = image(5, 4, |x, y| [(50 * x) as u8, (60 * y) as u8, 200]);
        let sample = image.to_sample([4, 5]);
        assert_eq!(super::super::rgb(&sample, [4, 5]), image.pixels());
    }

    #[test]
    fn the_middle_of_a_wide_image_is_scaled() {
        // Red, then a quarter each of black, white, black and white, then red: the middle square is half of it.
        let image = image(16, 8, |x, _| match x {
            4..=5 | 8..=9 => [0; 3],
            6..=7 | 10..=11 => [255; 3],
            _ => [255, 0, 0],
        });
        let sample = image.to_sample([4, 4]);
        let green = &sample[16..20];
        assert!(green[0] < green[1] && green[2] < green[1] && green[2] < green[3], "{green:?}");
        let mean = sample[16..32].iter().sum::<f32>() / 16.0;
        assert!(mean.abs() < 0.15, "{mean}");
        // One colour stays what it is, enlarged or reduced.
        for size in [[3, 3], [40, 40], [7, 20]] {
            let grey = super::tests::image(9, 11, |_, _| [51; 3]).to_sample(size);
            assert!(grey.iter().all(|v| (v + 0.6).abs() < 1e-5));
        }
    }

    #[test]
    fn smooth_enlargement_goes_through_the_samples() {
        // Once over a ramp, which a cubic reproduces away from the edges.
        let ramp: Vec<f32> = (0..96).map(|at| (at % 8) as f32 * 0.1 - 0.3).collect();
        for factor in [1, 2, 3, 4] {
            let large = enlarged(&ramp, [4, 8], factor);
            let (wide, high) = (8 * factor as usize, 4 * factor as usize);
            assert_eq!(large.len(), 3 * wide * high);
            for (at, value) in large.iter().enumerate() {
                let x = ((at % wide) as f32 + 0.5) / factor as f32 - 0.5;
                if (1.0..6.0).contains(&x) {
                    assert!((value - (x * 0.1 - 0.3)).abs() < 1e-5, "{factor}: {value} at {x}");
                }
            }
            let flat = enlarged(&[0.25; 3 * 6], [2, 3], factor);
            assert!(flat.iter().all(|v| (v - 0.25).abs() < 1e-6));
        }
        // With an odd factor every sample is in the middle of its own square.
        let samples: Vec<f32> = (0..12).map(|at| ((at * 7) % 5) as f32 * 0.2).collect();
        let large = enlarged(&samples, [2, 2], 3);
        assert!((large[6 * 4 + 1] - samples[2]).abs() < 1e-6, "{large:?}");
    }

    #[test]
    fn masks_go_from_black_to_white() {
        let mask = image(2, 1, |x, _| [(255 * x) as u8; 3]).to_mask([1, 2]);
        assert_eq!(mask, [0.0, 1.0]);
    }
}
