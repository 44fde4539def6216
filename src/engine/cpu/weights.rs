//! A checkpoint's tensors in memory, as f32 in panels: the leaves that [`model::Weights`](crate::model::Weights) has on
//! the processor.

use crate::checkpoint::{Checkpoint, CheckpointError};
pub(super) use crate::engine::linear::Linear;
use crate::model::{self, Config, Ffn, Leaf, LinearSpec, Source, TensorSpec};
use crate::platform::yield_now;
use crate::simd::conv::ConvWeights;
use crate::simd::matmul::Matrix;

/// Leaves in memory.
#[derive(Debug)]
pub(super) struct OnCpu;

impl Leaf for OnCpu {
    type Linear = Linear;
    type Table = Vec<f32>;
    type Stack = Vec<Vec<f32>>;
    type Time = Linear;
    /// Cut along its outputs, a part for each vector, so that threads can share it when there are few rows.
    type Modulation = Vec<Linear>;
    type Experts = Vec<Ffn<Linear>>;
    type Conv = ConvWeights;
}

/// All weights of a model.
pub(super) type Weights = model::Weights<OnCpu>;

/// Reads and packs every tensor, block by block, so that a page stays responsive.
pub(super) async fn load(
    checkpoint: &Checkpoint,
    config: &Config,
) -> Result<Weights, CheckpointError> {
    Weights::visit(config, &mut Reader { checkpoint }).await
}

/// Reads tensors and packs them.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
}

impl Reader<'_> {
    fn read(&self, spec: &TensorSpec) -> Result<Vec<f32>, CheckpointError> {
        self.checkpoint.read(&spec.name)
    }
}

impl Source<OnCpu> for Reader<'_> {
    type Error = CheckpointError;

    fn linear(&mut self, spec: &LinearSpec) -> Result<Linear, CheckpointError> {
        Linear::read(self.checkpoint, spec)
    }

    fn time(&mut self, spec: &LinearSpec) -> Result<Linear, CheckpointError> {
        self.linear(spec)
    }

    fn table(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, CheckpointError> {
        self.read(spec)
    }

    fn stack(&mut self, specs: &[TensorSpec]) -> Result<Vec<Vec<f32>>, CheckpointError> {
        specs.iter().map(|spec| self.read(spec)).collect()
    }

    fn modulation(&mut self, spec: &LinearSpec) -> Result<Vec<Linear>, CheckpointError> {
        let width = spec.inputs();
        let weight = self.read(&spec.weight)?;
        let bias = spec.bias.as_ref().map(|bias| self.read(bias)).transpose()?;
        let part = |(i, rows): (usize, &[f32])| Linear {
            weight: Matrix::new(width, width, rows),
            bias: bias.as_ref().map(|bias| bias[i * width..][..width].to_vec()),
        };
        Ok(weight.chunks_exact(width * width).enumerate().map(part).collect())
    }

    fn conv(&mut self, spec: &LinearSpec) -> Result<ConvWeights, CheckpointError> {
        let values = self.read(&spec.weight)?;
        let bias = spec.bias.as_ref().map(|bias| self.read(bias)).transpose()?;
        Ok(ConvWeights::new(spec.conv_sizes(), &values, bias))
    }

    fn values(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, CheckpointError> {
        self.read(spec)
    }

    fn experts(&mut self, specs: &[Ffn<LinearSpec>]) -> Result<Vec<Ffn<Linear>>, CheckpointError> {
        specs.iter().map(|expert| expert.try_map(|layer| self.linear(layer))).collect()
    }

    async fn pause(&mut self) {
        yield_now().await;
    }
}
