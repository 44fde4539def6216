//! The contract of a kernel: a WGSL file, and a Rust struct whose fields are the arguments of a call.
//!
//! ARCHITECTURE.md lists the steps to add one.

use super::{Profile, Shader, Tensor};

/// A call of a compute shader. The struct's fields are the call's arguments.
pub trait Kernel {
    /// The shader for GPUs; for software adapters too, unless there is another.
    const SHADER: Shader;
    /// The shader for software adapters, where a variant of its own pays. It has the same bindings.
    const SOFTWARE: Option<Shader> = None;
    /// What `@group(0) @binding(0) var<uniform> params: Params` holds.
    type Params: bytemuck::Pod;

    /// The uniform's value.
    fn params(&self) -> Self::Params;

    /// The tensors at bindings 1, 2, … in this order. Only the WGSL declares which are written.
    fn tensors(&self) -> Vec<&Tensor>;

    /// Values of the `override` constants that depend on the call, in addition to [`Shader::sizes`].
    fn constants(&self, profile: Profile) -> Vec<(&'static str, f64)> {
        let _ = profile;
        Vec::new()
    }

    /// Workgroups to start, each extent at most [`MAX_GROUPS`].
    fn groups(&self, profile: Profile) -> [u32; 3];
}

/// The shader of a kernel on devices of a profile.
pub(super) const fn shader<K: Kernel>(profile: Profile) -> Shader {
    match (profile, K::SOFTWARE) {
        (Profile::Software, Some(shader)) => shader,
        _ => K::SHADER,
    }
}

/// Most workgroups that WebGPU starts in one dimension.
pub const MAX_GROUPS: u32 = 65_535;

/// Workgroups for one lane per element. The shader computes the element as
/// `(group.y * num_groups.x + group.x) * LANES + lane` and checks it against the length.
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
    /// The shader.
    pub shader: Shader,
    /// Size of the Rust side of the uniform, in bytes.
    pub params_size: usize,
}

impl KernelSource {
    /// Forgets a kernel's type: one entry for each of its shaders.
    pub fn of<K: Kernel>() -> impl Iterator<Item = Self> {
        let entry = |shader| Self { shader, params_size: size_of::<K::Params>() };
        std::iter::once(K::SHADER).chain(K::SOFTWARE).map(entry)
    }
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
