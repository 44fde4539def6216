//! A preview without a decoder: the first three principal components of the latents as red, green and blue.

use super::LatentPreview;

/// Deviations from the mean that fill the range of a colour.
const RANGE: f64 = 2.5;

/// Sweeps of rotations; a matrix of this size is diagonal to the last digit after six or so.
const SWEEPS: usize = 24;

impl LatentPreview {
    /// A map that needs no decoder, from latents `[B, C, cells]` alone: the cells' first three principal
    /// components, each scaled so that 2.5 deviations fill [-1, 1]. One channel is grey; of two, blue stays
    /// in the middle. The colours have no meaning, but differences in the latents are visible.
    ///
    /// # Panics
    /// When the numbers are no whole latents, or there is no channel.
    pub fn principal(latents: &[f32], channels: usize, cells: usize) -> Self {
        assert!(channels > 0 && latents.len().is_multiple_of(channels * cells), "whole latents");
        let (mean, covariance) = moments(latents, channels, cells);
        let total: f64 = (0..channels).map(|c| covariance[c][c]).sum();
        let mut axes = eigen(covariance);
        axes.truncate(3);
        let shown: f64 = axes.iter().map(|(variance, _)| variance).sum();
        let row = |(variance, axis): &(f64, Vec<f64>)| {
            let factor = if *variance > 0.0 { 1.0 / (RANGE * variance.sqrt()) } else { 0.0 };
            let mut row: Vec<f64> = axis.iter().map(|v| v * factor).collect();
            row.push(-row.iter().zip(&mean).map(|(w, m)| w * m).sum::<f64>());
            row
        };
        let mut rows: Vec<Vec<f64>> = axes.iter().map(row).collect();
        if channels == 1 {
            rows = vec![rows[0].clone(); 3];
        }
        rows.resize(3, vec![0.0; channels + 1]);
        let explained = if total > 0.0 { (shown / total) as f32 } else { 1.0 };
        let [red, green, blue] = [0, 1, 2].map(|i| rows[i].clone());
        Self::from_rows([red, green, blue], explained)
    }
}

/// Mean and covariance of the channels over all cells. What is not finite counts as zero.
fn moments(latents: &[f32], channels: usize, cells: usize) -> (Vec<f64>, Vec<Vec<f64>>) {
    let finite = |v: f32| if v.is_finite() { f64::from(v) } else { 0.0 };
    let count = (latents.len() / channels).max(1) as f64;
    let mut mean = vec![0.0; channels];
    let mut products = vec![vec![0.0; channels]; channels];
    for latent in latents.chunks_exact(channels * cells) {
        for cell in 0..cells {
            let at = |c: usize| finite(latent[c * cells + cell]);
            for (a, (sum, row)) in mean.iter_mut().zip(&mut products).enumerate() {
                *sum += at(a);
                for (b, product) in row.iter_mut().enumerate().take(a + 1) {
                    *product += at(a) * at(b);
                }
            }
        }
    }
    for m in &mut mean {
        *m /= count;
    }
    for a in 0..channels {
        for b in 0..=a {
            let value = products[a][b] / count - mean[a] * mean[b];
            (products[a][b], products[b][a]) = (value, value);
        }
    }
    (mean, products)
}

/// Eigenvalues of a symmetric matrix with their vectors, the largest first (Jacobi's rotations). The largest
/// part of each vector is positive, so that images of neighbouring steps have the same colours.
fn eigen(mut m: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let n = m.len();
    let mut axes: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..SWEEPS {
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut m, &mut axes, p, q);
            }
        }
    }
    let mut pairs: Vec<(f64, Vec<f64>)> =
        (0..n).map(|i| (m[i][i].max(0.0), axes[i].clone())).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, axis) in &mut pairs {
        let largest =
            axis.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        if largest < 0.0 {
            for v in axis {
                *v = -*v;
            }
        }
    }
    pairs
}

/// Turns axes `p` and `q` so that the matrix has no entry between them.
fn rotate(m: &mut [Vec<f64>], axes: &mut [Vec<f64>], p: usize, q: usize) {
    if m[p][q].abs() <= f64::EPSILON * (m[p][p].abs() + m[q][q].abs()) {
        return;
    }
    let slope = (m[q][q] - m[p][p]) / (2.0 * m[p][q]);
    let tangent = slope.signum() / (slope.abs() + (slope * slope + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    let turn = |a: f64, b: f64| (cosine * a - sine * b, sine * a + cosine * b);
    for row in m.iter_mut() {
        (row[p], row[q]) = turn(row[p], row[q]);
    }
    for k in 0..m.len() {
        (m[p][k], m[q][k]) = turn(m[p][k], m[q][k]);
        (axes[p][k], axes[q][k]) = turn(axes[p][k], axes[q][k]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eigenvalues_of_a_known_matrix_are_found() {
        // 2 - 2cos(kπ/4) for the chain of three.
        let chain = vec![vec![2.0, -1.0, 0.0], vec![-1.0, 2.0, -1.0], vec![0.0, -1.0, 2.0]];
        let pairs = eigen(chain.clone());
        let root = std::f64::consts::SQRT_2;
        for ((value, axis), want) in pairs.iter().zip([2.0 + root, 2.0, 2.0 - root]) {
            assert!((value - want).abs() < 1e-12, "{value} for {want}");
            for (row, v) in chain.iter().zip(axis) {
                let product: f64 = row.iter().zip(axis).map(|(a, b)| a * b).sum();
                assert!((product - value * v).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_strongest_direction_becomes_red_and_fills_the_range() {
        // Channel 2 varies ten times as much as channel 0, and channel 1 follows it.
        let cells = 400;
        let wave = |i: usize, speed: f64| (i as f64 * speed).sin();
        let channel = |c: usize, i: usize| match c {
            0 => 0.1 * wave(i, 0.9) + 5.0,
            1 => 0.5 * wave(i, 0.05),
            2 => wave(i, 0.05),
            _ => 0.01 * wave(i, 2.1),
        };
        let latents: Vec<f32> =
            (0..4 * cells).map(|i| channel(i / cells, i % cells) as f32).collect();
        let preview = LatentPreview::principal(&latents, 4, cells);
        let colours = preview.rgb(&latents);
        for (plane, name) in colours.chunks_exact(cells).zip(["red", "green", "blue"]) {
            let mean = plane.iter().sum::<f32>() / cells as f32;
            let square = plane.iter().map(|v| v * v).sum::<f32>() / cells as f32;
            assert!(mean.abs() < 1e-4, "{name} is centred: {mean}");
            assert!((square.sqrt() - 0.4).abs() < 0.01, "{name} fills the range: {square}");
        }
        let follows =
            |i: usize| (colours[i] > 0.0) == (latents[2 * cells + i] > latents[2 * cells]);
        let agreeing = (0..cells).filter(|&i| follows(i)).count();
        assert!(agreeing > cells * 9 / 10, "red is the strongest direction: {agreeing}");
        assert!(preview.explained() > 0.999 && preview.explained() <= 1.0);
    }

    #[test]
    fn few_channels_and_flat_or_broken_latents_do_no_harm() {
        let grey = LatentPreview::principal(&[-1.0, 1.0, -1.0, 1.0], 1, 4).rgb(&[-1.0, 1.0]);
        assert_eq!(grey[..2], grey[2..4]);
        assert!((grey[1] - 0.4).abs() < 1e-6, "{grey:?}");
        let two = LatentPreview::principal(&[0.0, 1.0, 2.0, 0.0], 2, 2).rgb(&[0.0, 1.0, 2.0, 0.0]);
        assert_eq!(two[4..], [0.0; 2], "blue stays in the middle");
        let flat = LatentPreview::principal(&[3.0; 16], 4, 4);
        assert!(flat.rgb(&[3.0; 16]).iter().all(|v| *v == 0.0));
        let broken = LatentPreview::principal(&[f32::NAN, 1.0, 2.0, f32::INFINITY], 2, 2);
        assert!(broken.rgb(&[0.0; 4]).iter().all(|v| v.is_finite()));
    }
}
