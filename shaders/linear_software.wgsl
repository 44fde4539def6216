// A linear layer as in `linear`, with the same bindings, for adapters that run shaders on the
// processor: no workgroup memory and no barriers, because there a barrier saves and restores every
// lane, and the processor's caches already do what staging does.
//
// A workgroup owns 8 rows by 4 · LANES columns of y (SwiGLU: 2 · LANES columns, from W and from U). A
// lane owns 4 of the columns, LANES apart, in 32 sums: all lanes read the same quads of x, and each
// quad of weights serves 8 rows. Rows and columns beyond the edge repeat the last one and are not stored.

override LANES: u32 = 16;

const ROWS = 8u;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    var columns = LANES * 4u;
    var second_half_is_up = false;
    if ACTIVATION == SWIGLU {
        columns = LANES * 2u;
        second_half_is_up = true;
    }
    let first_row = group.y * ROWS;
    let column = group.x * columns + lane;
    let last = params.columns - 1u;
    let n0 = min(column, last);
    let n1 = min(column + LANES, last);
    let n2 = min(column + LANES * 2u % columns, last);
    let n3 = min(column + LANES * 3u % columns, last);
    var rows: array<u32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        rows[r] = min(first_row + r, params.rows - 1u) * params.quads;
    }

    var sums: array<vec4<f32>, ROWS>;
    for (var k = 0u; k < params.quads; k++) {
        let w0 = weight_quad(false, n0, k);
        let w1 = weight_quad(false, n1, k);
        let w2 = weight_quad(second_half_is_up, n2, k);
        let w3 = weight_quad(second_half_is_up, n3, k);
        // Written out: a loop over r would put `sums` into memory.
        sums[0] += products(x[rows[0] + k], w0, w1, w2, w3);
        sums[1] += products(x[rows[1] + k], w0, w1, w2, w3);
        sums[2] += products(x[rows[2] + k], w0, w1, w2, w3);
        sums[3] += products(x[rows[3] + k], w0, w1, w2, w3);
        sums[4] += products(x[rows[4] + k], w0, w1, w2, w3);
        sums[5] += products(x[rows[5] + k], w0, w1, w2, w3);
        sums[6] += products(x[rows[6] + k], w0, w1, w2, w3);
        sums[7] += products(x[rows[7] + k], w0, w1, w2, w3);
    }
    for (var r = 0u; r < ROWS; r++) {
        let row = first_row + r;
        if ACTIVATION == SWIGLU {
            store(row, column, sums[r].x, sums[r].z);
            store(row, column + LANES, sums[r].y, sums[r].w);
        } else {
            store(row, column, sums[r].x, 0.0);
            store(row, column + LANES, sums[r].y, 0.0);
            store(row, column + LANES * 2u, sums[r].z, 0.0);
            store(row, column + LANES * 3u, sums[r].w, 0.0);
        }
    }
}

fn products(
    v: vec4<f32>,
    w0: vec4<f32>,
    w1: vec4<f32>,
    w2: vec4<f32>,
    w3: vec4<f32>,
) -> vec4<f32> {
    return vec4(dot(v, w0), dot(v, w1), dot(v, w2), dot(v, w3));
}
