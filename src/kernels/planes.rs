//! The order in which images lie on the device: channels in quads, `[C/4, height, width, 4]`, so that a
//! lane reads four channels of a pixel at once and neighbouring lanes read neighbouring pixels.

/// From `[C, pixels]` to quads; C is padded with zeros to a multiple of four.
pub fn to_quads(values: &[f32], pixels: usize) -> Vec<f32> {
    let channels = values.len() / pixels;
    let mut quads = vec![0.0; channels.next_multiple_of(4) * pixels];
    for (c, plane) in values.chunks_exact(pixels).enumerate() {
        let base = c / 4 * 4 * pixels + c % 4;
        for (p, &v) in plane.iter().enumerate() {
            quads[base + 4 * p] = v;
        }
    }
    quads
}

/// From quads to `[channels, pixels]`.
pub fn from_quads(quads: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let at = |c: usize, p: usize| quads[(c / 4 * pixels + p) * 4 + c % 4];
    (0..channels).flat_map(|c| (0..pixels).map(move |p| at(c, p))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_channels_take_two_quads() {
        let values: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let quads = to_quads(&values, 2);
        assert_eq!(
            quads,
            [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0, 8.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0]
        );
        assert_eq!(from_quads(&quads, 5, 2), values);
    }
}
