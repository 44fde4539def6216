//! The kernels of models, without those that route.

use super::numbers::{SAMPLES, numbers};
use super::{Bench, experts, latents};
use crate::gpu::Profile;
use crate::kernels::{
    Attention, Conditioning, EmbedContext, EmbedTokens, Epilogue, HeadNorm, Linear, Modulate, Norm,
    NormedLinear, PassInputs, Patches, Pixels, RotateHeads, WeightPrecision,
};
use crate::model::NormForm;

pub(super) fn record(bench: &mut Bench, precisions: &[WeightPrecision]) {
    attention(bench);
    modulate(bench);
    for &precision in precisions {
        linear(bench, precision);
        experts::layers(bench, precision);
    }
    if let Some(&precision) = precisions.first() {
        normed_linear(bench, precision);
    }
    experts::combine(bench);
    pass_inputs(bench);
    pixels(bench);
    latents::combine(bench);
    latents::keep(bench);
    latents::shift(bench);
}

pub(super) fn embed_tokens(bench: &mut Bench) {
    let ids: Vec<u32> = (0..ROWS as u32).map(|row| 7 * row % 11).collect();
    let y = bench.output(&[ROWS, WIDTH]);
    bench.push(&EmbedTokens {
        ids: &bench.tensor(&[ROWS], &ids),
        table: &bench.tensor(&[11, WIDTH], &numbers(11 * WIDTH, 90, 1.0)),
        positions: &bench.tensor(&[5, WIDTH], &numbers(5 * WIDTH, 91, 1.0)),
        y: &y,
    });
    bench.expect_exactly("embed_tokens", "embed_tokens", &y);
}

/// Rows of most probes: more than a tile of some, less than one of others.
pub(super) const ROWS: usize = 34;
/// Columns of most probes.
pub(super) const WIDTH: usize = 36;
/// Outputs of linear layers.
pub(super) const OUTPUTS: usize = 40;
/// Heads of attention, and their width.
pub(super) const HEADS: [usize; 2] = [2, 64];
/// What each sample of attention to a memory sees.
pub(super) const SPANS: [[u32; 2]; 2] = [[3, 5], [8, 12]];

fn attention(bench: &mut Bench) {
    let width = HEADS[0] * HEADS[1];
    let qkv = bench.tensor(&[2 * 40, 3 * width], &numbers(2 * 40 * 3 * width, 1, 2.0));
    let y = bench.output(&[2 * 40, width]);
    bench.push(&Attention::to_itself(&qkv, 2, HEADS[0], &y));
    bench.expect("attention", "attention", &y);
    let queries = bench.tensor(&[2 * 9, width], &numbers(2 * 9 * width, 2, 2.0));
    let memory = bench.tensor(&[20, 2 * width], &numbers(20 * 2 * width, 3, 2.0));
    let spans = bench.tensor(&[2, 2], SPANS.as_flattened());
    let y = bench.output(&[2 * 9, width]);
    bench.push(&Attention::to_memory(&queries, &memory, &spans, HEADS[0], &y));
    bench.expect("attention to a memory", "attention", &y);
}

pub(super) fn head_norm(bench: &mut Bench) {
    let [heads, d] = HEADS;
    let affine = bench.tensor(&[4, d], &numbers(4 * d, 4, 1.0));
    let qkv = bench.tensor(&[7, 3 * heads * d], &numbers(7 * 3 * heads * d, 5, 3.0));
    bench.push(&HeadNorm { form: NormForm::Layer, affine: &affine, heads, eps: 1e-5, qkv: &qkv });
    bench.expect("head_norm", "head_norm", &qkv);
}

pub(super) fn rotate_heads(bench: &mut Bench) {
    let [heads, d] = HEADS;
    let angles = bench.tensor(&[5, d / 2, 2], &numbers(5 * d, 14, 1.0));
    let qkv = bench.tensor(&[10, 3 * heads * d], &numbers(10 * 3 * heads * d, 15, 3.0));
    bench.push(&RotateHeads { angles: &angles, heads, qkv: &qkv });
    bench.expect("rotate_heads", "rotate_heads", &qkv);
}

/// Rows with an offset, from whose squares alone no variance could be taken.
pub(super) fn uneven_rows() -> Vec<f32> {
    let mut x = numbers(ROWS * WIDTH, 6, 1.0);
    x.iter_mut().step_by(3).for_each(|v| *v += 30.0);
    x
}

/// Shift and scale of a norm are the second and third part of these columns.
pub(super) fn modulation() -> Vec<f32> {
    numbers(SAMPLES * 3 * WIDTH, 7, 0.5)
}

fn modulate(bench: &mut Bench) {
    let x = bench.tensor(&[ROWS, WIDTH], &uneven_rows());
    let modulation = bench.tensor(&[SAMPLES, 3 * WIDTH], &modulation());
    let y = bench.output(&[ROWS, WIDTH]);
    bench.push(&Modulate {
        x: &x,
        norm: NormForm::Layer,
        modulation: &modulation,
        shift: WIDTH,
        scale: 2 * WIDTH,
        y: &y,
    });
    bench.expect("modulate", "modulate", &y);
}

pub(super) fn linear_bias() -> Vec<f32> {
    numbers(OUTPUTS, 10, 1.0)
}

fn linear(bench: &mut Bench, precision: WeightPrecision) {
    let x = bench.tensor(&[ROWS, WIDTH], &numbers(ROWS * WIDTH, 8, 1.0));
    let weights = bench.matrix([OUTPUTS, WIDTH], 9, precision, &linear_bias());
    let y = bench.output(&[ROWS, OUTPUTS]);
    let (gpu, tape) = (bench.gpu, &mut bench.tape);
    Linear::new(&x, &weights, &y).silu().record(gpu, tape, "probe");
    bench.expect("linear", format!("linear, {precision} weights"), &y);
}

/// The norm and the layer in one; software adapters do not have it.
fn normed_linear(bench: &mut Bench, precision: WeightPrecision) {
    if bench.gpu.profile != Profile::Gpu {
        return;
    }
    let x = bench.tensor(&[ROWS, WIDTH], &uneven_rows());
    let modulation = bench.tensor(&[SAMPLES, 3 * WIDTH], &modulation());
    let weights = bench.matrix([OUTPUTS, WIDTH], 9, precision, &linear_bias());
    let y = bench.tensor(&[ROWS, OUTPUTS], &numbers(ROWS * OUTPUTS, 11, 1.0));
    let normal = bench.output(&[ROWS, WIDTH]);
    let norm = Norm {
        form: NormForm::Layer,
        modulation: &modulation,
        shift: WIDTH,
        scale: 2 * WIDTH,
        h: &normal,
        keeps: true,
    };
    let linear = Linear::new(&x, &weights, &y).ending(Epilogue::Add);
    NormedLinear { linear, norm }.record(bench.gpu, &mut bench.tape, "probe");
    bench.expect("linear_normal", format!("linear_normal, {precision} weights"), &y);
    bench.expect("modulate", format!("linear_normal, {precision} weights"), &normal);
}

/// Rows of two label tables, those that are blended into them, and their shares.
pub(super) const LABEL_ROWS: [u32; 4 * SAMPLES] = [1, 0, 4, 3, 2, 2, 0, 1];
pub(super) const LABEL_SHARES: [f32; 2 * SAMPLES] = [0.0, 0.25, 0.75, 0.0];

/// Samples, channels, height, width and patch of the probes of patches.
pub(super) const IMAGE: [usize; 5] = [2, 3, 6, 4, 2];

fn pass_inputs(bench: &mut Bench) {
    let [samples, channels, height, width, patch] = IMAGE;
    let len = samples * channels * height * width;
    let columns = channels * patch * patch;
    let [y, rows] = [[SAMPLES, WIDTH], [len / columns, columns]].map(|shape| bench.output(&shape));
    bench.push(&PassInputs {
        patches: Patches {
            latents: &bench.tensor(&[len], &numbers(len, 62, 1.0)),
            first: 0,
            samples,
            channels,
            size: [height, width],
            patch,
            rows: 6,
            y: &rows,
        },
        conditioning: Conditioning {
            time: &bench.tensor(&[SAMPLES, WIDTH], &numbers(SAMPLES * WIDTH, 60, 2.0)),
            pooled: None,
            labels: &bench.tensor(&[5, WIDTH], &numbers(5 * WIDTH, 61, 1.0)),
            rows: &bench.tensor(&[2, 2, SAMPLES], &LABEL_ROWS),
            shares: &bench.tensor(&[2, SAMPLES], &LABEL_SHARES),
            y: &y,
        },
    });
    bench.expect_exactly("patches", "pass_inputs, patches", &rows);
    bench.expect("conditioning", "pass_inputs, conditions", &y);
}

/// The last layer, whose numbers become pixels; one row of each sample has no patch.
fn pixels(bench: &mut Bench) {
    let [samples, channels, height, width, patch] = IMAGE;
    let rows = height / patch * (width / patch) + 1;
    let outputs = channels * patch * patch;
    let x = numbers(samples * rows * WIDTH, 63, 1.0);
    let x = bench.tensor(&[samples * rows, WIDTH], &x);
    let bias = numbers(outputs, 64, 1.0);
    let weights = bench.matrix([outputs, WIDTH], 67, WeightPrecision::F16, &bias);
    let places = Pixels::new(bench.gpu, channels, [height, width], patch, rows);
    let y = bench.output(&[samples * channels * height * width]);
    let ending = Epilogue::Pixels { places: &places, first: 0 };
    let (gpu, tape) = (bench.gpu, &mut bench.tape);
    Linear::new(&x, &weights, &y).ending(ending).record(gpu, tape, "probe");
    bench.expect("pixels", "linear to pixels", &y);
}

/// Tokens of patches, and those that carry the labels, in the probe of the latter.
pub(super) const CONTEXT: [usize; 2] = [3, 2];

pub(super) fn embed_context(bench: &mut Bench) {
    let [tokens, context] = CONTEXT;
    let len = SAMPLES * (tokens + context) * WIDTH;
    let x = bench.tensor(&[SAMPLES * (tokens + context), WIDTH], &numbers(len, 65, 1.0));
    bench.push(&EmbedContext {
        labels: &bench.tensor(&[5, WIDTH], &numbers(5 * WIDTH, 61, 1.0)),
        rows: &bench.tensor(&[2, 2, SAMPLES], &LABEL_ROWS),
        shares: &bench.tensor(&[2, SAMPLES], &LABEL_SHARES),
        positions: &bench.tensor(&[context, WIDTH], &numbers(context * WIDTH, 66, 1.0)),
        x: &x,
    });
    bench.expect("embed_context", "embed_context", &x);
}
