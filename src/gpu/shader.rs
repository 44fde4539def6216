//! Shaders as text with their constants.

/// A WGSL file with the shared files that are appended to it. The macro `shader!` of [`crate::kernels`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Shader {
    /// Stem of the WGSL file; also the label in captures and timings.
    pub name: &'static str,
    /// The whole WGSL text. Shared files come last, so that line numbers in errors stay true.
    pub source: &'static str,
    /// Values of `override` constants that depend on no call, such as the lanes of a workgroup. They have no default
    /// in WGSL: Rust alone states them.
    pub sizes: &'static [(&'static str, u32)],
    /// `const`s of the WGSL text that Rust states too, because they size arrays of functions, where WGSL allows no
    /// `override`. `tests/shaders.rs` compares them.
    pub consts: &'static [(&'static str, u32)],
}

/// A shader with the values of its `override` constants: what a driver compiles.
#[derive(Clone, Debug)]
pub struct Specialisation {
    /// The shader, with the constants that depend on no call.
    pub shader: Shader,
    /// Names and values of the others.
    pub constants: Vec<(&'static str, f64)>,
}
