//! The kernels of models, without those that route.

use super::numbers::{numbers, shares};
use super::{Bench, Exact};
use crate::gpu::Profile;
use crate::kernels::combine_latents::Region;
use crate::kernels::conv2d::Activation;
use crate::kernels::denoise::Numbers;
use crate::kernels::detail_pixels::Way;
use crate::kernels::weights::pack_stored;
use crate::kernels::{
    Attention, CombineExperts, CombineLatents, Conditioning, Conv2d, ConvWeights, DenoiseLatents,
    DetailPixels, EmbedContext, EmbedTokens, Epilogue, ExpertLinear, Form, HeadNorm, KeepImage,
    Linear, Masks, Modulate, NOT_TAKEN, NextNorm, Norm, NormedLinear, PassInputs, Patches, Pixels,
    RotateHeads, ShiftImage, Source, WeightPrecision,
};
use crate::model::NormForm;

pub(super) fn record(bench: &mut Bench, precisions: &[WeightPrecision]) {
    attention(bench);
    modulate(bench);
    for &precision in precisions {
        linear(bench, precision);
        experts(bench, precision);
    }
    if let Some(&precision) = precisions.first() {
        normed_linear(bench, precision);
    }
    combine_experts(bench);
    pass_inputs(bench);
    pixels(bench);
    combine_latents(bench);
    keep_image(bench);
    shift_image(bench);
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
/// Samples of which the rows are.
pub(super) const SAMPLES: usize = 2;
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

/// Tokens, experts, columns and hidden columns of the probes of experts.
pub(super) const POOL: [usize; 4] = [20, 3, 16, 24];

/// The tokens of each expert: every second one, none, and some.
pub(super) fn lists() -> [Vec<u32>; 3] {
    [(0..20).step_by(2).collect(), Vec::new(), vec![1, 2, 3, 5, 8, 13, 19]]
}

pub(super) fn counts() -> Vec<u32> {
    lists().iter().map(|list| list.len() as u32).collect()
}

/// `[E, S]`
fn chosen() -> Vec<u32> {
    let mut chosen = vec![0; POOL[1] * POOL[0]];
    for (row, list) in chosen.chunks_mut(POOL[0]).zip(lists()) {
        row[..list.len()].copy_from_slice(&list);
    }
    chosen
}

/// `[S, E]`
fn positions() -> Vec<u32> {
    let mut positions = vec![NOT_TAKEN; POOL[0] * POOL[1]];
    for (e, list) in lists().iter().enumerate() {
        for (position, &token) in (0..).zip(list) {
            positions[token as usize * POOL[1] + e] = position;
        }
    }
    positions
}

fn experts(bench: &mut Bench, precision: WeightPrecision) {
    let [s, e, d, m] = POOL;
    let taken = counts().iter().sum::<u32>() as usize;
    let counts = bench.tensor(&[e], &counts());
    let chosen = bench.tensor(&[e, s], &chosen());
    let tokens = bench.tensor(&[s, d], &numbers(s * d, 20, 1.0));
    let rows = bench.tensor(&[e * s, m], &numbers(e * s * m, 21, 1.0));
    let up_bias = bench.tensor(&[e, m], &numbers(e * m, 22, 1.0));
    let down_bias = bench.tensor(&[e, d], &numbers(e * d, 25, 1.0));
    for (name, gathers) in [("experts, up", true), ("experts, down", false)] {
        let [columns, inputs] = if gathers { [m, d] } else { [d, m] };
        let exact = Exact::new(e * columns, inputs, 23 + u32::from(gathers));
        let words = pack_stored(&exact.rows(precision), inputs, precision);
        let shape = [e, columns, words.len() / (e * columns)];
        let weights = bench.tensor(&shape, &words);
        let y = bench.output(&[e * s, columns]);
        bench.push(&ExpertLinear {
            x: if gathers { &tokens } else { &rows },
            source: if gathers { Source::Tokens } else { Source::Rows(0) },
            counts: &counts,
            chosen: &chosen,
            weights: &weights,
            precision,
            experts: 0..e,
            form: if gathers { Form::Gelu(Some(&up_bias)) } else { Form::Linear(Some(&down_bias)) },
            rows: 0..e * s,
            y: &y,
            y_first: 0,
        });
        let kernel = format!("expert_linear, {precision} weights");
        bench.add(name, kernel, &y, 0..taken * columns, false);
    }
}

fn combine_experts(bench: &mut Bench) {
    let [s, e, d, _] = POOL;
    let taken = counts().iter().sum::<u32>() as usize;
    let columns = 3 * d;
    let x = bench.tensor(&[s, d], &numbers(s * d, 30, 1.0));
    let (masks, normal) = (bench.output(&[s]), bench.output(&[s, d]));
    let is_gpu = bench.gpu.profile == Profile::Gpu;
    bench.push(&CombineExperts {
        gate: &bench.tensor(&[s, e], &shares(s * e, 31)),
        positions: &bench.tensor(&[s, e], &positions()),
        counts: &bench.tensor(&[e], &counts()),
        y: &bench.tensor(&[taken, d], &numbers(taken * d, 32, 1.0)),
        rows: 0..taken,
        modulation: &bench.tensor(&[SAMPLES, columns], &numbers(SAMPLES * columns, 33, 1.0)),
        gate_column: 0,
        masks: Masks { to: &masks, first: 0 },
        x: &x,
        norm: is_gpu.then_some(NextNorm { shift: d, scale: 2 * d, form: NormForm::Layer }),
        h: &normal,
    });
    bench.expect("combine_experts", "combine_experts", &x);
    bench.expect_exactly("masks", "combine_experts", &masks);
    if is_gpu {
        bench.expect("combine_experts, norm", "combine_experts", &normal);
    }
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

/// Numbers of a sample in the probes of solvers, and pixels in those of the detail head: 5 by 7.
pub(super) const SAMPLE: usize = 35;

fn combine_latents(bench: &mut Bench) {
    let stride = 2 * SAMPLE;
    let latents = bench.tensor(&[3 * SAMPLES * stride], &numbers(3 * SAMPLES * stride, 70, 1.0));
    let terms = [0, 1, 2].map(|i| Region { first: i * SAMPLES * stride, stride });
    bench.push(&CombineLatents {
        factors: &bench.tensor(&[8], &numbers(8, 71, 1.0)),
        latents: &latents,
        terms: &terms,
        output: 0,
        batch: SAMPLES,
        sample_len: SAMPLE,
    });
    bench.add("combine_latents", "combine_latents".into(), &latents, 0..SAMPLES * SAMPLE, false);
}

/// Signal and noise of what is kept of an image.
pub(super) const LEVEL: [f32; 2] = [0.25, 0.75];

/// Image, noise and mask: redrawn, half, and kept.
pub(super) fn kept() -> [Vec<f32>; 3] {
    let count = SAMPLES * SAMPLE;
    let mask = (0..count).map(|i| (i % 3) as f32 / 2.0).collect();
    [numbers(count, 77, 1.0), numbers(count, 78, 1.0), mask]
}

fn keep_image(bench: &mut Bench) {
    let count = SAMPLES * SAMPLE;
    let latents = bench.tensor(&[count], &numbers(count, 76, 1.0));
    bench.push(&KeepImage {
        level: &bench.tensor(&[2], &LEVEL),
        kept: &bench.tensor(&[3, count], &kept().concat()),
        latents: &latents,
        first: 0,
        count,
    });
    bench.expect("keep_image", "keep_image", &latents);
}

/// Pixels down and to the right, and the size of the images that are shifted.
pub(super) const SHIFT: ([usize; 2], [usize; 2]) = ([2, 4], [5, 7]);

fn shift_image(bench: &mut Bench) {
    let (by, size) = SHIFT;
    let count = 2 * size[0] * size[1];
    let latents = bench.tensor(&[2 * count], &numbers(2 * count, 79, 1.0));
    let shift = ShiftImage { latents: &latents, input: 0, output: count, planes: 2, size, by };
    bench.push(&shift);
    bench.expect("shift_image", "shift_image", &latents);
}

/// A guided step of DDPM with a learned variance.
pub(super) const DENOISING: Numbers = Numbers {
    guidance: 1.5,
    predict_latent: 1.2,
    predict_noise: 0.7,
    mean_start: 0.4,
    mean_latent: 0.6,
    deviation: 0.0,
    low: -3.0,
    high: -1.0,
    clip: 1,
    noise: 2,
};

pub(super) fn denoise(bench: &mut Bench) {
    let slot = SAMPLES * SAMPLE;
    let latents = bench.tensor(&[5 * slot], &numbers(5 * slot, 72, 1.0));
    let steps = bench.output(&[Numbers::LEN]);
    DENOISING.write(bench.gpu, &steps);
    bench.push(&DenoiseLatents {
        numbers: &steps,
        noise: &bench.tensor(&[slot], &numbers(slot, 73, 1.0)),
        latents: &latents,
        first: 0,
        outputs: [slot, 3 * slot],
        batch: SAMPLES,
        sample_len: SAMPLE,
        output_len: 2 * SAMPLE,
        guided: SAMPLE,
    });
    bench.add("denoise", "denoise".into(), &latents, 0..slot, false);
}

/// Inputs, outputs, height and width of the probe of a convolution.
pub(super) const CONVOLUTION: [usize; 4] = [8, 12, 9, 17];

pub(super) fn detail(bench: &mut Bench) {
    let [inputs, outputs, height, width] = CONVOLUTION;
    let weights = Exact::new(outputs, inputs * 9, 81).values();
    let bias = numbers(outputs, 82, 1.0);
    let (shape, precision) = ([outputs, inputs, 3], WeightPrecision::F32);
    let layer = ConvWeights::upload(bench.gpu, "probe", shape, &weights, Some(&bias), precision);
    let len = inputs * height * width;
    let x = bench.tensor(&[len], &numbers(len, 80, 1.0));
    let y = bench.output(&[outputs * height * width]);
    bench.push(&Conv2d {
        x: &x,
        weights: &layer,
        y: &y,
        images: 1,
        size: [height, width],
        enlarge: false,
        inputs: (0, inputs / 4),
        outputs: (0, outputs / 4),
        y_first: 0,
        bias: true,
        add: false,
        activation: Activation::Silu,
    });
    bench.expect("conv2d", "conv2d", &y);

    let channels = 3;
    let len = SAMPLES * channels * SAMPLE;
    let latents = bench.tensor(&[2 * len], &numbers(2 * len, 83, 1.0));
    let quads = bench.output(&[8 * SAMPLES * SAMPLE]);
    let ends = DetailPixels {
        latents: &latents,
        predicted: 0,
        noised: len,
        samples: SAMPLES,
        channels,
        size: [5, 7],
        phase: None,
        times: &bench.tensor(&[SAMPLES], &[0.25_f32, 0.75]),
        quads: &quads,
        way: Way::Join,
    };
    bench.push(&ends);
    bench.push(&DetailPixels { way: Way::Add, ..ends });
    bench.expect_exactly("detail_pixels, joined", "detail_pixels", &quads);
    // The prediction doubled.
    bench.expect_exactly("detail_pixels, added", "detail_pixels", &latents);
}
