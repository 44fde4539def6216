// Scores the tokens of the pool by prototypes: with cosine[s, e] = x[s, :] · c[e, :] / (‖x[s, :]‖ ‖c[e, :]‖), if tokens
// choose, a token takes the expert with the largest cosine, the lowest of equal ones, and
//   gate[s, e] = cosine[s, e] for that expert, 0 for the others
// Otherwise the gate is what is recorded below.
// The experts without a prototype are at the end: there is one, or none. It takes the tokens of samples whose label is
// `unconditional_row` alone, with
//   gate[s, E - 1] = 1, and 0 for the others
// and no other tokens. If scores are recorded, they are the cosines, 1 for the last expert of such samples, and the least f16
// for an expert that is not asked:
//   recorded[recorded_first + s·E + e] = score, 0, as two f16
//
// A workgroup owns a token, or several of models with few experts. PARTS lanes share a (token, expert) pair, each with
// every PARTS-th quad of the columns, for the product and both lengths in one loop. The parts of a sum are added in order.
// Barriers are passed by all.

struct Params {
    tokens: u32,             // S
    experts: u32,            // E
    prototypes: u32,         // E, or E - 1
    quads: u32,              // D / 4
    sample: u32,             // T
    unconditional_row: u32,  // read where prototypes < experts
    recorded_first: u32,     // word of `recorded` for the first pair
}

// E rounded up to a power of two.
override EXPERT_LANES: u32 = 16;
// Eight, and four where EXPERT_LANES is 64.
override PARTS: u32 = 8;
// Whether a token takes the nearest expert.
override TOKENS_CHOOSE: bool = true;
// Whether the scores are recorded; `recorded` is left alone otherwise.
override RECORDS: bool = false;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;           // (S, D)
@group(0) @binding(2) var<storage, read> prototypes: array<vec4<f32>>;  // (E or E - 1, D)
@group(0) @binding(3) var<storage, read> rows: array<u32>;              // (2, 1, B)
@group(0) @binding(4) var<storage, read> shares: array<f32>;            // (1, B)
@group(0) @binding(5) var<storage, read_write> gate: array<f32>;        // (S, E)
@group(0) @binding(6) var<storage, read_write> recorded: array<u32>;    // (S, E): score, 0

const LANES = 256u;
const NOT_ASKED = -65504.0;

// Product, and squared lengths of token and prototype, of each part; then the scores of each pair.
var<workgroup> parts: array<vec3<f32>, LANES>;
var<workgroup> scores: array<f32, 64>;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pair = lane / PARTS;
    let e = pair % EXPERT_LANES;
    let block = group.y * groups.x + group.x;
    let s = block * (LANES / PARTS / EXPERT_LANES) + pair / EXPERT_LANES;
    let in_range = s < params.tokens && e < params.experts;
    let has_prototype = in_range && e < params.prototypes;

    var sums = vec3(0.0);
    if has_prototype {
        for (var d = lane % PARTS; d < params.quads; d += PARTS) {
            let token = x[s * params.quads + d];
            let other = prototypes[e * params.quads + d];
            sums += vec3(dot(token, other), dot(token, token), dot(other, other));
        }
    }
    parts[lane] = sums;
    workgroupBarrier();

    // One lane of each pair continues.
    let is_first = in_range && lane % PARTS == 0u;
    if is_first {
        for (var i = 1u; i < PARTS; i++) {
            sums += parts[lane + i];
        }
        // The bounds are those of PyTorch's `normalize`.
        var score = sums.x / max(sqrt(sums.y), 1e-12) / max(sqrt(sums.z), 1e-12);
        if !has_prototype {
            score = NOT_ASKED;
        }
        if params.prototypes < params.experts {
            let b = s / params.sample;
            if rows[b] == params.unconditional_row && shares[b] == 0.0 {
                score = select(1.0, NOT_ASKED, has_prototype);
            }
        }
        scores[pair] = score;
        if RECORDS {
            recorded[params.recorded_first + s * params.experts + e] = pack2x16float(vec2(score, 0.0));
        }
    }
    workgroupBarrier();

    if is_first {
        let row = pair - e;
        let own = scores[pair];
        var better = 0u;
        for (var i = 0u; i < params.experts; i++) {
            let other = scores[row + i];
            better += u32(other > own || (other == own && i < e));
        }
        gate[s * params.experts + e] = select(0.0, own, better == 0u || !TOKENS_CHOOSE);
    }
}
