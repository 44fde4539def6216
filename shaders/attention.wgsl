// Attention within each sample:  y[b, t, h, :] = softmax( q · Kᵀ / √d ) · V
// Queries (B, T, …), keys and values (rows, …), y (B, T, H, d); d = 4 · QUADS ≤ 8 · LANES_X.
//
// A workgroup owns one head of one sample and 32 queries, and takes 4 · LANES_X keys a round: two products, tiled as
// in `linear`, with a softmax between them. A lane sums a 4 × 4 block of scores and owns 4 queries by 2 quads of the
// result; its queries are LANES_Y apart, its keys and quads LANES_X. The softmax is online: each query has a running
// maximum and a sum, and what was summed before shrinks when the maximum grows, so that scores are never stored and
// the number of keys is not limited. Sums over d and over keys run in order.
//
// A lane has no array of its own: compilers put those in memory where a loop indexes them. All that a lane reads of
// an array in workgroup memory lies in one row of it, at places that are constants once loops are unrolled, so that
// one index needs a bounds check. Loops over keys are uniform: their bounds come from uniforms, or from read-only
// storage at the workgroup's index.

override QUADS: u32 = 16;   // d / 4
override LANES_X: u32 = 8;  // 8, or 16 where d > 64: that many quads of a head fit the registers of its lanes

const LANES_Y = 8u;
const QUERIES = LANES_Y * 4u;
const STAGED = 4u;          // quads of d that are staged at a time
const CHUNK = 16u;          // keys whose values are staged at a time
const ROW = 17u;            // 16 quads and one of padding: 272 bytes spread eight lanes over all banks
const LOWEST = -3.0e38;
override KEYS: u32 = LANES_X * 4u;
override STAGERS: u32 = LANES_X * LANES_Y / STAGED;  // queries or keys that the lanes stage at once
override TILE_ROWS: u32 = LANES_X * 2u;

// STAGED quads of the four queries of each row of lanes, then of the four keys of each column; or the CHUNK values of
// each quad.
var<workgroup> tile: array<array<vec4<f32>, ROW>, TILE_ROWS>;
// State shared by a row of lanes about its four queries: each lane's maxima or sums, or the weights of CHUNK keys.
var<workgroup> exchange: array<array<vec4<f32>, ROW>, LANES_Y>;

@compute @workgroup_size(LANES_X, LANES_Y)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = group.y * QUADS;
    let sample = group.z;
    let span = memory_span(sample);
    let last_key = span.y - 1u;
    let first = sample * params.tokens;
    let first_query = group.x * QUERIES;

    // What this lane stages: a quad of one or two queries and of two keys. Queries beyond the last one repeat it and
    // are not stored.
    let place = lane / STAGED;
    let piece = lane % STAGED;
    let last_query = params.tokens - 1u;
    let column = head + piece;
    let query0 = (first + min(first_query + place, last_query)) * params.query_quads + column;
    let query1 = (first + min(first_query + place + STAGERS, last_query)) * params.query_quads + column;

    // Component c belongs to query first_query + local.y + 8c.
    var highest = vec4(LOWEST);
    var total = vec4(0.0);
    // Named by query and quad: y31 is quad local.x + LANES_X of the lane's fourth query.
    var y00 = vec4(0.0);
    var y01 = vec4(0.0);
    var y10 = vec4(0.0);
    var y11 = vec4(0.0);
    var y20 = vec4(0.0);
    var y21 = vec4(0.0);
    var y30 = vec4(0.0);
    var y31 = vec4(0.0);

    for (var start = 0u; start < span.y; start += KEYS) {
        // One vector for each query; component c belongs to key start + local.x + c · LANES_X.
        var s0 = vec4(0.0);
        var s1 = vec4(0.0);
        var s2 = vec4(0.0);
        var s3 = vec4(0.0);
        // Keys beyond the span repeat its last one.
        let key0 = key_at(span.x + min(start + place, last_key), column);
        let key1 = key_at(span.x + min(start + place + STAGERS, last_key), column);
        for (var quad = 0u; quad < QUADS; quad += STAGED) {
            var a0 = vec4(0.0);
            var a1 = vec4(0.0);
            var b0 = vec4(0.0);
            var b1 = vec4(0.0);
            if quad + piece < QUADS {
                a0 = queries[query0 + quad];
                if STAGERS < QUERIES {
                    a1 = queries[query1 + quad];
                }
                b0 = memory[key0 + quad];
                b1 = memory[key1 + quad];
            }
            // The tile of the round before is used up.
            workgroupBarrier();
            let query_row = place % LANES_Y;
            let query_piece = place / LANES_Y * STAGED + piece;
            tile[query_row][query_piece] = a0 * params.scale;
            if STAGERS < QUERIES {
                tile[query_row][query_piece + STAGERS / LANES_Y * STAGED] = a1 * params.scale;
            }
            let key_row = LANES_Y + place % LANES_X;
            let key_piece = place / LANES_X * STAGED + piece;
            tile[key_row][key_piece] = b0;
            tile[key_row][key_piece + STAGERS / LANES_X * STAGED] = b1;
            workgroupBarrier();
            for (var k = 0u; k < STAGED; k++) {
                // Four keys, turned so that `keys[i]` holds number i of each.
                let keys = transpose(mat4x4<f32>(
                    tile[LANES_Y + local.x][k],
                    tile[LANES_Y + local.x][k + STAGED],
                    tile[LANES_Y + local.x][k + STAGED * 2u],
                    tile[LANES_Y + local.x][k + STAGED * 3u],
                ));
                s0 = add_products(s0, tile[local.y][k], keys);
                s1 = add_products(s1, tile[local.y][k + STAGED], keys);
                s2 = add_products(s2, tile[local.y][k + STAGED * 2u], keys);
                s3 = add_products(s3, tile[local.y][k + STAGED * 3u], keys);
            }
        }
        let seen = vec4(start + local.x) + vec4(0u, 1u, 2u, 3u) * LANES_X < vec4(span.y);
        s0 = select(vec4(LOWEST), s0, seen);
        s1 = select(vec4(LOWEST), s1, seen);
        s2 = select(vec4(LOWEST), s2, seen);
        s3 = select(vec4(LOWEST), s3, seen);

        // The maximum of each query over the lanes that share it. Weights of the round before are used up: the loop
        // above has barriers.
        exchange[local.y][local.x] = vec4(largest(s0), largest(s1), largest(s2), largest(s3));
        workgroupBarrier();
        var next = highest;
        for (var i = 0u; i < LANES_X; i++) {
            next = max(next, exchange[local.y][i]);
        }
        let shrink = exp(highest - next);
        highest = next;
        s0 = exp(s0 - next.x);
        s1 = exp(s1 - next.y);
        s2 = exp(s2 - next.z);
        s3 = exp(s3 - next.w);
        total = total * shrink + vec4(sum(s0), sum(s1), sum(s2), sum(s3));
        y00 *= shrink.x;
        y10 *= shrink.y;
        y20 *= shrink.z;
        y30 *= shrink.w;
        if QUADS > LANES_X {
            y01 *= shrink.x;
            y11 *= shrink.y;
            y21 *= shrink.z;
            y31 *= shrink.w;
        }

        // A chunk of 16 keys is a column of the lanes' blocks where there are 16 lanes, else two.
        for (var chunk = 0u; chunk < LANES_X / 4u; chunk++) {
            let part = start + chunk * CHUNK;
            // Maxima are read, and the tile is used up.
            workgroupBarrier();
            if LANES_X < CHUNK {
                let is_second = chunk > 0u;
                let even = select(vec4(s0.x, s1.x, s2.x, s3.x), vec4(s0.z, s1.z, s2.z, s3.z), is_second);
                let odd = select(vec4(s0.y, s1.y, s2.y, s3.y), vec4(s0.w, s1.w, s2.w, s3.w), is_second);
                exchange[local.y][local.x] = even;
                exchange[local.y][local.x + LANES_X] = odd;
            } else {
                var weights = vec4(s0.x, s1.x, s2.x, s3.x);
                if chunk == 1u {
                    weights = vec4(s0.y, s1.y, s2.y, s3.y);
                } else if chunk == 2u {
                    weights = vec4(s0.z, s1.z, s2.z, s3.z);
                } else if chunk == 3u {
                    weights = vec4(s0.w, s1.w, s2.w, s3.w);
                }
                exchange[local.y][local.x] = weights;
            }
            // Keys beyond the span weigh nothing, but must be numbers.
            let value = head + params.heads * QUADS + local.x;
            let value0 = key_at(span.x + min(part + local.y, last_key), value);
            let value1 = key_at(span.x + min(part + local.y + LANES_Y, last_key), value);
            if local.x < QUADS {
                tile[local.x][local.y] = memory[value0];
                tile[local.x][local.y + LANES_Y] = memory[value1];
            }
            if local.x + LANES_X < QUADS {
                tile[local.x + LANES_X][local.y] = memory[value0 + LANES_X];
                tile[local.x + LANES_X][local.y + LANES_Y] = memory[value1 + LANES_X];
            }
            workgroupBarrier();
            // Quads beyond the head read what lies there and are not stored.
            for (var key = 0u; key < CHUNK; key++) {
                let weight = exchange[local.y][key];
                let v0 = tile[local.x][key];
                y00 = fma(vec4(weight.x), v0, y00);
                y10 = fma(vec4(weight.y), v0, y10);
                y20 = fma(vec4(weight.z), v0, y20);
                y30 = fma(vec4(weight.w), v0, y30);
                if QUADS > LANES_X {
                    let v1 = tile[local.x + LANES_X][key];
                    y01 = fma(vec4(weight.x), v1, y01);
                    y11 = fma(vec4(weight.y), v1, y11);
                    y21 = fma(vec4(weight.z), v1, y21);
                    y31 = fma(vec4(weight.w), v1, y31);
                }
            }
        }
    }

    // Each lane has summed the weights of its own keys.
    workgroupBarrier();
    exchange[local.y][local.x] = total;
    workgroupBarrier();
    var denominator = vec4(0.0);
    for (var i = 0u; i < LANES_X; i++) {
        denominator += exchange[local.y][i];
    }
    let t = first_query + local.y;
    store(first, t, head, local.x, denominator.x, y00, y01);
    store(first, t + LANES_Y, head, local.x, denominator.y, y10, y11);
    store(first, t + LANES_Y * 2u, head, local.x, denominator.z, y20, y21);
    store(first, t + LANES_Y * 3u, head, local.x, denominator.w, y30, y31);
}

// Divides and stores a lane's quads of one query.
fn store(first: u32, t: u32, head: u32, quad: u32, denominator: f32, v0: vec4<f32>, v1: vec4<f32>) {
    if t < params.tokens {
        let at = (first + t) * params.heads * QUADS + head + quad;
        if quad < QUADS {
            y[at] = v0 / denominator;
        }
        if quad + LANES_X < QUADS {
            y[at + LANES_X] = v1 / denominator;
        }
    }
}

// Adds a quad of a query times four keys, number by number: a chain of multiply-adds, which `dot` is not everywhere.
fn add_products(sum: vec4<f32>, a: vec4<f32>, keys: mat4x4<f32>) -> vec4<f32> {
    return sum + a.x * keys[0] + a.y * keys[1] + a.z * keys[2] + a.w * keys[3];
}

fn largest(v: vec4<f32>) -> f32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

fn sum(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}
