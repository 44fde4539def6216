// What `conv2d` and `conv2d_software` have in common: parameters, bindings, reading weights, storing
// sums. Appended after either, with `activation`.

struct Params {
    width: u32,         // of y
    height: u32,
    in_width: u32,      // of x: half of y's where the image is enlarged
    in_height: u32,
    enlarge: u32,       // 1: every pixel of x stands for 2 × 2
    in_quads: u32,      // channels in x / 4
    weight_first: u32,  // first of them among the layer's inputs / 4
    out_quads: u32,     // channels that this dispatch computes / 4
    out_first: u32,     // first of them among the layer's outputs / 4
    out_total: u32,     // all outputs of the layer / 4
    y_first: u32,       // where they begin in y / 4
    mode: u32,          // sum of the bits below
    images: u32,
}

const BIAS = 1u;  // add the bias
const ADD = 2u;   // add to what y holds
const RELU = 4u;  // then clamp at zero
const SILU = 8u;  // then z / (1 + e^-z)

override HALF_WEIGHTS: bool = false;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;        // (in / 4, images, height, width, 4)
@group(0) @binding(2) var<storage, read> weights: array<vec2<u32>>;  // (in / 4, taps, 4, out)
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;     // (out)
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;  // (out / 4, images, height, width, 4)

// Weights of four outputs (quad `out` of this dispatch) for channel 4 · quad + i of x.
fn weight(quad: u32, tap: u32, i: u32, out: u32) -> vec4<f32> {
    let row = ((params.weight_first + quad) * SIZE * SIZE + tap) * 4u + i;
    let at = row * params.out_total + params.out_first + out;
    if HALF_WEIGHTS {
        let pair = weights[at];
        return vec4(unpack2x16float(pair.x), unpack2x16float(pair.y));
    }
    return vec4(bitcast<vec2<f32>>(weights[2u * at]), bitcast<vec2<f32>>(weights[2u * at + 1u]));
}

// Four channels of x at a pixel of an enlarged image, moved by the halo: zero outside. Coordinates
// left of the image wrap to very large ones.
fn pixel(image: u32, quad: u32, column: u32, row: u32) -> vec4<f32> {
    let halo = SIZE / 2u;
    let px = column - halo;
    let py = row - halo;
    let is_inside = px < params.width && py < params.height && quad < params.in_quads;
    let source_x = min(px >> params.enlarge, params.in_width - 1u);
    let source_y = min(py >> params.enlarge, params.in_height - 1u);
    let plane = min(quad, params.in_quads - 1u) * params.images + image;
    let at = (plane * params.in_height + source_y) * params.in_width + source_x;
    return select(vec4(0.0), x[at], is_inside);
}

// Finishes four channels of a pixel.
fn store(image: u32, out: u32, column: u32, row: u32, sum: vec4<f32>) {
    if out >= params.out_quads || column >= params.width || row >= params.height {
        return;
    }
    let plane = (params.y_first + out) * params.images + image;
    let at = (plane * params.height + row) * params.width + column;
    var v = sum;
    if (params.mode & BIAS) != 0u {
        v += bias[params.out_first + out];
    }
    if (params.mode & ADD) != 0u {
        v += y[at];
    }
    if (params.mode & RELU) != 0u {
        v = max(v, vec4(0.0));
    }
    if (params.mode & SILU) != 0u {
        v = gated(v, v);
    }
    y[at] = v;
}
