// What `combine_experts` and `combine_experts_software` have in common: parameters, bindings and the sum. Appended
// after either.
//   x[s, :] += gate_mlp[b, :] ⊙ ( Σ_e gate[s, e] · y[row(s, e), :] ),  b = s / T
// with row(s, e) = Σ_{i<e} counts[i] + positions[s, e], over the experts that took token s, in index order. The token
// gathers its rows, so no two lanes write the same number: no atomics, and the same sum every time.
//
// Where `y` holds only the packed rows [row_first, row_end), other rows are skipped. Packed rows are sorted by expert,
// so one dispatch per part, in order, still adds in expert order, and `x` itself is the accumulator.

struct Params {
    tokens: u32,             // S
    experts: u32,            // E
    quads: u32,              // D / 4
    sample_tokens: u32,      // T
    modulation_stride: u32,  // columns of `modulation` / 4
    modulation_first: u32,   // first column of gate_mlp / 4
    row_first: u32,          // packed rows in `y`; y's first row is packed row row_first
    row_end: u32,
    mask_first: u32,         // word of `masks` for token 0
    normalises: u32,         // whether a layer norm follows
    shift_quad: u32,         // its first column of shift / 4
    scale_quad: u32,         // its first column of scale / 4
    centring: f32,           // 1, or 0 for an RMS norm
}

const NONE = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;               // (S, E)
@group(0) @binding(2) var<storage, read> positions: array<u32>;          // (S, E)
@group(0) @binding(3) var<storage, read> counts: array<u32>;             // (E)
@group(0) @binding(4) var<storage, read> y: array<vec4<f32>>;            // (row_end - row_first, D)
@group(0) @binding(5) var<storage, read> modulation: array<vec4<f32>>;   // (B, columns)
@group(0) @binding(6) var<storage, read_write> masks: array<u32>;        // from mask_first: (S, ⌈E / 32⌉)
@group(0) @binding(7) var<storage, read_write> x: array<vec4<f32>>;      // (S, D)
@group(0) @binding(8) var<storage, read_write> h: array<vec4<f32>>;      // (S, D), where a layer norm follows

// What the experts add to a quad of a token's row.
fn branch(s: u32, column: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    var offset = 0u;
    for (var e = 0u; e < params.experts; e++) {
        let position = positions[s * params.experts + e];
        let row = offset + position;
        if position != NONE && row >= params.row_first && row < params.row_end {
            sum += gate[s * params.experts + e] * y[(row - params.row_first) * params.quads + column];
        }
        offset += counts[e];
    }
    let b = s / params.sample_tokens;
    return modulation[b * params.modulation_stride + params.modulation_first + column] * sum;
}

// Who took a token, one bit for each expert.
fn remember(s: u32) {
    let words = (params.experts + 31u) / 32u;
    for (var word = 0u; word < words; word++) {
        var mask = 0u;
        for (var e = 32u * word; e < min(32u * (word + 1u), params.experts); e++) {
            mask |= u32(positions[s * params.experts + e] != NONE) << (e % 32u);
        }
        masks[params.mask_first + s * words + word] = mask;
    }
}
