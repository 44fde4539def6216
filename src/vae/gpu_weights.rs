//! A decoder's weights on the device. Convolutions and projections are f16 or f32; norms and biases are
//! always f32.

use super::DecoderFile;
use super::plan::{Attention, Conv, Layer, Norm};
use crate::checkpoint::{CheckpointError, StoredRows, TensorFile};
use crate::engine::EngineError;
use crate::gpu::{Gpu, Tensor};
use crate::kernels::{ConvWeights, Matrix, WeightPrecision};
use crate::platform::yield_now;

/// Weights of one layer.
#[allow(clippy::large_enum_variant, reason = "there are some dozen, made once")]
pub(super) enum LayerWeights {
    Conv(ConvWeights),
    /// Weight and bias, `[2, C]`.
    Norm(Tensor),
    Attention(AttentionWeights),
}

/// Weights of an attention layer, `[C, C]` each.
pub(super) struct AttentionWeights {
    pub(super) query: Matrix,
    pub(super) key: Matrix,
    /// f32, because it is the left factor: the product is the transposed values.
    pub(super) value: Tensor,
    /// Its bias holds the one of the values too: the weights of a softmax sum to one, so that bias passes
    /// through attention unchanged.
    pub(super) out: Matrix,
}

impl LayerWeights {
    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Conv(conv) => conv.bytes(),
            Self::Norm(norm) => norm.bytes(),
            Self::Attention(a) => a.query.bytes() + a.key.bytes() + a.value.bytes() + a.out.bytes(),
        }
    }
}

/// Uploads the weights of every layer.
pub(super) async fn load(
    gpu: &Gpu,
    file: &DecoderFile,
    precision: WeightPrecision,
) -> Result<Vec<LayerWeights>, EngineError> {
    /// What may wait in host memory for the device to fetch it.
    const AT_ONCE: u64 = 64 << 20;
    let mut weights = Vec::new();
    let mut unflushed = 0;
    file.begin_loading();
    for step in &file.plan.steps {
        let layer = match &step.layer {
            Layer::Conv(layer) => LayerWeights::Conv(conv(gpu, &file.tensors, layer, precision)?),
            Layer::Norm(layer) => LayerWeights::Norm(norm(gpu, &file.tensors, layer)?),
            Layer::Attention(layer) => {
                LayerWeights::Attention(attention(gpu, &file.tensors, layer, precision)?)
            }
        };
        unflushed += layer.bytes();
        weights.push(layer);
        file.loaded_layer();
        yield_now().await;
        if unflushed > AT_ONCE {
            // A failure is kept by the device and looked at below.
            let _ = gpu.flush();
            unflushed = 0;
        }
    }
    let _ = gpu.flush();
    match gpu.failure() {
        None => Ok(weights),
        Some(error) => Err(EngineError::TooLarge(format!(
            "{} cannot hold this decoder: {error}",
            gpu.info.name
        ))),
    }
}

fn conv(
    gpu: &Gpu,
    file: &TensorFile,
    layer: &Conv,
    precision: WeightPrecision,
) -> Result<ConvWeights, EngineError> {
    let name = format!("{}.weight", layer.name);
    let &[outputs, inputs, ..] = file.shape(&name)? else {
        unreachable!("the plan was made from convolutions")
    };
    let words = outputs.next_multiple_of(4) * inputs.next_multiple_of(4) * layer.kernel.pow(2);
    if 4 * words as u64 > gpu.binding_limit {
        return Err(EngineError::TooLarge(format!(
            "the weights of {name} need {} bytes, and {} allows {} per binding",
            4 * words,
            gpu.info.name,
            gpu.binding_limit
        )));
    }
    let values = file.read(&name)?;
    let bias = layer.has_bias.then(|| file.read(&format!("{}.bias", layer.name))).transpose()?;
    let sizes = [outputs, inputs, layer.kernel];
    Ok(ConvWeights::upload(gpu, &layer.name, sizes, &values, bias.as_deref(), precision))
}

fn norm(gpu: &Gpu, file: &TensorFile, layer: &Norm) -> Result<Tensor, CheckpointError> {
    let mut values = file.read(&format!("{}.weight", layer.name))?;
    let channels = values.len();
    values.extend(file.read(&format!("{}.bias", layer.name))?);
    Ok(Tensor::upload(gpu, &layer.name, &[2, channels], &values))
}

fn attention(
    gpu: &Gpu,
    file: &TensorFile,
    layer: &Attention,
    precision: WeightPrecision,
) -> Result<AttentionWeights, EngineError> {
    let part = |name: &str, what: &str| file.read(&format!("{name}.{what}"));
    let matrix = |name: &str| -> Result<_, CheckpointError> {
        let (weight, bias) = (part(name, "weight")?, part(name, "bias")?);
        let matrix = Matrix::new(gpu, name, bias.len(), bias.len(), precision);
        matrix.write_rows(gpu, 0, &StoredRows::floats(bias.len(), weight));
        matrix.write_bias(gpu, 0, &bias);
        Ok(matrix)
    };
    let [query, key, value, out] = &layer.names;
    let value_bias = part(value, "bias")?;
    let channels = value_bias.len();
    if !channels.is_multiple_of(4) {
        return Err(EngineError::Unsupported(format!(
            "{value} has {channels} channels, and the GPU kernels need a multiple of 4"
        )));
    }
    let (weight, bias) = (part(out, "weight")?, part(out, "bias")?);
    let through = |(row, &bias): (&[f32], &f32)| {
        let products = row.iter().zip(&value_bias).map(|(&w, &b)| f64::from(w) * f64::from(b));
        (f64::from(bias) + products.sum::<f64>()) as f32
    };
    let joined: Vec<f32> = weight.chunks_exact(channels).zip(&bias).map(through).collect();
    let out = matrix(out)?;
    out.write_bias(gpu, 0, &joined);
    Ok(AttentionWeights {
        query: matrix(query)?,
        key: matrix(key)?,
        value: Tensor::upload(gpu, value, &[channels, channels], &part(value, "weight")?),
        out,
    })
}
