// One layer of the experts' feed-forward networks, as in `expert_linear` and with the same bindings,
// for adapters that run shaders on the processor: no workgroup memory and no barriers, because there a
// barrier saves and restores every lane, and the processor's caches already do what staging does.
//
// A workgroup owns 8 rows of one expert; a lane owns 4 columns of them (SwiGLU: 2 from W, the same 2
// from U) in 32 sums. All lanes read the same quads of `x`; each quad of weights that a lane reads
// serves 8 rows.

override LANES_X: u32 = 16;
override HALF_WEIGHTS: bool = true;
override GATHERS: bool = true;

const TILE_ROWS = 8u;

@compute @workgroup_size(LANES_X)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = find_tile(group.z * groups.y + group.y, TILE_ROWS);
    if tile.rows == 0u {
        return;
    }
    // Rows and columns beyond the edge repeat the last one: they are computed and not stored.
    var rows: array<u32, TILE_ROWS>;
    for (var r = 0u; r < TILE_ROWS; r++) {
        rows[r] = source_row(tile, min(r, tile.rows - 1u)) * params.quads;
    }
    let end = params.columns - 1u;
    var p0 = place_of(group.x, lane, LANES_X);
    var p1 = place_of(group.x, lane + LANES_X, LANES_X);
    var p2 = place_of(group.x, lane + LANES_X * 2u, LANES_X);
    var p3 = place_of(group.x, lane + LANES_X * 3u, LANES_X);
    p0.column = min(p0.column, end);
    p1.column = min(p1.column, end);
    p2.column = min(p2.column, end);
    p3.column = min(p3.column, end);

    var sums: array<vec4<f32>, TILE_ROWS>;
    for (var k = 0u; k < params.quads; k++) {
        let w = transpose(mat4x4<f32>(
            weight(tile.expert, p0, k),
            weight(tile.expert, p1, k),
            weight(tile.expert, p2, k),
            weight(tile.expert, p3, k),
        ));
        sums[0] = add_products(sums[0], x[rows[0] + k], w);
        sums[1] = add_products(sums[1], x[rows[1] + k], w);
        sums[2] = add_products(sums[2], x[rows[2] + k], w);
        sums[3] = add_products(sums[3], x[rows[3] + k], w);
        sums[4] = add_products(sums[4], x[rows[4] + k], w);
        sums[5] = add_products(sums[5], x[rows[5] + k], w);
        sums[6] = add_products(sums[6], x[rows[6] + k], w);
        sums[7] = add_products(sums[7], x[rows[7] + k], w);
    }
    for (var r = 0u; r < TILE_ROWS; r++) {
        store(tile, r, group.x, lane, LANES_X, sums[r]);
    }
}
