//! The same model on the processor: the version to read, the oracle for the GPU kernels, and what
//! runs where there is no GPU.
//!
//! Read `forward` first: three structs — the configuration, `weights`, activations — and
//! one function. Then `router` (who takes which token), `experts`, and `matmul` for how it gets fast.

#![allow(
    clippy::inline_always,
    reason = "vector code is only made of what is inlined into the function that the processor's features switch on"
)]

mod engine;
mod experts;
mod forward;
pub(crate) mod math;
pub(crate) mod matmul;
mod router;
mod slots;
mod text;
mod threads;
mod weights;

pub use engine::{CpuEngine, CpuModel};
pub(crate) use threads::describe;
