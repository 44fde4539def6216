//! A decoder's layers on the processor, beside its convolutions. Feature maps are `[height, width, C]`.
//!
//! Threads share rows of an image, never a sum: results do not depend on their number.

use rayon::prelude::*;

use super::plan::{Conv, Norm};
use crate::checkpoint::{CheckpointError, TensorFile};
use crate::simd::conv::ConvWeights;
use crate::simd::math::{silu, vectorised};

/// Added to the variance by every group norm of the decoders.
pub(super) const EPS: f32 = 1e-6;

/// Reads and packs the weights of a convolution.
pub(super) fn load_conv(file: &TensorFile, conv: &Conv) -> Result<ConvWeights, CheckpointError> {
    let name = format!("{}.weight", conv.name);
    let values = file.read(&name)?;
    let (outputs, taps) = (file.shape(&name)?[0], conv.kernel * conv.kernel);
    let inputs = values.len() / (outputs * taps);
    let bias = conv.has_bias.then(|| file.read(&format!("{}.bias", conv.name))).transpose()?;
    Ok(ConvWeights::new([outputs, inputs, conv.kernel], &values, bias))
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
