// Puts the model's token vectors back into images:
//   y[b, c, p·(t / W) + i, p·(t mod W) + j] = x[b·R + t, (i·p + j)·C + c],  W = width / p
// with the channel fastest in a token's vector. One lane per element of y.

struct Params {
    count: u32,     // B · C · h · w
    sample_rows: u32,  // R, T or more
    channels: u32,  // C, of the output
    height: u32,    // of y
    width: u32,
    patch_side: u32,    // p
    first: u32,     // element of `latents` where y begins
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;              // (S, p·p·C)
@group(0) @binding(2) var<storage, read_write> latents: array<f32>;  // all latents; y is (B, C, h, w)

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
    let p = params.patch_side;
    let column = at % params.width;
    let row = at / params.width % params.height;
    let channel = at / (params.width * params.height) % params.channels;
    let sample = at / (params.width * params.height * params.channels);
    let t = row / p * (params.width / p) + column / p;
    let k = (row % p * p + column % p) * params.channels + channel;
    latents[params.first + at] = x[(sample * params.sample_rows + t) * p * p * params.channels + k];
}
