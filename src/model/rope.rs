//! 2-D rotary position embedding: queries and keys are turned by angles that grow with the row and the column of their
//! patch (Heo et al. 2024, arXiv 2403.13298).

use super::Config;

/// Base of the geometric series of frequencies.
const BASE: f64 = 10_000.0;

/// Cosine and sine of every angle, `[T, d/2]`, for all tokens of the residual stream; those without a patch do not turn. The first half of a head turns with the row, the second with the column;
/// in a half of width `d/2`, angle `i` turns the numbers `i` and `i + d/4` by `position · BASE^(-4i/d)`.
pub(crate) fn rotations(config: &Config) -> Vec<[f32; 2]> {
    let (across, quarter) = (config.grid()[1], config.head_dim / 4);
    let angle = |position: usize, i: usize| {
        let angle = position as f64 * libm::pow(BASE, -(i as f64) / quarter as f64);
        [libm::cos(angle) as f32, libm::sin(angle) as f32]
    };
    let of_token =
        |t: usize| [t / across, t % across].map(|at| (0..quarter).map(move |i| angle(at, i)));
    let still = (config.stream_tokens() - config.tokens()) * 2 * quarter;
    let turns = (0..config.tokens()).flat_map(of_token).flatten();
    turns.chain(std::iter::repeat_n([1.0, 0.0], still)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_turn_the_first_half_and_columns_the_second() {
        let text = r#"{"kind":"dense","t_kind":"flow","params":{"input_size":[2,3],"num_classes":1,"patch_size":1,
            "depth":1,"hidden_size":8,"num_heads":1,"rope_type":"2d"}}"#;
        let got = rotations(&Config::from_json(text).unwrap());
        assert_eq!(got.len(), 6 * 4);
        let turn = |angle: f64| [angle.cos() as f32, angle.sin() as f32];
        let want = |row: f64, column: f64| {
            [turn(row), turn(row / 100.0), turn(column), turn(column / 100.0)]
        };
        for (t, got) in got.chunks(4).enumerate() {
            let want = want((t / 3) as f64, (t % 3) as f64);
            let pairs = got.as_flattened().iter().zip(want.as_flattened());
            assert!(
                pairs.clone().all(|(a, b)| (a - b).abs() < 1e-6),
                "token {t}: {got:?} for {want:?}"
            );
        }
    }
}
