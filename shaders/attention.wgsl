// Self-attention within each sample:  y[b, t, h, :] = softmax( q · Kᵀ / √d ) · V
// x (B, T, 3, H, d) holds queries, keys and values; y is (B, T, H, d); d = 4 · QUADS ≤ 128.
//
// A workgroup owns one head of one sample and 64 queries, one for each lane. It stages KEYS keys and
// values at a time in workgroup memory; each lane keeps a running maximum, sum and weighted value (online
// softmax), so that scores are never stored and T is not limited. Loops over tiles and keys are uniform.

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
    let width = params.heads * QUADS;  // of one of q, k, v
    let t = group.x * LANES + lane;
    let first = sample * params.tokens;
    // Lanes beyond the last query repeat it and store nothing.
    let query_at = (first + min(t, params.tokens - 1u)) * 3u * width + head * QUADS;

    var query: array<vec4<f32>, MAX_QUADS>;
    var sum: array<vec4<f32>, MAX_QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        query[i] = x[query_at + i] * params.scale;
        sum[i] = vec4(0.0);
    }
    var highest = -3.0e38;
    var denominator = 0.0;
    for (var start = 0u; start < params.tokens; start += KEYS) {
        // The tile of the round before is used up.
        workgroupBarrier();
        for (var i = lane; i < TILE; i += LANES) {
            let key = min(start + i / QUADS, params.tokens - 1u);
            let at = ((first + key) * 3u + 1u) * width + head * QUADS + i % QUADS;
            keys[i] = x[at];
            values[i] = x[at + width];
        }
        workgroupBarrier();
        let count = min(KEYS, params.tokens - start);
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
        let at = (first + t) * width + head * QUADS;
        for (var i = 0u; i < QUADS; i++) {
            y[at + i] = sum[i] / denominator;
        }
    }
}
