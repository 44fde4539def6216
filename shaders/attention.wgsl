// Attention within each sample:  y[b, t, h, :] = softmax( q · Kᵀ / √d ) · V
// Queries (B, T, …), keys and values (rows, …), y (B, T, H, d); d = 4 · QUADS ≤ 128.
//
// A workgroup owns one head of one sample and 64 queries, one for each lane. It stages KEYS keys and
// values at a time in workgroup memory; each lane keeps a running maximum, sum and weighted value (online
// softmax), so that scores are never stored and the number of keys is not limited. Loops over tiles and
// keys are uniform: their bounds come from uniforms, or from read-only storage at the workgroup's index.

override QUADS: u32 = 16;  // d / 4
override KEYS: u32 = 32;   // keys per tile: 2 · KEYS · d numbers are staged

const LANES = 64u;
const MAX_QUADS = 32u;

override TILE: u32 = KEYS * QUADS;
var<workgroup> keys: array<vec4<f32>, TILE>;
var<workgroup> values: array<vec4<f32>, TILE>;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = group.y;
    let sample = group.z;
    let span = memory_span(sample);
    let t = group.x * LANES + lane;
    let first = sample * params.tokens;
    // Lanes beyond the last query repeat it and store nothing.
    let query_at = (first + min(t, params.tokens - 1u)) * params.query_quads + head * QUADS;

    var query: array<vec4<f32>, MAX_QUADS>;
    var sum: array<vec4<f32>, MAX_QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        query[i] = queries[query_at + i] * params.scale;
        sum[i] = vec4(0.0);
    }
    var highest = -3.0e38;
    var denominator = 0.0;
    for (var start = 0u; start < span.y; start += KEYS) {
        // The tile of the round before is used up.
        workgroupBarrier();
        for (var i = lane; i < TILE; i += LANES) {
            let key = min(start + i / QUADS, span.y - 1u);
            let at = key_at(span.x + key, head * QUADS) + i % QUADS;
            keys[i] = memory[at];
            values[i] = memory[at + params.heads * QUADS];
        }
        workgroupBarrier();
        let count = min(KEYS, span.y - start);
        for (var key = 0u; key < count; key++) {
            var score = 0.0;
            for (var i = 0u; i < QUADS; i++) {
                score += dot(query[i], keys[key * QUADS + i]);
            }
            let before = highest;
            highest = max(highest, score);
            let shrink = exp(before - highest);
            let weight = exp(score - highest);
            denominator = denominator * shrink + weight;
            for (var i = 0u; i < QUADS; i++) {
                sum[i] = sum[i] * shrink + weight * values[key * QUADS + i];
            }
        }
    }
    if t < params.tokens {
        let at = (first + t) * params.heads * QUADS + head * QUADS;
        for (var i = 0u; i < QUADS; i++) {
            y[at + i] = sum[i] / denominator;
        }
    }
}
