//! A checkpoint's tensors on the device: the leaves that [`model::Weights`](crate::model::Weights) has there.
//!
//! Tensors are decoded, packed and uploaded one at a time, so that loading needs little host memory
//! beyond the largest of them. Large matrices have the precision given by [`Precisions`], by default that of the file.
//! Small tensors, routing tensors (router, capacity predictor, thresholds) and all biases stay f32.

use super::precision::Precisions;
use super::weight_bytes::WeightBytes;
use crate::checkpoint::{Checkpoint, CheckpointError, StoredRows};
use crate::engine::contract::EngineError;
use crate::engine::linear::{Hold, Linear};
use crate::gpu::{Gpu, Tensor};
use crate::kernels::{ConvWeights, ExpertBank, Matrix, Pixels, WeightPrecision};
use crate::model::{self, Config, Ffn, Leaf, LinearSpec, Mlp, Role, Source, TensorSpec, rotations};
use crate::platform::yield_now;

/// Leaves on a device.
#[derive(Debug)]
pub(super) struct OnGpu;

impl Leaf for OnGpu {
    type Linear = Matrix;
    type Table = Tensor;
    type Stack = Stack;
    /// In host memory.
    type Time = Linear;
    /// First row of the layer in [`Weights::adaln_modulation`].
    type Modulation = usize;
    /// Each layer of all experts in one bank.
    type Experts = Ffn<ExpertBank>;
    /// In f32.
    type Conv = ConvWeights;
}

/// Tables one below the other.
#[derive(Debug)]
pub(super) struct Stack {
    /// `[rows, width]`, f32.
    pub(super) rows: Tensor,
    /// First row of each table.
    pub(super) first_rows: Vec<u32>,
}

/// All weights of a model.
#[derive(Debug)]
pub(super) struct Weights {
    /// The model, tensor by tensor.
    pub(super) tree: model::Weights<OnGpu>,
    /// adaLN of all blocks and of the final layer, `[6D·L + 2D, D]`: one product gives every shift, scale
    /// and gate of a forward pass.
    pub(super) adaln_modulation: Matrix,
    /// `[T, d/2, 2]`: cosine and sine of the angles that turn queries and keys, where a model has rotary positions.
    pub(super) rotations: Option<Tensor>,
    /// Where the numbers of the final layer go.
    pub(super) pixels: Pixels,
    /// `[1, 2·D_t]`: no shift and no scale, because the norms of the text encoder have neither.
    pub(super) no_modulation: Option<Tensor>,
    /// Bytes on the device.
    pub(super) bytes: u64,
}

impl Weights {
    /// Uploads a checkpoint, block by block, so that a page stays responsive. A rehearsal reads nothing.
    pub(super) async fn load(
        gpu: &Gpu,
        checkpoint: &Checkpoint,
        precisions: &Precisions,
    ) -> Result<Self, EngineError> {
        let config = checkpoint.config();
        check_sizes(gpu, config, precisions)?;
        let tensors = config.tensors();
        let layers = tensors.iter().filter(|t| t.role == Role::Modulation);
        // Each in its own precision.
        let layers: Vec<_> = layers.map(|t| (t.shape[0], precisions.of(t))).collect();
        let adaln_modulation =
            Matrix::stacked(gpu, "adaLN_modulation", &layers, config.hidden_size);
        let no_modulation = config.text.as_ref().map(|text| {
            let zeros = vec![0.0_f32; 2 * text.hidden_size];
            Tensor::upload(gpu, "no modulation", &[1, zeros.len()], &zeros)
        });
        let rotations = config.rope.then(|| {
            let shape = [config.stream_tokens(), config.head_dim / 2, 2];
            Tensor::upload(gpu, "rotations", &shape, rotations(config).as_flattened())
        });
        let (channels, size) = (config.out_channels, config.input_size);
        let pixels = Pixels::new(gpu, channels, size, config.patch_size, config.stream_tokens());
        let extra = no_modulation.iter().chain(&rotations).chain([&pixels.table]);
        let extra = extra.map(Tensor::bytes).sum::<u64>();
        let bytes = adaln_modulation.bytes() + extra;
        let mut loader = Loader {
            gpu,
            checkpoint,
            precisions,
            adaln_modulation: &adaln_modulation,
            modulation_rows: 0,
            bytes,
            unflushed: 0,
        };
        let tree = model::Weights::visit(config, &mut loader).await?;
        loader.flush();
        let bytes = loader.bytes;
        // Memory that ran out is reported behind our back.
        match gpu.failure() {
            None => Ok(Self { tree, adaln_modulation, rotations, pixels, no_modulation, bytes }),
            Some(error) => Err(EngineError::TooLarge(format!(
                "{} cannot hold this model: {error}",
                gpu.info.name
            ))),
        }
    }

    /// The checkpoint's thresholds of a block; only MoE blocks of `DiffMoE` have them.
    pub(super) fn thresholds(&self, block: usize) -> Option<&[f32]> {
        match &self.tree.blocks[block].mlp {
            Mlp::Moe(moe) if moe.capacity_predictor.is_some() => Some(&moe.expert_threshold),
            _ => None,
        }
    }
}

/// Rejects models whose smallest indivisible pieces exceed a binding.
fn check_sizes(gpu: &Gpu, config: &Config, precisions: &Precisions) -> Result<(), EngineError> {
    let (what, bytes) = WeightBytes::of(config, precisions).largest;
    if bytes <= gpu.binding_limit {
        return Ok(());
    }
    Err(EngineError::TooLarge(format!(
        "{what} needs {bytes} bytes, and {} allows {} per binding",
        gpu.info.name, gpu.binding_limit
    )))
}

/// Reads tensors and puts them on the device.
struct Loader<'a> {
    gpu: &'a Gpu,
    checkpoint: &'a Checkpoint,
    precisions: &'a Precisions,
    adaln_modulation: &'a Matrix,
    /// Rows of it that are filled.
    modulation_rows: usize,
    /// Bytes allocated on the device.
    bytes: u64,
    /// Bytes that wait in host memory for the device to fetch them.
    unflushed: usize,
}

type Loaded<T> = Result<T, CheckpointError>;

impl Source<OnGpu> for Loader<'_> {
    type Error = CheckpointError;

    fn linear(&mut self, spec: &LinearSpec) -> Loaded<Matrix> {
        let precision = self.precisions.of(&spec.weight);
        let (label, rows, columns) = (&spec.weight.name, spec.outputs(), spec.inputs());
        let matrix = Matrix::new(self.gpu, label, rows, columns, precision);
        self.bytes += matrix.bytes();
        self.fill(&matrix, 0, spec)?;
        Ok(matrix)
    }

    fn time(&mut self, spec: &LinearSpec) -> Loaded<Linear> {
        if self.gpu.is_rehearsal() {
            return Ok(Linear::default());
        }
        Linear::read(self.checkpoint, spec, Hold::default())
    }

    fn table(&mut self, spec: &TensorSpec) -> Loaded<Tensor> {
        let mut values = self.read(spec)?;
        let width = spec.shape.last().copied().unwrap_or(1);
        if spec.role == Role::Position {
            // Tokens without a patch have no position.
            values.resize(self.checkpoint.config().stream_tokens() * width, 0.0);
        }
        Ok(self.upload(&spec.name, &[values.len() / width, width], &values))
    }

    fn stack(&mut self, specs: &[TensorSpec]) -> Loaded<Stack> {
        // Without a label table there is a binding all the same.
        let label = specs.first().map_or("no labels", |spec| &spec.name);
        let width = specs.first().and_then(|spec| spec.shape.last().copied());
        let width = width.unwrap_or(self.checkpoint.config().hidden_size);
        let (mut first_rows, mut values) = (Vec::new(), Vec::new());
        for spec in specs {
            first_rows.push((values.len() / width) as u32);
            values.extend(self.read(spec)?);
        }
        let rows = self.upload(label, &[values.len() / width, width], &values);
        Ok(Stack { rows, first_rows })
    }

    fn modulation(&mut self, spec: &LinearSpec) -> Loaded<usize> {
        let first = self.modulation_rows;
        self.fill(self.adaln_modulation, first, spec)?;
        self.modulation_rows += spec.outputs();
        Ok(first)
    }

    fn conv(&mut self, spec: &LinearSpec) -> Loaded<ConvWeights> {
        let values = self.read(&spec.weight)?;
        let bias = spec.bias.as_ref().map(|bias| self.read(bias)).transpose()?;
        let (label, sizes, precision) =
            (&spec.weight.name, spec.conv_sizes(), WeightPrecision::F32);
        let conv = ConvWeights::upload(self.gpu, label, sizes, &values, bias.as_deref(), precision);
        self.bytes += conv.bytes();
        Ok(conv)
    }

    fn values(&mut self, spec: &TensorSpec) -> Loaded<Vec<f32>> {
        if self.gpu.is_rehearsal() {
            return Ok(vec![0.0; spec.elements() as usize]);
        }
        self.checkpoint.read(&spec.name)
    }

    fn experts(&mut self, experts: &[Ffn<LinearSpec>]) -> Loaded<Ffn<ExpertBank>> {
        let bank = |layer: &LinearSpec| -> Loaded<_> {
            let shape = [experts.len(), layer.outputs(), layer.inputs()];
            let (label, has_bias) = (&layer.weight.group.0, layer.bias.is_some());
            let precision = self.precisions.of(&layer.weight);
            Ok(ExpertBank::new(self.gpu, label, shape, has_bias, precision))
        };
        let banks = experts[0].try_map(bank)?;
        self.bytes += banks.iter().map(ExpertBank::bytes).sum::<u64>();
        let filled: &[_] = if self.gpu.is_rehearsal() { &[] } else { experts };
        for (e, expert) in filled.iter().enumerate() {
            for (layer, bank) in expert.iter().zip(banks.iter()) {
                bank.write(self.gpu, e, &self.rows(&layer.weight)?);
                if let Some(bias) = &layer.bias {
                    bank.write_bias(self.gpu, e, &self.read(bias)?);
                }
            }
        }
        Ok(banks)
    }

    async fn pause(&mut self) {
        if !self.gpu.is_rehearsal() {
            yield_now().await;
        }
    }
}

impl<'a> Loader<'a> {
    /// A new tensor in f32.
    fn upload(&mut self, label: &str, shape: &[usize], values: &[f32]) -> Tensor {
        let tensor = Tensor::upload(self.gpu, label, shape, values);
        self.bytes += tensor.bytes();
        tensor
    }

    /// Writes a layer's weight and bias into a matrix, from row `first` on.
    fn fill(&mut self, matrix: &Matrix, first: usize, spec: &LinearSpec) -> Loaded<()> {
        if self.gpu.is_rehearsal() {
            return Ok(());
        }
        let rows = self.rows(&spec.weight)?;
        matrix.write_rows(self.gpu, first, &rows);
        if let Some(bias) = &spec.bias {
            matrix.write_bias(self.gpu, first, &self.read(bias)?);
        }
        Ok(())
    }

    /// Decodes a tensor that is about to be uploaded.
    fn read(&mut self, spec: &TensorSpec) -> Loaded<Vec<f32>> {
        if self.gpu.is_rehearsal() {
            return Ok(vec![0.0; spec.elements() as usize]);
        }
        self.rows(spec).map(StoredRows::decode)
    }

    /// The rows of the next tensor to upload; submits the previous uploads.
    fn rows(&mut self, spec: &TensorSpec) -> Loaded<StoredRows<'a>> {
        // More than this would double the memory of a model while it loads.
        const AT_ONCE: usize = 64 << 20;
        if self.unflushed > AT_ONCE {
            self.flush();
        }
        let rows = self.checkpoint.rows(&spec.name)?;
        self.unflushed += rows.bytes();
        Ok(rows)
    }

    /// Submits pending uploads and frees the host copies.
    fn flush(&mut self) {
        if self.gpu.is_rehearsal() {
            return;
        }
        // A failure is kept by the device and looked at when loading ends.
        let _ = self.gpu.flush();
        self.unflushed = 0;
    }
}
