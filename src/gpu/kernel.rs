//! The contract of a kernel: one WGSL file and one Rust struct that says how to call it.
//!
//! To add one: write `shaders/foo.wgsl`, write `src/kernels/foo.rs` with the struct, a `reference()` in
//! f64 and tests, and add its two lines to `src/kernels/mod.rs`.

use super::Tensor;

/// A call of one compute shader. The struct's fields are the call's arguments.
pub trait Kernel {
    /// Stem of the WGSL file; also the label in captures and timings.
    const NAME: &'static str;
    /// The whole WGSL text. Shared functions are appended, so that line numbers in errors stay true.
    const SOURCE: &'static str;
    /// What `@group(0) @binding(0) var<uniform> params: Params` holds.
    type Params: bytemuck::Pod;

    /// The uniform's value.
    fn params(&self) -> Self::Params;

    /// The tensors at bindings 1, 2, … in this order. Whether one is written is said in WGSL only.
    fn tensors(&self) -> Vec<&Tensor>;

    /// Values of the shader's `override` constants.
    fn constants(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Workgroups to start, each extent at most [`MAX_GROUPS`].
    fn groups(&self) -> [u32; 3];
}

/// Most workgroups that WebGPU starts in one dimension.
pub const MAX_GROUPS: u32 = 65_535;

/// Workgroups for one lane per element. The shader computes the element as
/// `(group.y * num_groups.x + group.x) * WG + lane` and checks it against the length.
pub fn lanes(count: usize, workgroup: usize) -> [u32; 3] {
    spread(count.div_ceil(workgroup))
}

/// Folds a count of workgroups into two dimensions where it passes [`MAX_GROUPS`].
pub fn spread(groups: usize) -> [u32; 3] {
    let rows = groups.div_ceil(MAX_GROUPS as usize).max(1);
    [groups.div_ceil(rows).max(1) as u32, rows as u32, 1]
}

/// A kernel without its types: what tests need to check every shader.
#[derive(Clone, Copy, Debug)]
pub struct KernelSource {
    /// Stem of the WGSL file.
    pub name: &'static str,
    /// The whole WGSL text.
    pub source: &'static str,
    /// Size of the Rust side of the uniform, in bytes.
    pub params_size: usize,
}

impl KernelSource {
    /// Forgets a kernel's type.
    pub const fn of<K: Kernel>() -> Self {
        Self { name: K::NAME, source: K::SOURCE, params_size: size_of::<K::Params>() }
    }
}

/// A kernel with the values of its `override` constants: what a driver compiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Specialisation {
    /// Stem of the WGSL file.
    pub name: &'static str,
    /// The whole WGSL text.
    pub source: &'static str,
    /// Names and values of the constants.
    pub constants: Vec<(&'static str, f64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workgroups_fold_into_rows_and_cover_everything() {
        assert_eq!(lanes(0, 64), [1, 1, 1]);
        assert_eq!(lanes(65, 64), [2, 1, 1]);
        for groups in [65_535, 65_536, 200_001, 9_000_000] {
            let [x, y, z] = spread(groups);
            assert!(x <= MAX_GROUPS && y <= MAX_GROUPS && z == 1);
            let started = x as usize * y as usize;
            assert!(started >= groups && started - groups < y as usize, "{groups}: {x}x{y}");
        }
    }
}
