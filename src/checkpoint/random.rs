//! Random weights for untrained models, to measure time and memory at real size.
//!
//! They keep activations near 1 through all blocks, and thresholds let each expert take about its share of the
//! tokens, so that routing, and with it the time of a step, is like a trained model's.

use crate::model::{Config, REFINER, Role, TensorSpec};

/// Numbers for a tensor; the same seed gives the same ones.
pub fn random_tensor(config: &Config, spec: &TensorSpec, seed: u64) -> Vec<f32> {
    let config = match &config.refiner {
        Some(refiner) if spec.name.starts_with(REFINER) => &refiner.config,
        _ => config,
    };
    let len = spec.shape.iter().product();
    let inputs: usize = spec.shape.iter().skip(1).product();
    // Uniform with the variance 1/inputs; modulation and biases smaller.
    let bound = (3.0 / inputs as f32).sqrt();
    let bound = match spec.role {
        Role::Position => return positions(config),
        Role::Buffer => return vec![0.95; len],
        Role::Threshold => return vec![threshold(config); len],
        Role::Norm => return vec![1.0; len],
        Role::Bias => 0.02,
        Role::Modulation => 0.5 * bound,
        Role::Matrix | Role::Projection | Role::Convolution | Role::Router | Role::Table => bound,
    };
    let mut state = spec.name.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (0..len).map(|_| bound * (2.0 * uniform(&mut state) - 1.0)).collect()
}

/// In [0, 1): the generator SplitMix64, fast enough for thousands of millions.
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 24) as f32
}

/// The fixed table of sines and cosines: column first, then row (as the official code makes it).
fn positions(config: &Config) -> Vec<f32> {
    let (d, across) = (config.hidden_size, config.grid()[1]);
    let quarter = d / 4;
    let wave = |v: usize, i: usize| {
        let angle = v as f64 * libm::pow(10_000.0, -((i % quarter) as f64) / quarter as f64);
        (if i < quarter { libm::sin(angle) } else { libm::cos(angle) }) as f32
    };
    let token = |t: usize| {
        let column = (0..2 * quarter).map(move |i| wave(t % across, i));
        column.chain((0..2 * quarter).map(move |i| wave(t / across, i)))
    };
    (0..config.tokens()).flat_map(token).collect()
}

/// With these weights a predictor's output is about normal with deviation 0.6; the threshold lets C/E of it pass.
fn threshold(config: &Config) -> f32 {
    let share = config.capacity / config.num_experts.max(1) as f64;
    // The logistic function is close enough to the normal distribution's: quantile = ln((1-p)/p) / 1.7.
    let quantile = libm::log((1.0 - share.min(0.99)) / share.min(0.99)) / 1.7;
    (1.0 / (1.0 + libm::exp(-0.6 * quantile))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Preset;

    #[test]
    fn weights_have_the_variance_that_keeps_activations_near_one() {
        let config = "S-E16".parse::<Preset>().unwrap().config();
        let spec =
            config.tensors().into_iter().find(|t| t.name == "blocks.1.mlp.experts.3.fc1.weight");
        let spec = spec.unwrap();
        let values = random_tensor(&config, &spec, 1);
        let mean_square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((mean_square * 384.0 - 1.0).abs() < 0.01, "{mean_square}");
        assert_eq!(values, random_tensor(&config, &spec, 1));
        assert_ne!(values, random_tensor(&config, &spec, 2));
        let other = TensorSpec { name: "blocks.1.mlp.experts.4.fc1.weight".into(), ..spec };
        assert_ne!(values, random_tensor(&config, &other, 1));
    }

    /// Others compare the speed of models with these weights.
    #[test]
    #[expect(clippy::float_cmp, reason = "these numbers are exact")]
    fn weights_are_the_same_everywhere() {
        // The first numbers of SplitMix64 from 0.
        let mut state = 0;
        let numbers = [(); 3].map(|()| uniform(&mut state) * (1 << 24) as f32);
        assert_eq!(numbers, [0xe2_20a8, 0x6e_789e, 0x06_c45d].map(|n: u32| n as f32));
        let config = "S-E16".parse::<Preset>().unwrap().config();
        let of = |name: &str| {
            let spec = config.tensors().into_iter().find(|t| t.name == name).unwrap();
            random_tensor(&config, &spec, 1)
        };
        let weights = of("blocks.1.mlp.experts.3.fc1.weight");
        for (got, want) in weights.iter().zip([0.068_051_47, -0.082_770_88, 0.015_046_688_f32]) {
            assert!((got - want).abs() < 1e-8, "{got} for {want}");
        }
        let largest = |values: Vec<f32>| values.into_iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let modulation = largest(of("blocks.0.adaLN_modulation.1.weight"));
        assert!((modulation / (0.75_f32 / 384.0).sqrt() - 1.0).abs() < 1e-3, "{modulation}");
        // One of sixteen experts: 0.6·ln(15)/1.7 in log-odds.
        let thresholds = of("blocks.1.mlp.expert_threshold");
        assert!(thresholds.iter().all(|v| (v - 0.722_277).abs() < 1e-5), "{thresholds:?}");
    }

    #[test]
    fn positions_are_the_official_ones() {
        let near = [0.841_471, 0.009_999_8, 0.540_302_3, 0.999_95];
        let far = [0.909_297_4, 0.019_998_7, -0.416_146_8, 0.999_8];
        let zero = [0.0, 0.0, 1.0, 1.0];
        let square = [[zero, zero], [near, zero], [zero, near], [near, near]];
        // Two rows of three: columns vary fastest, and come first in a token's row.
        let upper = [[zero, zero], [near, zero], [far, zero]];
        let wide = [upper, upper.map(|[column, _]| [column, near])].concat();
        for (size, golden) in [("4", &square[..]), ("[4, 6]", &wide[..])] {
            let text = r#"{"kind":"dense","t_kind":"flow","params":{"input_size":SIZE,"num_classes":1,
                "patch_size":2,"depth":1,"hidden_size":8,"num_heads":1}}"#;
            let text = text.replace("SIZE", size);
            let table = positions(&Config::from_json(&text).unwrap());
            assert_eq!(table.len(), 8 * golden.len());
            for (got, want) in table.iter().zip(golden.as_flattened().as_flattened()) {
                assert!((got - want).abs() < 1e-6, "{got} for {want}");
            }
        }
    }
}
