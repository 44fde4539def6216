// One layer of the experts' feed-forward networks over the ragged lists of tokens that routing made:
//   y[r, :] = act( W[e] · x[r'] + bias[e] )            act: none, or tanh-approximated GELU
//   y[r, :] = silu( W[e] · x[r'] + bias[e] ) ⊙ ( U[e] · x[r'] + up_bias[e] )  SwiGLU
// for each packed row r. Expert e's rows follow those of the experts before it: r = Σ_{i<e} counts[i]
// + place. The first layer gathers, r' = chosen[e, place]; the second reads packed rows, r' = r.
//
// A workgroup owns TILE_ROWS rows of one expert by 4 · LANES_X columns (SwiGLU: half of them from
// W, the same ones from U). The number of tiles is known on the device only, so the host starts
// enough groups for the worst case; each finds its tile from the counts, or leaves as a whole. Counts
// are read-only here and indexed by loop counters alone, which lets a validator prove that every
// barrier is reached by all lanes.
//
// How the lanes share a tile is said in `shared/product_tile`. They stage all rows at once, and half of the columns.

override LANES_X: u32;
override LANES_Y: u32;
override GATHERS: bool = true;

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

    // What this lane stages of a round: a quad of one row and of two columns. They are read a round ahead, so that they
    // travel while the lane multiplies.
    let staged_row = lane / QUADS;
    let piece = lane % QUADS;
    let is_row = staged_row < tile.rows;
    var first_quad = 0u;
    if is_row {
        first_quad = source_row(tile, staged_row) * params.quads;
    }
    let p0 = place_of(group.x, staged_row, LANES_X);
    let p1 = place_of(group.x, staged_row + STAGERS, LANES_X);
    var x0 = x_quad(is_row, first_quad, piece);
    var w0 = staged_words(tile.expert, p0, piece);
    var w1 = staged_words(tile.expert, p1, piece);

    var sum = Block();
    for (var start = 0u; start < params.quads; start += QUADS) {
        let k = start + piece;
        // The tiles of the round before are used up.
        workgroupBarrier();
        stage_x(staged_row, piece, x0);
        stage_weights(staged_row, piece, weight_numbers(w0, k));
        stage_weights(staged_row + STAGERS, piece, weight_numbers(w1, k));
        workgroupBarrier();
        x0 = x_quad(is_row, first_quad, k + QUADS);
        w0 = staged_words(tile.expert, p0, k + QUADS);
        w1 = staged_words(tile.expert, p1, k + QUADS);
        sum = add_tile(sum, local.xy);
    }
    let ending = ending_of(tile, group.x, local.x, LANES_X);
    store(tile, local.y, ending, sum.row0);
    store(tile, local.y + LANES_Y, ending, sum.row1);
    store(tile, local.y + LANES_Y * 2u, ending, sum.row2);
    store(tile, local.y + LANES_Y * 3u, ending, sum.row3);
}

// A quad of x; zeros beyond the tile and beyond K.
fn x_quad(is_row: bool, first_quad: u32, k: u32) -> vec4<f32> {
    var value = vec4(0.0);
    if is_row && k < params.quads {
        value = x[first_quad + k];
    }
    return value;
}

// The words of a quad of a column. Zeros outside are the number zero in every precision.
fn staged_words(expert: u32, place: Place, k: u32) -> vec4<u32> {
    var words = vec4(0u);
    if place.column < params.columns && k < params.quads {
        words = weight_words(place.is_up, weight_row(expert, place.column), k);
    }
    return words;
}
