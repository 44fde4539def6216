//! How weights lie in device memory: the words of a row, which `shaders/shared/weights.wgsl` reads.

use half::f16;

use crate::checkpoint::int8_row;

/// What the weights of large matrices are on the device. Sums are f32 in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightPrecision {
    /// Half the memory and half the traffic of f32; unpacked in the shader, so that no device feature is needed.
    #[default]
    F16,
    /// As computed.
    F32,
    /// A quarter: whole numbers from -127 to 127 with an f32 scale for each row.
    Int8,
}

impl std::fmt::Display for WeightPrecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Int8 => "int8",
        })
    }
}

impl WeightPrecision {
    /// Words of a row of `columns` weights, a multiple of 4: an even number, because kernels read pairs.
    ///
    /// int8 has four weights in a word, the first in the low bits; the last word is the row's scale.
    pub fn row_words(self, columns: usize) -> usize {
        match self {
            Self::F32 => columns,
            Self::F16 => columns / 2,
            Self::Int8 => (columns / 4 + 1).next_multiple_of(2),
        }
    }

    /// What kernels are compiled with, `WEIGHTS` in the shaders.
    pub(super) fn constant(self) -> (&'static str, f64) {
        let number = match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Int8 => 2,
        };
        ("WEIGHTS", f64::from(number))
    }
}

/// Whole rows of `columns` numbers as words of the device. What f16 cannot hold becomes its largest number rather
/// than an infinity.
///
/// # Panics
/// When `columns` is no multiple of 4, or the rows are not whole.
pub fn pack_rows(values: &[f32], columns: usize, precision: WeightPrecision) -> Vec<u32> {
    assert!(columns.is_multiple_of(4), "{columns} columns");
    assert!(values.len().is_multiple_of(columns), "{} numbers in rows of {columns}", values.len());
    match precision {
        WeightPrecision::F32 => values.iter().map(|v| v.to_bits()).collect(),
        WeightPrecision::F16 => values
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&[low, high]| half(high) << 16 | half(low))
            .collect(),
        WeightPrecision::Int8 => {
            let words = precision.row_words(columns);
            let mut packed = Vec::with_capacity(values.len() / columns * words);
            for row in values.chunks_exact(columns) {
                let (scale, numbers) = int8_row(row);
                let bytes: Vec<u8> = numbers.map(i8::cast_unsigned).collect();
                let end = packed.len() + words;
                packed
                    .extend(bytes.as_chunks::<4>().0.iter().map(|&four| u32::from_le_bytes(four)));
                packed.resize(end - 1, 0);
                packed.push(scale.to_bits());
            }
            packed
        }
    }
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WeightPrecision::{F16, F32, Int8};

    #[test]
    fn the_first_number_lies_in_the_low_bits() {
        assert_eq!(pack_rows(&[1.0, -2.0, 0.0, 0.0], 4, F16), [0xc000_3c00, 0]);
        assert_eq!(pack_rows(&[1e9, -1e9, 0.0, 0.0], 4, F16), [0xfbff_7bff, 0], "no infinities");
        assert_eq!(pack_rows(&[1.0; 4], 4, F32), [0x3f80_0000; 4]);
        let scale = 0.5_f32.to_bits();
        assert_eq!(pack_rows(&[63.5, -0.5, 1.0, 0.0], 4, Int8), [0x0002_ff7f, scale]);
    }

    #[test]
    fn rows_take_an_even_number_of_words() {
        for columns in (4..200).step_by(4) {
            for precision in [F32, F16, Int8] {
                let words = precision.row_words(columns);
                assert!(words.is_multiple_of(2));
                assert_eq!(pack_rows(&vec![1.0; 3 * columns], columns, precision).len(), 3 * words);
            }
        }
        // Quads and a scale: no padding where the number of quads is odd.
        assert_eq!([4, 8, 12, 16].map(|columns| Int8.row_words(columns)), [2, 4, 4, 6]);
    }
}
