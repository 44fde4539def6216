// The two ends of the detail head, whose feature maps lie in quads, (C / 4, B, height, width, 4):
//   y[q, b, p, i] = channel 4q + i of [x̂, z, t, row, column], zero beyond     x̂ and z are latents (B, C, height, width)
//   x̂[b, c, p] += x[c / 4, b, p, c mod 4]                         with ADD
// The phase of row or column i is (2 (i mod p) + 1) / p - 1 in patches of side p; there is none where patch_size is 0.
// One lane per element of y; with ADD, of x̂. Neighbours write neighbouring numbers.

struct Params {
    count: u32,     // lanes
    channels: u32,  // C
    plane: u32,     // height · width
    batch: u32,     // B
    samples: u32,   // samples in z; beyond the last the first comes again
    predicted: u32, // element of the latents where x̂ begins
    noised: u32,    // and z
    width: u32,
    patch_size: u32, // 0: no phases
}

override ADD: bool = false;
override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;        // all latents; with ADD quads
@group(0) @binding(2) var<storage, read> times: array<f32>;    // (B)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;  // quads; with ADD all latents

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
    if ADD {
        let pixel = at % params.plane;
        let channel = at / params.plane % params.channels;
        let sample = at / (params.plane * params.channels);
        let in_quads = ((channel / 4u * params.batch + sample) * params.plane + pixel) * 4u;
        y[params.predicted + at] += x[in_quads + channel % 4u];
        return;
    }
    let pixel = at / 4u % params.plane;
    let sample = at / (4u * params.plane) % params.batch;
    let channel = at / (4u * params.plane * params.batch) * 4u + at % 4u;
    var value = 0.0;
    if channel < params.channels {
        value = x[params.predicted + (sample * params.channels + channel) * params.plane + pixel];
    } else if channel < 2u * params.channels {
        let row = sample % params.samples * params.channels + channel - params.channels;
        value = x[params.noised + row * params.plane + pixel];
    } else if channel == 2u * params.channels {
        value = times[sample];
    } else if params.patch_size > 0u && channel <= 2u * params.channels + 2u {
        let is_row = channel == 2u * params.channels + 1u;
        let place = select(pixel % params.width, pixel / params.width, is_row) % params.patch_size;
        value = f32(2u * place + 1u) / f32(params.patch_size) - 1.0;
    }
    y[at] = value;
}
