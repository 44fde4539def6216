// Remembers the logits of a layer:
//   scores[offset + i] = logits[i]
// One lane per word; no workgroup memory. `offset` selects the forward pass and the layer.

struct Params {
    count: u32,    // S·E
    offset: u32,   // first of S·E words in `scores`
}

override LANES: u32;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<u32>;         // (S, E): two f16 each
@group(0) @binding(2) var<storage, read_write> scores: array<u32>;   // (forward passes · layers · S · E)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * LANES + lane;
    if i < params.count {
        scores[params.offset + i] = logits[i];
    }
}
