//! The diffusion transformer's forward pass, as a list of kernels (paper §3.1; `DiT` with adaLN-Zero).
//!
//! It comes in pieces, because a denoising step wraps the same blocks in different inputs and outputs:
//! [`Network::embed`], each [`Network::block`], [`Network::final_layer`], [`Network::detail_head`].

use super::activations::{Activations, MoeActivations};
use super::labels::Labels;
use super::prompts::PromptView;
use super::weights::{OnGpu, Weights};
use crate::engine::{Scope, Stage};
use crate::gpu::{Gpu, Profile, Tape, Tensor};
use crate::kernels::linear_normal::LONGEST_ROW;
use crate::kernels::{
    Attention, Conditioning, EmbedContext, Epilogue, HeadNorm, Linear, Matrix, Modulate, Norm,
    NormedLinear, PassInputs, Patches, RotateHeads,
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
    /// Equal parts of the tokens that compete among themselves under [`RoutingRule::Pool`].
    pub(super) pools: usize,
    /// Whether experts leave the layer norm after their block behind, where the device does that on the way. Not for
    /// those who look at what is between them.
    pub(super) fuses: bool,
}

/// Where the routing of a layer is kept.
#[derive(Clone, Copy)]
pub(super) struct Records<'a> {
    /// The masks of each token, one bit for each expert, in words of 32.
    pub(super) trace: &'a Tensor,
    /// For each of these tokens E pairs of f16, the router's scores; empty where they are not recorded.
    pub(super) scores: &'a Tensor,
    /// Tokens in the trace before those of this layer.
    pub(super) first: usize,
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
    /// Asks a stand-in for the device for every pipeline of a pass.
    pub(super) fn rehearse(&self) {
        let Self { gpu, config, acts: a, .. } = *self;
        debug_assert!(gpu.is_rehearsal(), "a pass is recorded for nothing");
        let times = Tensor::empty(gpu, "times", &[a.batch, config.hidden_size]);
        let labels = Labels::new(gpu, config.labels.len(), a.batch);
        self.embed(Latent::Sample, &times, &labels, None);
        for i in 0..config.depth {
            self.block(i, &labels, None, None);
        }
        self.final_layer(Latent::Output(0));
        let times = Tensor::empty(gpu, "times", &[a.batch]);
        self.detail_head(Latent::Sample, Latent::Output(0), &times);
    }

    /// From a sample, its times, labels and prompts to the residual stream and the modulation of all blocks.
    ///
    /// `times` are the embedded times `[B, D]` (see [`embed_time`](crate::engine::time_mlp::embed_time)).
    pub(super) fn embed(
        &self,
        input: Latent,
        times: &Tensor,
        Labels { rows, shares }: &Labels,
        text: Option<&PromptView>,
    ) -> Tape<Scope> {
        let Self { gpu, config, weights, acts: a, .. } = *self;
        let w = &weights.tree;
        let scope = Scope::from(Stage::Condition);
        let mut tape = Tape::default();
        let t = &mut tape;
        let conditioning = Conditioning {
            time: times,
            pooled: text.map(|text| &text.pooled),
            labels: &w.label_tables.rows,
            rows,
            shares,
            y: &a.conditioning,
        };
        let patches = Patches {
            latents: &a.latents,
            first: a.region(config, input).first,
            samples: a.samples,
            channels: config.in_channels,
            size: config.input_size,
            patch: config.patch_size,
            rows: config.stream_tokens(),
            y: &a.patches,
        };
        t.push(gpu, scope, &PassInputs { patches, conditioning });
        Linear::new(&a.conditioning, &weights.adaln_modulation, &a.modulation)
            .record(gpu, t, scope);
        let positions = w.pos_embed.as_ref().map_or(Epilogue::Store, Epilogue::Table);
        Linear::new(&a.patches, &w.x_embedder, &a.x).ending(positions).record(gpu, t, scope);
        tape
    }

    /// Block `i`: attention, then a feed-forward network or experts, each as a gated residual branch; between
    /// them attention to the keys and values of prompts, if the model reads text. `records` is where its routing is kept.
    pub(super) fn block(
        &self,
        i: usize,
        labels: &Labels,
        text: Option<(&PromptView, &Tensor)>,
        records: Option<Records>,
    ) -> Tape<Scope> {
        let Self { gpu, config, weights, acts: a, .. } = *self;
        let w = &weights.tree.blocks[i];
        let columns = Columns::of(w.adaln_modulation, config.hidden_size);
        let scope = Scope::of_block(i, Stage::Attention);
        let mut tape = Tape::default();
        let t = &mut tape;
        let context = config.context_enters(i).and(weights.tree.context.as_ref());
        if let Some(positions) = context {
            let Labels { rows, shares } = labels;
            let labels = &weights.tree.label_tables.rows;
            t.push(gpu, scope, &EmbedContext { labels, rows, shares, positions, x: &a.x });
        }
        let qkv = Linear::new(&a.h, &w.attn.qkv, &a.qkv);
        if i > 0 && self.norm_after(i - 1).is_some() {
            qkv.record(gpu, t, scope);
        } else {
            let norm = [columns.shift_attention, columns.scale_attention];
            self.normed(t, scope, norm, qkv, false);
        }
        let heads = config.num_heads;
        if let Some(norms) = &w.attn.qk_norm {
            let affine = &norms.rows;
            let (form, eps, qkv) = (config.norm, config.qk_norm_eps, &a.qkv);
            t.push(gpu, scope, &HeadNorm { form, affine, heads, eps, qkv });
        }
        if let Some(angles) = &weights.rotations {
            t.push(gpu, scope, &RotateHeads { angles, heads, qkv: &a.qkv });
        }
        let attention = Attention::to_itself(&a.qkv, a.batch, heads, &a.attended);
        let is_whole = config.keys_in(i) == config.stream_tokens();
        let attention = if is_whole { attention } else { attention.within(&a.patch_spans) };
        t.push(gpu, scope, &attention);
        let branch = self.gated(columns.gate_attention);
        Linear::new(&a.attended, &w.attn.proj, &a.x).ending(branch).record(gpu, t, scope);
        if let (Some(cross), Some((view, memory))) = (&w.cross_attn, text) {
            self.cross_attention(t, scope, cross, view, memory);
        }

        let [router, experts] = [Stage::Router, Stage::Experts].map(|s| Scope::of_block(i, s));
        match &w.mlp {
            Mlp::Dense(mlp) => self.mlp(t, experts, mlp, &a.hidden, columns),
            Mlp::Moe(moe) => {
                let norm = [columns.shift_ffn, columns.scale_ffn];
                // What router and experts read.
                match &moe.capacity_predictor {
                    Some([first, _]) => {
                        let to = &self.moe_memory().predictor_hidden;
                        let layer = Linear::new(&a.h, first, to).silu();
                        self.normed(t, router, norm, layer, true);
                    }
                    None => self.modulate(t, router, norm),
                }
                self.moe(t, i, moe, columns.gate_ffn, labels, records);
            }
        }
        tape
    }

    /// `x += proj(Attention(q_linear(x), keys, values))`, without norm, modulation or gate.
    fn cross_attention(
        &self,
        t: &mut Tape<Scope>,
        scope: Scope,
        w: &CrossAttention<OnGpu>,
        text: &PromptView,
        memory: &Tensor,
    ) {
        let (gpu, a) = (self.gpu, self.acts);
        Linear::new(&a.x, &w.q_linear, &a.queries).record(gpu, t, scope);
        let heads = self.config.num_heads;
        let attention = Attention::to_memory(&a.queries, memory, &text.spans, heads, &a.attended);
        t.push(gpu, scope, &attention);
        let back = Linear::new(&a.attended, &w.proj, &a.x).ending(Epilogue::Add);
        back.record(gpu, t, scope);
    }

    /// From the residual stream to a latent, or from both branches to this latent and the next.
    pub(super) fn final_layer(&self, output: Latent) -> Tape<Scope> {
        let Self { gpu, config, weights, acts: a, .. } = *self;
        let w = &weights.tree.final_layer;
        let mut tape = Tape::default();
        let t = &mut tape;
        let shift = w.adaln_modulation;
        let scope = Scope::from(Stage::Final);
        let pixels =
            Epilogue::Pixels { places: &weights.pixels, first: a.region(config, output).first };
        let linear = Linear::new(&a.h, &w.linear, &a.latents).ending(pixels);
        if self.norm_after(config.depth - 1).is_some() {
            linear.record(gpu, t, scope);
        } else {
            self.normed(t, scope, [shift, shift + config.hidden_size], linear, false);
        }
        tape
    }

    /// The feed-forward network of a dense block: `x += gate ⊙ FFN(LN(x)·(1 + scale) + shift)`.
    fn mlp(
        &self,
        t: &mut Tape<Scope>,
        scope: Scope,
        w: &Ffn<Matrix>,
        hidden: &Tensor,
        columns: Columns,
    ) {
        let (gpu, a) = (self.gpu, self.acts);
        let (first, up, down) = w.layers();
        let first = Linear::new(&a.h, first, hidden);
        let first = match w {
            Ffn::Silu { .. } => first.silu(),
            _ => first.gelu_or_swiglu(up),
        };
        self.normed(t, scope, [columns.shift_ffn, columns.scale_ffn], first, false);
        let gate = self.gated(columns.gate_ffn);
        Linear::new(hidden, down, &a.x).ending(gate).record(gpu, t, scope);
    }

    /// A layer that reads `h`, and the layer norm in front of it; one kernel on GPUs where rows are short. `keeps`
    /// says whether others read `h`, too.
    fn normed(
        &self,
        t: &mut Tape<Scope>,
        scope: Scope,
        [shift, scale]: [usize; 2],
        linear: Linear,
        keeps: bool,
    ) {
        let Self { gpu, config, acts: a, .. } = *self;
        if !self.fuses || gpu.profile == Profile::Software || config.hidden_size > LONGEST_ROW {
            self.modulate(t, scope, [shift, scale]);
            return linear.record(gpu, t, scope);
        }
        let linear = Linear { x: &a.x, ..linear };
        let norm =
            Norm { form: config.norm, modulation: &a.modulation, shift, scale, h: &a.h, keeps };
        NormedLinear { linear, norm }.record(gpu, t, scope);
    }

    /// Shift and scale of the layer norm after block `i`, where the experts of the block leave it in `h`.
    pub(super) fn norm_after(&self, i: usize) -> Option<[usize; 2]> {
        let Self { gpu, config, weights, .. } = *self;
        // Tokens that carry the labels come in between.
        let is_apart = config.context_enters(i + 1).is_some();
        if !self.fuses || gpu.profile == Profile::Software || !config.is_moe(i) || is_apart {
            return None;
        }
        let tree = &weights.tree;
        // In both, the shift comes first.
        let next = tree.blocks.get(i + 1).map(|next| next.adaln_modulation);
        let shift = next.unwrap_or(tree.final_layer.adaln_modulation);
        Some([shift, shift + config.hidden_size])
    }

    /// `h = LN(x)·(1 + scale) + shift`
    fn modulate(&self, t: &mut Tape<Scope>, scope: Scope, [shift, scale]: [usize; 2]) {
        let (a, norm) = (self.acts, self.config.norm);
        let call = Modulate { x: &a.x, norm, modulation: &a.modulation, shift, scale, y: &a.h };
        t.push(self.gpu, scope, &call);
    }

    /// Working memory of MoE blocks.
    ///
    /// # Panics
    /// When the model has no experts: a bug.
    pub(super) fn moe_memory(&self) -> &MoeActivations {
        self.acts.moe.as_ref().expect("a model with experts has room for them")
    }

    /// The end of a residual branch.
    pub(super) fn gated(&self, first: usize) -> Epilogue<'_> {
        Epilogue::Gated {
            modulation: &self.acts.modulation,
            first,
            tokens: self.config.stream_tokens(),
        }
    }
}
