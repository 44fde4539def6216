//! A checkpoint's tensors in memory, large matrices in panels: the leaves that
//! [`model::Weights`](crate::model::Weights) has on the processor.

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::engine::cpu_math::CpuMath;
use crate::engine::linear::Hold;
pub(super) use crate::engine::linear::Linear;
use crate::model::{self, Config, Ffn, Leaf, LinearSpec, Role, Source, TensorSpec};
use crate::platform::yield_now;
use crate::simd::conv::ConvWeights;

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

/// Reads and packs every tensor, block by block, so that a page stays responsive; and the bytes that they take.
pub(super) async fn load(
    checkpoint: &Checkpoint,
    config: &Config,
    hold: Hold,
) -> Result<(Weights, u64), CheckpointError> {
    let mut reader = Reader { checkpoint, hold, bytes: 0, released: 0 };
    let weights = Weights::visit(config, &mut reader).await?;
    checkpoint.release();
    Ok((weights, reader.bytes))
}

/// Reads tensors and packs them.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    hold: Hold,
    /// Bytes of what was read, as it is in memory
    bytes: u64,
    /// `bytes` when pages of the file were last given back
    released: u64,
}

impl Reader<'_> {
    fn read(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, CheckpointError> {
        let values = self.checkpoint.read(&spec.name)?;
        self.count(size_of_val(&*values) as u64);
        Ok(values)
    }

    /// Counts what was read, and gives the file's pages back now and then, or a mapped file would be in memory twice.
    fn count(&mut self, bytes: u64) {
        /// Bytes between two calls of the system.
        const MOST: u64 = 4 << 20;
        self.bytes += bytes;
        if self.bytes - self.released > MOST {
            self.released = self.bytes;
            self.checkpoint.release();
        }
    }
}

impl Source<OnCpu> for Reader<'_> {
    type Error = CheckpointError;

    fn linear(&mut self, spec: &LinearSpec) -> Result<Linear, CheckpointError> {
        let math = if spec.weight.role == Role::Matrix { self.hold.math } else { CpuMath::F32 };
        let linear = Linear::read(self.checkpoint, spec, Hold { math, ..self.hold })?;
        self.count(linear.bytes());
        Ok(linear)
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
        let name = &spec.weight.name;
        let rows = self.checkpoint.rows(name)?;
        let storage = self.checkpoint.storage(name)?;
        let bias = spec.bias.as_ref().map(|bias| self.checkpoint.read(&bias.name)).transpose()?;
        let how = (storage, Hold { math: CpuMath::F32, ..self.hold });
        let part = |i: usize| {
            let bias = bias.as_ref().map(|bias| bias[i * width..][..width].to_vec());
            Linear::new(rows.slice(i * width..(i + 1) * width), bias, how)
        };
        let parts: Vec<Linear> = (0..spec.outputs() / width).map(part).collect();
        drop(rows);
        self.count(parts.iter().map(Linear::bytes).sum());
        Ok(parts)
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
