// Scores every token of the pool for every expert:
//   gate[s, :] = softmax over experts of x[s, :] · gate_weightᵀ
//   need[s, e] = σ(hidden[s, :] · predictor_weight[e, :] + predictor_bias[e])
// where `hidden` is the capacity predictor's SiLU layer. Both in f32, because a threshold or a
// top-k decides on their last bits. If scores are recorded, both are also kept as logits:
//   recorded[recorded_first + s·E + e] = gate before softmax, predictor before σ, as two f16
//
// With SIGMOID (a token-choice router as in DeepSeek-V3) the gate is not a softmax: with score = σ(x[s, :] · gate_weightᵀ),
// a token chooses the `chosen` experts with the largest score + bias, the lowest of equal ones, and
//   gate[s, e] = scale · score[e] / Σ score of the chosen, or scale · score[e] of a single one; 0 for the others
// Recorded is ln(score), whose softmax is each expert's share of all scores. The bias lies in `predictor_bias`.
//
// A workgroup owns a token, or several of models with few experts. PARTS lanes share a (token, expert) pair, each with
// every PARTS-th quad of the columns, for both products in one loop: what a lane waits for is memory, and so PARTS rows are read at a time
// and not one number after the other. The parts of a sum are added in order, and so are those of a token's softmax.
// The two weight matrices are small enough (E rows) to stay in cache. Barriers are passed by all.

struct Params {
    tokens: u32,   // S
    experts: u32,  // E
    quads: u32,    // D / 4
    recorded_first: u32,  // word of `recorded` for the first pair
    chosen: u32,   // SIGMOID: experts of a token
    scale: f32,    // SIGMOID
}

// E rounded up to a power of two.
override EXPERT_LANES: u32 = 32;
// Eight, and four where EXPERT_LANES is 64.
override PARTS: u32 = 8;
// Baselines have no capacity predictor: `need` is left alone.
override PREDICTS: bool = true;
// Whether the gate is that of a sigmoid router.
override SIGMOID: bool = false;
// Whether the logits are recorded; `recorded` is left alone otherwise.
override RECORDS: bool = false;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;                 // (S, D)
@group(0) @binding(2) var<storage, read> gate_weight: array<vec4<f32>>;       // (E, D)
@group(0) @binding(3) var<storage, read> hidden: array<vec4<f32>>;            // (S, D)
@group(0) @binding(4) var<storage, read> predictor_weight: array<vec4<f32>>;  // (E, D)
@group(0) @binding(5) var<storage, read> predictor_bias: array<f32>;          // (E)
@group(0) @binding(6) var<storage, read_write> gate: array<f32>;              // (S, E)
@group(0) @binding(7) var<storage, read_write> need: array<f32>;              // (S, E)
@group(0) @binding(8) var<storage, read_write> recorded: array<u32>;          // (S, E): gate, need

const LANES = 256u;

// Logit and predictor's sum of each part; then the logits of each pair.
var<workgroup> parts: array<vec2<f32>, LANES>;
var<workgroup> logits: array<f32, 64>;

fn sigmoid(z: f32) -> f32 {
    // WGSL leaves overflow undefined. The clamp also keeps the result above 0, so that a threshold
    // of 0 (a fresh model) lets every token pass.
    return 1.0 / (1.0 + exp(-clamp(z, -80.0, 80.0)));
}

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

    var sums = vec2(0.0);
    if in_range {
        for (var d = lane % PARTS; d < params.quads; d += PARTS) {
            sums.x += dot(x[s * params.quads + d], gate_weight[e * params.quads + d]);
            if PREDICTS {
                sums.y += dot(hidden[s * params.quads + d], predictor_weight[e * params.quads + d]);
            }
        }
    }
    parts[lane] = sums;
    workgroupBarrier();

    // One lane of each pair continues.
    let is_first = in_range && lane % PARTS == 0u;
    var score = 0.0;
    if is_first {
        for (var i = 1u; i < PARTS; i++) {
            sums += parts[lane + i];
        }
        if SIGMOID {
            score = sigmoid(sums.x);
            logits[pair] = score + predictor_bias[e];
            // ln σ(z), for the record.
            sums.x = -log(1.0 + exp(-clamp(sums.x, -80.0, 80.0)));
        } else {
            logits[pair] = sums.x;
        }
        if PREDICTS {
            sums.y += predictor_bias[e];
            need[s * params.experts + e] = sigmoid(sums.y);
        }
        if RECORDS {
            // WGSL leaves it open what becomes of numbers beyond the largest f16.
            let both = clamp(sums, vec2(-65504.0), vec2(65504.0));
            recorded[params.recorded_first + s * params.experts + e] = pack2x16float(both);
        }
    }
    workgroupBarrier();

    let row = pair - e;
    if SIGMOID {
        if is_first {
            let own = logits[pair];
            var better = 0u;
            for (var i = 0u; i < params.experts; i++) {
                let other = logits[row + i];
                better += u32(other > own || (other == own && i < e));
            }
            if better >= params.chosen {
                score = 0.0;
            }
            parts[lane].x = score;
        }
        workgroupBarrier();
        if is_first {
            var sum = 0.0;
            for (var i = 0u; i < params.experts; i++) {
                sum += parts[(row + i) * PARTS].x;
            }
            // The code of DeepSeek-V3 keeps the sum above 0 like this.
            gate[s * params.experts + e] = score * params.scale / select(1.0, sum + 1e-20, params.chosen > 1u);
        }
    } else if is_first {
        var highest = logits[row];
        for (var i = 1u; i < params.experts; i++) {
            highest = max(highest, logits[row + i]);
        }
        // Every lane of a token adds in the same order: the gates of a token share one denominator.
        var sum = 0.0;
        for (var i = 0u; i < params.experts; i++) {
            sum += exp(logits[row + i] - highest);
        }
        gate[s * params.experts + e] = exp(logits[pair] - highest) / sum;
    }
}
