//! `DiffMoE` (*Dynamic Token Selection for Scalable Diffusion Transformers*, arXiv 2503.14487)
//! on wgpu: a diffusion transformer whose experts pick their tokens from one batch-wide pool.
//!
//! The data flow is the module list; a module may import only from those above it:
//!
//! | module | in one sentence |
//! |---|---|
//! | [`platform`] | hides the operating system or the browser |
//! | [`tokenizer`] | splits prompts into numbers |
//! | [`checkpoint`] | reads safetensors and PyTorch files into named, checked tensors, and writes model files |
//! | [`gpu`] | makes buffers and runs recorded work |
//! | [`kernels`] | says what one dispatch computes |
//! | [`model`] | says in which order |
//! | [`cpu`] | the same model, readable, on the processor |
//! | [`vae`] | latents to pictures |
//! | [`diffusion`] | says with which numbers |
//! | [`trace`] | remembers which expert took which token |
//! | [`sampler`] | says when |
//! | [`picture`] | samples as pixels and PNG files |
//! | `app` | the user interface, for a window and for a page (feature `app`) |
//! | `web` | the entry points of a web page (feature `web`) |
//!
//! Dimension letters used everywhere: `B` samples in a batch, `T` tokens per sample, `S = B·T` tokens
//! in the pool, `D` hidden size, `H` attention heads, `E` experts, `M` hidden size of an expert.

#[cfg(feature = "app")]
pub mod app;
pub mod checkpoint;
pub mod cpu;
pub mod diffusion;
pub mod gpu;
pub mod kernels;
pub mod model;
pub mod picture;
pub mod platform;
pub mod sampler;
pub mod tokenizer;
pub mod trace;
pub mod vae;
#[cfg(feature = "web")]
pub mod web;
