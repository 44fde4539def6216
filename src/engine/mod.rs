//! The forward pass: one [`Engine`] contract, implemented with wgpu ([`GpuEngine`]) and on the CPU
//! ([`CpuEngine`]); both folders have the same files. [`WorkersEngine`] runs the latter on threads that share no memory.

mod block_check;
mod contract;
mod cpu;
mod cpu_math;
mod footprint;
mod gpu;
mod linear;
mod refined;
mod run_prompts;
mod time_mlp;
mod workers;

pub use block_check::check_block;
pub use contract::{
    Engine, EngineError, ForwardRouting, GpuSamples, Inspect, Keep, LayerRouting, Progress,
    RunConfig, Scope, Scores, SliceTime, Snapshot, Stage, StageTimes, Taps,
};
pub use cpu::{CpuEngine, CpuModel};
pub use cpu_math::CpuMath;
pub use footprint::Footprint;
pub(crate) use gpu::block_products;
pub use gpu::{Branches, GpuEngine, GpuModel, Precisions, WeightChoice};
pub use refined::RefinedEngine;
pub use run_prompts::RunPrompts;
pub use workers::{Host, Link, Workers, WorkersEngine, WorkersModel};
