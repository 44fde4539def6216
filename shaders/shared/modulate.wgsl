// What `modulate` and `modulate_software` have in common: parameters and bindings. Appended after either.

struct Params {
    rows: u32,              // S
    quads: u32,             // D / 4
    sample_tokens: u32,     // T
    modulation_quads: u32,  // columns of `modulation` / 4
    shift_quad: u32,        // first column of shift / 4
    scale_quad: u32,        // first column of scale / 4
    centring: f32,          // 1, or 0 for an RMS norm
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;           // (S, D)
@group(0) @binding(2) var<storage, read> modulation: array<vec4<f32>>;  // (B, columns)
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;     // (S, D)
