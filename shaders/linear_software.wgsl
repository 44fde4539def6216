// A linear layer as in `linear`, with the same bindings, for adapters that run shaders on the
// processor: no workgroup memory and no barriers, because there a barrier saves and restores every
// lane, and the processor's caches already do what staging does.
//
// Such adapters turn lanes into SIMD lanes, and each number that is loaded costs a loop over them, even
// where all lanes load the same one; arithmetic is nearly free in comparison. So a lane sums as large a block as
// it can: 8 rows by 16 columns of y (SwiGLU: 8 columns, from W and from U), 8 lanes apart. The
// sums of a row are a matrix, `v * m` being four dot products. The loop over K is written out, because an
// array that is indexed in a loop goes to memory. Rows and columns beyond the edge repeat the last one
// and are not stored.

override LANES: u32;  // one SIMD vector

const ROWS = 8u;
const COLUMNS = 16u;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * ROWS;
    var columns = COLUMNS * LANES;
    if params.activation == SWIGLU {
        columns = COLUMNS / 2u * LANES;
    }
    let column = group.x * columns + lane;

    var s0 = mat4x4<f32>();
    var s1 = mat4x4<f32>();
    var s2 = mat4x4<f32>();
    var s3 = mat4x4<f32>();
    var s4 = mat4x4<f32>();
    var s5 = mat4x4<f32>();
    var s6 = mat4x4<f32>();
    var s7 = mat4x4<f32>();
    for (var k = 0u; k < params.quads; k++) {
        let a = weight_block(column, 0u, k);
        let b = weight_block(column, 1u, k);
        let c = weight_block(column, 2u, k);
        let d = weight_block(column, 3u, k);
        s0 = add_products(s0, x_quad(row + 0u, k), a, b, c, d);
        s1 = add_products(s1, x_quad(row + 1u, k), a, b, c, d);
        s2 = add_products(s2, x_quad(row + 2u, k), a, b, c, d);
        s3 = add_products(s3, x_quad(row + 3u, k), a, b, c, d);
        s4 = add_products(s4, x_quad(row + 4u, k), a, b, c, d);
        s5 = add_products(s5, x_quad(row + 5u, k), a, b, c, d);
        s6 = add_products(s6, x_quad(row + 6u, k), a, b, c, d);
        s7 = add_products(s7, x_quad(row + 7u, k), a, b, c, d);
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
    // These loops end where y ends, so no compiler unrolls them: 128 copies of the activation would take
    // it seconds.
    let count = min(ROWS, params.rows - row);
    let end = min(params.columns, (group.x + 1u) * columns);
    for (var r = 0u; r < count; r++) {
        var i = 0u;
        for (var n = column; n < end; n += LANES) {
            let product = sums[r][i / 4u][i % 4u];
            var up = 0.0;
            if params.activation == SWIGLU {
                up = sums[r][2u + i / 4u][i % 4u];
            }
            store(row + r, n, product, up);
            i++;
        }
    }
}

fn x_quad(row: u32, k: u32) -> vec4<f32> {
    return x[min(row, params.rows - 1u) * params.quads + k];
}

// Quad k of columns 4i .. 4i + 3 of a lane; with SwiGLU, i = 2 and 3 are the columns of 0 and 1 in U.
fn weight_block(column: u32, i: u32, k: u32) -> mat4x4<f32> {
    var block = i;
    var is_up = false;
    if params.activation == SWIGLU {
        block = i % 2u;
        is_up = i > 1u;
    }
    let n = column + 4u * LANES * block;
    let last = params.columns - 1u;
    return mat4x4<f32>(
        weight_quad(is_up, min(n, last), k),
        weight_quad(is_up, min(n + LANES, last), k),
        weight_quad(is_up, min(n + 2u * LANES, last), k),
        weight_quad(is_up, min(n + 3u * LANES, last), k),
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
    return sums + mat4x4<f32>(v * a, v * b, v * c, v * d);
}
