//! Rows of weights as whole numbers with a scale: what files store and what kernels read.

/// A row as whole numbers from -127 to 127, and the factor that turns them back: the largest magnitude is 127, so
/// a row that was stored this way before keeps its numbers.
pub(crate) fn int8_row(row: &[f32]) -> (f32, impl Iterator<Item = i8>) {
    let largest = row.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let scale = if largest == 0.0 { 1.0 } else { largest / 127.0 };
    (scale, row.iter().map(move |v| (v / scale).round() as i8))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
