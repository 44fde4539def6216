// Self-attention as in `attention`, with the same bindings, for adapters that run shaders on the
// processor: no workgroup memory and no barriers.
//
// A lane owns one query of one head of one sample and reads all keys and values of that head where
// they lie; the lanes of a group read the same ones at the same time.

override QUADS: u32 = 16;  // d / 4

// One SIMD vector of the software adapters.
const LANES = 8u;
const MAX_QUADS = 32u;

struct Params {
    tokens: u32,  // T
    heads: u32,   // H
    scale: f32,   // 1 / √d
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;        // (B, T, 3, H, d)
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;  // (B, T, H, d)

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = group.x * LANES + lane;
    if t >= params.tokens {
        return;
    }
    let width = params.heads * QUADS;  // of one of q, k, v
    let first = group.z * params.tokens;
    let column = group.y * QUADS;

    var query: array<vec4<f32>, MAX_QUADS>;
    var sum: array<vec4<f32>, MAX_QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        query[i] = x[(first + t) * 3u * width + column + i] * params.scale;
        sum[i] = vec4(0.0);
    }
    var highest = -3.0e38;
    var denominator = 0.0;
    for (var key = 0u; key < params.tokens; key++) {
        let at = ((first + key) * 3u + 1u) * width + column;
        var score = 0.0;
        for (var i = 0u; i < QUADS; i++) {
            score += dot(query[i], x[at + i]);
        }
        let before = highest;
        highest = max(highest, score);
        let shrink = exp(before - highest);
        let weight = exp(score - highest);
        denominator = denominator * shrink + weight;
        for (var i = 0u; i < QUADS; i++) {
            sum[i] = sum[i] * shrink + weight * x[at + width + i];
        }
    }
    for (var i = 0u; i < QUADS; i++) {
        y[(first + t) * width + column + i] = sum[i] / denominator;
    }
}
