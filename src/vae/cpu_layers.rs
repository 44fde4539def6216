//! A decoder's layers on the processor. Feature maps are `[height, width, C]`: three neighbouring pixels
//! of a row then lie in one straight line, and a convolution is a product whose rows are read where
//! they are, in three parts, without a copy for each tap.
//!
//! Threads share rows of an image, never a sum: results do not depend on their number.

use rayon::prelude::*;

use super::plan::{Conv, Norm};
use crate::checkpoint::{CheckpointError, TensorFile};
use crate::simd::math::{silu, vectorised};
use crate::simd::matmul::Matrix;

/// Added to the variance by every group norm of the decoders.
pub(super) const EPS: f32 = 1e-6;

/// Weights of a convolution.
pub(super) struct ConvWeights {
    /// `[C_out, k·k·C_in]`, the channel fastest.
    matrix: Matrix,
    bias: Option<Vec<f32>>,
    kernel: usize,
}

impl ConvWeights {
    pub(super) fn load(file: &TensorFile, conv: &Conv) -> Result<Self, CheckpointError> {
        let name = format!("{}.weight", conv.name);
        let values = file.read(&name)?;
        let (outputs, taps) = (file.shape(&name)?[0], conv.kernel * conv.kernel);
        let inputs = values.len() / (outputs * taps);
        let mut ordered = vec![0.0; values.len()];
        for (row, kernel) in values.chunks_exact(taps).enumerate() {
            let (o, c) = (row / inputs, row % inputs);
            for (tap, &w) in kernel.iter().enumerate() {
                ordered[(o * taps + tap) * inputs + c] = w;
            }
        }
        let matrix = Matrix::new(outputs, taps * inputs, &ordered);
        let bias = conv.has_bias.then(|| file.read(&format!("{}.bias", conv.name))).transpose()?;
        Ok(Self { matrix, bias, kernel: conv.kernel })
    }
}

/// What a convolution reads.
pub(super) struct Source<'a> {
    /// `[height, width, C]`
    pub(super) x: &'a [f32],
    /// Height and width of `x`.
    pub(super) size: [usize; 2],
    /// `C`
    pub(super) channels: usize,
    /// Whether each pixel of `x` stands for 2 × 2.
    pub(super) enlarge: bool,
}

impl Source<'_> {
    /// Height and width of what is convolved.
    fn extent(&self) -> [usize; 2] {
        self.size.map(|n| n << usize::from(self.enlarge))
    }

    /// Copies rows `first..first + rows` with a border of `halo` pixels, zeros beyond the image.
    fn copy_rows(&self, first: usize, rows: usize, halo: usize, out: &mut Vec<f32>) {
        let ([height, width], c) = (self.extent(), self.channels);
        out.clear();
        out.resize((rows + 2 * halo) * (width + 2 * halo) * c, 0.0);
        for (line, out) in out.chunks_exact_mut((width + 2 * halo) * c).enumerate() {
            let y = first + line;
            if !(halo..height + halo).contains(&y) {
                continue;
            }
            let out = &mut out[halo * c..][..width * c];
            let from = self.size[1] * c;
            if self.enlarge {
                let row = &self.x[(y - halo) / 2 * from..][..from];
                for (pair, pixel) in out.chunks_exact_mut(2 * c).zip(row.chunks_exact(c)) {
                    pair[..c].copy_from_slice(pixel);
                    pair[c..].copy_from_slice(pixel);
                }
            } else {
                out.copy_from_slice(&self.x[(y - halo) * from..][..from]);
            }
        }
    }
}

/// Rows of an image of `width` that one task computes at a time, out of `rows`: some hundred pixels, so
/// that a panel of weights is used often, but no more than leaves work for every thread.
fn band(rows: usize, width: usize) -> usize {
    const PIXELS: usize = 1024;
    (PIXELS / width).clamp(1, rows.div_ceil(rayon::current_num_threads()).max(1))
}

/// Computes the rows from `first` on that `to`, `[rows, width, C_out]`, holds.
pub(super) fn conv_rows(
    w: &ConvWeights,
    conv: &Conv,
    source: &Source,
    first: usize,
    to: &mut [f32],
) {
    let (width, c, outputs) = (source.extent()[1], source.channels, w.matrix.outputs());
    let halo = w.kernel / 2;
    let line = (width + 2 * halo) * c;
    let band = band(to.len() / (width * outputs), width);
    to.par_chunks_mut(band * width * outputs).enumerate().for_each_init(
        || (Vec::new(), Vec::new()),
        |(rows, sums): &mut (Vec<f32>, Vec<f32>), (task, to)| {
            source.copy_rows(first + task * band, to.len() / (width * outputs), halo, rows);
            let x = |pixel: usize, tap: usize| {
                let at = (pixel / width + tap) * line + pixel % width * c;
                &rows[at..][..w.kernel * c]
            };
            if conv.add {
                sums.resize(to.len(), 0.0);
                w.matrix.apply_segments(w.bias.as_deref(), w.kernel, x, sums);
                vectorised(|| to.iter_mut().zip(sums.iter()).for_each(|(to, sum)| *to += sum));
            } else {
                w.matrix.apply_segments(w.bias.as_deref(), w.kernel, x, to);
            }
            if conv.relu {
                vectorised(|| to.iter_mut().for_each(|v| *v = v.max(0.0)));
            }
        },
    );
}

/// Weights of a group norm, `[C]` each.
pub(super) struct NormWeights {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl NormWeights {
    pub(super) fn load(file: &TensorFile, norm: &Norm) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: file.read(&format!("{}.weight", norm.name))?,
            bias: file.read(&format!("{}.bias", norm.name))?,
        })
    }
}

/// A group norm in progress: first the sums of all rows, then the rows themselves.
#[derive(Default)]
pub(super) struct Normalising {
    /// For each row, sum and squares of each channel, in f64.
    sums: Vec<Vec<[f64; 2]>>,
    /// Mean and scale of each channel, once all rows are summed.
    table: Option<(Vec<f32>, Vec<f32>)>,
}

impl Normalising {
    /// Adds the next `rows` rows of `x`, `[height, width, C]`, to the sums; returns whether those are complete.
    pub(super) fn sum(
        &mut self,
        w: &NormWeights,
        group: usize,
        width: usize,
        x: &[f32],
        rows: usize,
    ) -> bool {
        if self.table.is_some() {
            return true;
        }
        let channels = w.weight.len();
        let height = x.len() / (width * channels);
        let end = height.min(self.sums.len() + rows);
        let part = &x[self.sums.len() * width * channels..end * width * channels];
        let of_row = |row: &[f32]| {
            let mut sums = vec![[0.0; 2]; channels];
            for pixel in row.chunks_exact(channels) {
                for (sum, &x) in sums.iter_mut().zip(pixel) {
                    let x = f64::from(x);
                    sum[0] += x;
                    sum[1] += x * x;
                }
            }
            sums
        };
        self.sums.par_extend(part.par_chunks(width * channels).map(of_row));
        if end == height {
            self.table = Some(statistics(w, group, (height * width * group) as f64, &self.sums));
        }
        end == height
    }

    /// Normalises rows `[rows, width, C]` in place, with SiLU where the layer has it.
    ///
    /// # Panics
    /// When the sums are not complete.
    pub(super) fn apply(&self, w: &NormWeights, norm: &Norm, width: usize, x: &mut [f32]) {
        let (mean, scale) = self.table.as_ref().expect("all rows are summed before one is changed");
        let channels = w.weight.len();
        x.par_chunks_mut(width * channels).for_each(|row| {
            for pixel in row.chunks_exact_mut(channels) {
                let table = mean.iter().zip(scale).zip(&w.bias);
                vectorised(|| {
                    for (x, ((mean, scale), bias)) in pixel.iter_mut().zip(table) {
                        *x = (*x - mean) * scale + bias;
                    }
                });
            }
            if norm.silu {
                silu(row);
            }
        });
    }
}

/// Mean and scale of each channel from the sums of rows, which join in their order; groups have `size` numbers.
fn statistics(
    w: &NormWeights,
    group: usize,
    size: f64,
    rows: &[Vec<[f64; 2]>],
) -> (Vec<f32>, Vec<f32>) {
    let channels = w.weight.len();
    let (mut means, mut scales) = (vec![0.0; channels], vec![0.0; channels]);
    for first in (0..channels).step_by(group) {
        let members = first..first + group;
        let of_group = rows.iter().flat_map(|row| &row[members.clone()]);
        let [sum, squares] = of_group.fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        let mean = sum / size;
        let variance = (squares / size - mean * mean).max(0.0);
        let factor = 1.0 / (variance + f64::from(EPS)).sqrt();
        for c in members {
            means[c] = mean as f32;
            scales[c] = (f64::from(w.weight[c]) * factor) as f32;
        }
    }
    (means, scales)
}

#[cfg(test)]
#[path = "cpu_layers_tests.rs"]
mod tests;
