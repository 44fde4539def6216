// Pixels as rows, and rows back to their pixels, for attention over an image:
//   y[t, c] = x[c, first + t]     rows beyond the last pixel become zeros
//   y[c, first + t] += x[t, c]    with ADD; rows beyond the last pixel are left out
// Rows are (rows, C) with C = 4 · row_quads; the image is (quads, pixels, 4), some of its channels.
//
// A lane owns four channels of one row; neighbours have neighbouring pixels.

struct Params {
    rows: u32,
    quads: u32,         // in the image
    first_quad: u32,    // of the image among the columns of a row / 4
    row_quads: u32,     // C / 4
    pixels: u32,
    first_pixel: u32,
}

override ADD: bool = false;
override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

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
    let is_inside = pixel < params.pixels;
    let in_rows = row * params.row_quads + params.first_quad + quad;
    let in_image = quad * params.pixels + pixel;
    if ADD {
        if is_inside {
            y[in_image] += x[in_rows];
        }
    } else {
        var v = vec4(0.0);
        if is_inside {
            v = x[in_image];
        }
        y[in_rows] = v;
    }
}
