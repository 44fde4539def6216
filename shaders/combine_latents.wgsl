// One line of a solver:  y = Σ_i factors[i] · x_i  over at most eight samples, added in order.
// The x_i and y are latents of one buffer. A model output has more channels per sample than y; only its
// first ones count, which lie at the start of each sample. y may be among the x_i: a lane reads and
// writes its own element only. One lane per element of y.

struct Params {
    count: u32,       // B · C · height · width
    sample_len: u32,  // C · height · width
    terms: u32,       // ≤ 8
    first: u32,       // element of `latents` where y begins
    firsts: array<vec4<u32>, 2>,    // the same for each x_i
    strides: array<vec4<u32>, 2>,   // numbers per sample of each x_i
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> factors: array<f32>;        // (8)
@group(0) @binding(2) var<storage, read_write> latents: array<f32>;  // all latents

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
    let sample = at / params.sample_len;
    let offset = at % params.sample_len;
    var sum = 0.0;
    for (var i = 0u; i < params.terms; i++) {
        let first = params.firsts[i / 4u][i % 4u];
        let stride = params.strides[i / 4u][i % 4u];
        sum += factors[i] * latents[first + sample * stride + offset];
    }
    latents[params.first + at] = sum;
}
