// Cuts samples into patches, the rows that the patch embedding multiplies:
//   y[b·R + t, (c·p + i)·p + j] = x[b, c, p·(t / W) + i, p·(t mod W) + j],  W = width / p
// the column order of a convolution's weight [D, C, p, p]. Columns C·p² .. K are padding to a multiple
// of four, and rows T .. R of a sample have no patch: zeros. One lane per element of y.

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
    samples: u32,   // B; beyond the last sample the first comes again
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> latents: array<f32>;      // all latents; x is (B, C, h, w)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;      // (S, K)

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
    let s = at / params.columns;
    let k = at % params.columns;
    let p = params.patch_side;
    let channel = k / (p * p);
    let t = s % params.sample_rows;
    if channel >= params.channels || t >= params.tokens {
        y[at] = 0.0;
        return;
    }
    let sample = s / params.sample_rows % params.samples;
    let across = params.width / p;
    let row = t / across * p + k / p % p;
    let column = t % across * p + k % p;
    let plane = sample * params.channels + channel;
    y[at] = latents[params.first + (plane * params.height + row) * params.width + column];
}
