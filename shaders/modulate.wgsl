// Layer normalisation without affine parameters, or an RMS norm, which takes the mean as 0 (`centring`), then adaLN's scale
// and shift:
//   y[s, :] = (x[s, :] - mean) / √(variance + 10⁻⁶) · (1 + scale[b, :]) + shift[b, :],  b = s / T
//
// A workgroup owns one token; its 64 lanes share the columns and add up as in `shared/row_total`.
// Mean first, then the mean of squared deviations: a single pass over squares would cancel.
// All loop bounds are uniform.

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let s = group.y * groups.x + group.x;
    // Groups beyond the last token (the count was folded in two dimensions) repeat it and store nothing.
    let row = min(s, params.rows - 1u) * params.quads;
    var sum = vec4(0.0);
    for (var k = lane; k < params.quads; k += LANES) {
        sum += x[row + k];
    }
    let size = f32(params.quads * 4u);
    let mean = total(lane, dot(sum, vec4(1.0))) / size * params.centring;
    var squares = 0.0;
    for (var k = lane; k < params.quads; k += LANES) {
        let deviation = x[row + k] - mean;
        squares += dot(deviation, deviation);
    }
    let factor = inverseSqrt(total(lane, squares) / size + 1e-6);
    if s < params.rows {
        let conditions = s / params.sample_tokens * params.modulation_quads;
        for (var k = lane; k < params.quads; k += LANES) {
            let scale = modulation[conditions + params.scale_quad + k];
            let shift = modulation[conditions + params.shift_quad + k];
            y[row + k] = (x[row + k] - mean) * factor * (1.0 + scale) + shift;
        }
    }
}
