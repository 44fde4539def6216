//! Rows of weights as integers with scales: what files store and what kernels read.

use half::f16;

/// A row as integers from -127 to 127, and the factor that turns them back: the largest magnitude is 127, so
/// a row that was stored this way before keeps its numbers.
pub(crate) fn int8_row(row: &[f32]) -> (f32, impl Iterator<Item = i8>) {
    let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let scale = if largest == 0.0 { 1.0 } else { largest / 127.0 };
    (scale, row.iter().map(move |v| (v / scale).round() as i8))
}

use crate::model::INT4_GROUP;

/// A row as integers from -8 to 7, two in a byte, the first in the low half, and a factor for each group.
///
/// The factor has the sign that makes the number of largest magnitude -8: so all sixteen numbers are used, and a row
/// that was stored this way before keeps its numbers.
pub(crate) fn int4_row(row: &[f32]) -> (Vec<u8>, Vec<f16>) {
    let mut numbers = vec![0_u8; row.len().div_ceil(2)];
    let mut scales = Vec::with_capacity(row.len().div_ceil(INT4_GROUP));
    for (group, bytes) in row.chunks(INT4_GROUP).zip(numbers.chunks_mut(INT4_GROUP / 2)) {
        let scale = int4_scale(group);
        let factor = scale.to_f32();
        for (i, v) in group.iter().enumerate() {
            let number = if factor == 0.0 { 0.0 } else { (v / factor).round().clamp(-8.0, 7.0) };
            bytes[i / 2] |= ((number as i8).cast_unsigned() & 15) << (4 * (i % 2));
        }
        scales.push(scale);
    }
    (numbers, scales)
}

/// What f16 cannot hold becomes its largest number rather than an infinity.
fn int4_scale(group: &[f32]) -> f16 {
    let bound = f16::MAX.to_f32();
    let largest = group.iter().fold(0.0_f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    f16::from_f32((largest / -8.0).clamp(-bound, bound))
}

/// Turns a row of `width` numbers back and appends it.
pub(crate) fn from_int4_row(numbers: &[u8], scales: &[f16], width: usize, out: &mut Vec<f32>) {
    let mut left = width;
    for (bytes, scale) in numbers.chunks(INT4_GROUP / 2).zip(scales) {
        let scale = scale.to_f32();
        // The number is in the high half.
        let number = |byte: u8| f32::from(byte.cast_signed() >> 4) * scale;
        let mut group = [0.0; INT4_GROUP];
        for (pair, &byte) in group.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[number(byte << 4), number(byte)]);
        }
        let taken = left.min(INT4_GROUP);
        out.extend_from_slice(&group[..taken]);
        left -= taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(numbers: &[u8], scales: &[f16], width: usize) -> Vec<f32> {
        let mut row = Vec::new();
        from_int4_row(numbers, scales, width, &mut row);
        assert_eq!(row.len(), width);
        row
    }

    #[test]
    fn rows_that_were_quantised_before_keep_their_numbers() {
        let row: Vec<f32> =
            (0..99).map(|i| ((i * 37 % 101) as f32 - 50.0).powi(3) * 1e-3).collect();
        let (scale, numbers) = int8_row(&row);
        let numbers: Vec<i8> = numbers.collect();
        assert!(numbers.iter().any(|n| n.abs() == 127), "{numbers:?}");
        let back: Vec<f32> = numbers.iter().map(|&n| f32::from(n) * scale).collect();
        for (v, b) in row.iter().zip(&back) {
            assert!((v - b).abs() <= 0.5001 * scale, "{v} became {b}");
        }
        let (again, same) = int8_row(&back);
        assert!((again / scale - 1.0).abs() < 1e-6);
        assert_eq!(same.collect::<Vec<_>>(), numbers);
        assert_eq!(int8_row(&[0.0; 3]).0.to_bits(), 1.0_f32.to_bits(), "nothing to scale");
    }

    #[test]
    fn groups_of_int4_have_a_scale_each_and_keep_their_numbers() {
        // 32 small numbers, 32 large ones, and 5 more; an odd number of them.
        let size = |i: usize| [0.01, 30.0, 1.0][i / 32];
        let row: Vec<f32> =
            (0..69).map(|i| size(i) * ((i * 37 % 101) as f32 / 50.0 - 1.0).powi(3)).collect();
        let (numbers, scales) = int4_row(&row);
        assert_eq!((numbers.len(), scales.len()), (35, 3));
        let back = decoded(&numbers, &scales, 69);
        for (i, (v, b)) in row.iter().zip(&back).enumerate() {
            let step = scales[i / 32].to_f32().abs();
            // Half a step; a whole one opposite the number that became -8.
            let opposite = (v / scales[i / 32].to_f32()) > 7.5;
            let most = if opposite { 1.01 } else { 0.501 } * step;
            assert!((v - b).abs() <= most, "{i}: {v} became {b} in steps of {step}");
        }
        assert_eq!(int4_row(&back), (numbers, scales));
    }

    #[test]
    fn int4_uses_all_sixteen_numbers_and_survives_extremes() {
        let all: Vec<f32> = (-7..=8).map(|i| i as f32 * 0.25).collect();
        let (numbers, scales) = int4_row(&all);
        assert_eq!(scales, [f16::from_f32(-0.25)]);
        assert_eq!(decoded(&numbers, &scales, 16), all);
        assert_eq!(numbers[0], 0x67, "7, then 6 in the high half");
        let (numbers, scales) = int4_row(&[0.0, 1e-9, 1e9, -2e9]);
        assert_eq!(scales, [f16::MAX]);
        assert!(decoded(&numbers, &scales, 4).iter().all(|v| v.is_finite()));
        let (_, scales) = int4_row(&[1.0, -1.0]);
        assert_eq!(scales, [f16::from_f32(-0.125)], "the first of two that are as large");
        assert_eq!(int4_row(&[0.0; 3]), (vec![0, 0], vec![f16::from_f32(-0.0)]));
    }
}
