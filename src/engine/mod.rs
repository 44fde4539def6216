//! The forward pass: one [`Engine`] contract, implemented with wgpu ([`GpuEngine`]) and on the CPU
//! ([`CpuEngine`]). Both folders have the same files.

mod block_check;
mod contract;
mod cpu;
mod footprint;
mod gpu;
mod linear;
mod run_prompts;
mod time_mlp;

pub use block_check::check_block;
pub use contract::{
    Engine, EngineError, ForwardRouting, GpuSamples, Inspect, LayerRouting, Progress, RunConfig,
    Scope, Scores, SliceTime, Snapshot, Stage, StageTimes, Taps,
};
pub use cpu::{CpuEngine, CpuModel};
pub use footprint::Footprint;
pub use gpu::{Branches, GpuEngine, GpuModel, Precisions, WeightChoice};
pub use run_prompts::RunPrompts;
