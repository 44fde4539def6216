// Pixels as rows: y[t, c] = x[c, first + t], for attention. x is (quads, pixels, 4), some channels of a
// picture; y is (rows, C) with C = 4 · row_quads. Rows beyond the last pixel become zeros.
//
// A lane owns four channels of one row; neighbours read neighbouring pixels.

struct Params {
    rows: u32,
    quads: u32,         // in x
    first_quad: u32,    // of x among the columns of y / 4
    row_quads: u32,     // C / 4
    pixels: u32,
    first_pixel: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

const LANES = 64u;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * LANES + lane;
    if i >= params.rows * params.quads {
        return;
    }
    let row = i % params.rows;
    let quad = i / params.rows;
    let pixel = params.first_pixel + row;
    var v = vec4(0.0);
    if pixel < params.pixels {
        v = x[quad * params.pixels + pixel];
    }
    y[row * params.row_quads + params.first_quad + quad] = v;
}
