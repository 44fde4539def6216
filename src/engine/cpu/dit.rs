//! The forward pass, from noisy sample to velocity or noise.
//!
//! ```text
//! x = patches(sample) + positions                                   [S, D]    stage 0
//! c = mlp(sinusoid(t)) + prompt + Σ labels                          [B, D]
//! for each block, with (shift, scale, gate) ×2 = Linear(SiLU(c)):
//!     x += gate ⊙ Attention(LN(x)·(1 + scale) + shift)                        stage 1 + 2i
//!     x += Attention to the prompt, where the model reads text                    stage 1 + 2i
//!     x += gate ⊙ FFN or MoE(LN(x)·(1 + scale) + shift)                       stage 2 + 2i
//! output = unpatchify(Linear(LN(x)·(1 + scale) + shift))  [B, C_out, h, w]    last stage
//! ```
//!
//! A pass is cut in stages so that a user interface can do something else between two of them.
//! Inside a stage, threads share rows, heads or experts, never a sum: results do not depend on their
//! number.

use rayon::prelude::*;

use super::moe::moe;
use super::router::Assignments;
use super::text::{Reading, cross_attention};
use super::weights::{Block, Linear, Mlp, Weights};
use crate::engine::Stage;
use crate::model::{Config, Routing};
use crate::simd::math::{
    TIME_DIMS, add_gated, add_scaled, head_norm, modulated_norm, silu, softmax_rows, time_embedding,
};
use crate::simd::matmul::Matrix;
use crate::simd::threads::{Scratch, ScratchPool, row_chunk};

/// Every intermediate value of a pass; allocated once.
pub(super) struct Activations {
    /// `B`
    pub(super) batch: usize,
    /// Residual stream, `[S, D]`
    pub(super) x: Vec<f32>,
    /// Modulated layer norm of `x`, the input of whatever comes next, `[S, D]`
    pub(super) h: Vec<f32>,
    /// `SiLU(c)` of each sample, `[B, D]`
    conditioning: Vec<f32>,
    /// The modulation at hand: shift, scale and gate, twice, each `[B, D]`
    pub(super) modulation: Vec<Vec<f32>>,
    /// `[S, 3·H·d]`
    pub(super) qkv: Vec<f32>,
    /// Attention's weighted sums of values, `[B, H, T, d]`
    pub(super) mixed: Vec<f32>,
    /// Patches on their way in, `[S, C·p·p]`, and out, `[S, p·p·C_out]`
    patches: Vec<f32>,
    /// Softmax of the gate, `[S, E]`
    pub(super) gate: Vec<f32>,
    /// Sigmoid of the capacity predictor, `[S, E]`; empty unless the model is a `DiffMoE`
    pub(super) capacity: Vec<f32>,
    /// Which experts take a token, `[S]`, one bit each
    pub(super) masks: Vec<u32>,
    /// The same, as lists
    pub(super) assignments: Assignments,
    /// What experts made of their tokens, grouped by expert, `[Σ tokens, D]`; grows to what was needed
    pub(super) expert_rows: Vec<f32>,
    /// Time that the router of the last MoE layer took, in milliseconds
    pub(super) router_ms: f32,
    /// Room for what only one thread sees
    pub(super) scratch: ScratchPool,
}

impl Activations {
    pub(super) fn new(config: &Config, batch: usize) -> Self {
        let (s, d, e) = (batch * config.tokens(), config.hidden_size, config.num_experts);
        let attn = config.num_heads * config.head_dim;
        let patch = config.patch_size.pow(2) * config.in_channels.max(config.out_channels);
        let diff = config.kind == crate::model::Kind::DiffMoe;
        Self {
            batch,
            x: vec![0.0; s * d],
            h: vec![0.0; s * d],
            conditioning: vec![0.0; batch * d],
            modulation: vec![vec![0.0; batch * d]; 6],
            qkv: vec![0.0; s * 3 * attn],
            mixed: vec![0.0; s * attn],
            patches: vec![0.0; s * patch],
            gate: vec![0.0; s * e],
            capacity: vec![0.0; if diff { s * e } else { 0 }],
            masks: vec![0; s],
            assignments: Assignments::default(),
            expert_rows: Vec::new(),
            router_ms: 0.0,
            scratch: ScratchPool::default(),
        }
    }
}

/// What a pass is computed from.
pub(super) struct Input<'a> {
    /// `[B, C, h, w]`
    pub(super) sample: &'a [f32],
    /// `[B]`, before the configuration's `time_scale`
    pub(super) times: &'a [f32],
    /// For each label table, `[B]`
    pub(super) labels: &'a [Vec<u32>],
    /// The prompts that the samples see, where the model reads text
    pub(super) text: Option<Reading<'a>>,
    /// How experts pick
    pub(super) routing: Routing,
}

/// Number of stages of a pass.
pub(super) fn stages(config: &Config) -> usize {
    2 * config.depth + 2
}

/// The block whose MoE layer a stage computes, if it does.
pub(super) fn moe_block(config: &Config, stage: usize) -> Option<usize> {
    let block = stage.checked_sub(2)? / 2;
    (stage.is_multiple_of(2) && block < config.depth && config.is_moe(block)).then_some(block)
}

/// What a stage is, for timings; the router's part of an MoE layer is told apart there.
pub(super) fn stage_kind(config: &Config, stage: usize) -> Stage {
    match stage {
        0 => Stage::Condition,
        last if last + 1 == stages(config) => Stage::Final,
        odd if odd % 2 == 1 => Stage::Attention,
        _ => Stage::Experts,
    }
}

/// Computes one stage; `output`, `[B, C_out, h, w]`, is written by the last.
pub(super) fn run_stage(
    stage: usize,
    config: &Config,
    w: &Weights,
    a: &mut Activations,
    input: &Input,
    output: &mut [f32],
) {
    if stage == 0 {
        embed_patches(config, w, a, input.sample);
        embed_conditions(config, w, a, input);
        return;
    }
    let Some(block) = w.blocks.get((stage - 1) / 2) else {
        return head(config, w, a, output);
    };
    if stage % 2 == 1 {
        modulate(&block.ada_ln, a);
        attention(config, block, a);
        if let (Some(cross), Some(text)) = (&block.cross_attn, input.text) {
            cross_attention(config, (stage / 2, cross), a, text);
        }
    } else {
        normalise(a, config, 3);
        match &block.mlp {
            Mlp::Dense(ffn) => {
                let Activations { x, h, modulation, scratch, .. } = a;
                add_rows(config, x, Some(&modulation[5]), scratch, |first, out, scratch| {
                    ffn.apply(|r| row_of(h, config.hidden_size, first + r), scratch, out);
                });
            }
            Mlp::Moe(layer) => moe(config, layer, a, input.routing),
        }
    }
}

/// Row `r` of a matrix of `width` columns.
pub(super) fn row_of(matrix: &[f32], width: usize, r: usize) -> &[f32] {
    &matrix[r * width..][..width]
}

/// `x = patches·Wᵀ + b + positions`. A patch is read channel by channel, row by row, as a convolution does.
fn embed_patches(config: &Config, w: &Weights, a: &mut Activations, sample: &[f32]) {
    let (d, t, p) = (config.hidden_size, config.tokens(), config.patch_size);
    let ([height, columns], [_, across]) = (config.input_size, config.grid());
    let width = config.in_channels * p * p;
    let patches = &mut a.patches[..a.batch * t * width];
    for (s, patch) in patches.chunks_exact_mut(width).enumerate() {
        let (b, row, column) = (s / t, s % t / across, s % across);
        for (line, part) in patch.chunks_exact_mut(p).enumerate() {
            let (channel, y) = (line / p, row * p + line % p);
            let from = ((b * config.in_channels + channel) * height + y) * columns + column * p;
            part.copy_from_slice(&sample[from..from + p]);
        }
    }
    let rows = row_chunk(a.batch * t);
    a.x.par_chunks_mut(rows * d).enumerate().for_each(|(chunk, x)| {
        let first = chunk * rows;
        w.x_embedder.apply(|r| row_of(patches, width, first + r), x);
        for (r, x) in x.chunks_exact_mut(d).enumerate() {
            let position = row_of(&w.pos_embed, d, (first + r) % t);
            x.iter_mut().zip(position).for_each(|(x, p)| *x += p);
        }
    });
}

/// `conditioning = SiLU(mlp(sinusoid(t)) + Σ label rows)`.
fn embed_conditions(config: &Config, w: &Weights, a: &mut Activations, input: &Input) {
    let d = config.hidden_size;
    let mut hidden = vec![0.0; d];
    let mut sinusoid = [0.0; TIME_DIMS];
    for (b, c) in a.conditioning.chunks_exact_mut(d).enumerate() {
        time_embedding(input.times[b] * config.time_scale, &mut sinusoid);
        w.t_embedder_0.apply(|_| &sinusoid, &mut hidden);
        silu(&mut hidden);
        w.t_embedder_2.apply(|_| &hidden, c);
        if let Some(text) = &input.text {
            c.iter_mut().zip(text.pooled(b)).for_each(|(c, p)| *c += p);
        }
        for (table, rows) in w.label_tables.iter().zip(input.labels) {
            let label = row_of(table, d, rows[b] as usize);
            c.iter_mut().zip(label).for_each(|(c, l)| *c += l);
        }
        silu(c);
    }
}

/// The shifts, scales and gates that follow from the conditioning.
fn modulate(parts: &[Linear], a: &mut Activations) {
    let Activations { conditioning, modulation, .. } = a;
    let d = conditioning.len() / a.batch;
    parts.par_iter().zip(modulation).with_max_len(1).for_each(|(part, out)| {
        part.apply(|b| row_of(conditioning, d, b), out);
    });
}

/// `h = LN(x)·(1 + scale) + shift`, with parts `which` and `which + 1` of the modulation.
fn normalise(a: &mut Activations, config: &Config, which: usize) {
    let (d, t) = (config.hidden_size, config.tokens());
    let [shift, scale] = [which, which + 1].map(|i| &a.modulation[i]);
    let rows = row_chunk(a.batch * t);
    let x = a.x.par_chunks(rows * d);
    a.h.par_chunks_mut(rows * d).zip(x).enumerate().for_each(|(chunk, (h, x))| {
        let tokens = x.chunks_exact(d).zip(h.chunks_exact_mut(d));
        for (r, (x, h)) in tokens.enumerate() {
            let sample = (chunk * rows + r) / t;
            modulated_norm(x, row_of(shift, d, sample), row_of(scale, d, sample), h);
        }
    });
}

/// `x += gate ⊙ y`, or `x += y`, where `y(first row, out, scratch)` writes some rows of `y`.
pub(super) fn add_rows(
    config: &Config,
    x: &mut [f32],
    gate: Option<&[f32]>,
    scratch: &ScratchPool,
    y: impl Fn(usize, &mut [f32], &mut Scratch) + Sync,
) {
    let (d, t) = (config.hidden_size, config.tokens());
    let rows = row_chunk(x.len() / d);
    x.par_chunks_mut(rows * d).enumerate().for_each(|(chunk, x)| {
        scratch.with(|scratch| {
            let first = chunk * rows;
            let mut out = std::mem::take(&mut scratch.out);
            out.resize(x.len(), 0.0);
            y(first, &mut out, scratch);
            for (r, (x, y)) in x.chunks_exact_mut(d).zip(out.chunks_exact(d)).enumerate() {
                match gate {
                    Some(gate) => add_gated(x, row_of(gate, d, (first + r) / t), y),
                    None => add_scaled(x, 1.0, y),
                }
            }
            scratch.out = out;
        });
    });
}

/// `x += gate ⊙ proj(softmax(q·kᵀ/√d)·v)`, head by head.
fn attention(config: &Config, block: &Block, a: &mut Activations) {
    let (d, t, heads, width) =
        (config.hidden_size, config.tokens(), config.num_heads, config.head_dim);
    let attn = heads * width;
    normalise(a, config, 0);
    let Activations { h, qkv, mixed, scratch, .. } = a;

    let rows = row_chunk(h.len() / d);
    qkv.par_chunks_mut(rows * 3 * attn).enumerate().for_each(|(chunk, qkv)| {
        block.qkv.apply(|r| row_of(h, d, chunk * rows + r), qkv);
        let Some(norms) = &block.qk_norm else { return };
        // A row holds the queries of all heads, then their keys.
        for row in qkv.chunks_exact_mut(3 * attn) {
            for (part, [weight, bias]) in row.chunks_exact_mut(attn).zip(norms) {
                for head in part.chunks_exact_mut(width) {
                    head_norm(head, weight, bias);
                }
            }
        }
    });

    mixed.par_chunks_mut(t * width).enumerate().for_each(|(task, out)| {
        let (b, head) = (task / heads, task % heads);
        // Part 0 of a token's row holds its queries, 1 its keys, 2 its values.
        let part = |which: usize, token: usize| {
            &row_of(qkv, 3 * attn, b * t + token)[(which * heads + head) * width..][..width]
        };
        scratch.with(|scratch| one_head(t, width, part, scratch, out));
    });

    project_heads(config, &block.proj, a, Some(2));
}

/// `x += proj(what all heads gathered)`, gated by a part of the modulation where one is named.
pub(super) fn project_heads(
    config: &Config,
    proj: &Linear,
    a: &mut Activations,
    gate: Option<usize>,
) {
    let (d, t, heads, width) =
        (config.hidden_size, config.tokens(), config.num_heads, config.head_dim);
    let attn = heads * width;
    let Activations { x, mixed, modulation, scratch, .. } = a;
    let gate = gate.map(|part| &*modulation[part]);
    add_rows(config, x, gate, scratch, |first, out, scratch| {
        let rows = out.len() / d;
        let joined = &mut scratch.hidden;
        joined.resize(rows * attn, 0.0);
        for (r, row) in joined.chunks_exact_mut(attn).enumerate() {
            let (b, token) = ((first + r) / t, (first + r) % t);
            for (head, part) in row.chunks_exact_mut(width).enumerate() {
                part.copy_from_slice(row_of(mixed, width, (b * heads + head) * t + token));
            }
        }
        proj.apply(|r| row_of(joined, attn, r), out);
    });
}

/// `softmax(q·kᵀ/√d)·v` of one head of one sample, `[T, d]`, over `count` keys; `part(0 | 1 | 2, token)` is a
/// query, key or value.
pub(super) fn one_head<'a>(
    count: usize,
    width: usize,
    part: impl Fn(usize, usize) -> &'a [f32],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    /// Queries at a time, so that their scores stay in the cache.
    const QUERIES: usize = 48;
    let Scratch { keys, values, hidden: scores, .. } = scratch;
    Matrix::pack_rows(keys, count, width, |token| part(1, token));
    Matrix::pack_columns(values, width, count, |token| part(2, token));
    for (chunk, out) in out.chunks_mut(QUERIES * width).enumerate() {
        scores.resize(out.len() / width * count, 0.0);
        keys.apply(None, |r| part(0, chunk * QUERIES + r), scores);
        softmax_rows(scores, count, 1.0 / (width as f32).sqrt());
        values.apply(None, |r| row_of(scores, count, r), out);
    }
}

/// The final layer, and patches back in their places: `[B, C_out, h, w]`. In a patch the channel varies
/// fastest.
fn head(config: &Config, w: &Weights, a: &mut Activations, output: &mut [f32]) {
    let (d, t, p) = (config.hidden_size, config.tokens(), config.patch_size);
    let ([height, columns], [_, across]) = (config.input_size, config.grid());
    let channels = config.out_channels;
    let width = p * p * channels;
    modulate(&w.final_ada_ln, a);
    normalise(a, config, 0);
    let Activations { batch, h, patches, .. } = a;
    let patches = &mut patches[..*batch * t * width];
    let rows = row_chunk(*batch * t);
    patches.par_chunks_mut(rows * width).enumerate().for_each(|(chunk, out)| {
        w.final_linear.apply(|r| row_of(h, d, chunk * rows + r), out);
    });
    for (s, patch) in patches.chunks_exact(width).enumerate() {
        let (b, row, column) = (s / t, s % t / across, s % across);
        for (cell, values) in patch.chunks_exact(channels).enumerate() {
            let (y, x) = (row * p + cell / p, column * p + cell % p);
            for (channel, &value) in values.iter().enumerate() {
                output[((b * channels + channel) * height + y) * columns + x] = value;
            }
        }
    }
}
