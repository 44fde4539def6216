// A convolution of SIZE × SIZE (1 or 3), stride 1, zero border, on images whose channels lie in
// quads, (C / 4, images, height, width, 4):  y[o] = act( y[o]? + bias[o]? + Σ_c Σ_tap W[o, c, tap] · x[c] )
// x may stand for an image of twice its size (nearest neighbour), which is then never stored.
//
// A workgroup owns 16 × 8 pixels of one image and 32 outputs. It stages eight channels at a time: the pixels with
// their border, and the weights of all taps (15 KiB for 3 × 3). A lane sums four pixels of a column for
// two quads of outputs in registers: four pixels and eight weight quads of staged memory feed 128
// multiply-adds. Lanes that differ in their column read neighbouring pixels and the same weights.
// Loops are uniform, and edges are handled by zeros, not by leaving early.

override SIZE: u32 = 3;

const COLUMNS = 16u;
const ROWS = 8u;
const OUT_QUADS = 8u;
const STAGED = 2u;  // quads of channels
const LANES = 128u;
override TAPS: u32 = SIZE * SIZE;
override SPAN: u32 = COLUMNS + SIZE - 1u;
override LINES: u32 = ROWS + SIZE - 1u;
override X_TILE: u32 = STAGED * (ROWS + SIZE - 1u) * (COLUMNS + SIZE - 1u);
override WEIGHT_TILE: u32 = STAGED * SIZE * SIZE * 4u * OUT_QUADS;

var<workgroup> x_tile: array<vec4<f32>, X_TILE>;
var<workgroup> weight_tile: array<vec4<f32>, WEIGHT_TILE>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let left = group.x * COLUMNS;
    let bands = (params.height + ROWS - 1u) / ROWS;
    let image = group.y / bands;
    let top = group.y % bands * ROWS;
    let first_out = group.z * OUT_QUADS;
    let column = lane % COLUMNS;
    let row = lane / COLUMNS % 2u * 4u;
    let out = lane / (COLUMNS * 2u);

    var a0 = vec4(0.0);  // four pixels of the first quad
    var a1 = vec4(0.0);
    var a2 = vec4(0.0);
    var a3 = vec4(0.0);
    var b0 = vec4(0.0);  // and of the second, half a tile of outputs away
    var b1 = vec4(0.0);
    var b2 = vec4(0.0);
    var b3 = vec4(0.0);
    for (var start = 0u; start < params.in_quads; start += STAGED) {
        // The tiles of the round before are used up.
        workgroupBarrier();
        for (var i = lane; i < X_TILE; i += LANES) {
            let line = i / SPAN;
            x_tile[i] = pixel(image, start + line / LINES, left + i % SPAN, top + line % LINES);
        }
        for (var i = lane; i < WEIGHT_TILE; i += LANES) {
            let o = i % OUT_QUADS;
            let line = i / OUT_QUADS;
            let quad = start + line / (4u * TAPS);
            var value = vec4(0.0);
            if quad < params.in_quads && first_out + o < params.out_quads {
                value = weight(quad, line / 4u % TAPS, line % 4u, first_out + o);
            }
            weight_tile[i] = value;
        }
        workgroupBarrier();
        for (var quad = 0u; quad < STAGED; quad++) {
            for (var tap = 0u; tap < TAPS; tap++) {
                let at = (quad * LINES + row + tap / SIZE) * SPAN + column + tap % SIZE;
                let x0 = x_tile[at];
                let x1 = x_tile[at + SPAN];
                let x2 = x_tile[at + 2u * SPAN];
                let x3 = x_tile[at + 3u * SPAN];
                let w = (quad * TAPS + tap) * 4u * OUT_QUADS + out;
                let a = staged_weights(w);
                let b = staged_weights(w + OUT_QUADS / 2u);
                a0 = add_products(a0, x0, a);
                a1 = add_products(a1, x1, a);
                a2 = add_products(a2, x2, a);
                a3 = add_products(a3, x3, a);
                b0 = add_products(b0, x0, b);
                b1 = add_products(b1, x1, b);
                b2 = add_products(b2, x2, b);
                b3 = add_products(b3, x3, b);
            }
        }
    }
    let px = left + column;
    let py = top + row;
    let first = first_out + out;
    store(image, first, px, py, a0);
    store(image, first, px, py + 1u, a1);
    store(image, first, px, py + 2u, a2);
    store(image, first, px, py + 3u, a3);
    let second = first + OUT_QUADS / 2u;
    store(image, second, px, py, b0);
    store(image, second, px, py + 1u, b1);
    store(image, second, px, py + 2u, b2);
    store(image, second, px, py + 3u, b3);
}

// Adds four channels of a pixel times a 4 × 4 block, number by number: a chain of multiply-adds in every compiler, which
// the product of a matrix and a vector is not.
fn add_products(sum: vec4<f32>, pixel: vec4<f32>, w: mat4x4<f32>) -> vec4<f32> {
    return sum + pixel.x * w[0] + pixel.y * w[1] + pixel.z * w[2] + pixel.w * w[3];
}

// Four outputs by four channels; a column for each channel.
fn staged_weights(at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        weight_tile[at],
        weight_tile[at + OUT_QUADS],
        weight_tile[at + 2u * OUT_QUADS],
        weight_tile[at + 3u * OUT_QUADS],
    );
}
