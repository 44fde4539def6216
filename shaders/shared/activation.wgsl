// Activation functions, all of the form z · σ(gate). WGSL leaves overflow undefined, so the argument of `exp` is clamped
// to where the result no longer changes in f32.

fn gated(z: vec4<f32>, gate: vec4<f32>) -> vec4<f32> {
    return z / (1.0 + exp(min(-gate, vec4(80.0))));
}

// GELU in the tanh form that DiT uses, ½ z (1 + tanh(√(2/π) (z + 0.044715 z³))): ½ (1 + tanh u) is σ(2u),
// and 2 · √(2/π) is the first number below.
fn gelu_gate(z: vec4<f32>) -> vec4<f32> {
    return z * (1.5957691216057308 + 0.07135481627159 * z * z);
}

fn silu(z: f32) -> f32 {
    return gated(vec4(z), vec4(z)).x;
}

fn gelu_tanh(z: f32) -> f32 {
    return gated(vec4(z), gelu_gate(vec4(z))).x;
}
