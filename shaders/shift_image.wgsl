// Shifts images in a circle:
//   output[plane, y, x] = input[plane, (y + up) mod height, (x + left) mod width]
// Both are latents of one buffer and do not overlap. One lane per element of the output.

struct Params {
    count: u32,   // planes · height · width
    height: u32,
    width: u32,
    input: u32,   // element of `latents` where the input begins
    output: u32,  // the same for the output
    up: u32,      // < height
    left: u32,    // < width
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> latents: array<f32>;  // all latents

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
    let row = at / params.width;
    let plane = row / params.height;
    let y = (row % params.height + params.up) % params.height;
    let x = (at % params.width + params.left) % params.width;
    let source = (plane * params.height + y) * params.width + x;
    latents[params.output + at] = latents[params.input + source];
}
