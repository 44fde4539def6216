// Layer norm of every query and every key, in place, with weight w and bias b that all heads share:
//   x = (x - mean) / √(variance + eps) · w + b      over the d numbers of one head
// An RMS norm takes the mean as 0 and has no b.
// x (S, 3, H, d) holds queries, keys and values; values stay. A lane owns one query or key.

struct Params {
    count: u32,  // S · 2 · H
    heads: u32,  // H
    quads: u32,  // d / 4
    eps: f32,
    centring: f32,  // 1, or 0 for an RMS norm
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> affine: array<vec4<f32>>;     // (4, d): w, b of q; w, b of k; or (2, d) without b
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;    // (S, 3, H, d)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.y * groups.x + group.x) * LANES + lane;
    if at >= params.count {
        return;
    }
    let head = at % params.heads;
    let part = at / params.heads % 2u;
    let token = at / (2u * params.heads);
    let first = ((token * 3u + part) * params.heads + head) * params.quads;
    let size = f32(params.quads * 4u);
    var sum = vec4(0.0);
    for (var i = 0u; i < params.quads; i++) {
        sum += x[first + i];
    }
    let mean = dot(sum, vec4(1.0)) / size * params.centring;
    var squares = 0.0;
    for (var i = 0u; i < params.quads; i++) {
        let v = x[first + i] - mean;
        squares += dot(v, v);
    }
    let scale = 1.0 / sqrt(squares / size + params.eps);
    for (var i = 0u; i < params.quads; i++) {
        let normal = (x[first + i] - mean) * scale;
        if params.centring > 0.0 {
            let w = affine[2u * part * params.quads + i];
            let b = affine[(2u * part + 1u) * params.quads + i];
            x[first + i] = normal * w + b;
        } else {
            x[first + i] = normal * affine[part * params.quads + i];
        }
    }
}
