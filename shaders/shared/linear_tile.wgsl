// The tile of `linear` and `linear_normal`, which differ in what they stage of x. Appended after either, with
// `product_tile`. SwiGLU takes half of the columns of a tile from W, the same ones from U. The loop over K is uniform (its
// bound is a uniform), and edges are handled by zeros, not by leaving early.

override LANES_X: u32 = 16;
override LANES_Y: u32 = 16;

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

    // What this lane stages of a round: one or two quads of x and of the weights. They are read a round ahead, so that
    // they travel while the lane multiplies.
    let place = lane / QUADS;
    let piece = lane % QUADS;
    let rows = rows_of(lane, first_row + place, first_row + place + STAGERS);
    var x0 = staged_x(rows.first, piece);
    var x1 = Staged();
    if STAGERS < TILE_ROWS {
        x1 = staged_x(rows.second, piece);
    }
    var w0 = staged_words(place, columns, first_column, piece);
    var w1 = vec4(0u);
    if STAGERS < TILE_COLUMNS {
        w1 = staged_words(place + STAGERS, columns, first_column, piece);
    }

    var sum = Block();
    for (var start = 0u; start < params.quads; start += QUADS) {
        let k = start + piece;
        let next = k + QUADS;
        // The tiles of the round before are used up.
        workgroupBarrier();
        stage_x(place, piece, x_numbers(x0, rows.first, group.x, k));
        stage_weights(place, piece, weight_numbers(w0, k));
        if STAGERS < TILE_ROWS {
            stage_x(place + STAGERS, piece, x_numbers(x1, rows.second, group.x, k));
        }
        if STAGERS < TILE_COLUMNS {
            stage_weights(place + STAGERS, piece, weight_numbers(w1, k));
        }
        workgroupBarrier();
        x0 = staged_x(rows.first, next);
        w0 = staged_words(place, columns, first_column, next);
        if STAGERS < TILE_ROWS {
            x1 = staged_x(rows.second, next);
        }
        if STAGERS < TILE_COLUMNS {
            w1 = staged_words(place + STAGERS, columns, first_column, next);
        }
        sum = add_tile(sum, local.xy);
    }

    // The end of the lane's block. What an element needs is loaded for many at once, so that lanes do not wait for
    // memory at each. Loads outside of y repeat its last row or column.
    let has_up = params.activation == SWIGLU;
    let offsets = select(vec4(0u, 1u, 2u, 3u), vec4(0u, 1u, 0u, 1u), has_up);
    let column = vec4(first_column + local.x) + offsets * LANES_X;
    let is_inside = (column < vec4(params.columns)) & vec4(true, true, !has_up, !has_up);
    let n = min(column, vec4(params.columns - 1u));
    let out = params.first + n;
    let scale = vec4(
        weight_scale(false, n.x),
        weight_scale(false, n.y),
        weight_scale(has_up, n.z),
        weight_scale(has_up, n.w),
    );
    var shift = vec4(bias[out.x], bias[out.y], bias[out.z], bias[out.w]);
    if has_up {
        shift = vec4(shift.xy, side[out.z], side[out.w]);
    }
    // Two rows at a time: four would take more registers than the loop above.
    var z0 = sum.row0;
    var z1 = sum.row1;
    let end = min(first_row + TILE_ROWS, params.rows);
    for (var top = first_row; top < end; top += LANES_Y * 2u) {
        if top > first_row {
            z0 = sum.row2;
            z1 = sum.row3;
        }
        let rows = vec2(top + local.y) + vec2(0u, LANES_Y);
        let row = min(rows, vec2(params.rows - 1u));
        let at = row * params.stride;
        var base0 = vec4(0.0);
        var base1 = vec4(0.0);
        if params.epilogue == GATED || params.epilogue == ADD {
            base0 = y_quad(at.x + out);
            base1 = y_quad(at.y + out);
        }
        var sample = vec2(0u);
        var side0 = vec4(0.0);
        var side1 = vec4(0.0);
        if params.epilogue == GATED || params.epilogue == TABLE || params.epilogue == PIXELS {
            sample = row / params.side_rows;
            var line = sample;
            if params.epilogue != GATED {
                line = row - sample * params.side_rows;
            }
            let from_column = line * params.side_stride + params.side_first;
            side0 = side_quad(from_column.x + out);
            side1 = side_quad(from_column.y + out);
        }
        var v0 = activate(z0 * scale + shift);
        var v1 = activate(z1 * scale + shift);
        if params.epilogue == GATED {
            v0 = base0 + side0 * v0;
            v1 = base1 + side1 * v1;
        } else if params.epilogue == TABLE || params.epilogue == ADD {
            // The one that was not loaded is zero.
            v0 += base0 + side0;
            v1 += base1 + side1;
        }
        var is_row = rows < vec2(params.rows);
        var at0 = at.x + out;
        var at1 = at.y + out;
        if params.epilogue == PIXELS {
            let first = sample * params.stride + params.y_first - FIRST_PLACE;
            at0 = bitcast<vec4<u32>>(side0);
            at1 = bitcast<vec4<u32>>(side1);
            is_row = is_row & (vec2(at0.x, at1.x) >= vec2(FIRST_PLACE));
            at0 += first.x;
            at1 += first.y;
        }
        store_row(is_row.x, at0, is_inside, v0);
        store_row(is_row.y, at1, is_inside, v1);
    }
}

// The words of a quad of the tile's columns, of which SwiGLU takes the second half from U. Zeros outside are the number
// zero in every precision.
fn staged_words(v: u32, columns: u32, first_column: u32, k: u32) -> vec4<u32> {
    let column = first_column + v % columns;
    var words = vec4(0u);
    if column < params.columns && k < params.quads {
        words = weight_words(v >= columns, column, k);
    }
    return words;
}

// SwiGLU leaves two results, in the first two components.
fn activate(z: vec4<f32>) -> vec4<f32> {
    if params.activation == 0u {
        return z;
    }
    var gate = z;
    if params.activation == GELU {
        gate = gelu_gate(z);
    }
    let v = gated(z, gate);
    if params.activation == SWIGLU {
        return v * vec4(z.zw, 0.0, 0.0);
    }
    return v;
}

fn y_quad(at: vec4<u32>) -> vec4<f32> {
    return vec4(y[at.x], y[at.y], y[at.z], y[at.w]);
}

fn side_quad(at: vec4<u32>) -> vec4<f32> {
    return vec4(side[at.x], side[at.y], side[at.z], side[at.w]);
}

fn store_row(is_row: bool, at: vec4<u32>, is_inside: vec4<bool>, v: vec4<f32>) {
    if is_row {
        if is_inside.x {
            y[at.x] = v.x;
        }
        if is_inside.y {
            y[at.y] = v.y;
        }
        if is_inside.z {
            y[at.z] = v.z;
        }
        if is_inside.w {
            y[at.w] = v.w;
        }
    }
}
