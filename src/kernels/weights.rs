//! How weights lie in device memory: the words of a row, which `shaders/shared/weights.wgsl` reads.

use half::f16;

#[cfg(test)]
use crate::checkpoint::from_int4_row;
use crate::checkpoint::{StoredRows, StoredValues, int4_row, int8_row};
use crate::model::INT4_GROUP;

/// What the weights of large matrices are on the device, from coarse to fine. Sums are f32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum WeightPrecision {
    /// An eighth of f32: integers from -8 to 7 with an f16 scale for each 32 neighbours in a row.
    Int4,
    /// A quarter: integers from -127 to 127 with an f32 scale for each row.
    Int8,
    /// Half the memory and half the traffic of f32; unpacked in the shader, so that no device feature is needed.
    #[default]
    F16,
    /// As computed.
    F32,
}

impl std::fmt::Display for WeightPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

impl WeightPrecision {
    /// Words of a row of `columns` weights, a multiple of 4: an even number, because kernels read pairs.
    ///
    /// int8 has four weights in a word, the first in the low bits; the last word is the row's scale. int4 has eight,
    /// and two scales in each of the words behind them.
    pub fn row_words(self, columns: usize) -> usize {
        match self {
            Self::F32 => columns,
            Self::F16 => columns / 2,
            Self::Int8 => (columns / 4 + 1).next_multiple_of(2),
            Self::Int4 => {
                let [numbers, scales] = int4_words(columns);
                numbers + scales
            }
        }
    }

    /// What kernels are compiled with, `WEIGHTS` in the shaders.
    pub(super) fn constant(self) -> (&'static str, f64) {
        let number = match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Int8 => 2,
            Self::Int4 => 3,
        };
        ("WEIGHTS", f64::from(number))
    }
}

/// Words of the numbers of an int4 row, and of its scales: whole pairs of both.
fn int4_words(columns: usize) -> [usize; 2] {
    [2 * columns.div_ceil(16), 2 * columns.div_ceil(4 * INT4_GROUP)]
}

/// Whole rows of `columns` numbers as words of the device. What f16 cannot hold becomes its largest number rather
/// than an infinity.
///
/// # Panics
/// When `columns` is not a multiple of 4, or the rows are incomplete.
pub fn pack_rows(values: &[f32], columns: usize, precision: WeightPrecision) -> Vec<u32> {
    assert!(columns.is_multiple_of(4), "{columns} columns");
    assert!(values.len().is_multiple_of(columns), "{} numbers in rows of {columns}", values.len());
    let rows = values.chunks_exact(columns);
    match precision {
        WeightPrecision::F32 => values.iter().map(|v| v.to_bits()).collect(),
        WeightPrecision::F16 => values
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&[low, high]| half(high) << 16 | half(low))
            .collect(),
        WeightPrecision::Int8 => {
            let row = |packed: &mut Vec<u32>, row: &[f32]| {
                let (scale, numbers) = int8_row(row);
                let numbers: Vec<u8> = numbers.map(i8::cast_unsigned).collect();
                pack_int8(packed, &numbers, scale, columns);
            };
            gather(rows, row)
        }
        WeightPrecision::Int4 => {
            let row = |packed: &mut Vec<u32>, row: &[f32]| {
                let (numbers, scales) = int4_row(row);
                pack_int4(packed, &numbers, &scales, columns);
            };
            gather(rows, row)
        }
    }
}

/// As [`pack_rows`], of rows that may be shorter: zeros fill them up. Integers stay what the file has.
///
/// # Panics
/// When the rows are longer, or `columns` is not a multiple of 4.
pub fn pack_stored(rows: &StoredRows<'_>, columns: usize, precision: WeightPrecision) -> Vec<u32> {
    let width = rows.width();
    assert!(columns.is_multiple_of(4) && width <= columns, "{width} in rows of {columns}");
    match (rows.values(), precision) {
        (StoredValues::Int8 { numbers, scales }, WeightPrecision::Int8) => {
            let rows = numbers.chunks_exact(width).zip(&**scales);
            gather(rows, |packed, (row, &scale)| pack_int8(packed, row, scale, columns))
        }
        (StoredValues::Int4 { numbers, scales }, WeightPrecision::Int4) => {
            let scales = scales.chunks_exact(width.div_ceil(INT4_GROUP));
            let rows = numbers.chunks_exact(width.div_ceil(2)).zip(scales);
            gather(rows, |packed, (row, scales)| pack_int4(packed, row, scales, columns))
        }
        (StoredValues::Floats(values), _) if width == columns => {
            pack_rows(values, columns, precision)
        }
        _ => {
            let padding = std::iter::repeat_n(0.0, columns - width);
            let values = rows.clone().decode();
            let rows = values.chunks_exact(width);
            let padded = rows.flat_map(|row| row.iter().copied().chain(padding.clone()));
            pack_rows(&padded.collect::<Vec<_>>(), columns, precision)
        }
    }
}

/// The words that `pack` appends for each row.
fn gather<T>(rows: impl Iterator<Item = T>, pack: impl Fn(&mut Vec<u32>, T)) -> Vec<u32> {
    let mut packed = Vec::new();
    rows.for_each(|row| pack(&mut packed, row));
    packed
}

fn pack_int8(packed: &mut Vec<u32>, numbers: &[u8], scale: f32, columns: usize) {
    push_words(packed, numbers, WeightPrecision::Int8.row_words(columns) - 1);
    packed.push(scale.to_bits());
}

fn pack_int4(packed: &mut Vec<u32>, numbers: &[u8], scales: &[f16], columns: usize) {
    let [number_words, scale_words] = int4_words(columns);
    let scales: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
    push_words(packed, numbers, number_words);
    push_words(packed, &scales, scale_words);
}

/// Appends `count` words of bytes, the first in the low bits; the last are filled up with zeros.
fn push_words(packed: &mut Vec<u32>, bytes: &[u8], count: usize) {
    let end = packed.len() + count;
    let (whole, rest) = bytes.as_chunks::<4>();
    packed.extend(whole.iter().map(|&four| u32::from_le_bytes(four)));
    if !rest.is_empty() {
        let mut four = [0; 4];
        four[..rest.len()].copy_from_slice(rest);
        packed.push(u32::from_le_bytes(four));
    }
    packed.resize(end, 0);
}

fn half(v: f32) -> u32 {
    let bound = f16::MAX.to_f32();
    u32::from(f16::from_f32(v.clamp(-bound, bound)).to_bits())
}

/// What whole rows of `columns` numbers become when they are stored.
#[cfg(test)]
pub(super) fn stored(values: &[f32], columns: usize, precision: WeightPrecision) -> Vec<f32> {
    match precision {
        WeightPrecision::F16 => values.iter().map(|&v| f16::from_f32(v).to_f32()).collect(),
        WeightPrecision::F32 => values.to_vec(),
        WeightPrecision::Int8 => {
            let row = |row: &[f32]| {
                let (scale, numbers) = int8_row(row);
                numbers.map(|n| f32::from(n) * scale).collect::<Vec<_>>()
            };
            values.chunks(columns).flat_map(row).collect()
        }
        WeightPrecision::Int4 => {
            let row = |row: &[f32]| {
                let (numbers, scales) = int4_row(row);
                let mut decoded = Vec::new();
                from_int4_row(&numbers, &scales, row.len(), &mut decoded);
                decoded
            };
            values.chunks(columns).flat_map(row).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WeightPrecision::{F16, F32, Int4, Int8};

    #[test]
    fn the_first_number_lies_in_the_low_bits() {
        assert_eq!(pack_rows(&[1.0, -2.0, 0.0, 0.0], 4, F16), [0xc000_3c00, 0]);
        assert_eq!(pack_rows(&[1e9, -1e9, 0.0, 0.0], 4, F16), [0xfbff_7bff, 0], "no infinities");
        assert_eq!(pack_rows(&[1.0; 4], 4, F32), [0x3f80_0000; 4]);
        let scale = 0.5_f32.to_bits();
        assert_eq!(pack_rows(&[63.5, -0.5, 1.0, 0.0], 4, Int8), [0x0002_ff7f, scale]);
        let scale = u32::from(f16::from_f32(-0.5).to_bits());
        assert_eq!(pack_rows(&[4.0, -0.5, 1.0, 0.0], 4, Int4), [0x0e18, 0, scale, 0]);
        // The second group of a row has its scale in the high half.
        let row = [[1.0; 32], [-2.0; 32]].concat();
        let (low, high) = (f16::from_f32(-0.125), f16::from_f32(0.25));
        let words = pack_rows(&row, 64, Int4);
        assert_eq!(words[..8], [0x8888_8888; 8]);
        assert_eq!(words[8..], [u32::from(high.to_bits()) << 16 | u32::from(low.to_bits()), 0]);
    }

    #[test]
    fn stored_rows_are_packed_as_they_are() {
        // No number reaches -127 or -8: rows that were decoded and rounded again would have others.
        let bytes: Vec<u8> = (0..3 * 38).map(|i| 7 * (i % 9)).collect();
        let scales = [0.5, -2.0, 1e-3];
        let values = StoredValues::Int8 { numbers: &bytes, scales: scales[..].into() };
        let rows = StoredRows::new(38, values);
        let words = pack_stored(&rows, 40, Int8);
        for (i, row) in words.chunks(Int8.row_words(40)).enumerate() {
            let packed: Vec<u8> = row.iter().flat_map(|w| w.to_le_bytes()).collect();
            assert_eq!(packed[..38], bytes[i * 38..(i + 1) * 38]);
            assert_eq!(packed[38..44], [0; 6], "padding");
            assert_eq!(row.last(), Some(&scales[i].to_bits()));
        }

        let bytes: Vec<u8> = (0..3 * 19).map(|i| ((i % 5) << 4) | (i % 7)).collect();
        let scales = [0.5, -2.0, 1e-3, 7.0, 9.0, 0.0].map(f16::from_f32);
        let values = StoredValues::Int4 { numbers: &bytes, scales: scales[..].into() };
        let rows = StoredRows::new(38, values);
        let words = pack_stored(&rows, 40, Int4);
        for (i, row) in words.chunks(Int4.row_words(40)).enumerate() {
            let packed: Vec<u8> = row.iter().flat_map(|w| w.to_le_bytes()).collect();
            assert_eq!(packed[..19], bytes[i * 19..(i + 1) * 19]);
            assert_eq!(packed[19..24], [0; 5], "padding");
            let two = [scales[2 * i].to_le_bytes(), scales[2 * i + 1].to_le_bytes()].concat();
            assert_eq!((&packed[24..28], &packed[28..]), (&two[..], &[0; 4][..]));
        }
        // Another precision: by their values.
        let half = pack_stored(&rows, 40, F16);
        assert_eq!(half.len(), 3 * F16.row_words(40));
        assert_eq!(pack_rows(&rows.slice(0..1).decode()[..36], 36, F16), half[..18]);
    }

    #[test]
    fn rows_take_an_even_number_of_words() {
        for columns in (4..200).step_by(4) {
            for precision in [F32, F16, Int8, Int4] {
                let words = precision.row_words(columns);
                assert!(words.is_multiple_of(2));
                assert_eq!(pack_rows(&vec![1.0; 3 * columns], columns, precision).len(), 3 * words);
            }
        }
        // Quads and a scale: no padding where the number of quads is odd.
        assert_eq!([4, 8, 12, 16].map(|columns| Int8.row_words(columns)), [2, 4, 4, 6]);
        // 4.5 bits a number.
        assert_eq!([4, 128, 132, 1024].map(|columns| Int4.row_words(columns)), [4, 18, 22, 144]);
    }
}
