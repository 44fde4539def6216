//! One file for each kernel: how to call it, what it must compute (in f64), and its tests.
//! The shaders lie in `shaders/` under the same names.

use crate::gpu::KernelSource;

/// Every shader of this crate, for tests that check them all.
pub fn all_sources() -> Vec<KernelSource> {
    vec![]
}
