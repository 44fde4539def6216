//! Devices of tests that compute on wgpu.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diffmoe::gpu::{Gpu, GpuOptions, Profile};

/// A device whose untouched memory is NaN and that panics where it refuses work.
pub fn device(profile: Profile) -> Arc<Gpu> {
    limited(profile, None)
}

/// The same, with bindings of at most so many bytes.
pub fn limited(profile: Profile, binding_limit: Option<u64>) -> Arc<Gpu> {
    let options = GpuOptions {
        profile: Some(profile),
        poison: true,
        panic_on_error: true,
        binding_limit,
        ..GpuOptions::default()
    };
    Arc::new(Gpu::headless_with(options).expect("these tests need a GPU or Mesa's lavapipe"))
}

/// One device at a time: a software adapter has no cores to spare for two.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
