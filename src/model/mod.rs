//! The model as plain data, apart from any device: its [`Config`], the tensors it needs, the presets of the paper,
//! and the routing rules.

mod config;
mod presets;
mod routing;
mod storage;
mod tensors;
mod text_config;

pub use config::{Config, ConfigError, FfnForm, Kind, LabelTable, Objective, Prediction};
pub use presets::{Preset, SIZES, UnknownPreset};
pub use routing::{Routing, RoutingRule};
pub use storage::{INT4_GROUP, Storage, file_bytes, is_matrix};
pub use tensors::TensorSpec;
pub use text_config::TextConfig;
