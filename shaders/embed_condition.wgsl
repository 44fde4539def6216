// What adaLN sees:  y[b, :] = SiLU( time[b, :] + pooled[b, :] + Σ_j label[j, b, :] )
//   label[j, b, :] = (1 - shares[j, b]) labels[rows[0, j, b], :] + shares[j, b] labels[rows[1, j, b], :]
// `labels` holds all embedding tables one below the other, and `rows` numbers their rows throughout. A share of 0 adds
// the first row as it is.
// One lane per element of y.

struct Params {
    batch: u32,   // B
    hidden: u32,  // D
    tables: u32,
    has_text: u32,  // whether `pooled` counts
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> time: array<f32>;     // (B, D)
@group(0) @binding(2) var<storage, read> pooled: array<f32>;   // (B, D)
@group(0) @binding(3) var<storage, read> labels: array<f32>;   // (all rows, D)
@group(0) @binding(4) var<storage, read> rows: array<u32>;     // (2, tables, B)
@group(0) @binding(5) var<storage, read> shares: array<f32>;   // (tables, B)
@group(0) @binding(6) var<storage, read_write> y: array<f32>;  // (B, D)

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.x;
    if at >= params.batch * params.hidden {
        return;
    }
    let b = at / params.hidden;
    let d = at % params.hidden;
    var c = time[at];
    if params.has_text == 1u {
        c += pooled[at];
    }
    for (var j = 0u; j < params.tables; j++) {
        let place = j * params.batch + b;
        let share = shares[place];
        var label = labels[rows[place] * params.hidden + d];
        if share > 0.0 {
            let other = rows[params.tables * params.batch + place];
            label = (1.0 - share) * label + share * labels[other * params.hidden + d];
        }
        c += label;
    }
    y[at] = silu(c);
}
