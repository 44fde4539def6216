// Brings the experts' rows back to their tokens as in `combine_experts`, with the same bindings, for adapters that run
// shaders on the processor: one lane per four columns of a token, no workgroup memory, and the layer norm that follows
// is a kernel of its own.

override LANES: u32;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.y * groups.x + group.x) * LANES + lane;
    let s = i / params.quads;
    if s >= params.tokens {
        return;
    }
    let column = i % params.quads;
    if column == 0u {
        remember(s);
    }
    let value = x[i] + branch(s, column);
    x[i] = value;
    if params.normalises == 1u {
        // Nobody asks for it here; the binding has to be used.
        h[i] = value;
    }
}
