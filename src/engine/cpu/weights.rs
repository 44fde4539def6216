//! The weights, field by field as in the official `state_dict`.

use super::text::{TextEncoder, TextLayer};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::model::{Config, FfnForm, Kind, TextConfig};
use crate::platform::yield_now;
use crate::simd::matmul::Matrix;

/// `Linear`: weight `[out, in]` and bias `[out]`.
pub(super) struct Linear {
    pub(super) weight: Matrix,
    pub(super) bias: Vec<f32>,
}

impl Linear {
    /// `out[r] = x(r)·Wᵀ + bias`, `[rows, out]`.
    pub(super) fn apply<'a>(&self, x: impl Fn(usize) -> &'a [f32], out: &mut [f32]) {
        self.weight.apply(Some(&self.bias), x, out);
    }
}

/// A feed-forward network: a dense block's, one expert, or the shared expert.
pub(super) enum Ffn {
    /// `fc2(gelu(fc1 x))`
    Gelu {
        /// `[M, D]`
        fc1: Linear,
        /// `[D, M]`
        fc2: Linear,
    },
    /// `down(silu(gate x) ⊙ up x)`
    SwiGlu {
        /// `[M, D]`
        gate_proj: Matrix,
        /// `[M, D]`
        up_proj: Matrix,
        /// `[D, M]`
        down_proj: Matrix,
        /// `M`
        hidden: usize,
    },
}

/// The MoE layer of a block.
pub(super) struct Moe {
    /// `gate_weight` (`gate.weight` with token choice), `[E, D]`
    pub(super) gate: Matrix,
    /// `[E]`; empty unless the model is a `DiffMoE`
    pub(super) expert_threshold: Vec<f32>,
    /// `E` of them
    pub(super) experts: Vec<Ffn>,
    /// `[D, D]` and `[E, D]`, with SiLU between them; `DiffMoE` only
    pub(super) capacity_predictor: Option<(Linear, Linear)>,
    /// Sees every token
    pub(super) shared_experts: Option<Ffn>,
}

/// `mlp` of a block.
pub(super) enum Mlp {
    /// One network for every token.
    Dense(Ffn),
    /// Experts that pick tokens.
    Moe(Box<Moe>),
}

/// One transformer block.
pub(super) struct Block {
    /// `attn.qkv`, `[3·H·d, D]`: q, k and v outermost, then the head
    pub(super) qkv: Linear,
    /// `attn.q_norm` and `attn.k_norm`: weight and bias of each, `[d]`
    pub(super) qk_norm: Option<[[Vec<f32>; 2]; 2]>,
    /// `attn.proj`, `[D, H·d]`
    pub(super) proj: Linear,
    /// `cross_attn`, where the model reads text
    pub(super) cross_attn: Option<CrossAttention>,
    /// `mlp`
    pub(super) mlp: Mlp,
    /// `adaLN_modulation.1`, `[6·D, D]`, cut in its six parts: shift, scale and gate of the attention,
    /// then of the feed-forward network
    pub(super) ada_ln: Vec<Linear>,
}

/// Attention of a block to a prompt.
pub(super) struct CrossAttention {
    /// `q_linear`, `[H·d, D]`
    pub(super) q_linear: Linear,
    /// `kv_linear`, `[2·H·d, D_t]`: keys of all heads, then values
    pub(super) kv_linear: Linear,
    /// `proj`, `[D, H·d]`
    pub(super) proj: Linear,
}

/// The whole model.
pub(super) struct Weights {
    /// `[T, D]`
    pub(super) pos_embed: Vec<f32>,
    /// `x_embedder.proj`, `[D, C·p·p]`
    pub(super) x_embedder: Linear,
    /// `t_embedder.mlp.0`, `[D, 256]`
    pub(super) t_embedder_0: Linear,
    /// `t_embedder.mlp.2`, `[D, D]`
    pub(super) t_embedder_2: Linear,
    /// For each label table `[rows, D]`
    pub(super) label_tables: Vec<Vec<f32>>,
    /// `text_encoder` and `text_pool`, where the model reads text
    pub(super) text: Option<TextEncoder>,
    /// `L` of them
    pub(super) blocks: Vec<Block>,
    /// `final_layer.linear`, `[p·p·C_out, D]`
    pub(super) final_linear: Linear,
    /// `final_layer.adaLN_modulation.1`, `[2·D, D]`, cut in shift and scale
    pub(super) final_ada_ln: Vec<Linear>,
}

impl Weights {
    /// Reads and packs every tensor, block by block, so that a page lives meanwhile.
    pub(super) async fn load(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let from = Reader { checkpoint, config: checkpoint.config() };
        let config = from.config;
        let mut blocks = Vec::with_capacity(config.depth);
        for i in 0..config.depth {
            blocks.push(from.block(i)?);
            yield_now().await;
        }
        let tables: Result<_, _> =
            config.labels.iter().map(|table| checkpoint.read(&table.tensor)).collect();
        Ok(Self {
            pos_embed: checkpoint.read("pos_embed")?,
            x_embedder: from.linear("x_embedder.proj")?,
            t_embedder_0: from.linear("t_embedder.mlp.0")?,
            t_embedder_2: from.linear("t_embedder.mlp.2")?,
            label_tables: tables?,
            text: config.text.as_ref().map(|text| from.text(text)).transpose()?,
            blocks,
            final_linear: from.linear("final_layer.linear")?,
            final_ada_ln: from.parts("final_layer.adaLN_modulation.1", 2)?,
        })
    }
}

/// Builds the pieces of [`Weights`] by their name.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
}

impl Reader<'_> {
    fn matrix(&self, name: &str) -> Result<Matrix, CheckpointError> {
        let outputs = self.checkpoint.shape(name)?[0];
        let weight = self.checkpoint.read(name)?;
        Ok(Matrix::new(outputs, weight.len() / outputs, &weight))
    }

    fn linear(&self, prefix: &str) -> Result<Linear, CheckpointError> {
        let weight = self.matrix(&format!("{prefix}.weight"))?;
        Ok(Linear { weight, bias: self.checkpoint.read(&format!("{prefix}.bias"))? })
    }

    /// A linear layer cut along its outputs, so that threads can share it when there are few rows.
    fn parts(&self, prefix: &str, parts: usize) -> Result<Vec<Linear>, CheckpointError> {
        let weight = self.checkpoint.read(&format!("{prefix}.weight"))?;
        let bias = self.checkpoint.read(&format!("{prefix}.bias"))?;
        let outputs = bias.len() / parts;
        let inputs = weight.len() / bias.len();
        let part = |(weight, bias): (&[f32], &[f32])| Linear {
            weight: Matrix::new(outputs, inputs, weight),
            bias: bias.to_vec(),
        };
        Ok(weight
            .chunks_exact(outputs * inputs)
            .zip(bias.chunks_exact(outputs))
            .map(part)
            .collect())
    }

    fn ffn(&self, prefix: &str, form: FfnForm, hidden: usize) -> Result<Ffn, CheckpointError> {
        Ok(match form {
            FfnForm::Gelu => Ffn::Gelu {
                fc1: self.linear(&format!("{prefix}.fc1"))?,
                fc2: self.linear(&format!("{prefix}.fc2"))?,
            },
            FfnForm::SwiGlu => Ffn::SwiGlu {
                gate_proj: self.matrix(&format!("{prefix}.gate_proj.weight"))?,
                up_proj: self.matrix(&format!("{prefix}.up_proj.weight"))?,
                down_proj: self.matrix(&format!("{prefix}.down_proj.weight"))?,
                hidden,
            },
        })
    }

    fn moe(&self, mlp: &str) -> Result<Moe, CheckpointError> {
        let c = self.config;
        let diff = c.kind == Kind::DiffMoe;
        let gate = if c.kind == Kind::Tc { "gate.weight" } else { "gate_weight" };
        let experts: Result<_, _> = (0..c.num_experts)
            .map(|j| self.ffn(&format!("{mlp}.experts.{j}"), c.ffn_form, c.ffn_hidden))
            .collect();
        let capacity_predictor = diff
            .then(|| -> Result<_, CheckpointError> {
                let layer = |n: usize| self.linear(&format!("{mlp}.capacity_predictor.{n}"));
                Ok((layer(0)?, layer(2)?))
            })
            .transpose()?;
        let shared_experts = (c.shared_hidden > 0)
            .then(|| self.ffn(&format!("{mlp}.shared_experts"), c.shared_form, c.shared_hidden))
            .transpose()?;
        Ok(Moe {
            gate: self.matrix(&format!("{mlp}.{gate}"))?,
            expert_threshold: if diff {
                self.checkpoint.read(&format!("{mlp}.expert_threshold"))?
            } else {
                Vec::new()
            },
            experts: experts?,
            capacity_predictor,
            shared_experts,
        })
    }

    fn qk_norm(&self, i: usize) -> Result<[[Vec<f32>; 2]; 2], CheckpointError> {
        let read = |name: &str| self.checkpoint.read(&format!("blocks.{i}.attn.{name}"));
        Ok([
            [read("q_norm.weight")?, read("q_norm.bias")?],
            [read("k_norm.weight")?, read("k_norm.bias")?],
        ])
    }

    fn cross_attention(&self, i: usize) -> Result<CrossAttention, CheckpointError> {
        let linear = |name: &str| self.linear(&format!("blocks.{i}.cross_attn.{name}"));
        Ok(CrossAttention {
            q_linear: linear("q_linear")?,
            kv_linear: linear("kv_linear")?,
            proj: linear("proj")?,
        })
    }

    fn text(&self, text: &TextConfig) -> Result<TextEncoder, CheckpointError> {
        let layer = |i: usize| -> Result<_, CheckpointError> {
            let name = format!("text_encoder.layers.{i}");
            Ok(TextLayer {
                qkv: self.linear(&format!("{name}.attn.qkv"))?,
                proj: self.linear(&format!("{name}.attn.proj"))?,
                mlp: self.ffn(&format!("{name}.mlp"), FfnForm::Gelu, text.ffn_hidden)?,
            })
        };
        let read = |name: &str| self.checkpoint.read(&format!("text_encoder.{name}"));
        Ok(TextEncoder {
            tokens: read("token_embedding.weight")?,
            positions: read("position_embedding")?,
            layers: (0..text.depth).map(layer).collect::<Result<_, _>>()?,
            pool: self.linear("text_pool")?,
        })
    }

    fn block(&self, i: usize) -> Result<Block, CheckpointError> {
        let c = self.config;
        let mlp = format!("blocks.{i}.mlp");
        Ok(Block {
            qkv: self.linear(&format!("blocks.{i}.attn.qkv"))?,
            qk_norm: c.qk_norm.then(|| self.qk_norm(i)).transpose()?,
            proj: self.linear(&format!("blocks.{i}.attn.proj"))?,
            cross_attn: c.text.is_some().then(|| self.cross_attention(i)).transpose()?,
            mlp: if c.is_moe(i) {
                Mlp::Moe(Box::new(self.moe(&mlp)?))
            } else {
                Mlp::Dense(self.ffn(&mlp, c.ffn_form, c.ffn_hidden)?)
            },
            ada_ln: self.parts(&format!("blocks.{i}.adaLN_modulation.1"), 6)?,
        })
    }
}
