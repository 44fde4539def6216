// Rows of weights, whatever they are stored as. Appended to kernels that bind them as pairs of words, `weights` and, for
// SwiGLU's second factor, `up_weights`, and have K / 4 in `params.quads`. A row is a whole number of pairs:
//   f32     K words
//   f16     K / 2 words, two numbers each
//   int8    K / 4 words, four integers each; one of padding where that makes the number even; the row's scale, f32
//   int4    K / 8 words, eight integers each, and K / 64 words, two f16 scales each; zeros make both numbers even
// The first number lies in the low bits. A scale of int8 multiplies the sum over its row, once instead of K times; one
// of int4 multiplies the 32 numbers that it belongs to.

override WEIGHTS: u32 = 1;
const WEIGHTS_F32 = 0u;
const WEIGHTS_F16 = 1u;
const WEIGHTS_INT8 = 2u;
const WEIGHTS_INT4 = 3u;

// Four weights of a row, from column 4k on; int8 without the scale.
fn weight_quad(is_up: bool, row: u32, k: u32) -> vec4<f32> {
    return weight_numbers(weight_words(is_up, row, k), k);
}

// The words that they are made of. Apart, so that a lane can wait for them later.
fn weight_words(is_up: bool, row: u32, k: u32) -> vec4<u32> {
    if WEIGHTS == WEIGHTS_INT8 {
        return vec4(weight_pair(is_up, row * int8_pairs() + k / 2u), 0u, 0u);
    }
    if WEIGHTS == WEIGHTS_INT4 {
        // A pair of words has four quads, or the scales of four groups of eight quads.
        let number_pairs = (params.quads + 3u) / 4u;
        let first = row * (number_pairs + (params.quads + 31u) / 32u);
        let scales = weight_pair(is_up, first + number_pairs + k / 32u);
        return vec4(weight_pair(is_up, first + k / 4u), scales);
    }
    let at = row * params.quads + k;
    if WEIGHTS == WEIGHTS_F16 {
        return vec4(weight_pair(is_up, at), 0u, 0u);
    }
    return vec4(weight_pair(is_up, 2u * at), weight_pair(is_up, 2u * at + 1u));
}

fn weight_numbers(words: vec4<u32>, k: u32) -> vec4<f32> {
    if WEIGHTS == WEIGHTS_INT8 {
        return signed_bytes(select(words.x, words.y, (k & 1u) == 1u));
    }
    if WEIGHTS == WEIGHTS_INT4 {
        let word = select(words.x, words.y, (k & 2u) != 0u) >> ((k & 1u) * 16u);
        let two = unpack2x16float(select(words.z, words.w, (k & 16u) != 0u));
        return signed_halves(word) * select(two.x, two.y, (k & 8u) != 0u);
    }
    if WEIGHTS == WEIGHTS_F16 {
        return vec4(unpack2x16float(words.x), unpack2x16float(words.y));
    }
    return bitcast<vec4<f32>>(words);
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

// The lower four numbers of four bits, as `signed_bytes`.
fn signed_halves(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4(bitcast<i32>(word)) << vec4(28u, 24u, 20u, 16u)) >> vec4(28u));
}
