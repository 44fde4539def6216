//! The model as plain data, apart from any device: its [`Config`], the tensors it needs, the presets of the paper,
//! and the routing rules.

mod config;
mod document;
mod error;
mod ffn;
mod labels;
mod leaf;
mod moe_section;
mod names;
mod presets;
mod rope;
mod routing;
mod shifts;
mod spec;
mod storage;
mod tensors;
mod text_config;
mod weights;
mod width;

pub use config::{
    Config, ContextTokens, FfnForm, Kind, MOST_EXPERTS, NormForm, Objective, Prediction, Refiner,
    Router, SamplingDefaults, Showcase,
};
pub use document::refiner_document;
pub use error::ConfigError;
pub(crate) use ffn::Ffn;
pub(crate) use labels::LabelRow;
pub use labels::{LabelMix, LabelTable};
pub(crate) use leaf::{Leaf, Source};
pub(crate) use names::choices;
pub use names::{UnknownName, one_of};
pub use presets::{Preset, PresetFamily, SIZES, UnknownPreset};
pub(crate) use rope::rotations;
pub(crate) use routing::NOT_ASKED;
pub use routing::{Muted, MutedError, Routing, RoutingRule, Selection};
pub use shifts::{Shift, Shifts, ShiftsError};
pub(crate) use spec::LinearSpec;
pub use spec::{Group, Role, TensorSpec};
pub use storage::{INT4_GROUP, Storage, file_bytes};
pub use tensors::REFINER;
pub(crate) use tensors::{Seen, look};
pub use text_config::TextConfig;
pub(crate) use weights::{
    CrossAttention, DetailHead, Gate, Mlp, Moe, SelfAttention, TextEncoder, TextLayer, Weights,
};
