//! A checkpoint's weights on a device, shared by the engines of every batch size.

use std::sync::Arc;

use super::activations::Activations;
use super::dit::Network;
use super::joining::Branches;
use super::precision::{Precisions, WeightChoice};
use super::weights::Weights;
use crate::checkpoint::Checkpoint;
use crate::engine::EngineError;
use crate::engine::time_mlp::embed_time;
use crate::gpu::{Gpu, Specialisation};
use crate::kernels::WeightPrecision;
use crate::kernels::attention::MAX_HEAD_DIM;
use crate::kernels::tiles::Product;
use crate::model::{Config, RoutingRule, TextConfig};
use crate::platform;
use crate::tokenizer::Tokenizer;

/// A model on a device, for engines of any batch size.
pub struct GpuModel {
    /// The device.
    pub gpu: Arc<Gpu>,
    /// The model's shape.
    pub config: Config,
    pub(super) weights: Weights,
    /// Only if the model reads text.
    pub(super) tokenizer: Option<Tokenizer>,
    precisions: Precisions,
}

/// Samples of the pass for which pipelines are compiled while a model is loaded: what an app draws first. Other
/// batches may want another tile or two.
pub(in crate::engine) const FIRST_BATCH: usize = 4;

/// The pipelines of a model.
async fn pipelines(
    gpu: &Gpu,
    checkpoint: &Checkpoint,
    precisions: &Precisions,
) -> Result<Vec<Specialisation>, EngineError> {
    let stand_in = gpu.rehearsal();
    let config = checkpoint.config();
    let weights = &Weights::load(&stand_in, checkpoint, precisions).await?;
    let limit = gpu.binding_limit;
    let joins = Branches::default().are_joined(config, FIRST_BATCH, gpu.profile, limit);
    // A batch that is too large for the device is refused when it is asked for.
    let acts = if joins { Activations::of_both } else { Activations::new };
    if let Ok(acts) = acts(&stand_in, config, FIRST_BATCH) {
        let rule = RoutingRule::default();
        Network { gpu: &stand_in, config, weights, acts: &acts, rule, pools: 1, fuses: true }
            .rehearse();
    }
    Ok(stand_in.wanted())
}

/// Two products of every block, queries with keys and values, and the attention's output, as large as they are for
/// both branches of the first batch.
pub(crate) fn block_products(config: &Config, precisions: &[WeightPrecision]) -> Vec<Product> {
    let (width, rows) = (config.hidden_size, 2 * FIRST_BATCH * config.stream_tokens());
    let Some(&precision) = precisions.first() else { return Vec::new() };
    let of = |outputs| Product { rows, inputs: width, outputs, precision };
    vec![of(width), of(3 * width)]
}

impl GpuModel {
    /// Uploads a checkpoint's tensors.
    ///
    /// # Errors
    /// When a tensor cannot be read, or the device cannot hold the model.
    #[cfg(feature = "blocking")]
    pub fn load(
        gpu: Arc<Gpu>,
        checkpoint: &Checkpoint,
        weights: impl Into<WeightChoice>,
    ) -> Result<Self, EngineError> {
        pollster::block_on(Self::load_async(gpu, checkpoint, weights))
    }

    /// As [`GpuModel::load`], for callers that must not be held up.
    ///
    /// # Errors
    /// As [`GpuModel::load`].
    pub async fn load_async(
        gpu: Arc<Gpu>,
        checkpoint: &Checkpoint,
        weights: impl Into<WeightChoice>,
    ) -> Result<Self, EngineError> {
        let precisions = weights.into().resolve(checkpoint);
        let config = checkpoint.config().clone();
        let text = config.text.as_ref();
        let head_dim = config.head_dim.max(text.map_or(0, TextConfig::head_dim));
        if head_dim > MAX_HEAD_DIM {
            return Err(EngineError::Unsupported(format!(
                "attention heads of width {head_dim} exceed the limit of the GPU kernels, \
                    {MAX_HEAD_DIM}"
            )));
        }
        let tokenizer = text.map(TextConfig::tokenizer);
        // Pipelines compile while weights are on their way.
        let wanted = pipelines(&gpu, checkpoint, &precisions).await?;
        let device = gpu.clone();
        let compiling = platform::beside(move || device.compile(&wanted));
        let weights = Weights::load(&gpu, checkpoint, &precisions).await;
        compiling.wait();
        let weights = weights?;
        Ok(Self { gpu, config, weights, tokenizer, precisions })
    }

    /// What a pass at this time adds to the condition of its samples, `[D]`.
    pub(super) fn embed_time(&self, time: f32) -> Vec<f32> {
        embed_time(&self.weights.tree.t_embedder, self.config.model_time(time))
    }

    /// The device and how it computes, for display.
    pub fn device(&self) -> String {
        format!("{}, {} weights", self.gpu.describe(), self.precisions)
    }

    /// Whether no matrix is in a coarser format than in the file, apart from f32 that became f16.
    pub(in crate::engine) fn keeps_formats(&self, checkpoint: &Checkpoint) -> bool {
        self.precisions == WeightChoice::Auto.resolve(checkpoint)
    }

    /// Bytes of the weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes
    }
}
