//! The diffusion transformer's forward pass, as a list of kernels (paper §3.1; `DiT` with adaLN-Zero).
//!
//! It comes in pieces, because a denoising step wraps the same blocks in different inputs and outputs:
//! [`Network::enter`], each [`Network::block`], [`Network::leave`].

use super::activations::Activations;
use super::prompts::Reading;
use super::weights::{OnGpu, Weights};
use crate::engine::{Scope, Stage};
use crate::gpu::{Gpu, Tape, Tensor};
use crate::kernels::{
    Attention, EmbedCondition, Epilogue, HeadNorm, Linear, Matrix, Modulate, Patchify, Unpatchify,
};
use crate::model::{Config, CrossAttention, Ffn, Mlp, RoutingRule};
use crate::scheduler::Latent;

/// All that recording needs.
pub(super) struct Network<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) config: &'a Config,
    pub(super) weights: &'a Weights,
    pub(super) acts: &'a Activations,
    /// How experts get their tokens in this run.
    pub(super) rule: RoutingRule,
}

/// Columns of one block's vectors in the modulation, each `D` wide.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) shift_attention: usize,
    pub(super) scale_attention: usize,
    pub(super) gate_attention: usize,
    pub(super) shift_ffn: usize,
    pub(super) scale_ffn: usize,
    pub(super) gate_ffn: usize,
}

impl Columns {
    /// Of a block whose adaLN layer begins at row `first` of all of them.
    fn of(first: usize, d: usize) -> Self {
        let at = |n: usize| first + n * d;
        Self {
            shift_attention: at(0),
            scale_attention: at(1),
            gate_attention: at(2),
            shift_ffn: at(3),
            scale_ffn: at(4),
            gate_ffn: at(5),
        }
    }
}

impl Network<'_> {
    /// From a sample, its times, labels and prompts to the residual stream and the modulation of all blocks.
    ///
    /// `sinusoids` is `[B, 256]` (see [`crate::kernels::embed_condition::time_embedding`]), `rows` the
    /// label rows `[tables, B]`.
    pub(super) fn enter(
        &self,
        input: Latent,
        sinusoids: &Tensor,
        rows: &Tensor,
        text: Option<&Reading>,
    ) -> Tape<Scope> {
        let Self { gpu, config, weights, acts: a, .. } = *self;
        let w = &weights.tree;
        let scope = Scope::from(Stage::Condition);
        let mut tape = Tape::default();
        let t = &mut tape;
        Linear::new(sinusoids, &w.t_embedder[0], &a.time_hidden).silu().record(gpu, t, scope);
        let pooled = text.map_or(Epilogue::Store, |text| Epilogue::Table(&text.pooled));
        Linear::new(&a.time_hidden, &w.t_embedder[1], &a.time).ending(pooled).record(gpu, t, scope);
        let labels = &w.label_tables.rows;
        let condition = EmbedCondition { time: &a.time, labels, rows, y: &a.condition };
        t.push(gpu, scope, &condition);
        Linear::new(&a.condition, &weights.adaln_modulation, &a.modulation).record(gpu, t, scope);
        let patchify = Patchify {
            latents: &a.latents,
            first: a.region(config, input).first,
            samples: a.samples,
            channels: config.in_channels,
            size: config.input_size,
            patch: config.patch_size,
            y: &a.patches,
        };
        t.push(gpu, scope, &patchify);
        let positions = Epilogue::Table(&w.pos_embed);
        Linear::new(&a.patches, &w.x_embedder, &a.stream).ending(positions).record(gpu, t, scope);
        tape
    }

    /// Block `i`: attention, then a feed-forward network or experts, each as a gated residual branch; between
    /// them attention to the keys and values of prompts, if the model reads text.
    pub(super) fn block(&self, i: usize, text: Option<(&Reading, &Tensor)>) -> Tape<Scope> {
        let Self { gpu, config, weights, acts: a, .. } = *self;
        let w = &weights.tree.blocks[i];
        let columns = Columns::of(w.adaln_modulation, config.hidden_size);
        let scope = Scope::of_block(i, Stage::Attention);
        let mut tape = Tape::default();
        let t = &mut tape;
        self.modulate(t, scope, columns.shift_attention, columns.scale_attention);
        Linear::new(&a.normal, &w.attn.qkv, &a.qkv).record(gpu, t, scope);
        let heads = config.num_heads;
        if let Some(norms) = &w.attn.qk_norm {
            let affine = &norms.rows;
            t.push(gpu, scope, &HeadNorm { affine, heads, qkv: &a.qkv });
        }
        t.push(gpu, scope, &Attention::to_itself(&a.qkv, a.batch, heads, &a.attended));
        let branch = self.gated(columns.gate_attention);
        Linear::new(&a.attended, &w.attn.proj, &a.stream).ending(branch).record(gpu, t, scope);
        if let (Some(cross), Some((reading, memory))) = (&w.cross_attn, text) {
            self.cross_attention(t, scope, cross, reading, memory);
        }

        let [router, experts] = [Stage::Router, Stage::Experts].map(|s| Scope::of_block(i, s));
        match &w.mlp {
            Mlp::Dense(mlp) => {
                self.modulate(t, experts, columns.shift_ffn, columns.scale_ffn);
                self.mlp(t, experts, mlp, &a.hidden, columns.gate_ffn);
            }
            Mlp::Moe(moe) => {
                self.modulate(t, router, columns.shift_ffn, columns.scale_ffn);
                self.moe(t, i, moe, columns.gate_ffn);
            }
        }
        tape
    }

    /// `stream += proj(Attention(q_linear(stream), keys, values))`, without norm, modulation or gate.
    fn cross_attention(
        &self,
        t: &mut Tape<Scope>,
        scope: Scope,
        w: &CrossAttention<OnGpu>,
        text: &Reading,
        memory: &Tensor,
    ) {
        let (gpu, a) = (self.gpu, self.acts);
        Linear::new(&a.stream, &w.q_linear, &a.queries).record(gpu, t, scope);
        let heads = self.config.num_heads;
        let attention = Attention::to_memory(&a.queries, memory, &text.spans, heads, &a.attended);
        t.push(gpu, scope, &attention);
        let back = Linear::new(&a.attended, &w.proj, &a.stream).ending(Epilogue::Add);
        back.record(gpu, t, scope);
    }

    /// From the residual stream to a slot, or from both branches to this slot and the next.
    pub(super) fn leave(&self, output: Latent) -> Tape<Scope> {
        let Self { gpu, config, weights, acts: a, .. } = *self;
        let w = &weights.tree.final_layer;
        let mut tape = Tape::default();
        let t = &mut tape;
        let shift = w.adaln_modulation;
        let scope = Scope::from(Stage::Final);
        self.modulate(t, scope, shift, shift + config.hidden_size);
        Linear::new(&a.normal, &w.linear, &a.out).record(gpu, t, scope);
        let unpatchify = Unpatchify {
            x: &a.out,
            latents: &a.latents,
            first: a.region(config, output).first,
            channels: config.out_channels,
            size: config.input_size,
            patch: config.patch_size,
        };
        t.push(gpu, scope, &unpatchify);
        tape
    }

    /// A feed-forward network on all tokens: `stream += gate ⊙ FFN(normal)`.
    pub(super) fn mlp(
        &self,
        t: &mut Tape<Scope>,
        scope: Scope,
        w: &Ffn<Matrix>,
        hidden: &Tensor,
        gate: usize,
    ) {
        let (gpu, a) = (self.gpu, self.acts);
        let (first, up, down) = w.layers();
        Linear::new(&a.normal, first, hidden).gelu_or_swiglu(up).record(gpu, t, scope);
        Linear::new(hidden, down, &a.stream).ending(self.gated(gate)).record(gpu, t, scope);
    }

    /// `normal = LN(stream)·(1 + scale) + shift`
    fn modulate(&self, t: &mut Tape<Scope>, scope: Scope, shift: usize, scale: usize) {
        let a = self.acts;
        let call = Modulate { x: &a.stream, modulation: &a.modulation, shift, scale, y: &a.normal };
        t.push(self.gpu, scope, &call);
    }

    /// The end of a residual branch.
    fn gated(&self, first: usize) -> Epilogue<'_> {
        Epilogue::Gated { modulation: &self.acts.modulation, first, tokens: self.config.tokens() }
    }
}
