// Tiles of two factors in workgroup memory and their product: the inner loop of `linear`, `linear_normal` and
// `expert_linear`, which differ in what they stage and in how they end. They declare LANES_X and LANES_Y.
//
// A workgroup owns TILE_ROWS rows by TILE_COLUMNS columns of y. It stages 16 columns of K at a time, as quads along K, the
// order in which both factors lie in memory. A lane sums a 4 × 4 block in registers: eight 16-byte reads feed 64
// multiply-adds. Its rows and columns are LANES_Y and LANES_X apart, so that neighbours store neighbours. All that a lane
// reads of a tile lies in one row of the array, at places that are constants once the loop is unrolled: one index needs a
// bounds check.

const QUADS = 4u;  // quads of K that are staged at a time
const ROW = QUADS * 4u + 1u;  // four rows or columns, and padding: 272 bytes spread eight lanes over all banks
override TILE_ROWS: u32 = LANES_Y * 4u;
override TILE_COLUMNS: u32 = LANES_X * 4u;
override STAGERS: u32 = LANES_X * LANES_Y / QUADS;  // rows or columns that the lanes stage at once, at least half

var<workgroup> x_tile: array<array<vec4<f32>, ROW>, LANES_Y>;
var<workgroup> weight_tile: array<array<vec4<f32>, ROW>, LANES_X>;

// A lane's block, one vector per row.
struct Block {
    row0: vec4<f32>,
    row1: vec4<f32>,
    row2: vec4<f32>,
    row3: vec4<f32>,
}

fn stage_x(row: u32, piece: u32, value: vec4<f32>) {
    x_tile[row % LANES_Y][row / LANES_Y * QUADS + piece] = value;
}

fn stage_weights(column: u32, piece: u32, value: vec4<f32>) {
    weight_tile[column % LANES_X][column / LANES_X * QUADS + piece] = value;
}

// Adds the products of the staged quads. The caller has a barrier before and after.
fn add_tile(start: Block, lane: vec2<u32>) -> Block {
    var sum = start;
    for (var k = 0u; k < QUADS; k++) {
        // Four columns of weights, turned so that `w[i]` holds number i of each.
        let w = transpose(mat4x4<f32>(
            weight_tile[lane.x][k],
            weight_tile[lane.x][k + QUADS],
            weight_tile[lane.x][k + QUADS * 2u],
            weight_tile[lane.x][k + QUADS * 3u],
        ));
        sum.row0 = add_products(sum.row0, x_tile[lane.y][k], w);
        sum.row1 = add_products(sum.row1, x_tile[lane.y][k + QUADS], w);
        sum.row2 = add_products(sum.row2, x_tile[lane.y][k + QUADS * 2u], w);
        sum.row3 = add_products(sum.row3, x_tile[lane.y][k + QUADS * 3u], w);
    }
    return sum;
}

// Adds a quad of x times a 4 × 4 block, number by number: a chain of multiply-adds in every compiler, which `dot` is not.
fn add_products(sum: vec4<f32>, a: vec4<f32>, w: mat4x4<f32>) -> vec4<f32> {
    return sum + a.x * w[0] + a.y * w[1] + a.z * w[2] + a.w * w[3];
}
