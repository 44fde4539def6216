// Layer normalisation and adaLN as in `modulate`, with the same bindings, for adapters that run
// shaders on the processor: one lane per token, no workgroup memory.

override LANES: u32;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let s = (group.y * groups.x + group.x) * LANES + lane;
    if s >= params.rows {
        return;
    }
    let row = s * params.quads;
    var sum = vec4(0.0);
    for (var k = 0u; k < params.quads; k++) {
        sum += x[row + k];
    }
    let size = f32(params.quads * 4u);
    let mean = dot(sum, vec4(1.0)) / size * params.centring;
    var squares = vec4(0.0);
    for (var k = 0u; k < params.quads; k++) {
        let deviation = x[row + k] - mean;
        squares += deviation * deviation;
    }
    let factor = inverseSqrt(dot(squares, vec4(1.0)) / size + 1e-6);
    let conditions = s / params.sample_tokens * params.modulation_quads;
    for (var k = 0u; k < params.quads; k++) {
        let scale = modulation[conditions + params.scale_quad + k];
        let shift = modulation[conditions + params.shift_quad + k];
        y[row + k] = (x[row + k] - mean) * factor * (1.0 + scale) + shift;
    }
}
