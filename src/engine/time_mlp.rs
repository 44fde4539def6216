//! The time embedding after its MLP. It is the same for all samples of a pass, so that both backends compute it on the
//! processor: one row through two small layers, where a GPU would start two kernels that leave it nearly idle.

use super::linear::Linear;
use crate::simd::math::{TIME_DIMS, silu, time_embedding};

/// `mlp(sinusoid(time))`, `[D]`; `time` is what [`Config::model_time`](crate::model::Config::model_time) gives.
pub(super) fn embed_time(layers: &[Linear; 2], time: f32) -> Vec<f32> {
    let mut sinusoid = [0.0; TIME_DIMS];
    let mut hidden = vec![0.0; layers[0].outputs()];
    let mut embedded = vec![0.0; layers[1].outputs()];
    time_embedding(time, &mut sinusoid);
    layers[0].apply(|_| &sinusoid, &mut hidden);
    silu(&mut hidden);
    layers[1].apply(|_| &hidden, &mut embedded);
    embedded
}
