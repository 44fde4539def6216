//! Tests of [`super`]: every variant against sums in f64.

use super::super::weights::{WeightPrecision, stored};
use super::*;
use crate::checkpoint::StoredRows;
use crate::gpu::testing::{assert_close, gpu, poisoned, read, run_variant, spiky, tensor};

/// `act(x·Wᵀ + b)`, or `silu(x·Wᵀ + b) ⊙ (x·Uᵀ)`, before the epilogue.
fn reference(
    x: &[f32],
    w: &[f32],
    up: Option<(&[f32], &[f32])>,
    bias: &[f32],
    k: usize,
    activation: Activation,
) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let silu = |z: f64| z / (1.0 + (-z).exp());
    let gelu = |z: f64| {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3));
        0.5 * z * (1.0 + inner.tanh())
    };
    let mut y = Vec::new();
    for row in x.chunks(k) {
        for (n, weights) in w.chunks(k).enumerate() {
            let z = dot(row, weights) + f64::from(bias[n]);
            y.push(match (up, activation) {
                (Some((up, bias)), _) => {
                    silu(z) * (dot(row, &up[n * k..(n + 1) * k]) + f64::from(bias[n]))
                }
                (None, Activation::None) => z,
                (None, Activation::Silu) => silu(z),
                (None, Activation::Gelu) => gelu(z),
            });
        }
    }
    y
}

fn matrix(gpu: &Gpu, w: &[f32], b: &[f32], k: usize, precision: WeightPrecision) -> Matrix {
    let matrix = Matrix::new(gpu, "test weights", b.len(), k, precision);
    matrix.write_rows(gpu, 0, &StoredRows::floats(k, w));
    matrix.write_bias(gpu, 0, b);
    matrix
}

/// The three ways to run a layer.
const VARIANTS: [(Profile, Tile); 3] =
    [(Profile::Gpu, Tile::Small), (Profile::Gpu, Tile::Large), (Profile::Software, Tile::Large)];

fn run_as((profile, tile): (Profile, Tile), linear: &Linear) {
    linear.check();
    for call in linear.calls(Tiling::Only(tile)) {
        run_variant(&call, profile);
    }
}

/// Sizes below, at and above the tiles of all variants.
const SIZES: [(usize, usize, usize); 4] = [(1, 1, 4), (33, 65, 20), (64, 64, 16), (70, 131, 172)];

#[test]
fn matches_the_reference_in_every_variant_and_precision() {
    use Activation::{Gelu, None, Silu};
    use WeightPrecision::{F16, F32, Int4, Int8};
    let cases = [
        (F32, None),
        (F16, None),
        (F16, Silu),
        (F16, Gelu),
        (Int8, None),
        (Int8, Gelu),
        (Int4, None),
        (Int4, Silu),
    ];
    for (precision, activation) in cases {
        for (rows, n, k) in SIZES {
            let (x, bias) = (spiky(rows * k, 1, 1.0), spiky(n, 3, 1.0));
            let w = stored(&spiky(n * k, 2, 0.2), k, precision);
            let weights = matrix(gpu(), &w, &bias, k, precision);
            let x_tensor = tensor(&[rows, k], &x);
            let want = reference(&x, &w, Option::None, &bias, k, activation);
            for variant in VARIANTS {
                let y = poisoned(&[rows, n]);
                run_as(
                    variant,
                    &Linear {
                        x: &x_tensor,
                        weights: &weights,
                        up: Option::None,
                        activation,
                        epilogue: Epilogue::Store,
                        y: &y,
                    },
                );
                close(&read(&y), &want);
            }
        }
    }
}

#[test]
fn swiglu_multiplies_two_products() {
    let precisions = [WeightPrecision::F32, WeightPrecision::Int8, WeightPrecision::Int4];
    let precisions = precisions.into_iter();
    for (precision, (rows, n, k)) in precisions.flat_map(|p| SIZES.map(|size| (p, size))) {
        let x = spiky(rows * k, 4, 1.0);
        let w = stored(&spiky(n * k, 5, 0.2), k, precision);
        let u = stored(&spiky(n * k, 6, 0.2), k, precision);
        let (bias, up_bias) = (spiky(n, 7, 0.5), spiky(n, 8, 0.5));
        let weights = matrix(gpu(), &w, &bias, k, precision);
        let up = matrix(gpu(), &u, &up_bias, k, precision);
        let want = reference(&x, &w, Some((&u, &up_bias)), &bias, k, Activation::None);
        for variant in VARIANTS {
            let y = poisoned(&[rows, n]);
            run_as(
                variant,
                &Linear {
                    x: &tensor(&[rows, k], &x),
                    weights: &weights,
                    up: Some(&up),
                    activation: Activation::None,
                    epilogue: Epilogue::Store,
                    y: &y,
                },
            );
            close(&read(&y), &want);
        }
    }
}

#[test]
fn epilogues_add_to_a_residual_with_and_without_gate_and_add_a_table() {
    let (samples, tokens, n, k, first, stride) = (3, 11, 37, 24, 5, 50);
    let rows = samples * tokens;
    let (x, w) = (spiky(rows * k, 7, 1.0), spiky(n * k, 8, 0.3));
    let (bias, before) = (spiky(n, 9, 1.0), spiky(rows * n, 10, 1.0));
    let (gates, table) = (spiky(samples * stride, 11, 1.0), spiky(tokens * n, 12, 1.0));
    let weights = matrix(gpu(), &w, &bias, k, WeightPrecision::F32);
    let modulation = tensor(&[samples, stride], &gates);
    let positions = tensor(&[tokens, n], &table);
    let v = reference(&x, &w, None, &bias, k, Activation::None);
    let at = |i: usize| (i / n / tokens, i / n % tokens, i % n);
    let gated = |(i, v): (usize, &f64)| {
        let (b, _, c) = at(i);
        f64::from(before[i]) + f64::from(gates[b * stride + first + c]) * v
    };
    let shifted = |(i, v): (usize, &f64)| v + f64::from(table[at(i).1 * n + at(i).2]);
    let added = |(i, v): (usize, &f64)| f64::from(before[i]) + v;
    let cases: [(Epilogue, Vec<f64>); 3] = [
        (Epilogue::Add, v.iter().enumerate().map(added).collect()),
        (
            Epilogue::Gated { modulation: &modulation, first, tokens },
            v.iter().enumerate().map(gated).collect(),
        ),
        (Epilogue::Table(&positions), v.iter().enumerate().map(shifted).collect()),
    ];
    for (epilogue, want) in cases {
        for variant in VARIANTS {
            let y = tensor(&[rows, n], &before);
            run_as(
                variant,
                &Linear {
                    x: &tensor(&[rows, k], &x),
                    weights: &weights,
                    up: None,
                    activation: Activation::None,
                    epilogue,
                    y: &y,
                },
            );
            close(&read(&y), &want);
        }
    }
}

#[test]
fn the_last_epilogue_puts_patches_back_into_images() {
    for (samples, channels, size, patch, more) in
        [(1, 1, [1, 1], 1, 0), (3, 8, [6, 6], 2, 0), (2, 3, [9, 27], 3, 4), (2, 1, [8, 2], 2, 1)]
    {
        let [height, width] = size;
        let (first, k, n) = (5, 20, patch * patch * channels);
        let tokens = height / patch * (width / patch) + more;
        let (x, w) = (spiky(samples * tokens * k, 1, 1.0), spiky(n * k, 2, 0.3));
        let bias = spiky(n, 3, 1.0);
        let (len, x_tensor) = (channels * height * width, tensor(&[samples * tokens, k], &x));
        let before = spiky(first + samples * len + 3, 4, 1.0);
        let rows = reference(&x, &w, None, &bias, k, Activation::None);
        let mut want: Vec<f64> = before.iter().map(|&v| f64::from(v)).collect();
        for (i, pixel) in want[first..first + samples * len].iter_mut().enumerate() {
            let (sample, channel) = (i / len, i / (height * width) % channels);
            let (row, column) = (i / width % height, i % width);
            let token = sample * tokens + row / patch * (width / patch) + column / patch;
            *pixel = rows[token * n + (row % patch * patch + column % patch) * channels + channel];
        }
        // In one part and in several.
        let whole = matrix(gpu(), &w, &bias, k, WeightPrecision::F32);
        let split =
            Matrix::split(gpu(), "split", &[(n, WeightPrecision::F32)], k, 4 * 4 * k as u64);
        split.write_rows(gpu(), 0, &StoredRows::floats(k, &w));
        split.write_bias(gpu(), 0, &bias);
        let places = Pixels::new(gpu(), channels, size, patch, tokens);
        for (weights, variant) in
            [&whole, &split].into_iter().flat_map(|w| VARIANTS.map(|v| (w, v)))
        {
            let y = tensor(&[before.len()], &before);
            let ending = Epilogue::Pixels { places: &places, first };
            run_as(variant, &Linear::new(&x_tensor, weights, &y).ending(ending));
            close(&read(&y), &want);
        }
    }
}

#[test]
fn weights_above_the_binding_limit_are_split_without_a_trace() {
    let (rows, n, k) = (40, 50, 18);
    let (x, w, bias) = (spiky(rows * k, 13, 1.0), spiky(n * k, 14, 0.3), spiky(n, 15, 1.0));
    let padded: Vec<f32> =
        x.chunks(k).flat_map(|row| row.iter().copied().chain([0.0; 2])).collect();
    let x_tensor = tensor(&[rows, 20], &padded);
    for precision in [WeightPrecision::F16, WeightPrecision::Int8, WeightPrecision::Int4] {
        check_split(&x, &x_tensor, &w, &bias, precision);
    }
}

fn check_split(x: &[f32], x_tensor: &Tensor, w: &[f32], bias: &[f32], precision: WeightPrecision) {
    let (rows, n, k) = (x_tensor.shape[0], bias.len(), w.len() / bias.len());
    // 13 rows in each part, and 11 in the last.
    let row = 4 * precision.row_words(20) as u64;
    let weights = Matrix::split(gpu(), "split", &[(n, precision)], k, 13 * row + row - 1);
    assert_eq!(weights.parts.iter().map(|p| p.rows.len()).collect::<Vec<_>>(), [13, 13, 13, 11]);
    // Filled in pieces that do not end where the parts do.
    for start in (0..n).step_by(7) {
        let end = n.min(start + 7);
        weights.write_rows(gpu(), start, &StoredRows::floats(k, &w[start * k..end * k]));
        weights.write_bias(gpu(), start, &bias[start..end]);
    }
    let w = stored(w, k, precision);
    let want = reference(x, &w, None, bias, k, Activation::Gelu);
    for variant in VARIANTS {
        let y = poisoned(&[rows, n]);
        run_as(
            variant,
            &Linear {
                x: x_tensor,
                weights: &weights,
                up: None,
                activation: Activation::Gelu,
                epilogue: Epilogue::Store,
                y: &y,
            },
        );
        close(&read(&y), &want);
    }
}

#[test]
fn layers_one_below_the_other_keep_their_precision() {
    use WeightPrecision::{F16, F32, Int4, Int8};
    let (rows, k) = (21, 44);
    // The second and third are one part; a layer of the last precision again is another one.
    let layers = [(30, Int8), (7, F16), (12, F16), (33, Int4), (5, Int8), (2, F32)];
    let n = layers.iter().map(|layer| layer.0).sum();
    let (x, bias) = (spiky(rows * k, 16, 1.0), spiky(n, 17, 1.0));
    let weights = Matrix::stacked(gpu(), "stack", &layers, k);
    assert_eq!(weights.parts.len(), 5);
    weights.write_bias(gpu(), 0, &bias);
    let (mut w, mut bytes) = (Vec::new(), 4 * n);
    for (seed, &(count, precision)) in (18..).zip(&layers) {
        let layer = spiky(count * k, seed, 0.3);
        weights.write_rows(gpu(), w.len() / k, &StoredRows::floats(k, &layer));
        w.extend(stored(&layer, k, precision));
        bytes += 4 * count * precision.row_words(k);
    }
    assert_eq!(weights.bytes(), bytes as u64);
    let want = reference(&x, &w, None, &bias, k, Activation::Silu);
    for variant in VARIANTS {
        let y = poisoned(&[rows, n]);
        let x = tensor(&[rows, k], &x);
        run_as(variant, &Linear::new(&x, &weights, &y).silu());
        close(&read(&y), &want);
    }
}

/// f32 sums of up to 172 terms of size 10·2 beside each other: rounding stays below 172·20·2⁻²⁴ ≈ 2e-4.
fn close(got: &[f32], want: &[f64]) {
    let want: Vec<_> = want.iter().map(|&v| v as f32).collect();
    assert_close(got, &want, 5e-4, 1e-5);
}
