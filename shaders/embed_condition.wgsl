// What adaLN sees:  y[b, :] = SiLU( time[b, :] + pooled[b, :] + Σ_j label[j, b, :] )
// Labels are those of `shared/labels`. One lane per element of y.

struct Params {
    batch: u32,   // B
    hidden: u32,  // D
    tables: u32,
    has_text: u32,  // whether `pooled` counts
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> time: array<f32>;     // (B, D)
@group(0) @binding(5) var<storage, read> pooled: array<f32>;   // (B, D)
@group(0) @binding(6) var<storage, read_write> y: array<f32>;  // (B, D)

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.x;
    if at >= params.batch * params.hidden {
        return;
    }
    let b = at / params.hidden;
    let d = at % params.hidden;
    var c = time[at];
    if params.has_text == 1u {
        c += pooled[at];
    }
    for (var j = 0u; j < params.tables; j++) {
        c += label_of(j, b, d);
    }
    y[at] = silu(c);
}
