// A linear layer with its activation and residual fused:  y = epilogue( act( x · Wᵀ + b ) )
// x (S, K), W (N, K) row-major as in a state_dict, y (S, N); sums in f32.
//
// A workgroup owns TILE_ROWS rows by TILE_COLUMNS columns of y (SwiGLU: half of the columns from W,
// the same ones from U). It stages 16 columns of K at a time in workgroup memory, as quads along K, the
// order in which both factors lie in memory. A lane sums a 4 × 4 block in registers: eight 16-byte
// reads feed 64 multiply-adds. Its rows and columns are LANES_Y and LANES_X apart, so that neighbours
// store neighbours; tile rows are padded by one quad, whose 80-byte step spreads eight lanes over all
// banks. The loop over K is uniform (its bound is a uniform), and edges are handled by zeros, not by
// leaving early.

override LANES_X: u32 = 16;
override LANES_Y: u32 = 16;

const QUADS = 4u;  // quads of K that are staged at a time
const STRIDE = QUADS + 1u;
override LANES: u32 = LANES_X * LANES_Y;
override TILE_ROWS: u32 = LANES_Y * 4u;
override TILE_COLUMNS: u32 = LANES_X * 4u;
override X_TILE: u32 = LANES_Y * 4u * STRIDE;
override WEIGHT_TILE: u32 = LANES_X * 4u * STRIDE;

var<workgroup> x_tile: array<vec4<f32>, X_TILE>;
var<workgroup> weight_tile: array<vec4<f32>, WEIGHT_TILE>;

@compute @workgroup_size(LANES_X, LANES_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    // SwiGLU stages two matrices side by side, so a tile yields half as many columns.
    var columns = TILE_COLUMNS;
    if params.activation == SWIGLU {
        columns = TILE_COLUMNS / 2u;
    }
    let first_row = group.y * TILE_ROWS;
    let first_column = group.x * columns;

    var sum0 = vec4(0.0);  // one vector per row of the lane's block
    var sum1 = vec4(0.0);
    var sum2 = vec4(0.0);
    var sum3 = vec4(0.0);
    for (var start = 0u; start < params.quads; start += QUADS) {
        // The tiles of the round before are used up.
        workgroupBarrier();
        for (var i = lane; i < TILE_ROWS * QUADS; i += LANES) {
            let row = first_row + i / QUADS;
            let k = start + i % QUADS;
            var value = vec4(0.0);
            if row < params.rows && k < params.quads {
                value = x[row * params.quads + k];
            }
            x_tile[i / QUADS * STRIDE + i % QUADS] = value;
        }
        for (var i = lane; i < TILE_COLUMNS * QUADS; i += LANES) {
            let column = first_column + i / QUADS % columns;
            let k = start + i % QUADS;
            var value = vec4(0.0);
            if column < params.columns && k < params.quads {
                value = weight_quad(i / QUADS >= columns, column, k);
            }
            weight_tile[i / QUADS * STRIDE + i % QUADS] = value;
        }
        workgroupBarrier();
        for (var k = 0u; k < QUADS; k++) {
            let w0 = weight_tile[local.x * STRIDE + k];
            let w1 = weight_tile[(local.x + LANES_X) * STRIDE + k];
            let w2 = weight_tile[(local.x + LANES_X * 2u) * STRIDE + k];
            let w3 = weight_tile[(local.x + LANES_X * 3u) * STRIDE + k];
            let x0 = x_tile[local.y * STRIDE + k];
            let x1 = x_tile[(local.y + LANES_Y) * STRIDE + k];
            let x2 = x_tile[(local.y + LANES_Y * 2u) * STRIDE + k];
            let x3 = x_tile[(local.y + LANES_Y * 3u) * STRIDE + k];
            sum0 += vec4(dot(x0, w0), dot(x0, w1), dot(x0, w2), dot(x0, w3));
            sum1 += vec4(dot(x1, w0), dot(x1, w1), dot(x1, w2), dot(x1, w3));
            sum2 += vec4(dot(x2, w0), dot(x2, w1), dot(x2, w2), dot(x2, w3));
            sum3 += vec4(dot(x3, w0), dot(x3, w1), dot(x3, w2), dot(x3, w3));
        }
    }
    let row = first_row + local.y;
    let column = first_column + local.x;
    store_row(row, column, sum0);
    store_row(row + LANES_Y, column, sum1);
    store_row(row + LANES_Y * 2u, column, sum2);
    store_row(row + LANES_Y * 3u, column, sum3);
}

fn store_row(row: u32, column: u32, sum: vec4<f32>) {
    if params.activation == SWIGLU {
        store(row, column, sum.x, sum.z);
        store(row, column + LANES_X, sum.y, sum.w);
    } else {
        store(row, column, sum.x, 0.0);
        store(row, column + LANES_X, sum.y, 0.0);
        store(row, column + LANES_X * 2u, sum.z, 0.0);
        store(row, column + LANES_X * 3u, sum.w, 0.0);
    }
}
