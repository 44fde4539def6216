// Remembers which experts took a token, one bit per expert:
//   trace[offset + s] = Σ_e 2^e · [slots[s, e] is a place]
// One lane per token; no workgroup memory. `offset` selects the forward pass and the layer.

struct Params {
    tokens: u32,   // S
    experts: u32,  // E ≤ 32
    offset: u32,   // first of S words in `trace`
}

override LANES: u32;
const NONE = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> slots: array<u32>;         // (S, E)
@group(0) @binding(2) var<storage, read_write> trace: array<u32>;   // (forward passes · layers · S)

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let s = (group.y * groups.x + group.x) * LANES + lane;
    if s >= params.tokens {
        return;
    }
    var mask = 0u;
    for (var e = 0u; e < params.experts; e++) {
        let is_taken = slots[s * params.experts + e] != NONE;
        mask |= u32(is_taken) << e;
    }
    trace[params.offset + s] = mask;
}
