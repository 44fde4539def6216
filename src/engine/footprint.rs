//! Memory needed by a model, computed from its configuration before anything is read or allocated.

use super::gpu::{Branches, Precisions, WeightBytes, bytes, latents, prompt_sizes, sizes};
use super::linear::keeps_format;
use crate::gpu::Profile;
use crate::model::{Config, Role, Storage, TensorSpec};
use crate::simd::PANEL;

/// Bytes that a model takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Weights.
    pub weights: u64,
    /// Working memory of a batch, and of its prompts if the model reads text: as many different ones as there are
    /// images, and one that guidance leads away from. Where both branches of guidance are computed in one pass
    /// ([`Branches`]), that of a pass over twice the batch. Elsewhere DDPM with guidance takes it in addition.
    pub working: u64,
    /// The largest buffer that cannot be split, and what it holds.
    pub largest: (String, u64),
}

impl Footprint {
    /// On a GPU with this kernel family that binds `binding_limit` bytes at once.
    pub fn on_gpu(
        config: &Config,
        batch: usize,
        weights: impl Into<Precisions>,
        profile: Profile,
        binding_limit: u64,
    ) -> Self {
        let precisions = weights.into();
        let weights = WeightBytes::of(config, &precisions);
        let is_joined = Branches::default().are_joined(config, batch, profile, binding_limit);
        let buffers = buffers(config, batch, is_joined, binding_limit);
        let working = buffers.iter().map(|b| b.1).sum();
        let pieces = buffers.into_iter().chain([weights.largest]);
        Self {
            weights: weights.total,
            working,
            largest: pieces.max_by_key(|piece| piece.1).unwrap_or_default(),
        }
    }

    /// On the processor. With the feature `compact`, the weights of models that take more than 128 MiB in f32 stay in
    /// the format of the file (`storage` is that of a tensor); others, and all activations, are f32.
    pub fn on_cpu(config: &Config, batch: usize, storage: impl Fn(&TensorSpec) -> Storage) -> Self {
        let buffers = buffers(config, batch, false, u64::MAX);
        Self {
            weights: weights_on_cpu(config, keeps_format(config), storage),
            working: buffers.iter().map(|b| b.1).sum(),
            largest: Default::default(),
        }
    }

    /// Everything together.
    pub fn total(&self) -> u64 {
        self.weights + self.working
    }
}

/// Bytes of the weights on the processor, in the format of the file or in f32.
fn weights_on_cpu(config: &Config, is_kept: bool, storage: impl Fn(&TensorSpec) -> Storage) -> u64 {
    let bytes = |tensor: &TensorSpec| match tensor.role {
        // In panels of whole outputs.
        Role::Matrix | Role::Modulation | Role::Projection | Role::Router => {
            let mut padded = tensor.clone();
            padded.shape[0] = padded.shape[0].next_multiple_of(PANEL);
            let storage = if is_kept { storage(tensor) } else { Storage::F32 };
            storage.bytes(&padded)
        }
        Role::Buffer => 0,
        _ => Storage::F32.bytes(tensor),
    };
    config.tensors().iter().map(bytes).sum()
}

/// Every buffer of a batch with its bytes.
fn buffers(
    config: &Config,
    batch: usize,
    is_joined: bool,
    binding_limit: u64,
) -> Vec<(String, u64)> {
    let of_pass = if is_joined { 2 * batch } else { batch };
    // The conditional branch, the other one, and both.
    let kinds = [batch, batch].into_iter().chain(is_joined.then_some(2 * batch));
    let tables = config.labels.len();
    let rows = kinds.clone().map(|samples| ("label rows", vec![2, tables, samples]));
    let shares = kinds.clone().map(|samples| ("label shares", vec![tables, samples]));
    let pass = sizes(config, of_pass, binding_limit);
    let text = prompt_sizes(config, batch, kinds);
    let all =
        std::iter::once(latents(config, batch)).chain(rows).chain(shares).chain(pass).chain(text);
    all.map(|(label, shape)| (label.to_owned(), bytes(&shape))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, model_bytes, random_tensor};
    use crate::engine::CpuModel;
    use crate::engine::linear::Hold;
    use crate::kernels::WeightPrecision;
    use crate::model::{Preset, Storage, file_bytes};
    use crate::platform::Bytes;

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
        let gpu = Footprint::on_gpu(&l, 1, WeightPrecision::F16, Profile::Gpu, 128 << 20);
        assert_eq!(tenths(gpu.weights), 24);
        let int8 = Footprint::on_gpu(&l, 1, WeightPrecision::Int8, Profile::Gpu, 128 << 20);
        assert_eq!((tenths(int8.weights), int8.working), (12, gpu.working));
        let int4 = Footprint::on_gpu(&l, 1, WeightPrecision::Int4, Profile::Gpu, 128 << 20);
        assert_eq!((tenths(int4.weights), int4.working), (7, gpu.working));
        assert_eq!(tenths(file_bytes(&l, Storage::Int4)), 7);
        assert!(gpu.largest.1 <= 128 << 20, "{:?}: one image fits WebGPU's limits", gpu.largest);
        for (storage, want) in [(Storage::F32, 47), (Storage::F16, 24), (Storage::Int8, 12)] {
            let cpu = Footprint::on_cpu(&l, 1, |tensor| storage.of(tensor));
            assert_eq!(tenths(cpu.weights), want);
        }
    }

    #[test]
    fn weights_on_the_processor_take_what_was_foreseen() {
        let text = r#"{"kind":"diffmoe","t_kind":"flow","params":{"input_size":8,"num_classes":3,"patch_size":2,
            "depth":2,"hidden_size":48,"num_heads":2,"MoE_config":{"num_experts":3,"capacity":1}}}"#;
        let config = Config::from_json(text).unwrap();
        for storage in [Storage::F32, Storage::F16, Storage::Int8, Storage::Int4] {
            let read = |spec: &TensorSpec| Ok(random_tensor(&config, spec, 1));
            let file = model_bytes(text, storage, &read).unwrap();
            let checkpoint = Checkpoint::from_bytes("test", Bytes::new(file)).unwrap();
            let of = |tensor: &TensorSpec| checkpoint.storage(&tensor.name).unwrap();
            for is_kept in [false, true] {
                let hold = Hold { is_kept, ..Hold::default() };
                let model = CpuModel::load_as(&checkpoint, config.clone(), hold);
                let taken = pollster::block_on(model).unwrap().weight_bytes();
                assert_eq!(taken, weights_on_cpu(&config, is_kept, of), "{storage:?} {is_kept}");
            }
        }
    }

    #[test]
    fn the_working_memory_grows_with_the_batch() {
        let profile = Profile::Software;
        let s = config("S-E16");
        let of = |batch| Footprint::on_gpu(&s, batch, WeightPrecision::F16, profile, u64::MAX);
        assert_eq!(of(4).weights, of(1).weights);
        assert!(of(4).working > 3 * of(1).working);
        // 64 images of 256 tokens: 16384 rows of 1536 hidden numbers in one binding.
        assert!(of(64).largest.1 >= 4 * 16_384 * 1536, "{:?}", of(64).largest);
    }
}
