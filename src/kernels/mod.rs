//! One file for each kernel: how to call it, what it must compute (in f64), and its tests.
//! The shaders lie in `shaders/` under the same names.

use crate::gpu::KernelSource;

pub mod combine_experts;
pub mod expert_linear;
pub mod route_score;
pub mod route_select;
pub mod trace_store;

pub use combine_experts::CombineExperts;
pub use expert_linear::{ExpertArgs, ExpertLinear, ExpertLinearRegister, Form, Source};
pub use route_score::{Predictor, RouteScore};
pub use route_select::{NO_SLOT, RouteSelect, Selection};
pub use trace_store::TraceStore;

/// Every shader of this crate, for tests that check them all.
pub fn all_sources() -> Vec<KernelSource> {
    vec![
        KernelSource::of::<CombineExperts>(),
        KernelSource::of::<ExpertLinear>(),
        KernelSource::of::<ExpertLinearRegister>(),
        KernelSource::of::<RouteScore>(),
        KernelSource::of::<RouteSelect>(),
        KernelSource::of::<TraceStore>(),
    ]
}
