//! Helpers of the kernel tests: one shared device, hostile inputs, honest comparisons.

use std::sync::OnceLock;

use super::{Gpu, GpuOptions, Kernel, Profile, Tape, Tensor, read_now};

/// The device all kernel tests share; new tensors are full of NaN and refused work panics.
///
/// Kernel tests name a variant where there are two, so the profile of this device does not matter to them.
pub(crate) fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        Gpu::headless_with(GpuOptions {
            profile: Some(Profile::Software),
            poison: true,
            panic_on_error: true,
            ..GpuOptions::default()
        })
        .expect("these tests need a GPU or Mesa's lavapipe")
    })
}

/// Both families of kernels.
pub(crate) const PROFILES: [Profile; 2] = [Profile::Gpu, Profile::Software];

/// Runs a kernel of which there is one variant, and waits for it.
pub(crate) fn run<K: Kernel>(kernel: &K) {
    assert!(K::SOFTWARE.is_none(), "{} has two variants: name one", K::SHADER.name);
    run_variant(kernel, Profile::Gpu);
}

/// Runs a kernel's variant for a profile and waits for it.
pub(crate) fn run_variant<K: Kernel>(kernel: &K, profile: Profile) {
    let mut tape = Tape::default();
    tape.push_variant(gpu(), "test", kernel, profile);
    tape.run(gpu());
    gpu().wait().unwrap();
}

/// A tensor with these values.
pub(crate) fn tensor<T: super::Pod>(shape: &[usize], values: &[T]) -> Tensor {
    Tensor::upload(gpu(), "test input", shape, values)
}

/// A tensor full of NaN, to be written by a kernel.
pub(crate) fn poisoned(shape: &[usize]) -> Tensor {
    Tensor::empty(gpu(), "test output", shape)
}

/// A tensor's values.
pub(crate) fn read(tensor: &Tensor) -> Vec<f32> {
    read_now(gpu(), tensor).unwrap()
}

/// A tensor's values as integers.
pub(crate) fn read_u32(tensor: &Tensor) -> Vec<u32> {
    read_now(gpu(), tensor).unwrap()
}

/// Numbers in [-scale, scale] with one in sixteen ten times as large: a sum that loses small terms
/// next to large ones, or a softmax without its maximum, shows up. The same seed gives the same values.
pub(crate) fn spiky(len: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..len)
        .map(|_| {
            let value = next() as f32 / u32::MAX as f32 * 2.0 - 1.0;
            let spike = if next() % 16 == 0 { 10.0 } else { 1.0 };
            value * scale * spike
        })
        .collect()
}

/// Asserts `|got - want| <= absolute + relative·|want|` everywhere; NaN never passes.
pub(crate) fn assert_close(got: &[f32], want: &[f32], absolute: f32, relative: f32) {
    assert_eq!(got.len(), want.len());
    let excess = |(g, w): (&f32, &f32)| (g - w).abs() - (absolute + relative * w.abs());
    let fits = |pair: (&f32, &f32)| excess(pair) <= 0.0;
    let wrong: Vec<_> = got.iter().zip(want).enumerate().filter(|&(_, p)| !fits(p)).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} values differ; (index, (got, want)): {:?}",
        wrong.len(),
        got.len(),
        &wrong[..wrong.len().min(8)]
    );
}
