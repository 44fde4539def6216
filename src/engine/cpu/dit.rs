//! The forward pass, from noisy sample to velocity or noise.
//!
//! ```text
//! x = patches(sample) + positions, if they are not in attention     [S, D]    unit 0
//! c = mlp(sinusoid(t)) + prompt + Σ labels, or blends of two         [B, D]
//! tokens that carry the labels come in before one of the blocks, if there are any
//! for each block, with (shift, scale, gate) ×2 = Linear(SiLU(c)):
//!     x += gate ⊙ Attention(LN(x)·(1 + scale) + shift)                        unit 1 + 2i
//!     x += Attention to the prompt, if the model reads text                    unit 1 + 2i
//!     x += gate ⊙ FFN or MoE(LN(x)·(1 + scale) + shift)                       unit 2 + 2i
//! output = unpatchify(Linear(LN(x)·(1 + scale) + shift))  [B, C_out, h, w]    unit 1 + 2·depth
//! output += detail head(output, sample, t), where the model has one           unit 2 + 2·depth
//! ```
//!
//! A pass is cut in units so that a user interface can do something else between two of them.
//! Inside a unit, threads share rows, heads or experts, never a sum: results do not depend on their
//! number.

use rayon::prelude::*;

use super::activations::{Activations, add_rows, modulate, row_of};
use super::attention::attention;
use super::detail::detail_head;
use super::moe::{LayerRouter, moe};
use super::prompts::{PromptView, cross_attention};
use super::weights::{Linear, Weights};
use crate::engine::contract::Stage;
use crate::engine::time_mlp::embed_time;
use crate::model::{Config, LabelRow, Mlp, Muted, Routing, Shifts};
use crate::simd::math::silu;
use crate::simd::threads::row_chunk;

/// What a pass is computed from.
pub(super) struct Input<'a> {
    /// `[B, C, h, w]`
    pub(super) sample: &'a [f32],
    /// `[B]`, those of the run
    pub(super) times: &'a [f32],
    /// For each label table, `[B]`
    pub(super) labels: &'a [Vec<LabelRow>],
    /// The prompts that the samples see, if the model reads text
    pub(super) text: Option<PromptView<'a>>,
    /// How experts pick
    pub(super) routing: Routing,
    /// Experts that take no tokens
    pub(super) muted: &'a Muted,
    /// Thresholds of single layers and experts that are moved
    pub(super) shifts: &'a Shifts,
    /// Whether [`Activations::scores`] are kept
    pub(super) record_scores: bool,
}

impl<'a> Input<'a> {
    /// How experts pick in one block.
    fn router(&self, block: usize) -> LayerRouter<'a> {
        let Self { routing, muted, shifts, labels, record_scores, .. } = *self;
        LayerRouter { routing, muted: muted.mask(block), shifts, block, labels, record_scores }
    }
}

/// Number of units of a pass.
pub(super) fn units(config: &Config) -> usize {
    final_unit(config) + 1 + usize::from(config.detail_channels > 0)
}

/// The unit of the final layer.
pub(super) fn final_unit(config: &Config) -> usize {
    2 * config.depth + 1
}

/// The block whose MoE layer a unit computes, if it does.
pub(super) fn moe_block(config: &Config, unit: usize) -> Option<usize> {
    let block = unit.checked_sub(2)? / 2;
    (unit.is_multiple_of(2) && block < config.depth && config.is_moe(block)).then_some(block)
}

/// The phase of a unit, for timings; the router's part of an MoE layer is separated there.
pub(super) fn stage_of(config: &Config, unit: usize) -> Stage {
    match unit {
        0 => Stage::Condition,
        last if last == final_unit(config) => Stage::Final,
        past if past > final_unit(config) => Stage::Detail,
        odd if odd % 2 == 1 => Stage::Attention,
        _ => Stage::Experts,
    }
}

/// Computes one unit; `output`, `[B, C_out, h, w]`, is written by the final layer and finished by the detail head.
pub(super) fn run_unit(
    unit: usize,
    config: &Config,
    w: &Weights,
    a: &mut Activations,
    input: &Input,
    output: &mut [f32],
) {
    if unit == 0 {
        embed_patches(config, w, a, input.sample);
        embed_conditions(config, w, a, input);
        return;
    }
    let Some(block) = w.blocks.get((unit - 1) / 2) else {
        match &w.detail_head {
            Some(head) if unit > final_unit(config) => {
                detail_head(config, head, input.sample, input.times, output);
            }
            _ => final_layer(config, w, a, output),
        }
        return;
    };
    if unit % 2 == 1 {
        if config.context_enters(unit / 2).is_some() {
            embed_context(config, w, a, input);
        }
        modulation(&block.adaln_modulation, a);
        attention(config, (unit / 2, &block.attn), a);
        if let (Some(cross), Some(text)) = (&block.cross_attn, input.text) {
            cross_attention(config, (unit / 2, cross), a, text);
        }
    } else {
        modulate(a, config, 3);
        match &block.mlp {
            Mlp::Dense(ffn) => {
                let Activations { x, h, modulation, scratch, .. } = a;
                add_rows(config, x, Some(&modulation[5]), scratch, |first, out, scratch| {
                    ffn.apply(|r| row_of(h, config.hidden_size, first + r), scratch, out);
                });
            }
            Mlp::Moe(layer) => moe(config, layer, a, input.router((unit - 1) / 2)),
        }
    }
}

/// `x = patches·Wᵀ + b + positions`. A patch is read channel by channel, row by row, as a convolution does.
fn embed_patches(config: &Config, w: &Weights, a: &mut Activations, sample: &[f32]) {
    let (d, t, p) = (config.hidden_size, config.stream_tokens(), config.patch_size);
    let ([height, columns], [_, across]) = (config.input_size, config.grid());
    let width = config.in_channels * p * p;
    let patches = &mut a.patches[..a.batch * t * width];
    for (s, patch) in patches.chunks_exact_mut(width).enumerate() {
        let (b, token) = (s / t, s % t);
        if token >= config.tokens() {
            patch.fill(0.0);
            continue;
        }
        let (row, column) = (token / across, token % across);
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
            let Some(positions) = &w.pos_embed else { break };
            let token = (first + r) % t;
            if token >= config.tokens() {
                continue;
            }
            let position = row_of(positions, d, token);
            x.iter_mut().zip(position).for_each(|(x, p)| *x += p);
        }
    });
}

/// `conditioning = SiLU(mlp(sinusoid(t)) + Σ label rows)`.
fn embed_conditions(config: &Config, w: &Weights, a: &mut Activations, input: &Input) {
    let d = config.hidden_size;
    for (b, c) in a.conditioning.chunks_exact_mut(d).enumerate() {
        c.copy_from_slice(&embed_time(&w.t_embedder, config.model_time(input.times[b])));
        if let Some(text) = &input.text {
            c.iter_mut().zip(text.pooled(b)).for_each(|(c, p)| *c += p);
        }
        add_labels(w, input, b, c);
        silu(c);
    }
}

/// `c += Σ label rows` of a sample.
fn add_labels(w: &Weights, input: &Input, sample: usize, c: &mut [f32]) {
    let d = c.len();
    for (table, rows) in w.label_tables.iter().zip(input.labels) {
        let LabelRow { rows: [row, other], share } = rows[sample];
        let label = row_of(table, d, row as usize);
        if share == 0.0 {
            c.iter_mut().zip(label).for_each(|(c, l)| *c += l);
        } else {
            let both = label.iter().zip(row_of(table, d, other as usize));
            c.iter_mut().zip(both).for_each(|(c, (l, o))| *c += (1.0 - share) * l + share * o);
        }
    }
}

/// Behind the patches of each sample: `x = positions + Σ label rows`.
fn embed_context(config: &Config, w: &Weights, a: &mut Activations, input: &Input) {
    let d = config.hidden_size;
    let Some(positions) = &w.context else { return };
    for (b, sample) in a.x.chunks_exact_mut(config.stream_tokens() * d).enumerate() {
        let context = &mut sample[config.tokens() * d..];
        context.copy_from_slice(positions);
        for token in context.chunks_exact_mut(d) {
            add_labels(w, input, b, token);
        }
    }
}

/// The shifts, scales and gates that follow from the conditioning.
fn modulation(parts: &[Linear], a: &mut Activations) {
    let Activations { conditioning, modulation, .. } = a;
    let d = conditioning.len() / a.batch;
    parts.par_iter().zip(modulation).with_max_len(1).for_each(|(part, out)| {
        part.apply(|b| row_of(conditioning, d, b), out);
    });
}

/// The final layer, and patches back in their places: `[B, C_out, h, w]`. In a patch the channel varies
/// fastest.
fn final_layer(config: &Config, w: &Weights, a: &mut Activations, output: &mut [f32]) {
    let (d, t, p) = (config.hidden_size, config.stream_tokens(), config.patch_size);
    let ([height, columns], [_, across]) = (config.input_size, config.grid());
    let channels = config.out_channels;
    let width = p * p * channels;
    modulation(&w.final_layer.adaln_modulation, a);
    modulate(a, config, 0);
    let Activations { batch, h, patches, .. } = a;
    let patches = &mut patches[..*batch * t * width];
    let rows = row_chunk(*batch * t);
    patches.par_chunks_mut(rows * width).enumerate().for_each(|(chunk, out)| {
        w.final_layer.linear.apply(|r| row_of(h, d, chunk * rows + r), out);
    });
    for (s, patch) in patches.chunks_exact(width).enumerate() {
        let (b, token) = (s / t, s % t);
        if token >= config.tokens() {
            continue;
        }
        let (row, column) = (token / across, token % across);
        for (cell, values) in patch.chunks_exact(channels).enumerate() {
            let (y, x) = (row * p + cell / p, column * p + cell % p);
            for (channel, &value) in values.iter().enumerate() {
                output[((b * channels + channel) * height + y) * columns + x] = value;
            }
        }
    }
}
