// Keeps a part of an image during sampling (inpainting), in place:
//   x = mask · x + (1 - mask) · (signal · image + noise · ε)
// Where the mask is 0 the sample becomes the image at a noise level; where it is 1 it stays. One lane per
// element of x.

struct Params {
    count: u32,  // B · C · height · width
    first: u32,  // element of `latents` where x begins
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> level: array<f32>;           // (2): signal, noise
@group(0) @binding(2) var<storage, read> kept: array<f32>;           // (3, count): image, ε, mask
@group(0) @binding(3) var<storage, read_write> latents: array<f32>;  // all slots

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
    let known = level[0] * kept[at] + level[1] * kept[params.count + at];
    let mask = kept[2u * params.count + at];
    latents[params.first + at] = mask * latents[params.first + at] + (1.0 - mask) * known;
}
