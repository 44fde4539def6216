// Turns every query and every key, in place, by angles of its token (2-D rotary position embedding):
//   (a, b) = (a · cos - b · sin, b · cos + a · sin)
// A head of d numbers has two halves, for row and column; numbers i and i + d/4 of a half are a pair.
// x (S, 3, H, d) holds queries, keys and values; values stay. A lane owns one pair.

struct Params {
    count: u32,   // S · 2 · H · d/2
    heads: u32,   // H
    pairs: u32,   // d / 2
    tokens: u32,  // T
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;  // (T, d/2): cosine, sine
@group(0) @binding(2) var<storage, read_write> x: array<f32>;       // (S, 3, H, d)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.y * groups.x + group.x) * LANES + lane;
    if at >= params.count {
        return;
    }
    let pair = at % params.pairs;
    let row = at / params.pairs;
    let head = row % (2u * params.heads);
    let token = row / (2u * params.heads);
    let quarter = params.pairs / 2u;
    let start = (token * 3u * params.heads + head) * 2u * params.pairs;
    let first = start + pair / quarter * params.pairs + pair % quarter;
    let second = first + quarter;
    let turn = angles[token % params.tokens * params.pairs + pair];
    let a = x[first];
    let b = x[second];
    x[first] = a * turn.x - b * turn.y;
    x[second] = b * turn.x + a * turn.y;
}
