//! The working memory of a forward pass, and how the pieces of a block read and update it.

use half::f16;
use rayon::prelude::*;

use super::router::Assignments;
use crate::engine::contract::{LayerRouting, Scores, of_patches};
use crate::model::{Config, Kind, rotations};
use crate::simd::math::{add_gated, add_scaled, modulated_norm};
use crate::simd::threads::{Scratch, ScratchPool, row_chunk};

/// Every intermediate value of a pass; allocated once.
pub(super) struct Activations {
    /// `B`
    pub(super) batch: usize,
    /// Residual stream, `[S, D]`, `S = B·T` where `T` counts tokens that carry the labels, too
    pub(super) x: Vec<f32>,
    /// Modulated layer norm of `x`, the input of whatever comes next, `[S, D]`
    pub(super) h: Vec<f32>,
    /// `SiLU(c)` of each sample, `[B, D]`
    pub(super) conditioning: Vec<f32>,
    /// The current modulation: shift, scale and gate, twice, each `[B, D]`
    pub(super) modulation: Vec<Vec<f32>>,
    /// `[S, 3·H·d]`
    pub(super) qkv: Vec<f32>,
    /// Attention's weighted sums of values, `[B, H, T, d]`
    pub(super) attended: Vec<f32>,
    /// Patches of the input, `[S, C·p·p]`, and of the output, `[S, p·p·C_out]`
    pub(super) patches: Vec<f32>,
    /// Angles of queries and keys by token, as cosine and sine, `[T, d/2]`; empty without rotary positions
    pub(super) rotations: Vec<[f32; 2]>,
    /// Weights of the experts, `[S, E]`: softmax of the gate; with a sigmoid router 0 where an expert is not chosen
    pub(super) gate: Vec<f32>,
    /// Sigmoid of the capacity predictor, `[S, E]`; empty unless the model is a `DiffMoE`
    pub(super) need: Vec<f32>,
    /// Both as they are recorded; `None` unless they are
    pub(super) scores: Option<Scores>,
    /// Which experts take a token, `[S]`, one bit each
    pub(super) masks: Vec<u64>,
    /// The same, as lists
    pub(super) assignments: Assignments,
    /// Outputs of the experts, grouped by expert, `[Σ tokens, D]`; grows as needed
    pub(super) expert_output: Vec<f32>,
    /// Time that the router of the last MoE layer took, in milliseconds
    pub(super) router_ms: f32,
    /// Scratch memory of each thread
    pub(super) scratch: ScratchPool,
}

impl Activations {
    pub(super) fn new(config: &Config, batch: usize) -> Self {
        let (s, d, e) = (batch * config.stream_tokens(), config.hidden_size, config.num_experts);
        let attn = config.num_heads * config.head_dim;
        let patch = config.patch_size.pow(2) * config.in_channels.max(config.out_channels);
        let diff = config.kind == Kind::DiffMoe;
        Self {
            batch,
            x: vec![0.0; s * d],
            h: vec![0.0; s * d],
            conditioning: vec![0.0; batch * d],
            modulation: vec![vec![0.0; batch * d]; 6],
            qkv: vec![0.0; s * 3 * attn],
            attended: vec![0.0; s * attn],
            patches: vec![0.0; s * patch],
            rotations: if config.rope { rotations(config) } else { Vec::new() },
            gate: vec![0.0; s * e],
            need: vec![0.0; if diff { s * e } else { 0 }],
            scores: None,
            masks: vec![0; s],
            assignments: Assignments::default(),
            expert_output: Vec::new(),
            router_ms: 0.0,
            scratch: ScratchPool::default(),
        }
    }

    /// The routing of the MoE layer that was computed last, of the tokens of patches.
    pub(super) fn routing(&self, config: &Config, block: usize) -> LayerRouting {
        let masks = of_patches(config, 1, self.masks.clone());
        let scores = self.scores.clone().map(|scores| Scores {
            gate: of_patches(config, config.num_experts, scores.gate),
            need: of_patches(config, config.num_experts, scores.need),
            ..scores
        });
        LayerRouting { block, masks, scores }
    }

    /// Allocates memory for the scores of a layer, or frees it.
    pub(super) fn record(&mut self, is_wanted: bool) {
        if is_wanted == self.scores.is_some() {
            return;
        }
        let room = |len| vec![f16::ZERO; len];
        self.scores = is_wanted.then(|| Scores {
            gate: room(self.gate.len()),
            need: room(self.need.len()),
            thresholds: Vec::new(),
        });
    }
}

/// Row `r` of a matrix of `width` columns.
pub(super) fn row_of(matrix: &[f32], width: usize, r: usize) -> &[f32] {
    &matrix[r * width..][..width]
}

/// `h = LN(x)·(1 + scale) + shift`, or with an RMS norm, with parts `which` and `which + 1` of the modulation.
pub(super) fn modulate(a: &mut Activations, config: &Config, which: usize) {
    let (d, t) = (config.hidden_size, config.stream_tokens());
    let [shift, scale] = [which, which + 1].map(|i| &a.modulation[i]);
    let rows = row_chunk(a.batch * t);
    let x = a.x.par_chunks(rows * d);
    a.h.par_chunks_mut(rows * d).zip(x).enumerate().for_each(|(chunk, (h, x))| {
        let tokens = x.chunks_exact(d).zip(h.chunks_exact_mut(d));
        for (r, (x, h)) in tokens.enumerate() {
            let sample = (chunk * rows + r) / t;
            let [shift, scale] = [shift, scale].map(|part| row_of(part, d, sample));
            modulated_norm(config.norm.centring(), x, [shift, scale], h);
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
    let (d, t) = (config.hidden_size, config.stream_tokens());
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
