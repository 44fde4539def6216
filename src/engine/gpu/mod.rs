//! The forward pass on wgpu: recorded once, replayed at every step, nothing read back inside it.

mod activations;
mod detail;
mod dit;
mod engine;
mod joining;
mod labels;
mod model;
mod moe;
mod passes;
mod pending;
mod precision;
mod prompts;
mod step_tape;
mod taps;
mod weight_bytes;
mod weights;

pub use engine::GpuEngine;
pub use joining::Branches;
pub use model::GpuModel;
pub use precision::{Precisions, WeightChoice};

pub(super) use activations::{bytes, latents, sizes};
pub(super) use model::FIRST_BATCH;
pub(crate) use model::block_products;
pub(super) use prompts::sizes as prompt_sizes;
pub(super) use weight_bytes::WeightBytes;
