//! The hidden width of feed-forward networks, which configurations give as a ratio.

/// The hidden width of a feed-forward network, `⌊D·ratio⌋` as in the official code. A product that misses an integer only
/// by rounding is that integer, so that a width survives the division by `D`.
pub(super) fn ffn_width(d: usize, ratio: f64) -> usize {
    let width = d as f64 * ratio;
    let whole = width.round();
    // Some files give the ratio with the seven digits of an f32.
    if (width - whole).abs() <= 1e-6 * whole { whole as usize } else { width as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_of_a_network_is_the_number_that_was_divided() {
        assert_eq!(ffn_width(44, 52.0 / 44.0), 52);
        assert_eq!(ffn_width(384, f64::from(5.0_f32 / 3.0)), 640);
        assert_eq!((ffn_width(384, 2.3), ffn_width(384, 4.0)), (883, 1536), "rounded down");
        let whole = (4..2052_usize).flat_map(|d| (1..64).map(move |n| (d, n * d / 16)));
        for (d, m) in whole.filter(|(_, m)| *m > 0) {
            assert_eq!(ffn_width(d, m as f64 / d as f64), m, "{m} of {d}");
        }
    }
}
