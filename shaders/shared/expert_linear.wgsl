// What `expert_linear` and `expert_linear_software` have in common: bindings, the search for a
// workgroup's tile and the end of a row. Appended after either; it uses their override GATHERS.

struct Params {
    tokens: u32,        // S
    columns: u32,       // N, columns of y
    quads: u32,         // K / 4, of x and of the weights
    expert_first: u32,  // experts [expert_first, expert_end) are in `weights`
    expert_end: u32,
    row_first: u32,     // packed rows [row_first, row_end) are computed
    row_end: u32,
    x_first: u32,       // packed row that is first in `x`, where x is packed
    y_first: u32,       // packed row that is first in `y`
}

// 0: nothing, 1: GELU (tanh form), 2: SwiGLU.
override ACTIVATION: u32 = 0;
override HAS_BIAS: bool = true;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;        // (S, K) tokens, or (rows, K) packed
@group(0) @binding(2) var<storage, read> counts: array<u32>;         // (E)
@group(0) @binding(3) var<storage, read> chosen: array<u32>;         // (E, S): tokens of each expert
@group(0) @binding(4) var<storage, read> weights: array<vec2<u32>>;  // (experts, N, K): see `weights`
@group(0) @binding(5) var<storage, read> up_weights: array<vec2<u32>>; // (experts, N, K): SwiGLU's U
@group(0) @binding(6) var<storage, read> bias: array<f32>;           // (E, N): all experts
@group(0) @binding(7) var<storage, read> up_bias: array<f32>;        // (E, N): that of SwiGLU's U
@group(0) @binding(8) var<storage, read_write> y: array<f32>;        // (rows, N)

// Up to TILE_ROWS consecutive packed rows of one expert. No rows: there is no such tile.
struct Tile {
    expert: u32,
    rows: u32,
    first: u32,   // packed row
    offset: u32,  // packed row of the expert's first token
}

// The index-th tile of `size` rows. Tiles never cross the border of an expert, or of the row range.
fn find_tile(index: u32, size: u32) -> Tile {
    var tile = Tile(0u, 0u, 0u, 0u);
    var left = index;
    var offset = 0u;
    for (var e = 0u; e < params.expert_end; e++) {
        let next = offset + counts[e];
        let first = max(offset, params.row_first);
        let end = min(next, params.row_end);
        if e >= params.expert_first && end > first {
            let tiles = (end - first + size - 1u) / size;
            if left < tiles {
                let start = first + left * size;
                tile = Tile(e, min(size, end - start), start, offset);
                break;
            }
            left -= tiles;
        }
        offset = next;
    }
    return tile;
}

// Row of `x` for a row of the tile.
fn source_row(tile: Tile, row: u32) -> u32 {
    let packed = tile.first + row;
    if GATHERS {
        return chosen[tile.expert * params.tokens + packed - tile.offset];
    }
    return packed - params.x_first;
}

// A column of the output and the matrix that it is computed from.
struct Place {
    column: u32,
    is_up: bool,
}

// What column `v` of a workgroup's 4·lanes columns stands for. SwiGLU: the first half comes from W and
// the second from U, so a lane, whose columns are `lanes` apart, holds both factors of two results.
fn place_of(group: u32, v: u32, lanes: u32) -> Place {
    if ACTIVATION == 2u {
        let half = lanes * 2u;
        return Place(group * half + v % half, v >= half);
    }
    return Place(group * lanes * 4u + v, false);
}

// Row of `weights` for a column of an expert's output.
fn weight_row(expert: u32, column: u32) -> u32 {
    return (expert - params.expert_first) * params.columns + column;
}

// Quad k of a row of an expert's matrix.
fn weight(expert: u32, place: Place, k: u32) -> vec4<f32> {
    return weight_quad(place.is_up, weight_row(expert, place.column), k);
}

// What a lane's four columns need at the end, for all of its rows.
struct Ending {
    column: vec4<u32>,
    is_inside: vec4<bool>,
    scale: vec4<f32>,
    shift: vec4<f32>,
}

fn ending_of(tile: Tile, group: u32, lane: u32, lanes: u32) -> Ending {
    let p0 = place_of(group, lane, lanes);
    let p1 = place_of(group, lane + lanes, lanes);
    let p2 = place_of(group, lane + lanes * 2u, lanes);
    let p3 = place_of(group, lane + lanes * 3u, lanes);
    let place = vec4(p0.column, p1.column, p2.column, p3.column);
    // Columns beyond the edge repeat the last one and are not stored. SwiGLU leaves two results.
    let column = min(place, vec4(params.columns - 1u));
    let is_inside = (place < vec4(params.columns)) & (vec4(true, true, ACTIVATION != 2u, ACTIVATION != 2u));
    let scale = vec4(
        weight_scale(p0.is_up, weight_row(tile.expert, column.x)),
        weight_scale(p1.is_up, weight_row(tile.expert, column.y)),
        weight_scale(p2.is_up, weight_row(tile.expert, column.z)),
        weight_scale(p3.is_up, weight_row(tile.expert, column.w)),
    );
    var shift = vec4(0.0);
    if HAS_BIAS {
        let at = tile.expert * params.columns + column;
        shift = vec4(bias[at.x], bias[at.y], bias[at.z], bias[at.w]);
        if ACTIVATION == 2u {
            shift = vec4(shift.xy, up_bias[at.z], up_bias[at.w]);
        }
    }
    return Ending(column, is_inside, scale, shift);
}

// Finishes and writes what a lane holds of one row of the tile.
fn store(tile: Tile, row: u32, ending: Ending, sums: vec4<f32>) {
    if row >= tile.rows {
        return;
    }
    var z = sums * ending.scale + ending.shift;
    if ACTIVATION == 1u {
        z = gated(z, gelu_gate(z));
    } else if ACTIVATION == 2u {
        z = gated(z, z) * vec4(z.zw, 0.0, 0.0);
    }
    let at = (tile.first + row - params.y_first) * params.columns + ending.column;
    if ending.is_inside.x {
        y[at.x] = z.x;
    }
    if ending.is_inside.y {
        y[at.y] = z.y;
    }
    if ending.is_inside.z {
        y[at.z] = z.z;
    }
    if ending.is_inside.w {
        y[at.w] = z.w;
    }
}
