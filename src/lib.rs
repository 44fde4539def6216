//! `DiffMoE` (*Dynamic Token Selection for Scalable Diffusion Transformers*, arXiv 2503.14487)
//! on wgpu: a diffusion transformer whose experts pick their tokens from one batch-wide pool.
//!
//! The data flow is the module list; a module may import only from those above it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`platform`] | the operating system or the browser behind one interface |
//! | [`tokenizer`] | prompts to token numbers |
//! | [`model`] | the model as plain data: configuration, tensors, presets, routing rules |
//! | [`checkpoint`] | safetensors and PyTorch files: named, checked tensors in, model files out |
//! | [`scheduler`] | noise, times and solver steps, as lists of instructions |
//! | [`gpu`] | buffers, pipelines, recorded dispatches |
//! | [`kernels`] | one file per WGSL kernel, with its f64 reference |
//! | [`engine`] | the forward pass on a GPU and on the CPU, behind one contract |
//! | [`vae`] | image decoders: latents to images |
//! | [`trace`] | which expert took which token, for every pass |
//! | [`pipeline`] | settings, runs and decoding jobs on a chosen backend |
//! | [`pixels`] | samples as pixels and PNG files |
//!
//! Dimension letters used everywhere: `B` samples in a batch, `T` tokens per sample, `S = B·T` tokens
//! in the pool, `D` hidden size, `H` attention heads, `E` experts, `M` hidden size of an expert.

pub mod checkpoint;
pub mod engine;
pub mod gpu;
pub mod kernels;
pub mod model;
pub mod pipeline;
pub mod pixels;
pub mod platform;
pub mod scheduler;
mod simd;
pub mod tokenizer;
pub mod trace;
pub mod vae;

/// The version of wgpu whose devices the library computes on.
pub use wgpu;
