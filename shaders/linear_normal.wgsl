// A linear layer of normalised and modulated rows:  y = epilogue( act( h · Wᵀ + b ) )
//   h[s, :] = (x[s, :] - mean) / √(variance + 10⁻⁶) · (1 + scale[b, :]) + shift[b, :],  b = s / norm_rows
// It is `linear` with `modulate` in front, without a kernel and a round trip through memory between them. Every workgroup
// takes mean and variance of its rows anew, which pays where rows are short. How it goes about the product is said in
// `shared/linear_tile`.
//
// Four lanes share a row, each with every fourth quad, whatever the tile; their parts are added in order. Mean first, then
// the mean of squared deviations: a single pass over squares would cancel. An RMS norm takes the mean as 0 (`centring`).
// Where `keeps_normal` is set, the workgroups
// of the first columns leave `h` for other kernels.

@group(0) @binding(7) var<storage, read> modulation: array<vec4<f32>>;    // (B, columns): shifts, scales, gates
@group(0) @binding(8) var<storage, read_write> h: array<vec4<f32>>;  // (S, K), if it is kept

struct Row {
    at: u32,  // first quad
    is_inside: bool,
    conditions: u32,  // first quad of its sample in `modulation`
    mean: f32,
    factor: f32,  // 1 / √(variance + 10⁻⁶)
}

struct Rows {
    first: Row,
    second: Row,
}

// Of each lane, a part of the sums of both of its rows.
override ALL_LANES: u32 = LANES_X * LANES_Y;
var<workgroup> parts: array<vec2<f32>, ALL_LANES>;

// Sums over the lanes that share two rows.
fn total(lane: u32, value: vec2<f32>) -> vec2<f32> {
    // The parts of the call before are used up.
    workgroupBarrier();
    parts[lane] = value;
    workgroupBarrier();
    let first = lane - lane % QUADS;
    var sum = parts[first];
    for (var i = 1u; i < QUADS; i++) {
        sum += parts[first + i];
    }
    return sum;
}

// The rows that a lane stages. Those beyond the last one repeat it and are not stored.
fn rows_of(lane: u32, first: u32, second: u32) -> Rows {
    let row = min(vec2(first, second), vec2(params.rows - 1u));
    let at = row * params.quads;
    var sum0 = vec4(0.0);
    var sum1 = vec4(0.0);
    for (var k = lane % QUADS; k < params.quads; k += QUADS) {
        sum0 += x[at.x + k];
        if STAGERS < TILE_ROWS {
            sum1 += x[at.y + k];
        }
    }
    let size = f32(params.quads * 4u);
    let mean = total(lane, vec2(dot(sum0, vec4(1.0)), dot(sum1, vec4(1.0)))) / size * params.centring;
    var squares = vec2(0.0);
    for (var k = lane % QUADS; k < params.quads; k += QUADS) {
        let deviation0 = x[at.x + k] - mean.x;
        squares.x += dot(deviation0, deviation0);
        if STAGERS < TILE_ROWS {
            let deviation1 = x[at.y + k] - mean.y;
            squares.y += dot(deviation1, deviation1);
        }
    }
    let factor = inverseSqrt(total(lane, squares) / size + 1e-6);
    let conditions = row / params.norm_rows * params.norm_stride;
    return Rows(
        Row(at.x, first < params.rows, conditions.x, mean.x, factor.x),
        Row(at.y, second < params.rows, conditions.y, mean.y, factor.y),
    );
}

// A quad on its way to workgroup memory.
struct Staged {
    x: vec4<f32>,
    scale: vec4<f32>,
    shift: vec4<f32>,
}

// Beyond K, what becomes of it is zero.
fn staged_x(row: Row, k: u32) -> Staged {
    var staged = Staged(vec4(0.0), vec4(-1.0), vec4(0.0));
    if k < params.quads {
        staged.x = x[row.at + k];
        staged.scale = modulation[row.conditions + params.scale_quad + k];
        staged.shift = modulation[row.conditions + params.shift_quad + k];
    }
    return staged;
}

fn x_numbers(staged: Staged, row: Row, column_group: u32, k: u32) -> vec4<f32> {
    let value = (staged.x - row.mean) * row.factor * (1.0 + staged.scale) + staged.shift;
    if params.keeps_normal == 1u && column_group == 0u && row.is_inside && k < params.quads {
        h[row.at + k] = value;
    }
    return value;
}
