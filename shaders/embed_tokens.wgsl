// Rows of a table, by number, plus what belongs to their place:
//   y[r, :] = table[ids[r], :] + positions[r mod L, :]
// One lane per four columns of y.

struct Params {
    rows: u32,       // R
    quads: u32,      // D / 4
    positions: u32,  // L
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;              // (R)
@group(0) @binding(2) var<storage, read> table: array<vec4<f32>>;      // (V, D)
@group(0) @binding(3) var<storage, read> positions: array<vec4<f32>>;  // (L, D)
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;    // (R, D)

@compute @workgroup_size(LANES)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let at = id.y * groups.x * LANES + id.x;
    if at >= params.rows * params.quads {
        return;
    }
    let row = at / params.quads;
    let column = at % params.quads;
    y[at] = table[ids[row] * params.quads + column]
        + positions[row % params.positions * params.quads + column];
}
