//! Weights in the panels of [`super::matmul`], in the format of their file. They are widened a panel at a time, to the
//! numbers that decoding gives.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::matmul::{Line, PANEL};
use super::platform::{widen_f16, widened_f16};
use crate::checkpoint::{StoredRows, StoredValues};
use crate::model::{INT4_GROUP, Storage};

/// The weights of a matrix, `[panels, inputs]` lines of sixteen outputs. Missing outputs of the last panel are zeros.
#[derive(Clone, Debug)]
pub(super) enum Panels {
    F16(Vec<[u16; PANEL]>),
    Bf16(Vec<[u16; PANEL]>),
    /// Bytes, and a factor for each output, `[panels]` lines.
    Int8(Vec<[i8; PANEL]>, Vec<Line>),
    /// Outputs 0–7 in the low halves and 8–15 in the high halves of bytes, and factors `[panels, groups of inputs]`.
    Int4(Vec<[u8; PANEL / 2]>, Vec<[u16; PANEL]>),
}

/// Lines of `inputs` for `outputs`, from `value(output, input)`.
fn lines<T: Copy + Default>(
    outputs: usize,
    inputs: usize,
    value: impl Fn(usize, usize) -> T,
) -> Vec<[T; PANEL]> {
    let mut lines = vec![[T::default(); PANEL]; outputs.div_ceil(PANEL) * inputs];
    for (p, panel) in lines.chunks_exact_mut(inputs.max(1)).enumerate() {
        for (column, o) in (p * PANEL..outputs).take(PANEL).enumerate() {
            for (i, line) in panel.iter_mut().enumerate() {
                line[column] = value(o, i);
            }
        }
    }
    lines
}

impl Panels {
    /// Packs rows of a file without changing a number; `storage` is how the file holds them. None where they need f32.
    pub(super) fn new(rows: &StoredRows, storage: Storage) -> Option<Self> {
        let (outputs, inputs) = (rows.len(), rows.width());
        Some(match rows.values() {
            StoredValues::Floats(_) if storage != Storage::F16 => return None,
            StoredValues::Floats(values) => match halves(values)? {
                Halves::F16(bits) => Self::F16(lines(outputs, inputs, |o, i| bits[o * inputs + i])),
                Halves::Bf16(bits) => {
                    Self::Bf16(lines(outputs, inputs, |o, i| bits[o * inputs + i]))
                }
            },
            StoredValues::Int8 { numbers, scales } => {
                let scales = lines(outputs, 1, |o, _| scales[o]).into_iter().map(Line).collect();
                Self::Int8(
                    lines(outputs, inputs, |o, i| numbers[o * inputs + i].cast_signed()),
                    scales,
                )
            }
            StoredValues::Int4 { numbers, scales } => {
                let (bytes, groups) = (inputs.div_ceil(2), inputs.div_ceil(INT4_GROUP));
                let number = |o: usize, i: usize| numbers[o * bytes + i / 2] >> (4 * (i % 2)) & 15;
                let wide = lines(outputs, inputs, number);
                let pair =
                    |line: [u8; PANEL]| std::array::from_fn(|c| line[c] | line[c + PANEL / 2] << 4);
                let factors = lines(outputs, groups, |o, g| scales[o * groups + g].to_bits());
                Self::Int4(wide.into_iter().map(pair).collect(), factors)
            }
        })
    }

    /// Bytes that the weights take.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::F16(lines) | Self::Bf16(lines) => size_of_val(&**lines),
            Self::Int8(lines, scales) => size_of_val(&**lines) + size_of_val(&**scales),
            Self::Int4(lines, scales) => size_of_val(&**lines) + size_of_val(&**scales),
        };
        bytes as u64
    }

    /// Widens a panel of a matrix of `inputs`; forced into code for the processor's vectors.
    #[inline(always)]
    pub(super) fn widen(&self, inputs: usize, panel: usize, out: &mut [Line]) {
        let at = panel * inputs..(panel + 1) * inputs;
        match self {
            Self::F16(lines) => widen_f16(&lines[at], out),
            Self::Bf16(lines) => {
                for (out, line) in out.iter_mut().zip(&lines[at]) {
                    for (out, &bits) in out.0.iter_mut().zip(line) {
                        *out = f32::from_bits(u32::from(bits) << 16);
                    }
                }
            }
            Self::Int8(lines, scales) => {
                let scale = scales[panel].0;
                for (out, line) in out.iter_mut().zip(&lines[at]) {
                    for ((out, &number), scale) in out.0.iter_mut().zip(line).zip(scale) {
                        *out = f32::from(number) * scale;
                    }
                }
            }
            Self::Int4(lines, scales) => {
                let groups = inputs.div_ceil(INT4_GROUP);
                for ((i, out), line) in out.iter_mut().enumerate().zip(&lines[at]) {
                    let scale = &scales[panel * groups + i / INT4_GROUP];
                    for c in 0..PANEL / 2 {
                        let pair = [line[c] << 4, line[c]].map(|b| f32::from(b.cast_signed() >> 4));
                        out.0[c] = pair[0] * widened_f16(scale[c]);
                        out.0[c + PANEL / 2] = pair[1] * widened_f16(scale[c + PANEL / 2]);
                    }
                }
            }
        }
    }
}

/// Half-precision bits that decode to given numbers.
enum Halves {
    F16(Vec<u16>),
    Bf16(Vec<u16>),
}

/// The format that holds all numbers exactly, if one of them does: files of both are read as f32.
fn halves(values: &[f32]) -> Option<Halves> {
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    let mut back = [0.0; 1024];
    let is_exact =
        halves.chunks(back.len()).zip(values.chunks(back.len())).all(|(some, values)| {
            let back = &mut back[..some.len()];
            some.convert_to_f32_slice(back);
            back.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits())
        });
    if is_exact {
        return Some(Halves::F16(bytemuck::cast_vec(halves)));
    }
    let is_bf16 = values.iter().all(|v| v.to_bits().trailing_zeros() >= 16);
    is_bf16.then(|| Halves::Bf16(values.iter().map(|&v| bf16::from_f32(v).to_bits()).collect()))
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use bytemuck::Zeroable;

    use super::*;
    use crate::checkpoint::{int4_row, int8_row};

    /// All lines of all panels, as rows.
    fn rows_of(panels: &Panels, outputs: usize, inputs: usize) -> Vec<f32> {
        let mut rows = vec![f32::NAN; outputs * inputs];
        for p in 0..outputs.div_ceil(PANEL) {
            let mut lines = vec![Line([f32::NAN; PANEL]); inputs];
            panels.widen(inputs, p, &mut lines);
            for (i, line) in lines.into_iter().enumerate() {
                for (c, value) in line.0.into_iter().enumerate() {
                    match rows.get_mut((p * PANEL + c) * inputs + i) {
                        Some(place) => *place = value,
                        None => assert_eq!(value.to_bits() & 0x7fff_ffff, 0, "padding"),
                    }
                }
            }
        }
        rows
    }

    #[test]
    fn every_format_widens_to_what_decoding_gives() {
        for (outputs, inputs) in [(1, 1), (17, 70), (16, 33), (48, 8), (5, 129)] {
            let value = |i: usize| ((i as f32 * 0.7).sin() * 3.0).powi(5);
            let values: Vec<f32> = (0..outputs * inputs).map(value).collect();
            let as_f16: Vec<f32> = values.iter().map(|&v| f16::from_f32(v * 1e-5).into()).collect();
            let as_bf16: Vec<f32> =
                values.iter().map(|&v| bf16::from_f32(v * 1e20).into()).collect();
            let (mut bytes, mut factors) = (Vec::new(), Vec::new());
            let (mut pairs, mut halves) = (Vec::new(), Vec::new());
            for row in values.chunks(inputs) {
                let (scale, numbers) = int8_row(row);
                factors.push(scale);
                bytes.extend(numbers.map(i8::cast_unsigned));
                let (numbers, scales) = int4_row(row);
                pairs.extend(numbers);
                halves.extend(scales);
            }
            let floats = |values| StoredValues::Floats(Cow::Borrowed(values));
            let int8 = StoredValues::Int8 { numbers: &bytes, scales: Cow::Owned(factors) };
            let int4 = StoredValues::Int4 { numbers: &pairs, scales: Cow::Owned(halves) };
            let padded = (outputs.next_multiple_of(PANEL) * inputs) as u64;
            for (name, values, storage, bytes) in [
                ("f16", floats(&as_f16), Storage::F16, 2 * padded),
                ("bf16", floats(&as_bf16), Storage::F16, 2 * padded),
                ("int8", int8, Storage::Int8, padded + 4 * padded / inputs as u64),
                (
                    "int4",
                    int4,
                    Storage::Int4,
                    padded / 2 + 2 * padded / inputs as u64 * inputs.div_ceil(32) as u64,
                ),
            ] {
                let rows = StoredRows::new(inputs, values);
                let panels = Panels::new(&rows, storage).unwrap();
                assert_eq!(panels.bytes(), bytes, "{name} {outputs}x{inputs}");
                let got = rows_of(&panels, outputs, inputs);
                for (at, (got, want)) in got.iter().zip(rows.decode()).enumerate() {
                    let same = got.to_bits() == want.to_bits();
                    assert!(same, "{name} {outputs}x{inputs} at {at}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn f32_stays_f32() {
        for (values, storage) in [([0.5, 1.0], Storage::F32), ([0.1, 1e30], Storage::F16)] {
            let rows = StoredRows::floats(2, &values[..]);
            assert!(Panels::new(&rows, storage).is_none(), "{values:?} {storage:?}");
        }
    }

    #[test]
    fn every_finite_f16_is_widened_exactly() {
        let all: Vec<u16> = (0..=u16::MAX).filter(|&b| f16::from_bits(b).is_finite()).collect();
        let lines: Vec<[u16; PANEL]> = all.as_chunks().0.to_vec();
        let mut wide = vec![Line::zeroed(); lines.len()];
        widen_f16(&lines, &mut wide);
        for (bits, wide) in lines.as_flattened().iter().zip(wide.iter().flat_map(|line| line.0)) {
            let want = f16::from_bits(*bits).to_f32().to_bits();
            assert_eq!((wide.to_bits(), widened_f16(*bits).to_bits()), (want, want), "{bits:x}");
        }
        assert_eq!(lines.as_flattened().len(), all.len());
    }
}
