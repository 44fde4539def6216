// What `attention` and `attention_software` have in common: parameters and bindings. Appended after either.

struct Params {
    tokens: u32,  // T
    heads: u32,   // H
    scale: f32,   // 1 / √d
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;        // (B, T, 3, H, d)
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;  // (B, T, H, d)
