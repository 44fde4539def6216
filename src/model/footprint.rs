//! How much memory a model needs, from its configuration alone: before a file is read or a byte allocated.

use super::activations::sizes;
use super::{Config, TensorSpec, prompts};
use crate::kernels::WeightPrecision;

/// Bytes that a model takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Weights.
    pub weights: u64,
    /// Working memory of a batch, and of its prompts where the model reads text: as many different ones as there are
    /// pictures, and one that guidance leads away from. A joint pass over both branches takes that of twice the batch.
    pub working: u64,
    /// The largest buffer that cannot be split, and what it holds.
    pub largest: (String, u64),
}

/// How a checkpoint's numbers are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Four bytes a number.
    F32,
    /// Two.
    F16,
    /// One, and a scale of four for each row of a matrix; what is no large matrix stays as it is.
    Int8,
}

impl Footprint {
    /// On a graphics device that binds `binding_limit` bytes at once.
    pub fn on_gpu(
        config: &Config,
        batch: usize,
        precision: WeightPrecision,
        binding_limit: u64,
    ) -> Self {
        let tensors = config.tensors();
        let bytes = |t: &TensorSpec| {
            if !is_matrix(t) {
                return 4 * len(t);
            }
            4 * (t.shape[0] * precision.row_words(t.shape[1].next_multiple_of(4))) as u64
        };
        let buffers = buffers(config, batch, binding_limit);
        // Linear layers and banks of experts are split by rows and experts; these are not.
        let whole = |t: &&TensorSpec| {
            t.name.contains(".mlp.experts.")
                || ["pos_embed", "text_encoder.token_embedding.weight"].contains(&t.name.as_str())
                || config.labels.iter().any(|table| table.tensor == t.name)
        };
        let pieces = tensors.iter().filter(whole).map(|t| (t.name.clone(), bytes(t)));
        let largest = pieces.chain(buffers.iter().cloned()).max_by_key(|piece| piece.1);
        Self {
            weights: tensors.iter().map(bytes).sum(),
            working: buffers.iter().map(|b| b.1).sum(),
            largest: largest.unwrap_or_default(),
        }
    }

    /// On the processor, where all numbers are f32.
    pub fn on_cpu(config: &Config, batch: usize) -> Self {
        let buffers = buffers(config, batch, u64::MAX);
        Self {
            weights: config.tensors().iter().map(|t| 4 * len(t)).sum(),
            working: buffers.iter().map(|b| b.1).sum(),
            largest: Default::default(),
        }
    }

    /// Everything together.
    pub fn total(&self) -> u64 {
        self.weights + self.working
    }
}

/// Every buffer of a batch with its bytes.
fn buffers(config: &Config, batch: usize, binding_limit: u64) -> Vec<(String, u64)> {
    let bytes = |shape: &[usize]| 4 * shape.iter().map(|&n| n as u64).product::<u64>();
    let pass = sizes(config, batch, binding_limit);
    let pass = pass.into_iter().map(|(label, shape)| (label.to_owned(), bytes(&shape)));
    let text = prompts::sizes(config, batch).into_iter();
    pass.chain(text.map(|(label, shape)| (label.to_owned(), bytes(&shape)))).collect()
}

/// Bytes of the tensors in a file.
pub fn file_bytes(config: &Config, storage: Storage) -> u64 {
    let bytes = |t: &TensorSpec| match storage {
        Storage::F16 if is_matrix(t) => 2 * len(t),
        Storage::Int8 if is_matrix(t) => len(t) + 4 * t.shape[0] as u64,
        Storage::F32 | Storage::F16 | Storage::Int8 => 4 * len(t),
    };
    config.tensors().iter().map(bytes).sum()
}

/// Whether a tensor is one of the large matrices: those may lose precision. What decides on routing by its
/// last bits, and what is small, stays f32.
pub fn is_matrix(tensor: &TensorSpec) -> bool {
    let name = tensor.name.as_str();
    let is_block = ["blocks.", "final_layer.adaLN", "text_encoder.layers."]
        .iter()
        .any(|start| name.starts_with(start));
    let routes = ["capacity_predictor", "gate_weight", ".gate.weight"];
    tensor.shape.len() == 2 && is_block && !routes.iter().any(|part| name.contains(part))
}

fn len(tensor: &TensorSpec) -> u64 {
    tensor.shape.iter().map(|&n| n as u64).product()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Preset;

    fn config(name: &str) -> Config {
        name.parse::<Preset>().unwrap().config()
    }

    #[test]
    fn large_models_take_what_the_paper_s_sizes_make_one_expect() {
        let l = config("L-E8");
        let tenths = |bytes: u64| (bytes as f64 / 1e8).round() as u64;
        assert_eq!(tenths(file_bytes(&l, Storage::F32)), 47);
        assert_eq!(tenths(file_bytes(&l, Storage::F16)), 24);
        assert_eq!(tenths(file_bytes(&l, Storage::Int8)), 12);
        let gpu = Footprint::on_gpu(&l, 1, WeightPrecision::F16, 128 << 20);
        assert_eq!(tenths(gpu.weights), 24);
        let int8 = Footprint::on_gpu(&l, 1, WeightPrecision::Int8, 128 << 20);
        assert_eq!((tenths(int8.weights), int8.working), (12, gpu.working));
        assert!(gpu.largest.1 <= 128 << 20, "{:?}: one picture fits WebGPU's limits", gpu.largest);
        assert_eq!(tenths(Footprint::on_cpu(&l, 1).weights), 47);
    }

    #[test]
    fn the_working_memory_grows_with_the_batch() {
        let s = config("S-E16");
        let of = |batch| Footprint::on_gpu(&s, batch, WeightPrecision::F16, u64::MAX);
        assert_eq!(of(4).weights, of(1).weights);
        assert!(of(4).working > 3 * of(1).working);
        // 64 pictures of 256 tokens: 16384 rows of 1536 hidden numbers in one binding.
        assert!(of(64).largest.1 >= 4 * 16_384 * 1536, "{:?}", of(64).largest);
    }
}
