// Activation functions. WGSL leaves overflow undefined, so arguments of `exp` and `tanh` are clamped
// to where the result no longer changes in f32.

fn silu(z: f32) -> f32 {
    return z / (1.0 + exp(min(-z, 80.0)));
}

// GELU in the tanh form that DiT uses: ½ z (1 + tanh(√(2/π) (z + 0.044715 z³))).
fn gelu_tanh(z: f32) -> f32 {
    let inner = 0.7978845608028654 * (z + 0.044715 * z * z * z);
    return 0.5 * z * (1.0 + tanh(clamp(inner, -10.0, 10.0)));
}
