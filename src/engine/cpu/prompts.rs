//! The text encoder, and cross-attention to its states (see `docs/models-text.md`).

use rayon::prelude::*;

use super::activations::{Activations, row_of};
use super::attention::{one_head, project_heads};
use super::weights::{OnCpu, Weights};
use crate::engine::run_prompts::RunPrompts;
use crate::model::{Config, CrossAttention, TextConfig, TextEncoder};
use crate::simd::math::modulated_norm;
use crate::simd::threads::{Scratch, ScratchPool, row_chunk};
use crate::tokenizer::Tokens;

/// The encoded form of one prompt of a run.
pub(super) struct Encoded {
    /// Tokens before the padding
    count: usize,
    /// The encoder's output, `[L, D_t]`
    pub(super) states: Vec<f32>,
    /// What it adds to the conditioning, `[D]`
    pub(super) pooled: Vec<f32>,
    /// For each block, keys and values `[L, 2·H·d]`
    pub(super) memory: Vec<Vec<f32>>,
}

/// Encodes every prompt of a run.
pub(super) fn encode(config: &Config, w: &Weights, prompts: &RunPrompts) -> Vec<Encoded> {
    let (Some(text), Some(encoder)) = (&config.text, &w.text_encoder) else { return Vec::new() };
    let pool = ScratchPool::default();
    let one = |tokens: &Tokens| {
        pool.with(|scratch| {
            let states = encoder.states(text, tokens, scratch);
            let mut pooled = vec![0.0; config.hidden_size];
            encoder.text_pool.apply(|_| &states[..text.hidden_size], &mut pooled);
            let memory =
                w.blocks.iter().filter_map(|block| block.cross_attn.as_ref()).map(|cross| {
                    let mut rows = vec![0.0; text.max_length * cross.kv_linear.outputs()];
                    cross.kv_linear.apply(|r| row_of(&states, text.hidden_size, r), &mut rows);
                    rows
                });
            let memory = memory.collect();
            Encoded { count: tokens.count, states, pooled, memory }
        })
    };
    prompts.distinct.par_iter().map(one).collect()
}

impl TextEncoder<OnCpu> {
    /// `[L, D_t]`
    fn states(&self, text: &TextConfig, tokens: &Tokens, scratch: &mut Scratch) -> Vec<f32> {
        let d = text.hidden_size;
        let mut x: Vec<f32> = Vec::with_capacity(tokens.ids.len() * d);
        for (at, &id) in tokens.ids.iter().enumerate() {
            let places = row_of(&self.position_embedding, d, at);
            x.extend(
                row_of(&self.token_embedding, d, id as usize)
                    .iter()
                    .zip(places)
                    .map(|(x, p)| x + p),
            );
        }
        let mut h = vec![0.0; x.len()];
        let mut y = vec![0.0; x.len()];
        let mut qkv = vec![0.0; 3 * x.len()];
        for layer in &self.layers {
            normalise(d, &x, &mut h);
            layer.attn.qkv.apply(|r| row_of(&h, d, r), &mut qkv);
            attend(text.num_heads, d, tokens.count, &qkv, scratch, &mut h);
            layer.attn.proj.apply(|r| row_of(&h, d, r), &mut y);
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);

            normalise(d, &x, &mut h);
            layer.mlp.apply(|r| row_of(&h, d, r), scratch, &mut y);
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
        }
        normalise(d, &x, &mut h);
        h
    }
}

/// Layer norm of every row, without shift and scale.
fn normalise(d: usize, x: &[f32], out: &mut [f32]) {
    let zeros = vec![0.0; d];
    for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
        modulated_norm(1.0, x, [&zeros, &zeros], out);
    }
}

/// Attention of all tokens of a prompt to its first `count`, head by head: `out` is `[L, D_t]`.
fn attend(
    heads: usize,
    d: usize,
    count: usize,
    qkv: &[f32],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
    let (width, tokens) = (d / heads, out.len() / d);
    let mut attended = vec![0.0; tokens * width];
    for head in 0..heads {
        let part = |which: usize, token: usize| {
            &row_of(qkv, 3 * d, token)[which * d + head * width..][..width]
        };
        one_head(count, width, part, scratch, &mut attended);
        for (row, from) in out.chunks_exact_mut(d).zip(attended.chunks_exact(width)) {
            row[head * width..][..width].copy_from_slice(from);
        }
    }
}

/// The prompts that the samples of a pass see.
#[derive(Clone, Copy)]
pub(super) struct PromptView<'a> {
    /// Every prompt of the run
    pub(super) prompts: &'a [Encoded],
    /// For each sample an index into them, `[B]`
    pub(super) of_samples: &'a [usize],
}

impl<'a> PromptView<'a> {
    /// What a sample's prompt adds to its conditioning, `[D]`.
    pub(super) fn pooled(&self, sample: usize) -> &'a [f32] {
        &self.prompts[self.of_samples[sample]].pooled
    }
}

/// `x += proj(Attention(q_linear(x), keys, values))` of block `block`.
pub(super) fn cross_attention(
    config: &Config,
    (block, w): (usize, &CrossAttention<OnCpu>),
    a: &mut Activations,
    text: PromptView,
) {
    let (d, t, heads, width) =
        (config.hidden_size, config.stream_tokens(), config.num_heads, config.head_dim);
    let attention = heads * width;
    let queries = &mut a.qkv[..a.batch * t * attention];
    let rows = row_chunk(a.batch * t);
    queries.par_chunks_mut(rows * attention).enumerate().for_each(|(chunk, queries)| {
        w.q_linear.apply(|r| row_of(&a.x, d, chunk * rows + r), queries);
    });
    let queries = &*queries;
    a.attended.par_chunks_mut(t * width).enumerate().for_each(|(task, out)| {
        let (sample, head) = (task / heads, task % heads);
        let prompt = &text.prompts[text.of_samples[sample]];
        let memory = &prompt.memory[block];
        let part = |which: usize, token: usize| match which {
            0 => &row_of(queries, attention, sample * t + token)[head * width..][..width],
            // Keys of all heads, then values.
            _ => &row_of(memory, 2 * attention, token)[((which - 1) * heads + head) * width..]
                [..width],
        };
        a.scratch.with(|scratch| one_head(prompt.count, width, part, scratch, out));
    });
    project_heads(config, &w.proj, a, None);
}
