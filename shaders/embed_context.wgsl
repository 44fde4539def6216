// Tokens that carry the labels, behind those of patches:  x[b, T + n, :] = positions[n, :] + Σ_j label[j, b, :]
// Labels are those of `shared/labels`. One lane per element written.

struct Params {
    batch: u32,    // B
    hidden: u32,   // D
    tables: u32,
    context: u32,  // N, tokens that carry the labels
    sample_tokens: u32,  // T + N
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> positions: array<f32>;  // (N, D)
@group(0) @binding(5) var<storage, read_write> x: array<f32>;    // (B, T + N, D)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.y * groups.x + group.x) * LANES + lane;
    if at >= params.batch * params.context * params.hidden {
        return;
    }
    let d = at % params.hidden;
    let n = at / params.hidden % params.context;
    let b = at / (params.hidden * params.context);
    var sum = positions[n * params.hidden + d];
    for (var j = 0u; j < params.tables; j++) {
        sum += label_of(j, b, d);
    }
    let token = (b + 1u) * params.sample_tokens - params.context + n;
    x[token * params.hidden + d] = sum;
}
