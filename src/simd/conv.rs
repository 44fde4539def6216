//! Convolutions with a zero border and stride 1 on feature maps `[height, width, C]`: three neighbouring pixels of a row
//! lie in one straight line, and a convolution is a product whose rows are read where they are, in three parts, without
//! a copy for each tap.
//!
//! Threads share rows of a feature map, never a sum: results do not depend on their number.

use rayon::prelude::*;

use super::math::{silu, vectorised};
use super::matmul::Matrix;

/// Weights of a convolution.
#[derive(Debug)]
pub(crate) struct ConvWeights {
    /// `[C_out, k·k·C_in]`, the channel fastest.
    matrix: Matrix,
    bias: Option<Vec<f32>>,
    kernel: usize,
}

impl ConvWeights {
    /// Packs `values`, `[C_out, C_in, k, k]`, and a bias `[C_out]`.
    pub(crate) fn new(
        [outputs, inputs, kernel]: [usize; 3],
        values: &[f32],
        bias: Option<Vec<f32>>,
    ) -> Self {
        let taps = kernel * kernel;
        let mut ordered = vec![0.0; values.len()];
        for (row, kernel) in values.chunks_exact(taps).enumerate() {
            let (o, c) = (row / inputs, row % inputs);
            for (tap, &w) in kernel.iter().enumerate() {
                ordered[(o * taps + tap) * inputs + c] = w;
            }
        }
        let matrix = Matrix::new(outputs, taps * inputs, &ordered);
        Self { matrix, bias, kernel }
    }

    /// `C_out`
    pub(crate) fn outputs(&self) -> usize {
        self.matrix.outputs()
    }
}

/// What a convolution reads.
pub(crate) struct Source<'a> {
    /// `[height, width, C]`
    pub(crate) x: &'a [f32],
    /// Height and width of `x`.
    pub(crate) size: [usize; 2],
    /// `C`
    pub(crate) channels: usize,
    /// Whether each pixel of `x` stands for 2 × 2.
    pub(crate) enlarge: bool,
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

/// The nonlinearity after a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `z`
    None,
    /// `max(z, 0)`
    Relu,
    /// `z·σ(z)`
    Silu,
}

/// Where the sums go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// Whether they are added to what is there.
    pub(crate) add: bool,
    /// Applied last.
    pub(crate) activation: Activation,
}

/// Rows of an image of `width` that one task computes at a time, out of `rows`: some hundred pixels, so
/// that a panel of weights is used often, but no more than leaves work for every thread.
fn band(rows: usize, width: usize) -> usize {
    const PIXELS: usize = 1024;
    (PIXELS / width).clamp(1, rows.div_ceil(rayon::current_num_threads()).max(1))
}

/// Computes the rows from `first` on that `to`, `[rows, width, C_out]`, holds.
pub(crate) fn conv_rows(
    w: &ConvWeights,
    source: &Source,
    first: usize,
    ending: Ending,
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
            let part = |at: usize| {
                let (pixel, tap) = (at / w.kernel, at % w.kernel);
                let start = (pixel / width + tap) * line + pixel % width * c;
                &rows[start..][..w.kernel * c]
            };
            let parts: Vec<&[f32]> = (0..to.len() / outputs * w.kernel).map(part).collect();
            if ending.add {
                sums.resize(to.len(), 0.0);
                w.matrix.apply_segments(w.bias.as_deref(), w.kernel, &parts, sums);
                vectorised(|| to.iter_mut().zip(sums.iter()).for_each(|(to, sum)| *to += sum));
            } else {
                w.matrix.apply_segments(w.bias.as_deref(), w.kernel, &parts, to);
            }
            match ending.activation {
                Activation::None => {}
                Activation::Relu => vectorised(|| to.iter_mut().for_each(|v| *v = v.max(0.0))),
                Activation::Silu => silu(to),
            }
        },
    );
}

#[cfg(test)]
#[path = "conv_tests.rs"]
mod tests;
