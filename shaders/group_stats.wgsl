// First half of a group norm: mean and sum of squared deviations of each channel in pieces of CHUNK
// pixels. x is (C / 4, pixels, 4); partial is (chunks, all channels / 4, 2, 4): means, then squares.
//
// A workgroup owns one quad of channels in one chunk; its 64 lanes share the pixels and add up by a tree
// in workgroup memory. Mean first, then the deviations from it: a single pass over squares would cancel.
// All loop bounds are uniform.

struct Params {
    pixels: u32,       // of a channel
    first_quad: u32,   // of x among all channels / 4
    total_quads: u32,  // all channels / 4
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> partial: array<vec4<f32>>;

override CHUNK: u32;
const LANES = 64u;

var<workgroup> sums: array<vec4<f32>, LANES>;

// Sum over all lanes, the same for each.
fn total(lane: u32, value: vec4<f32>) -> vec4<f32> {
    sums[lane] = value;
    workgroupBarrier();
    for (var reach = LANES / 2u; reach > 0u; reach /= 2u) {
        if lane < reach {
            sums[lane] += sums[lane + reach];
        }
        workgroupBarrier();
    }
    let sum = sums[0];
    // The next call overwrites `sums`.
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * CHUNK;
    let end = min(start + CHUNK, params.pixels);
    let plane = group.y * params.pixels;
    var sum = vec4(0.0);
    for (var i = start + lane; i < end; i += LANES) {
        sum += x[plane + i];
    }
    let mean = total(lane, sum) / f32(end - start);
    var squares = vec4(0.0);
    for (var i = start + lane; i < end; i += LANES) {
        let deviation = x[plane + i] - mean;
        squares += deviation * deviation;
    }
    let deviations = total(lane, squares);
    if lane == 0u {
        let at = (group.x * params.total_quads + params.first_quad + group.y) * 2u;
        partial[at] = mean;
        partial[at + 1u] = deviations;
    }
}
