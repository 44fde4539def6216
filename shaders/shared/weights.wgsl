// Rows of weights, whatever they are stored as. Appended to kernels that bind them as pairs of words, `weights` and, for
// SwiGLU's second factor, `up_weights`, and have K / 4 in `params.quads`. A row is a whole number of pairs:
//   f32     K words
//   f16     K / 2 words, two numbers each
//   int8    K / 4 words, four whole numbers each; one of padding where that makes the number even; the row's scale, f32
// The first number lies in the low bits. A row's scale multiplies its sum, not its numbers: once instead of K times.

override WEIGHTS: u32 = 1;
const WEIGHTS_F32 = 0u;
const WEIGHTS_F16 = 1u;
const WEIGHTS_INT8 = 2u;

// Four weights of a row, from column 4k on; int8 without the scale.
fn weight_quad(is_up: bool, row: u32, k: u32) -> vec4<f32> {
    if WEIGHTS == WEIGHTS_INT8 {
        let pair = weight_pair(is_up, row * int8_pairs() + k / 2u);
        return signed_bytes(select(pair.x, pair.y, (k & 1u) == 1u));
    }
    let at = row * params.quads + k;
    if WEIGHTS == WEIGHTS_F16 {
        let pair = weight_pair(is_up, at);
        return vec4(unpack2x16float(pair.x), unpack2x16float(pair.y));
    }
    let low = weight_pair(is_up, 2u * at);
    let high = weight_pair(is_up, 2u * at + 1u);
    return vec4(bitcast<vec2<f32>>(low), bitcast<vec2<f32>>(high));
}

// What a sum over a row's weights is multiplied with.
fn weight_scale(is_up: bool, row: u32) -> f32 {
    if WEIGHTS == WEIGHTS_INT8 {
        return bitcast<f32>(weight_pair(is_up, (row + 1u) * int8_pairs() - 1u).y);
    }
    return 1.0;
}

// Pairs of words in a row of int8.
fn int8_pairs() -> u32 {
    return params.quads / 2u + 1u;
}

fn weight_pair(is_up: bool, at: u32) -> vec2<u32> {
    if is_up {
        return up_weights[at];
    }
    return weights[at];
}

// To the top of the word, and down again with the sign.
fn signed_bytes(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4(bitcast<i32>(word)) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u));
}
