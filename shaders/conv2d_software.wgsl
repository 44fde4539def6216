// A convolution as in `conv2d`, with the same bindings, for adapters that run shaders on the
// processor: no workgroup memory and no barriers.
//
// Loads cost most on such adapters, so a lane sums as large a block as it can: eight pixels of a column
// by 16 outputs, named one by one because an array that is indexed in a loop goes to memory. The eight
// lanes have neighbouring columns. The sums of a pixel are a matrix with a column for each quad of
// outputs. Outputs beyond the edge repeat the last quad and are not stored.

override SIZE: u32 = 3;

override LANES: u32;  // one SIMD vector

const ROWS = 8u;
const OUT_QUADS = 4u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x * LANES + lane;
    let bands = (params.height + ROWS - 1u) / ROWS;
    let image = group.y / bands;
    let row = group.y % bands * ROWS;
    let out = group.z * OUT_QUADS;
    let last = params.out_quads - 1u;

    var s0 = mat4x4<f32>();
    var s1 = mat4x4<f32>();
    var s2 = mat4x4<f32>();
    var s3 = mat4x4<f32>();
    var s4 = mat4x4<f32>();
    var s5 = mat4x4<f32>();
    var s6 = mat4x4<f32>();
    var s7 = mat4x4<f32>();
    for (var quad = 0u; quad < params.in_quads; quad++) {
        for (var tap = 0u; tap < SIZE * SIZE; tap++) {
            let a = block(quad, tap, out);
            let b = block(quad, tap, min(out + 1u, last));
            let c = block(quad, tap, min(out + 2u, last));
            let d = block(quad, tap, min(out + 3u, last));
            let px = column + tap % SIZE;
            let py = row + tap / SIZE;
            s0 = add_products(s0, pixel(image, quad, px, py), a, b, c, d);
            s1 = add_products(s1, pixel(image, quad, px, py + 1u), a, b, c, d);
            s2 = add_products(s2, pixel(image, quad, px, py + 2u), a, b, c, d);
            s3 = add_products(s3, pixel(image, quad, px, py + 3u), a, b, c, d);
            s4 = add_products(s4, pixel(image, quad, px, py + 4u), a, b, c, d);
            s5 = add_products(s5, pixel(image, quad, px, py + 5u), a, b, c, d);
            s6 = add_products(s6, pixel(image, quad, px, py + 6u), a, b, c, d);
            s7 = add_products(s7, pixel(image, quad, px, py + 7u), a, b, c, d);
        }
    }
    var sums: array<mat4x4<f32>, ROWS>;
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
    sums[4] = s4;
    sums[5] = s5;
    sums[6] = s6;
    sums[7] = s7;
    // These loops end where y ends, so no compiler unrolls them.
    let count = min(ROWS, params.height - row);
    let quads = min(OUT_QUADS, params.out_quads - out);
    for (var r = 0u; r < count; r++) {
        for (var i = 0u; i < quads; i++) {
            store(image, out + i, column, row + r, sums[r][i]);
        }
    }
}

// Four outputs by four channels; a column for each channel.
fn block(quad: u32, tap: u32, out: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        weight(quad, tap, 0u, out),
        weight(quad, tap, 1u, out),
        weight(quad, tap, 2u, out),
        weight(quad, tap, 3u, out),
    );
}

fn add_products(
    sums: mat4x4<f32>,
    v: vec4<f32>,
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
) -> mat4x4<f32> {
    return sums + mat4x4<f32>(a * v, b * v, c * v, d * v);
}
