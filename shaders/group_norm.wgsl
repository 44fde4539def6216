// Applies a group norm whose statistics `group_fold` has gathered:
//   y[c] = act((x[c] - mean[c]) · scale[c] + bias[c]),  act = SiLU or nothing
// x and y are (C / 4, pixels, 4). In place, x is not read.
//
// A lane owns four channels of one pixel.

struct Params {
    count: u32,        // quads in y
    pixels: u32,
    first_quad: u32,   // of y among all channels / 4
    total_quads: u32,  // all channels / 4
}

override IN_PLACE: bool = false;
override SILU: bool = true;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> table: array<vec4<f32>>;    // (3, C): mean, scale, bias
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

override LANES: u32;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * LANES + lane;
    if i >= params.count {
        return;
    }
    let quad = params.first_quad + i / params.pixels;
    let mean = table[quad];
    let scale = table[params.total_quads + quad];
    let offset = table[2u * params.total_quads + quad];
    var v: vec4<f32>;
    if IN_PLACE {
        v = y[i];
    } else {
        v = x[i];
    }
    v = (v - mean) * scale + offset;
    if SILU {
        v = vec4(silu(v.x), silu(v.y), silu(v.z), silu(v.w));
    }
    y[i] = v;
}
