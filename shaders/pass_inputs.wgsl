// What a forward pass begins with. Two jobs that need nothing from each other, in one dispatch:
//
// Samples cut into patches, the rows that the patch embedding multiplies:
//   patches[b·R + t, (c·p + i)·p + j] = x[b, c, p·(t / W) + i, p·(t mod W) + j],  W = width / p
// the column order of a convolution's weight [D, C, p, p]. Columns C·p² .. K are padding to a multiple
// of four, and rows T .. R of a sample have no patch: zeros.
//
// What adaLN sees:  condition[b, :] = SiLU( time[b, :] + pooled[b, :] + Σ_j label[j, b, :] )
// Labels are those of `shared/labels`.
//
// One lane per element of `patches`, then one per element of `condition`.

struct Params {
    count: u32,     // S · K
    columns: u32,   // K
    tokens: u32,    // T
    sample_rows: u32,  // R
    channels: u32,  // C
    height: u32,    // of x
    width: u32,
    patch_side: u32,    // p
    first: u32,     // element of `latents` where x begins
    samples: u32,   // of x; beyond the last sample the first comes again
    batch: u32,     // B
    hidden: u32,    // D
    tables: u32,
    has_text: u32,  // whether `pooled` counts
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> time: array<f32>;             // (B, D)
@group(0) @binding(5) var<storage, read> pooled: array<f32>;           // (B, D)
@group(0) @binding(6) var<storage, read_write> condition: array<f32>;  // (B, D)
@group(0) @binding(7) var<storage, read> latents: array<f32>;          // all latents; x is (samples, C, h, w)
@group(0) @binding(8) var<storage, read_write> patches: array<f32>;    // (S, K)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.y * groups.x + group.x) * LANES + lane;
    if at < params.count {
        patches[at] = patch_number(at);
    } else if at - params.count < params.batch * params.hidden {
        condition[at - params.count] = condition_number(at - params.count);
    }
}

fn patch_number(at: u32) -> f32 {
    let s = at / params.columns;
    let k = at % params.columns;
    let p = params.patch_side;
    let channel = k / (p * p);
    let t = s % params.sample_rows;
    if channel >= params.channels || t >= params.tokens {
        return 0.0;
    }
    let sample = s / params.sample_rows % params.samples;
    let across = params.width / p;
    let row = t / across * p + k / p % p;
    let column = t % across * p + k % p;
    let plane = sample * params.channels + channel;
    return latents[params.first + (plane * params.height + row) * params.width + column];
}

fn condition_number(at: u32) -> f32 {
    var c = time[at];
    if params.has_text == 1u {
        c += pooled[at];
    }
    for (var j = 0u; j < params.tables; j++) {
        c += label_of(j, at / params.hidden, at % params.hidden);
    }
    return silu(c);
}
