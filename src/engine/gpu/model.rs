//! A checkpoint's weights on a device, shared by the engines of every batch size.

use std::sync::Arc;

use super::precision::{Precisions, WeightChoice};
use super::weights::Weights;
use crate::checkpoint::Checkpoint;
use crate::engine::EngineError;
use crate::gpu::Gpu;
use crate::kernels::attention::MAX_HEAD_DIM;
use crate::model::{Config, TextConfig};
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
        let weights = Weights::load(&gpu, checkpoint, &precisions).await?;
        Ok(Self { gpu, config, weights, tokenizer, precisions })
    }

    /// The device and how it computes, for display.
    pub fn device(&self) -> String {
        format!("{}, {} weights", self.gpu.describe(), self.precisions)
    }

    /// Bytes of the weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes
    }
}
