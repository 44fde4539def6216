//! The model on the CPU: the most readable version, the reference for the GPU kernels, and what
//! runs where there is no GPU.
//!
//! Read `dit` first: three structs (the configuration, `model::Weights`, `activations`) and one function. Then `router` (which
//! expert takes which token), `moe`, and `simd::matmul` for how it gets fast.

#![allow(
    clippy::inline_always,
    reason = "vector code is only made of what is inlined into the function that the processor's features switch on"
)]

mod activations;
mod attention;
mod detail;
mod dit;
mod engine;
mod latents;
mod moe;
mod prompts;
mod router;
mod taps;
mod weights;

pub use engine::{CpuEngine, CpuModel};
