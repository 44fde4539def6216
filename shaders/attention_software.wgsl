// Attention as in `attention`, with the same bindings, for adapters that run shaders on the
// processor: no workgroup memory and no barriers.
//
// A workgroup owns 32 queries of one head of one sample, a lane four of them, 8 lanes apart: loads cost
// most on such adapters, and each quad of a key or value serves four queries. Keys and values are read
// where they lie. Components of `highest`, `weight` and so on belong to the lane's four queries.

override QUADS: u32 = 16;  // d / 4
override LANES: u32;

const MAX_QUADS = 32u;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let width = params.heads * QUADS;
    let first = group.z * params.tokens;
    let span = memory_span(group.z);
    let column = group.y * QUADS;
    let t = group.x * LANES * 4u + lane + vec4(0u, 1u, 2u, 3u) * LANES;
    // Queries beyond the last one repeat it and are not stored.
    let at = (first + min(t, vec4(params.tokens - 1u))) * params.query_quads + column;

    var q0: array<vec4<f32>, MAX_QUADS>;
    var q1: array<vec4<f32>, MAX_QUADS>;
    var q2: array<vec4<f32>, MAX_QUADS>;
    var q3: array<vec4<f32>, MAX_QUADS>;
    var sum0: array<vec4<f32>, MAX_QUADS>;
    var sum1: array<vec4<f32>, MAX_QUADS>;
    var sum2: array<vec4<f32>, MAX_QUADS>;
    var sum3: array<vec4<f32>, MAX_QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        q0[i] = queries[at.x + i] * params.scale;
        q1[i] = queries[at.y + i] * params.scale;
        q2[i] = queries[at.z + i] * params.scale;
        q3[i] = queries[at.w + i] * params.scale;
    }
    var highest = vec4(-3.0e38);
    var denominator = vec4(0.0);
    for (var row = span.x; row < span.x + span.y; row++) {
        let key = key_at(row, column);
        var score = vec4(0.0);
        for (var i = 0u; i < QUADS; i++) {
            let k = memory[key + i];
            score += vec4(dot(q0[i], k), dot(q1[i], k), dot(q2[i], k), dot(q3[i], k));
        }
        let before = highest;
        highest = max(highest, score);
        let shrink = exp(before - highest);
        let weight = exp(score - highest);
        denominator = denominator * shrink + weight;
        for (var i = 0u; i < QUADS; i++) {
            let v = memory[key + width + i];
            sum0[i] = sum0[i] * shrink.x + weight.x * v;
            sum1[i] = sum1[i] * shrink.y + weight.y * v;
            sum2[i] = sum2[i] * shrink.z + weight.z * v;
            sum3[i] = sum3[i] * shrink.w + weight.w * v;
        }
    }
    let out = (first + t) * width + column;
    for (var i = 0u; i < QUADS; i++) {
        if t.x < params.tokens {
            y[out.x + i] = sum0[i] / denominator.x;
        }
        if t.y < params.tokens {
            y[out.y + i] = sum1[i] / denominator.y;
        }
        if t.z < params.tokens {
            y[out.z + i] = sum2[i] / denominator.z;
        }
        if t.w < params.tokens {
            y[out.w + i] = sum3[i] / denominator.w;
        }
    }
}
