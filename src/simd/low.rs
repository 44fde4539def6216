//! Products in bf16 or int8: less exact than f32 and faster on processors that have instructions for them.
//!
//! Weights and inputs are rounded, and several neighbouring products are summed by one instruction, in f32 or in exact
//! integers. The weights are stored in panels as in [`super::matmul`], with two (bf16) or four (int8) inputs in a word.
//! A row of inputs is rounded when a product begins: to bf16, or to bytes with a factor of its own, the largest
//! magnitude being 127. An outlier in a row therefore costs the others of the row precision in int8, but not in bf16.

use bytemuck::Zeroable;

use super::math::vectorised;
use super::matmul::PANEL;
use super::operands::{Operands, Words};
use super::platform::{bf16_product, has_bf16, has_int8, int8_product};
use crate::checkpoint::{StoredRows, StoredValues, int8_row};

/// What the instructions of the unsigned bytes cannot hold: inputs are stored with this added.
const ZERO: u8 = 128;

/// Formats of the numbers in a product, besides f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Low {
    /// Eight bits of precision, the range of f32.
    Bf16,
    /// Whole numbers from -127 to 127, and a factor for each row.
    Int8,
}

impl Low {
    /// Whether this processor has the instructions.
    pub(crate) fn is_available(self) -> bool {
        match self {
            Self::Bf16 => has_bf16(),
            Self::Int8 => has_int8(),
        }
    }
}

/// A matrix `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct LowMatrix {
    outputs: usize,
    inputs: usize,
    format: Format,
    lines: Vec<Words>,
}

#[derive(Debug)]
enum Format {
    Bf16,
    /// For each output the factor of its weights, and their sum times [`ZERO`].
    Int8 {
        scales: Vec<f32>,
        zeros: Vec<i32>,
    },
}

impl LowMatrix {
    /// Rounds and packs the rows of a file; those that it has in int8 keep their numbers.
    pub(crate) fn new(low: Low, rows: &StoredRows) -> Self {
        let (outputs, inputs) = (rows.len(), rows.width());
        let each = match low {
            Low::Bf16 => 2,
            Low::Int8 => 4,
        };
        let words = inputs.div_ceil(each);
        let mut lines = vec![Words::zeroed(); outputs.div_ceil(PANEL) * words];
        let mut put = |o: usize, row: &[u32]| {
            for (line, &word) in lines[o / PANEL * words..].iter_mut().zip(row) {
                line.0[o % PANEL] = word;
            }
        };
        let mut rounded = vec![0; words];
        let format = match low {
            Low::Bf16 => {
                for o in 0..outputs {
                    to_bf16(&rows.slice(o..o + 1).decode(), &mut rounded);
                    put(o, &rounded);
                }
                Format::Bf16
            }
            Low::Int8 => {
                let (mut scales, mut zeros) = (Vec::new(), Vec::new());
                for o in 0..outputs {
                    let row = rows.slice(o..o + 1);
                    let (scale, numbers) =
                        if let StoredValues::Int8 { numbers, scales } = row.values() {
                            (scales[0], numbers.iter().map(|b| b.cast_signed()).collect())
                        } else {
                            let row = row.clone().decode();
                            let (scale, numbers) = int8_row(&row);
                            (scale, numbers.collect::<Vec<_>>())
                        };
                    for (word, four) in rounded.iter_mut().zip(numbers.chunks(4)) {
                        let mut bytes = [0; 4];
                        bytes[..four.len()].copy_from_slice(bytemuck::cast_slice(four));
                        *word = u32::from_le_bytes(bytes);
                    }
                    put(o, &rounded);
                    scales.push(scale);
                    let sum: i32 = numbers.iter().map(|&n| i32::from(n)).sum();
                    zeros.push(sum * i32::from(ZERO));
                }
                Format::Int8 { scales, zeros }
            }
        };
        Self { outputs, inputs, format, lines }
    }

    /// Width of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Bytes that the weights take.
    pub(crate) fn bytes(&self) -> u64 {
        let more = match &self.format {
            Format::Bf16 => 0,
            Format::Int8 { scales, zeros } => size_of_val(&**scales) + size_of_val(&**zeros),
        };
        (size_of_val(&*self.lines) + more) as u64
    }

    /// `out[r] = rows[r]·Wᵀ + bias`, `[rows, outputs]`, of rounded numbers.
    pub(crate) fn apply(&self, bias: Option<&[f32]>, rows: &[&[f32]], out: &mut [f32]) {
        let outputs = self.outputs;
        assert_eq!(rows.len() * outputs, out.len(), "rows and results");
        let words = self.lines.len() / outputs.div_ceil(PANEL);
        let mut rounded = vec![0; rows.len() * words];
        let columns = |panel: usize| panel * PANEL..outputs.min((panel + 1) * PANEL);
        match &self.format {
            Format::Bf16 => {
                for (row, rounded) in rows.iter().zip(rounded.chunks_exact_mut(words)) {
                    to_bf16(&row[..self.inputs], rounded);
                }
                let operands = Operands { words, rows: &rounded, lines: &self.lines };
                bf16_product(&operands, &mut |r, panel, sums| {
                    let columns = columns(panel);
                    let bias = bias.map(|bias| &bias[columns.clone()]);
                    let out = &mut out[r * outputs..][columns];
                    for (c, (out, &sum)) in out.iter_mut().zip(sums).enumerate() {
                        *out = f32::from_bits(sum) + bias.map_or(0.0, |bias| bias[c]);
                    }
                });
            }
            Format::Int8 { scales, zeros } => {
                let factors: Vec<f32> = (rows.iter().zip(rounded.chunks_exact_mut(words)))
                    .map(|(row, rounded)| to_bytes(&row[..self.inputs], rounded))
                    .collect();
                let operands = Operands { words, rows: &rounded, lines: &self.lines };
                int8_product(&operands, &mut |r, panel, sums| {
                    let columns = columns(panel);
                    let [scales, bias] = [Some(&scales[..]), bias]
                        .map(|values| values.map(|values| &values[columns.clone()]));
                    let zeros = &zeros[columns.clone()];
                    let out = &mut out[r * outputs..][columns];
                    for (c, (out, &sum)) in out.iter_mut().zip(sums).enumerate() {
                        let sum = (sum.cast_signed() - zeros[c]) as f32;
                        let scale = factors[r] * scales.map_or(1.0, |scales| scales[c]);
                        *out = sum * scale + bias.map_or(0.0, |bias| bias[c]);
                    }
                });
            }
        }
    }
}

/// Rounds finite numbers to the nearest bf16, the even one of two, and puts pairs into words.
fn to_bf16(row: &[f32], words: &mut [u32]) {
    let round = |x: f32| {
        let bits = x.to_bits();
        bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16
    };
    vectorised(|| {
        let (pairs, last) = row.as_chunks::<2>();
        for (word, &[low, high]) in words.iter_mut().zip(pairs) {
            *word = round(low) | round(high) << 16;
        }
        if let (Some(word), &[low]) = (words.last_mut(), last) {
            *word = round(low);
        }
    });
}

/// Rounds a row to bytes with [`ZERO`] added, four in a word, and returns their factor.
fn to_bytes(row: &[f32], words: &mut [u32]) -> f32 {
    vectorised(|| {
        let largest = row.iter().fold(0.0_f32, |m, x| if x.abs() > m { x.abs() } else { m });
        let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        let inverse = 1.0 / scale;
        // 1.5·2²³: adding it leaves the nearest integer in the low bits of the sum.
        let number =
            |x: f32| (x * inverse + 12_582_912.0).to_bits().wrapping_add(u32::from(ZERO)) & 255;
        let (fours, rest) = row.as_chunks::<4>();
        for (word, four) in words.iter_mut().zip(fours) {
            let [a, b, c, d] = four.map(number);
            *word = a | b << 8 | c << 16 | d << 24;
        }
        if let (Some(word), false) = (words.last_mut(), rest.is_empty()) {
            // Missing inputs meet weights of zero.
            *word = rest.iter().enumerate().map(|(i, &x)| number(x) << (8 * i)).sum();
        }
        scale
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::matmul::rows_of;

    /// Inputs: smooth ones, and rows with outliers.
    fn inputs(rows: usize, width: usize, is_spiky: bool) -> Vec<f32> {
        let value = |i: usize| {
            let x = (i as f32 * 1.3).cos();
            if is_spiky && i % 37 == 5 { x * 300.0 } else { x }
        };
        (0..rows * width).map(value).collect()
    }

    #[test]
    fn products_agree_with_f64_within_the_error_of_their_format() {
        for low in [Low::Bf16, Low::Int8] {
            if !low.is_available() {
                eprintln!("skipped: this processor has no instructions for {low:?}");
                continue;
            }
            for (rows, width, outputs) in [
                (1, 1, 1),
                (2, 5, 17),
                (3, 24, 16),
                (4, 33, 15),
                (5, 130, 48),
                (6, 7, 31),
                (13, 515, 40),
            ] {
                for is_spiky in [false, true] {
                    let x = inputs(rows, width, is_spiky);
                    let weight: Vec<f32> =
                        (0..outputs * width).map(|i| (i as f32 * 0.7 + 0.3).sin() * 2.0).collect();
                    let bias: Vec<f32> = (0..outputs).map(|o| o as f32 * 0.1).collect();
                    let stored = StoredRows::floats(width, &weight[..]);
                    let matrix = LowMatrix::new(low, &stored);
                    let mut got = vec![f32::NAN; rows * outputs];
                    matrix.apply(Some(&bias), &rows_of(&x, width), &mut got);
                    for (at, &got) in got.iter().enumerate() {
                        let (r, o) = (at / outputs, at % outputs);
                        let (x, w) = (&x[r * width..][..width], &weight[o * width..][..width]);
                        let products =
                            || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                        let want = products().sum::<f64>() + f64::from(bias[o]);
                        let largest = |row: &[f32]| {
                            row.iter().fold(0.0_f64, |m, v| m.max(f64::from(v.abs())))
                        };
                        let sizes: f64 = products().map(f64::abs).sum();
                        let allowed = match low {
                            // Two roundings of half a unit in the eighth bit, and sums in f32.
                            Low::Bf16 => sizes * 2.02 * 2f64.powi(-8),
                            // Half a step of each factor times the other.
                            Low::Int8 => {
                                let sum = |row: &[f32]| -> f64 {
                                    row.iter().map(|v| f64::from(v.abs())).sum()
                                };
                                let steps = [largest(x), largest(w)].map(|m| 0.501 * m / 127.0);
                                let width = x.len() as f64;
                                steps[0] * sum(w) + steps[1] * sum(x) + steps[0] * steps[1] * width
                            }
                        } + 1e-5;
                        let error = (f64::from(got) - want).abs();
                        assert!(
                            error <= allowed,
                            "{low:?} {rows}x{width}x{outputs} at {at}: {got} for {want}, {allowed:e}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn int8_files_keep_their_numbers() {
        if !Low::Int8.is_available() {
            eprintln!("skipped: this processor has no instructions for int8");
            return;
        }
        // Inputs that are whole: then nothing is rounded, and the product is exact.
        let numbers: Vec<u8> = (0..3 * 70).map(|i| (i * 73 % 256) as u8).collect();
        let scales = vec![0.5, 0.25, 2.0];
        let values = StoredValues::Int8 { numbers: &numbers, scales: scales.into() };
        let stored = StoredRows::new(70, values);
        let x: Vec<f32> = (0..70).map(|i| (i * 31 % 255) as f32 - 127.0).collect();
        assert!(x.iter().any(|v| v.abs() > 126.5));
        let mut got = vec![f32::NAN; 3];
        LowMatrix::new(Low::Int8, &stored).apply(None, &[&x], &mut got);
        let want: Vec<f32> = stored
            .decode()
            .chunks(70)
            .map(|row| row.iter().zip(&x).map(|(w, x)| w * x).sum())
            .collect();
        assert_eq!(got, want);
    }
}
