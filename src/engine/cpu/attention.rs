//! Attention of the tokens of a sample to each other, and the one head that every attention is made of.

use rayon::prelude::*;

use super::activations::{Activations, add_rows, modulate, row_of};
use super::weights::{Linear, OnCpu};
use crate::model::{Config, NormForm, SelfAttention};
use crate::simd::math::{head_norm, softmax_rows};
use crate::simd::matmul::{Matrix, rows_of};
use crate::simd::threads::{Scratch, row_chunk};

/// `x += gate ⊙ proj(softmax(q·kᵀ/√d)·v)` of a block, head by head.
pub(super) fn attention(
    config: &Config,
    (block, w): (usize, &SelfAttention<OnCpu>),
    a: &mut Activations,
) {
    let (d, t, heads, width) =
        (config.hidden_size, config.stream_tokens(), config.num_heads, config.head_dim);
    let attn = heads * width;
    modulate(a, config, 0);
    let Activations { h, qkv, attended, rotations, scratch, .. } = a;

    let rows = row_chunk(h.len() / d);
    qkv.par_chunks_mut(rows * 3 * attn).enumerate().for_each(|(chunk, qkv)| {
        w.qkv.apply(|r| row_of(h, d, chunk * rows + r), qkv);
        // A row holds the queries of all heads, then their keys.
        let norms = w.qk_norm.as_deref().unwrap_or_default();
        let norms = norms.chunks_exact(if config.norm == NormForm::Rms { 1 } else { 2 });
        for (r, row) in qkv.chunks_exact_mut(3 * attn).enumerate() {
            for (part, norm) in row.chunks_exact_mut(attn).zip(norms.clone()) {
                for head in part.chunks_exact_mut(width) {
                    head_norm(head, &norm[0], norm.get(1).map(Vec::as_slice), config.qk_norm_eps);
                }
            }
            if config.rope {
                let angles = &rotations[(chunk * rows + r) % t * (width / 2)..][..width / 2];
                for head in row[..2 * attn].chunks_exact_mut(width) {
                    rotate(head, angles);
                }
            }
        }
    });

    attended.par_chunks_mut(t * width).enumerate().for_each(|(task, out)| {
        let (b, head) = (task / heads, task % heads);
        // Part 0 of a token's row holds its queries, 1 its keys, 2 its values.
        let part = |which: usize, token: usize| {
            &row_of(qkv, 3 * attn, b * t + token)[(which * heads + head) * width..][..width]
        };
        scratch.with(|scratch| one_head(config.keys_in(block), width, part, scratch, out));
    });

    project_heads(config, &w.proj, a, Some(2));
}

/// Turns a query or key by the angles of its token: in each half of it, the numbers `i` and `i + d/4` are a pair.
fn rotate(head: &mut [f32], angles: &[[f32; 2]]) {
    let quarter = head.len() / 4;
    for (half, angles) in head.chunks_exact_mut(2 * quarter).zip(angles.chunks_exact(quarter)) {
        let (first, second) = half.split_at_mut(quarter);
        for ((a, b), &[cos, sin]) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// `x += proj(heads)`, gated by a part of the modulation if one is given.
pub(super) fn project_heads(
    config: &Config,
    proj: &Linear,
    a: &mut Activations,
    gate: Option<usize>,
) {
    let (d, t, heads, width) =
        (config.hidden_size, config.stream_tokens(), config.num_heads, config.head_dim);
    let attn = heads * width;
    let Activations { x, attended, modulation, scratch, .. } = a;
    let gate = gate.map(|part| &*modulation[part]);
    add_rows(config, x, gate, scratch, |first, out, scratch| {
        let rows = out.len() / d;
        let joined = &mut scratch.hidden;
        joined.resize(rows * attn, 0.0);
        for (r, row) in joined.chunks_exact_mut(attn).enumerate() {
            let (b, token) = ((first + r) / t, (first + r) % t);
            for (head, part) in row.chunks_exact_mut(width).enumerate() {
                part.copy_from_slice(row_of(attended, width, (b * heads + head) * t + token));
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
        let rows = out.len() / width;
        let queries: Vec<&[f32]> = (0..rows).map(|r| part(0, chunk * QUERIES + r)).collect();
        scores.resize(rows * count, 0.0);
        keys.apply(None, &queries, scores);
        softmax_rows(scores, count, 1.0 / (width as f32).sqrt());
        values.apply(None, &rows_of(scores, count), out);
    }
}
