// Adds rows to the pixels that they came from: y[c, first + t] += x[t, c], the end of an attention layer.
// x is (rows, C) with C = 4 · row_quads; y is (quads, pixels, 4), some channels of a picture. Rows beyond
// the last pixel are left out.
//
// A lane owns four channels of one row; neighbours write neighbouring pixels.

struct Params {
    rows: u32,
    quads: u32,         // in y
    first_quad: u32,    // of y among the columns of x / 4
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
    if pixel < params.pixels {
        y[quad * params.pixels + pixel] += x[row * params.row_quads + params.first_quad + quad];
    }
}
