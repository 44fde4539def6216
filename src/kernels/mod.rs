//! One file for each kernel: how to call it, what it must compute (in f64), and its tests.
//! The shaders lie in `shaders/` under the same names.

use crate::gpu::KernelSource;

pub mod add_tokens;
pub mod attention;
pub mod combine_experts;
pub mod combine_latents;
pub mod conv2d;
pub mod denoise;
pub mod embed_condition;
pub mod embed_tokens;
pub mod expert_linear;
pub mod experts;
pub mod group_fold;
pub mod group_norm;
pub mod group_stats;
pub mod head_norm;
pub mod linear;
pub mod matrix;
pub mod modulate;
pub mod patchify;
pub mod planes;
pub mod route_score;
pub mod route_select;
pub mod softmax;
pub mod tokens_from_planes;
pub mod trace_store;
pub mod unpatchify;
pub mod weights;

pub use add_tokens::AddTokens;
pub use attention::Attention;
pub use combine_experts::CombineExperts;
pub use combine_latents::CombineLatents;
pub use conv2d::{Conv2d, ConvWeights};
pub use denoise::DenoiseLatents;
pub use embed_condition::EmbedCondition;
pub use embed_tokens::EmbedTokens;
pub use expert_linear::{ExpertArgs, ExpertLinear, ExpertLinearSoftware, Form, Source};
pub use experts::{ExpertBank, Experts, Routes, packed_rows};
pub use group_fold::GroupFold;
pub use group_norm::GroupNorm;
pub use group_stats::GroupStats;
pub use head_norm::HeadNorm;
pub use linear::{Activation, Epilogue, Linear};
pub use matrix::Matrix;
pub use modulate::Modulate;
pub use patchify::Patchify;
pub use route_score::{Predictor, RouteScore};
pub use route_select::{NO_SLOT, RouteSelect, Selection};
pub use softmax::Softmax;
pub use tokens_from_planes::TokensFromPlanes;
pub use trace_store::TraceStore;
pub use unpatchify::Unpatchify;
pub use weights::WeightPrecision;

/// Every shader of this crate, for tests that check them all.
pub fn all_sources() -> Vec<KernelSource> {
    vec![
        KernelSource::of::<AddTokens>(),
        KernelSource::of::<attention::AttentionTile>(),
        KernelSource::of::<attention::AttentionSoftware>(),
        KernelSource::of::<CombineExperts>(),
        KernelSource::of::<CombineLatents>(),
        KernelSource::of::<DenoiseLatents>(),
        KernelSource::of::<conv2d::Conv2dTile>(),
        KernelSource::of::<conv2d::Conv2dSoftware>(),
        KernelSource::of::<EmbedCondition>(),
        KernelSource::of::<EmbedTokens>(),
        KernelSource::of::<ExpertLinear>(),
        KernelSource::of::<ExpertLinearSoftware>(),
        KernelSource::of::<HeadNorm>(),
        KernelSource::of::<GroupFold>(),
        KernelSource::of::<GroupNorm>(),
        KernelSource::of::<GroupStats>(),
        KernelSource::of::<linear::LinearTile>(),
        KernelSource::of::<linear::LinearSoftware>(),
        KernelSource::of::<modulate::ModulateTree>(),
        KernelSource::of::<modulate::ModulateSoftware>(),
        KernelSource::of::<Patchify>(),
        KernelSource::of::<RouteScore>(),
        KernelSource::of::<RouteSelect>(),
        KernelSource::of::<Softmax>(),
        KernelSource::of::<TokensFromPlanes>(),
        KernelSource::of::<TraceStore>(),
        KernelSource::of::<Unpatchify>(),
    ]
}
