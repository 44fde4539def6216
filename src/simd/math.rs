//! Functions of a scalar or a row: activations, softmax, layer norm, time embedding.
//!
//! Functions with an exponential are written in vectors; `f32::exp` and `f32::tanh` would be a call per value instead.
//! Every other loop is written so that the compiler can vectorise it, and [`vectorised`] compiles it for the widest
//! vectors of the processor.

use pulp::{Arch, Simd, WithSimd};

/// Independent partial sums of a reduction; a plain `sum()` could not be vectorised.
const LANES: usize = 16;

/// Added to the variance by the layer norms that modulation follows.
const EPS: f32 = 1e-6;

/// Width of the sinusoidal time embedding.
pub(crate) const TIME_DIMS: usize = 256;

/// Runs `body`, compiled for the SIMD width of this processor.
pub(crate) fn vectorised<R>(body: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(body)
}

/// Lanes of one vector of this processor.
pub(crate) fn vector_width() -> usize {
    struct Width;
    impl WithSimd for Width {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Width)
}

/// eˣ, within 2 units in the last place between -87 and 88 and constant outside.
#[inline(always)]
fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    /// 1.5·2²³: adding it leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has few enough bits for `n·LN2_HIGH` to be exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Closures would not be inlined into code for the processor's vectors, and every operation would be a call: a step
    // took 2.4 times as long.
    macro_rules! all {
        ($value:expr) => {
            simd.splat_f32s($value)
        };
    }
    macro_rules! plus_product {
        ($sum:expr, $a:expr, $b:expr) => {
            simd.add_f32s($sum, simd.mul_f32s($a, $b))
        };
    }
    // As `f32::clamp`: what is not a number stays so.
    let [low, high] = [all!(-87.0), all!(88.0)];
    let x = simd.select_f32s(simd.less_than_f32s(x, low), low, x);
    let x = simd.select_f32s(simd.less_than_f32s(high, x), high, x);
    let shifted = plus_product!(all!(ROUND), x, all!(std::f32::consts::LOG2_E));
    let n = simd.sub_f32s(shifted, all!(ROUND));
    let r = simd.sub_f32s(x, simd.mul_f32s(n, all!(LN2_HIGH)));
    let r = simd.sub_f32s(r, simd.mul_f32s(n, all!(LN2_LOW)));
    // The Taylor series is good to 5e-9 on |r| ≤ ln(2)/2.
    let p = plus_product!(all!(1.0 / 720.0), r, all!(1.0 / 5040.0));
    let p = plus_product!(all!(1.0 / 120.0), r, p);
    let p = plus_product!(all!(1.0 / 24.0), r, p);
    let p = plus_product!(all!(1.0 / 6.0), r, p);
    let p = plus_product!(all!(0.5), r, p);
    let p = plus_product!(all!(1.0), r, p);
    let p = plus_product!(all!(1.0), r, p);
    // 2ⁿ: the exponent field is n + 127, and the bits of ROUND fall off at the left.
    let field = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let power = simd.mul_u32s(field, simd.splat_u32s(1 << 23));
    simd.mul_f32s(p, simd.transmute_f32s_u32s(power))
}

/// Replaces every number of a row by a value that is computed in vectors. A macro, because a closure would not be
/// inlined, as in [`exp`].
macro_rules! each {
    ($simd:ident, $xs:expr, $x:ident => $value:expr) => {
        let (vectors, rest) = S::as_mut_simd_f32s($xs);
        for place in vectors {
            let $x = *place;
            *place = $value;
        }
        if !rest.is_empty() {
            let $x = $simd.partial_load_f32s(rest);
            let last = $value;
            $simd.partial_store_f32s(rest, last);
        }
    };
}

/// A function of each number of a row. The vectors are written out: the page is built for size, and the compiler then
/// vectorises no loop.
trait Function: Copy {
    /// Of the numbers of a vector.
    fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
}

/// 1/(1 + e⁻ˣ)
#[derive(Clone, Copy)]
struct Sigmoid;

impl Function for Sigmoid {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let one = simd.splat_f32s(1.0);
        simd.div_f32s(one, simd.add_f32s(one, exp(simd, simd.neg_f32s(x))))
    }
}

/// x·sigmoid(x)
#[derive(Clone, Copy)]
struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(x, Sigmoid.of(simd, x))
    }
}

/// ½z(1 + tanh u) with u = √(2/π)(z + 0.044715z³), which equals z·sigmoid(2u).
#[derive(Clone, Copy)]
struct Gelu;

impl Function for Gelu {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, z: S::f32s) -> S::f32s {
        const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
        let cube = simd.mul_f32s(simd.mul_f32s(simd.mul_f32s(simd.splat_f32s(0.044_715), z), z), z);
        let inner = simd.mul_f32s(simd.splat_f32s(TWO_SQRT_2_OVER_PI), simd.add_f32s(z, cube));
        simd.mul_f32s(z, Sigmoid.of(simd, inner))
    }
}

/// A function and what it is applied to.
struct Each<'a, F> {
    function: F,
    xs: &'a mut [f32],
}

impl<F: Function> WithSimd for Each<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { function, xs } = self;
        each!(simd, xs, x => function.of(simd, x));
    }
}

/// GELU in its tanh form, in place.
pub(crate) fn gelu(xs: &mut [f32]) {
    Arch::new().dispatch(Each { function: Gelu, xs });
}

/// x·sigmoid(x), in place.
pub(crate) fn silu(xs: &mut [f32]) {
    Arch::new().dispatch(Each { function: Silu, xs });
}

/// `gate = silu(gate) ⊙ up`.
pub(crate) fn silu_times(gate: &mut [f32], up: &[f32]) {
    silu(gate);
    vectorised(|| gate.iter_mut().zip(up).for_each(|(g, u)| *g *= u));
}

/// 1/(1 + e⁻ˣ), in place.
pub(crate) fn sigmoid(xs: &mut [f32]) {
    Arch::new().dispatch(Each { function: Sigmoid, xs });
}

/// `softmax(scale·row)` of each row of `width` numbers, in place.
pub(crate) fn softmax_rows(rows: &mut [f32], width: usize, scale: f32) {
    Arch::new().dispatch(SoftmaxRows { rows, width, scale });
}

/// The arguments of [`softmax_rows`]. A closure of this size would not be inlined into the code that
/// [`vectorised`] compiles for this processor, and would lose its SIMD code; this one is forced to be inlined.
struct SoftmaxRows<'a> {
    rows: &'a mut [f32],
    width: usize,
    scale: f32,
}

impl WithSimd for SoftmaxRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, width, scale } = self;
        let scale = simd.splat_f32s(scale);
        for row in rows.chunks_exact_mut(width) {
            let top = simd.splat_f32s(largest(row));
            each!(simd, row, x => exp(simd, simd.mul_f32s(scale, simd.sub_f32s(x, top))));
            let norm = simd.splat_f32s(1.0 / sum_of(row, |x| x));
            each!(simd, row, x => simd.mul_f32s(x, norm));
        }
    }
}

/// `out = LN(x)·(1 + scale) + shift` for one token, `[D]` each; the norm has no parameters of its own. `centring` is the
/// factor of the mean that is subtracted: 0 makes it an RMS norm.
pub(crate) fn modulated_norm(
    centring: f32,
    x: &[f32],
    [shift, scale]: [&[f32]; 2],
    out: &mut [f32],
) {
    Arch::new().dispatch(ModulatedNorm { centring, x, shift, scale, out });
}

/// The arguments of [`modulated_norm`], for the same reason.
struct ModulatedNorm<'a> {
    centring: f32,
    x: &'a [f32],
    shift: &'a [f32],
    scale: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for ModulatedNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { centring, x, shift, scale, out } = self;
        let inverse = 1.0 / x.len() as f32;
        let mean = sum_of(x, |x| x) * inverse * centring;
        for (out, x) in out.iter_mut().zip(x) {
            *out = x - mean;
        }
        let variance = sum_of(out, |x| x * x) * inverse;
        let norm = 1.0 / (variance + EPS).sqrt();
        for ((out, shift), scale) in out.iter_mut().zip(shift).zip(scale) {
            *out = *out * norm * (1.0 + scale) + shift;
        }
    }
}

/// `x = LN(x)·weight + bias` for one head's query or key, `[d]` each; without a bias it is an RMS norm.
pub(crate) fn head_norm(x: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) {
    let inverse = 1.0 / x.len() as f32;
    if bias.is_some() {
        let mean = x.iter().sum::<f32>() * inverse;
        for x in x.iter_mut() {
            *x -= mean;
        }
    }
    let variance = x.iter().map(|x| x * x).sum::<f32>() * inverse;
    let norm = 1.0 / (variance + eps).sqrt();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * norm * weight;
    }
    if let Some(bias) = bias {
        x.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
    }
}

/// `x += gate ⊙ y`.
pub(crate) fn add_gated(x: &mut [f32], gate: &[f32], y: &[f32]) {
    vectorised(|| x.iter_mut().zip(gate).zip(y).for_each(|((x, g), y)| *x += g * y));
}

/// `x += factor·y`.
pub(crate) fn add_scaled(x: &mut [f32], factor: f32, y: &[f32]) {
    vectorised(|| x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y));
}

/// Σ a·b, in sixteen partial sums.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Σ f(x), in sixteen partial sums.
#[inline(always)]
fn sum_of(xs: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = xs.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f(*x);
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}

#[inline(always)]
fn largest(xs: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = xs.as_chunks::<LANES>();
    let mut tops = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (top, x) in tops.iter_mut().zip(chunk) {
            *top = larger(*top, *x);
        }
    }
    tops.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| larger(a, b))
}

/// The sinusoidal embedding of a time, `[256]`: cos(t·f), then sin(t·f), with 128 frequencies f from 1
/// down to nearly 1/10,000.
pub(crate) fn time_embedding(t: f32, out: &mut [f32]) {
    let half = TIME_DIMS / 2;
    let (cos, sin) = out.split_at_mut(half);
    for (k, (cos, sin)) in cos.iter_mut().zip(sin).enumerate() {
        // Of `libm`, so that every machine draws the same image.
        let frequency = libm::expf(-libm::logf(10_000.0) * k as f32 / half as f32);
        (*sin, *cos) = libm::sincosf(t * frequency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from -20 to 20, closely spaced.
    fn sweep() -> Vec<f32> {
        (-200_000..=200_000).map(|i| i as f32 * 1e-4).collect()
    }

    /// Name, function, and the same in f64.
    type Case<'a> = (&'a str, fn(&mut [f32]), &'a dyn Fn(f64) -> f64);

    #[test]
    fn gelu_silu_and_sigmoid_agree_with_f64() {
        let sigmoid_64 = |x: f64| 1.0 / (1.0 + (-x).exp());
        let gelu_64 = |z: f64| {
            z * sigmoid_64(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3)))
        };
        let cases: [Case; 3] = [
            ("gelu", gelu, &gelu_64),
            ("silu", silu, &|x| x * sigmoid_64(x)),
            ("sigmoid", sigmoid, &sigmoid_64),
        ];
        for (name, function, exact) in cases {
            let mut got = sweep();
            function(&mut got);
            for (x, got) in sweep().into_iter().zip(got) {
                let want = exact(f64::from(x));
                // Far out on the left the argument's own rounding is magnified by its size; those
                // values never matter compared with the others of a sum.
                let allowed = 1e-6 * want.abs().max(1e-2);
                let error = (f64::from(got) - want).abs();
                assert!(error <= allowed, "{name}({x}) = {got}, {want} is right");
            }
        }
    }

    #[test]
    fn gelu_of_large_numbers_is_the_number_or_nothing() {
        let mut xs = [1e4, -1e4, 1e30, -1e30, 0.0];
        gelu(&mut xs);
        for (got, want) in xs.into_iter().zip([1e4, 0.0, 1e30, 0.0, 0.0]) {
            assert!((got - want).abs() < 1e-6, "{got} for {want}");
        }
    }

    #[test]
    fn softmax_sums_to_one_even_for_hostile_rows() {
        for width in [1, 7, 16, 50] {
            let mut row: Vec<f32> = (0..width).map(|i| if i == 3 { 3e4 } else { -1e4 }).collect();
            softmax_rows(&mut row, width, 0.5);
            let sum: f32 = row.iter().sum();
            assert!((sum - 1.0).abs() < 1e-6, "{width}: {row:?}");
        }
        let mut row: Vec<f32> = (0..37).map(|i| (i as f32 * 0.9).sin() * 4.0).collect();
        let exact: Vec<f64> = row.iter().map(|&x| (f64::from(x) * 0.25).exp()).collect();
        softmax_rows(&mut row, 37, 0.25);
        for (got, want) in row.iter().zip(&exact) {
            assert!((f64::from(*got) - want / exact.iter().sum::<f64>()).abs() < 1e-7);
        }
    }

    #[test]
    fn layer_norm_has_mean_shift_and_deviation_one_plus_scale() {
        let x: Vec<f32> = (0..100).map(|i| 1000.0 + (i as f32 * 1.7).sin()).collect();
        let mut out = vec![f32::NAN; 100];
        modulated_norm(1.0, &x, [&[0.5; 100], &[2.0; 100]], &mut out);
        let mean = out.iter().sum::<f32>() / 100.0;
        let deviation = (out.iter().map(|y| (y - mean).powi(2)).sum::<f32>() / 100.0).sqrt();
        assert!((mean - 0.5).abs() < 1e-3 && (deviation - 3.0).abs() < 1e-3, "{mean} {deviation}");
    }

    /// Numbers printed by the official module.
    #[test]
    fn time_embedding_is_the_official_one() {
        let mut emb = [0.0; TIME_DIMS];
        let golden = [
            (
                0.5,
                [0.877_582_55, 0.893_693_27, 0.999_987_5, 1.0],
                [0.479_425_55, 0.448_678_43, 0.004_999_98, 5.3730e-5],
            ),
            (
                999.0,
                [0.999_649_8, 0.963_785_3, -0.844_469_8, 0.994_243_14],
                [-0.026_460_75, -0.266_679_38, -0.535_603_17, 0.107_147_22],
            ),
        ];
        for (t, cos, sin) in golden {
            time_embedding(t, &mut emb);
            for (at, (cos, sin)) in [0, 1, 64, 127].into_iter().zip(cos.into_iter().zip(sin)) {
                // The golden numbers have eight decimals; a unit in the last place of t·f is 6e-8·t.
                let allowed = 1e-7 + 6e-8 * t;
                assert!((emb[at] - cos).abs() < allowed, "cos {at} of {t}: {}", emb[at]);
                assert!((emb[128 + at] - sin).abs() < allowed, "sin {at} of {t}");
            }
        }
    }

    #[test]
    fn the_time_embedding_has_the_official_values() {
        let mut e = [0.0; TIME_DIMS];
        let is_close = |e: &[f32], places: &[usize], want: &[f32], absolute: f32| {
            for (&i, want) in places.iter().zip(want) {
                let off = (e[i] - want).abs();
                assert!(off <= absolute + 1e-6 * want.abs(), "{i}: {} for {want}", e[i]);
            }
        };
        // From the official module: cosines first, frequencies falling.
        let want = [
            0.877_582_6,
            0.893_693_3,
            0.999_987_5,
            1.0,
            0.479_425_55,
            0.448_678_4,
            0.004_999_98,
            5.373e-5,
        ];
        time_embedding(0.5, &mut e);
        is_close(&e, &[0, 1, 64, 127, 128, 129, 192, 255], &want, 1e-7);
        let want = [0.999_649_8, 0.963_785_3, -0.026_460_75, -0.266_679_4];
        time_embedding(999.0, &mut e);
        // The reference's own phase is rounded to 6e-5 at 999 radians.
        is_close(&e, &[0, 1, 128, 129], &want, 1e-4);
    }
}
