//! What a `DiffMoE` is, apart from any device: its [`Config`], the tensors it needs, and the
//! [`Engine`] contract that the GPU and the CPU implementation both fulfil.

mod activations;
mod config;
mod dit;
mod engine;
mod footprint;
mod gpu_engine;
mod gpu_model;
mod moe;
mod passes;
mod presets;
mod prompts;
mod run_prompts;
mod step_tape;
mod taps;
mod tensors;
mod text_config;
mod text_weights;
mod weight_choice;
mod weights;

pub use config::{Config, ConfigError, FfnForm, Kind, LabelTable, Prediction, TimeKind};
pub use engine::{
    Branch, Denoise, Deviation, Engine, EngineError, ForwardRouting, LayerRouting, Op, Progress,
    Routing, RoutingRule, RunSpec, SliceTime, Slot, Snapshot, Stage, StageTimes, Taps,
};
pub use footprint::{Footprint, Storage, file_bytes, is_matrix};
pub use gpu_engine::GpuEngine;
pub use gpu_model::GpuModel;
pub use presets::{Preset, SIZES, UnknownPreset};
pub use run_prompts::RunPrompts;
pub use tensors::TensorSpec;
pub use text_config::TextConfig;
pub use weight_choice::{Precisions, WeightChoice};
