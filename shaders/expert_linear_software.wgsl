// One layer of the experts' feed-forward networks, as in `expert_linear` and with the same bindings,
// for adapters that run shaders on the processor: no workgroup memory and no barriers, because there a
// barrier saves and restores every lane, and the processor's caches already do what staging does.
//
// A workgroup owns 8 rows of one expert; a lane owns 4 columns of them (SwiGLU: 2 from W, the same 2
// from U) in 32 sums. All lanes read the same quads of `x`; each quad of weights that a lane reads
// serves 8 rows. Everything is written out by hand, because an array that is indexed in a loop would go
// to memory.

override LANES_X: u32;
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
    let r0 = first_quad(tile, 0u);
    let r1 = first_quad(tile, 1u);
    let r2 = first_quad(tile, 2u);
    let r3 = first_quad(tile, 3u);
    let r4 = first_quad(tile, 4u);
    let r5 = first_quad(tile, 5u);
    let r6 = first_quad(tile, 6u);
    let r7 = first_quad(tile, 7u);
    // Columns beyond the edge repeat the last one, too.
    let end = params.columns - 1u;
    var p0 = place_of(group.x, lane, LANES_X);
    var p1 = place_of(group.x, lane + LANES_X, LANES_X);
    var p2 = place_of(group.x, lane + LANES_X * 2u, LANES_X);
    var p3 = place_of(group.x, lane + LANES_X * 3u, LANES_X);
    p0.column = min(p0.column, end);
    p1.column = min(p1.column, end);
    p2.column = min(p2.column, end);
    p3.column = min(p3.column, end);

    var s0 = vec4(0.0);
    var s1 = vec4(0.0);
    var s2 = vec4(0.0);
    var s3 = vec4(0.0);
    var s4 = vec4(0.0);
    var s5 = vec4(0.0);
    var s6 = vec4(0.0);
    var s7 = vec4(0.0);
    for (var k = 0u; k < params.quads; k++) {
        let w = transpose(mat4x4<f32>(
            weight(tile.expert, p0, k),
            weight(tile.expert, p1, k),
            weight(tile.expert, p2, k),
            weight(tile.expert, p3, k),
        ));
        s0 = add_products(s0, x[r0 + k], w);
        s1 = add_products(s1, x[r1 + k], w);
        s2 = add_products(s2, x[r2 + k], w);
        s3 = add_products(s3, x[r3 + k], w);
        s4 = add_products(s4, x[r4 + k], w);
        s5 = add_products(s5, x[r5 + k], w);
        s6 = add_products(s6, x[r6 + k], w);
        s7 = add_products(s7, x[r7 + k], w);
    }
    let ending = ending_of(tile, group.x, lane, LANES_X);
    store(tile, 0u, ending, s0);
    store(tile, 1u, ending, s1);
    store(tile, 2u, ending, s2);
    store(tile, 3u, ending, s3);
    store(tile, 4u, ending, s4);
    store(tile, 5u, ending, s5);
    store(tile, 6u, ending, s6);
    store(tile, 7u, ending, s7);
}

// Where a row begins in `x`. Beyond the edge it is the last row again: computed and not stored.
fn first_quad(tile: Tile, row: u32) -> u32 {
    return source_row(tile, min(row, tile.rows - 1u)) * params.quads;
}

// Four rows of x · W at once: adds a quad of x times a 4 × 4 block, number by number.
fn add_products(sum: vec4<f32>, a: vec4<f32>, w: mat4x4<f32>) -> vec4<f32> {
    return sum + a.x * w[0] + a.y * w[1] + a.z * w[2] + a.w * w[3];
}
