//! What a `DiffMoE` is, apart from any device: its [`Config`], the tensors it needs, and the
//! [`Engine`] contract that the GPU and the CPU implementation both fulfil.

mod activations;
mod config;
mod dit;
mod engine;
mod gpu_engine;
mod moe;
mod step_tape;
mod taps;
mod weights;

pub use config::{Config, ConfigError, FfnForm, Kind, LabelTable, TensorSpec, TimeKind};
pub use engine::{
    Branch, Engine, EngineError, ForwardRouting, LayerRouting, Op, Progress, Routing, RoutingRule,
    RunSpec, SliceTime, Slot, Snapshot, Stage, StageTimes, Taps,
};
pub use gpu_engine::{GpuEngine, GpuModel};
