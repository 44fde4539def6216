//! The tensors of a model that reads prompts, on the device: text encoder and cross-attention.

use super::weights::{Loaded, Loader};
use crate::gpu::Tensor;
use crate::kernels::Matrix;
use crate::model::{Config, TextConfig};

/// The text encoder, and how a prompt enters the condition.
#[derive(Debug)]
pub(super) struct TextWeights {
    /// `[V, D_t]`, f32.
    pub(super) tokens: Tensor,
    /// `[L, D_t]`, f32.
    pub(super) positions: Tensor,
    /// Pre-norm transformer layers.
    pub(super) layers: Vec<TextLayer>,
    /// `[D, D_t]`: from the state of a prompt's first token to the condition.
    pub(super) pool: Matrix,
    /// `[1, 2·D_t]`: no shift and no scale, because the encoder's norms have neither.
    pub(super) plain: Tensor,
}

/// One layer of the text encoder.
#[derive(Debug)]
pub(super) struct TextLayer {
    /// `[3·D_t, D_t]`
    pub(super) qkv: Matrix,
    /// `[D_t, D_t]`
    pub(super) projection: Matrix,
    /// `[M_t, D_t]`
    pub(super) first: Matrix,
    /// `[D_t, M_t]`
    pub(super) down: Matrix,
}

/// The cross-attention of one block.
#[derive(Debug)]
pub(super) struct CrossWeights {
    /// `[H·d, D]`
    pub(super) queries: Matrix,
    /// `[2·H·d, D_t]`: keys, then values.
    pub(super) memory: Matrix,
    /// `[D, H·d]`
    pub(super) projection: Matrix,
}

impl TextWeights {
    /// Bytes of the matrices on the device.
    pub(super) fn bytes(&self) -> u64 {
        let layer = |l: &TextLayer| {
            [&l.qkv, &l.projection, &l.first, &l.down].map(Matrix::bytes).iter().sum::<u64>()
        };
        let tables = self.tokens.bytes() + self.positions.bytes() + self.plain.bytes();
        tables + self.pool.bytes() + self.layers.iter().map(layer).sum::<u64>()
    }
}

impl CrossWeights {
    /// Bytes of the matrices on the device.
    pub(super) fn bytes(&self) -> u64 {
        self.queries.bytes() + self.memory.bytes() + self.projection.bytes()
    }
}

impl Loader<'_> {
    /// The text encoder. Its tables are read by row and stay f32.
    pub(super) fn text(&mut self, text: &TextConfig) -> Loaded<TextWeights> {
        let width = text.hidden_size;
        let mut layers = Vec::new();
        for i in 0..text.depth {
            let mut linear = |layer: &str, inputs| {
                self.linear(&format!("text_encoder.layers.{i}.{layer}"), inputs)
            };
            layers.push(TextLayer {
                qkv: linear("attn.qkv", width)?,
                projection: linear("attn.proj", width)?,
                first: linear("mlp.fc1", width)?,
                down: linear("mlp.fc2", text.ffn_hidden)?,
            });
        }
        let table = "text_encoder.token_embedding.weight";
        Ok(TextWeights {
            tokens: self.table(table, &[text.vocab_size, width])?,
            positions: self.table("text_encoder.position_embedding", &[text.max_length, width])?,
            layers,
            pool: self.linear("text_pool", width)?,
            plain: Tensor::upload(
                self.gpu,
                "no modulation",
                &[1, 2 * width],
                &vec![0.0_f32; 2 * width],
            ),
        })
    }

    /// The cross-attention of a block.
    pub(super) fn cross(
        &mut self,
        config: &Config,
        text: &TextConfig,
        block: &str,
    ) -> Loaded<CrossWeights> {
        let attention = config.num_heads * config.head_dim;
        let mut linear =
            |layer: &str, inputs| self.linear(&format!("{block}.cross_attn.{layer}"), inputs);
        Ok(CrossWeights {
            queries: linear("q_linear", config.hidden_size)?,
            memory: linear("kv_linear", text.hidden_size)?,
            projection: linear("proj", attention)?,
        })
    }
}
