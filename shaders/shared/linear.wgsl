// What `linear`, `linear_normal` and `linear_software` have in common: bindings, and what happens to a sum. Appended after either.

struct Params {
    rows: u32,         // S
    columns: u32,      // N, rows of `weights`: a part of the matrix where it is split
    quads: u32,        // K / 4
    first: u32,        // column of y, bias and side that belongs to the first row of `weights`
    stride: u32,       // columns of y; PIXELS: numbers of a sample
    y_first: u32,      // PIXELS: element of y where the samples begin
    side_rows: u32,    // GATED: rows of y that share a row of side; TABLE, PIXELS: rows of side
    side_stride: u32,  // columns of side
    side_first: u32,   // column of side for column 0 of y
    activation: u32,
    epilogue: u32,
    // `linear_normal` only:
    norm_rows: u32,     // rows of x that share scale and shift
    norm_stride: u32,   // columns of `modulation` / 4
    shift_quad: u32,    // first column of shift / 4
    scale_quad: u32,    // first column of scale / 4
    keeps_normal: u32,  // whether `normal` is written
    centring: f32,      // 1, or 0 for an RMS norm
}

// Activation and epilogue are uniforms, not overrides: the branches cost nothing compared with the sums, and
// each pipeline costs a driver up to seconds.

// What becomes of a sum z = W·x + b. SWIGLU multiplies SiLU(z) with U·x + c, where `side` is c: it stores plainly.
const SILU = 1u;
const GELU = 2u;
const SWIGLU = 3u;

// Where the result v goes: y = v, y += side ⊙ v (a gated residual), y = v + side (a table), y += v, or to the pixels of
// images: side has the bits of the place of each number in its sample, plus FIRST_PLACE, or 0 for rows without a patch.
const GATED = 1u;
const TABLE = 2u;
const ADD = 3u;
const PIXELS = 4u;

const FIRST_PLACE = 0x3f800000u;  // 1.0: no device changes the bits of normal numbers

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;           // (S, K)
@group(0) @binding(2) var<storage, read> weights: array<vec2<u32>>;     // (N, K): see `weights`
@group(0) @binding(3) var<storage, read> up_weights: array<vec2<u32>>;  // (N, K), SWIGLU only
@group(0) @binding(4) var<storage, read> bias: array<f32>;              // all columns of the matrix
@group(0) @binding(5) var<storage, read> side: array<f32>;              // gates (B, …), table (T, …), places (T, N), or c (N)
@group(0) @binding(6) var<storage, read_write> y: array<f32>;           // (S, stride)

// Finishes one element; `up` counts for SWIGLU only. `linear` does the same four elements at a time.
fn store(row: u32, n: u32, product: f32, up: f32) {
    if row >= params.rows || n >= params.columns {
        return;
    }
    let column = params.first + n;
    var v = product * weight_scale(false, n) + bias[column];
    if params.activation == SILU {
        v = silu(v);
    } else if params.activation == GELU {
        v = gelu_tanh(v);
    } else if params.activation == SWIGLU {
        v = silu(v) * (up * weight_scale(true, n) + side[column]);
    }
    let at = row * params.stride + column;
    let side_column = params.side_first + column;
    if params.epilogue == GATED {
        y[at] += side[row / params.side_rows * params.side_stride + side_column] * v;
    } else if params.epilogue == TABLE {
        y[at] = v + side[row % params.side_rows * params.side_stride + side_column];
    } else if params.epilogue == ADD {
        y[at] += v;
    } else if params.epilogue == PIXELS {
        let place = bitcast<u32>(side[row % params.side_rows * params.side_stride + side_column]);
        if place >= FIRST_PLACE {
            y[params.y_first + row / params.side_rows * params.stride + place - FIRST_PLACE] = v;
        }
    } else {
        y[at] = v;
    }
}
