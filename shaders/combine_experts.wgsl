// Brings the experts' rows back to their tokens and closes the residual branch of the block, as described in
// `shared/combine_experts`. Where a layer norm follows (NORMALISES), it is done on the way, while the row is at hand:
//   h[s, :] = (x[s, :] - mean) / √(variance + 10⁻⁶) · (1 + scale[b, :]) + shift[b, :],  b = s / T
//
// A workgroup owns one token, so all lanes read the same positions and counts; its 64 lanes share the columns and add up as
// in `shared/row_total`. A lane reads of x what it wrote itself. All loop bounds are uniform.

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let s = group.y * groups.x + group.x;
    // Groups beyond the last token (the count was folded in two dimensions) leave as a whole.
    if s >= params.tokens {
        return;
    }
    if lane == 0u {
        remember(s);
    }
    let row = s * params.quads;
    let b = s / params.sample_tokens * params.modulation_stride;
    var sum = vec4(0.0);
    for (var k = lane; k < params.quads; k += LANES) {
        let value = x[row + k] + branch(s, k);
        x[row + k] = value;
        sum += value;
    }
    if params.normalises == 0u {
        return;
    }
    let size = f32(params.quads * 4u);
    let mean = total(lane, dot(sum, vec4(1.0))) / size * params.centring;
    var squares = 0.0;
    for (var k = lane; k < params.quads; k += LANES) {
        let deviation = x[row + k] - mean;
        squares += dot(deviation, deviation);
    }
    let factor = inverseSqrt(total(lane, squares) / size + 1e-6);
    for (var k = lane; k < params.quads; k += LANES) {
        let scale = modulation[b + params.scale_quad + k];
        let shift = modulation[b + params.shift_quad + k];
        h[row + k] = (x[row + k] - mean) * factor * (1.0 + scale) + shift;
    }
}
