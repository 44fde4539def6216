// Brings the experts' rows back to their tokens and closes the residual branch of the block:
//   x[s, :] += gate_mlp[b, :] ⊙ ( Σ_e gates[s, e] · y[row(s, e), :] + shared[s, :] ),  b = s / T
// with row(s, e) = Σ_{i<e} counts[i] + slots[s, e], over the experts that took token s, in index
// order. The token gathers its rows, so no two lanes write the same number: no atomics, and the
// same sum every time.
//
// Where `y` holds only the packed rows [row_first, row_end), other rows are skipped. Packed rows
// are sorted by expert, so one dispatch per part, in order, still adds in expert order, and `x`
// itself is the accumulator.
//
// One lane per four columns of a token; groups in x, then y.

struct Params {
    tokens: u32,             // S
    experts: u32,            // E
    quads: u32,              // D / 4
    sample_tokens: u32,      // T
    modulation_stride: u32,  // columns of `modulation` / 4
    modulation_first: u32,   // first column of gate_mlp / 4
    row_first: u32,          // packed rows in `y`; y's first row is packed row row_first
    row_end: u32,
}

override HAS_SHARED: bool = false;

override LANES: u32;
const NONE = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gates: array<f32>;             // (S, E)
@group(0) @binding(2) var<storage, read> slots: array<u32>;             // (S, E)
@group(0) @binding(3) var<storage, read> counts: array<u32>;            // (E)
@group(0) @binding(4) var<storage, read> y: array<vec4<f32>>;           // (row_end - row_first, D)
@group(0) @binding(5) var<storage, read> modulation: array<vec4<f32>>;  // (B, columns)
@group(0) @binding(6) var<storage, read> shared_y: array<vec4<f32>>;    // (S, D)
@group(0) @binding(7) var<storage, read_write> x: array<vec4<f32>>;     // (S, D)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * LANES + lane;
    let s = i / params.quads;
    if s >= params.tokens {
        return;
    }
    let column = i % params.quads;
    var sum = vec4(0.0);
    var offset = 0u;
    for (var e = 0u; e < params.experts; e++) {
        let slot = slots[s * params.experts + e];
        let row = offset + slot;
        if slot != NONE && row >= params.row_first && row < params.row_end {
            sum += gates[s * params.experts + e] * y[(row - params.row_first) * params.quads + column];
        }
        offset += counts[e];
    }
    if HAS_SHARED {
        sum += shared_y[i];
    }
    let b = s / params.sample_tokens;
    x[i] += modulation[b * params.modulation_stride + params.modulation_first + column] * sum;
}
