// One layer of the experts' feed-forward networks over the ragged lists of tokens that routing made:
//   y[r, :] = act( W[e] · x[r'] + bias[e] )            act: none, or tanh-approximated GELU
//   y[r, :] = silu( W[e] · x[r'] ) ⊙ ( U[e] · x[r'] )  SwiGLU, no bias
// for each packed row r. Expert e's rows follow those of the experts before it: r = Σ_{i<e} counts[i]
// + place. The first layer gathers, r' = chosen[e, place]; the second reads packed rows, r' = r.
//
// A workgroup owns TILE_ROWS rows of one expert by TILE_COLUMNS columns (SwiGLU: half of them from
// W, the same ones from U). The number of tiles is known on the device only, so the host starts
// enough groups for the worst case; each finds its tile from the counts, or leaves as a whole. Counts
// are read-only here and indexed by loop counters alone, which lets a validator prove that every
// barrier is reached by all lanes.
//
// A lane sums a 4 × 4 block in registers: eight 16-byte reads of workgroup memory feed 64
// multiply-adds. Its rows and columns are LANES_Y and LANES_X apart, so that neighbours write
// neighbours. All that a lane reads of a tile lies in one row of the array, at places that are constants
// once the loop is unrolled: one index needs a bounds check.

override LANES_X: u32 = 16;
override LANES_Y: u32 = 8;
override GATHERS: bool = true;

const QUADS = 4u;           // quads of K that are staged at a time
const ROW = QUADS * 4u + 1u;  // four rows or columns, and padding: 272 bytes spread eight lanes over all banks
override LANES: u32 = LANES_X * LANES_Y;
override TILE_ROWS: u32 = LANES_Y * 4u;
override TILE_COLUMNS: u32 = LANES_X * 4u;

var<workgroup> x_tile: array<array<vec4<f32>, ROW>, LANES_Y>;
var<workgroup> weight_tile: array<array<vec4<f32>, ROW>, LANES_X>;
// Row of `x` for each row of the tile.
var<workgroup> sources: array<u32, TILE_ROWS>;

@compute @workgroup_size(LANES_X, LANES_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = find_tile(group.z * groups.y + group.y, TILE_ROWS);
    if tile.rows == 0u {
        return;
    }
    for (var r = lane; r < TILE_ROWS; r += LANES) {
        // Beyond the tile's rows this is anything, and not used.
        sources[r] = source_row(tile, r);
    }

    var sum0 = vec4(0.0);
    var sum1 = vec4(0.0);
    var sum2 = vec4(0.0);
    var sum3 = vec4(0.0);
    for (var start = 0u; start < params.quads; start += QUADS) {
        // The tiles of the round before are used up, and `sources` is written.
        workgroupBarrier();
        for (var i = lane; i < TILE_ROWS * QUADS; i += LANES) {
            let k = start + i % QUADS;
            var value = vec4(0.0);
            if k < params.quads && i / QUADS < tile.rows {
                value = x[sources[i / QUADS] * params.quads + k];
            }
            x_tile[i / QUADS % LANES_Y][i / QUADS / LANES_Y * QUADS + i % QUADS] = value;
        }
        for (var i = lane; i < TILE_COLUMNS * QUADS; i += LANES) {
            let k = start + i % QUADS;
            let place = place_of(group.x, i / QUADS, LANES_X);
            var value = vec4(0.0);
            if k < params.quads && place.column < params.columns {
                value = weight(tile.expert, place, k);
            }
            weight_tile[i / QUADS % LANES_X][i / QUADS / LANES_X * QUADS + i % QUADS] = value;
        }
        workgroupBarrier();

        for (var k = 0u; k < QUADS; k++) {
            // Four columns of weights, turned so that `w[i]` holds number i of each.
            let w = transpose(mat4x4<f32>(
                weight_tile[local.x][k],
                weight_tile[local.x][k + QUADS],
                weight_tile[local.x][k + QUADS * 2u],
                weight_tile[local.x][k + QUADS * 3u],
            ));
            sum0 = add_products(sum0, x_tile[local.y][k], w);
            sum1 = add_products(sum1, x_tile[local.y][k + QUADS], w);
            sum2 = add_products(sum2, x_tile[local.y][k + QUADS * 2u], w);
            sum3 = add_products(sum3, x_tile[local.y][k + QUADS * 3u], w);
        }
    }
    let ending = ending_of(tile, group.x, local.x, LANES_X);
    store(tile, local.y, ending, sum0);
    store(tile, local.y + LANES_Y, ending, sum1);
    store(tile, local.y + LANES_Y * 2u, ending, sum2);
    store(tile, local.y + LANES_Y * 3u, ending, sum3);
}
