//! DiffMoE (*Dynamic Token Selection for Scalable Diffusion Transformers*, arXiv 2503.14487) on wgpu: diffusion
//! transformers whose experts select their tokens from a pool that spans the whole batch. Samples are computed by
//! portable WGSL shaders, natively and in browsers, or on the CPU, and every routing decision can be inspected.
//!
//! # On the CPU
//!
//! A model is a safetensors file with its configuration inside ([`Checkpoint::open`](checkpoint::Checkpoint::open)).
//! Here it is a small one with random weights, so the image is noise:
//!
//! ```
//! use diffmoe::checkpoint::Checkpoint;
//! use diffmoe::pipeline::{Pipeline, Settings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = r#"{
//!     "name": "tiny", "kind": "diffmoe", "t_kind": "flow", "space": "pixels",
//!     "params": {
//!         "input_size": 8, "in_channels": 3, "patch_size": 2, "num_classes": 10,
//!         "depth": 2, "hidden_size": 32, "num_heads": 2,
//!         "MoE_config": { "num_experts": 4, "capacity": 1 }
//!     }
//! }"#;
//! let checkpoint = Checkpoint::random(config, 0)?;
//! let pipeline = Pipeline::cpu(&checkpoint)?;
//!
//! let mut settings = Settings::of(pipeline.config());
//! settings.labels = vec![vec![3, 7]]; // two images: of class 3 and of class 7
//! settings.sampling.steps = 4;
//! let finished = pipeline.start(settings)?.finish(|fraction| println!("{fraction:.2}"))?;
//!
//! assert_eq!(finished.samples.len(), 2 * 3 * 8 * 8); // [B, C, height, width], in about [-1, 1]
//! assert_eq!(finished.trace.steps(), 4); // which expert took which token, at every step
//! diffmoe::pixels::grid(&finished.samples, [8, 8], None); // an image that can be saved as PNG
//! # Ok(())
//! # }
//! ```
//!
//! # On a device of the host
//!
//! The library computes on a [`wgpu::Device`] of the host, in addition to its own work: [`gpu::Gpu::on`] checks its
//! limits and replaces none of its handlers. A run is advanced in slices and never waits; the samples can be painted
//! where they are, without a read-back.
//!
//! ```no_run
//! use diffmoe::engine::Progress;
//! use diffmoe::gpu::Gpu;
//! use diffmoe::kernels::TextureWriter;
//! use diffmoe::pipeline::{Pipeline, Settings};
//! use diffmoe::{checkpoint::Checkpoint, wgpu};
//!
//! # async fn draw(
//! #     device: wgpu::Device, queue: wgpu::Queue, checkpoint: Checkpoint,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let gpu = Gpu::on(&device, &queue)?;
//! let pipeline = Pipeline::load_async(&gpu, &checkpoint).await?;
//! let mut run = pipeline.start_async(Settings::of(pipeline.config())).await?;
//!
//! let writer = TextureWriter::new(&gpu);
//! let texture = TextureWriter::texture(&gpu, pipeline.config().input_size);
//! while run.advance(16)? != Progress::Done { // at most about 16 kernels; once per frame
//!     let mut encoder = device.create_command_encoder(&Default::default());
//!     if let Some(samples) = run.gpu_samples() {
//!         writer.write(&gpu, &mut encoder, samples.image(0), &texture);
//!     }
//!     // The host's own passes, which may sample `texture`, go here.
//!     queue.submit([encoder.finish()]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The crate `wgpu` is re-exported as [`wgpu`]: a host has to use the same version. The kernels need what every WebGPU
//! device guarantees ([`gpu::Gpu::required_limits`]) and no feature; `TIMESTAMP_QUERY` is used for timings where it is
//! enabled. Devices that only run WebGL or OpenGL ES 3.0 are refused.
//!
//! # Examples
//!
//! In `examples/` of the repository: `headless` (images to a PNG), `custom_scheduler`, `routing_trace`,
//! `bring_your_weights`, and as a package of its own `own_device` (a window that paints what its own device computes).
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `blocking` | yes | `load`, `open`, `start`, `finish` and others that wait for a device; browsers use their `_async` forms |
//! | `compact` | yes | weights on the CPU in the format of their file, and products in bf16 and int8 ([`engine::CpuMath`]) |
//! | `import` | no | PyTorch checkpoints and the YAML files of official training runs |
//! | `jpeg` | no | JPEG files as images to start from ([`pixels::RgbImage::read`]) |
//!
//! The minimum supported Rust version is 1.95.
//!
//! # Modules
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
//! | [`pixels`] | samples as pixels and PNG files |
//! | [`pipeline`] | models on a device, settings, runs and decoding jobs |
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
