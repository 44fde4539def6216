// Softmax of each row in place: x[r, :] = exp(scale · (x[r, :] - max)) / Σ, over the first `columns`
// numbers; the rest of a row, up to `stride`, becomes zeros.
//
// A workgroup owns one row; its 64 lanes share the columns and join their results by a tree in
// workgroup memory. All loop bounds are uniform.

struct Params {
    rows: u32,
    columns: u32,
    stride: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

const LANES = 64u;

var<workgroup> shares: array<f32, LANES>;

fn largest(lane: u32, value: f32) -> f32 {
    shares[lane] = value;
    workgroupBarrier();
    for (var reach = LANES / 2u; reach > 0u; reach /= 2u) {
        if lane < reach {
            shares[lane] = max(shares[lane], shares[lane + reach]);
        }
        workgroupBarrier();
    }
    let result = shares[0];
    workgroupBarrier();
    return result;
}

fn total(lane: u32, value: f32) -> f32 {
    shares[lane] = value;
    workgroupBarrier();
    for (var reach = LANES / 2u; reach > 0u; reach /= 2u) {
        if lane < reach {
            shares[lane] += shares[lane + reach];
        }
        workgroupBarrier();
    }
    let result = shares[0];
    workgroupBarrier();
    return result;
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    // Groups beyond the last row (the count was folded in two dimensions) read the last one and store nothing.
    let first = min(row, params.rows - 1u) * params.stride;
    var top = -3.0e38;
    for (var i = lane; i < params.columns; i += LANES) {
        top = max(top, x[first + i]);
    }
    top = largest(lane, top);
    var sum = 0.0;
    for (var i = lane; i < params.columns; i += LANES) {
        sum += exp(max(params.scale * (x[first + i] - top), -80.0));
    }
    let factor = 1.0 / total(lane, sum);
    if row < params.rows {
        for (var i = lane; i < params.stride; i += LANES) {
            var v = 0.0;
            if i < params.columns {
                v = exp(max(params.scale * (x[first + i] - top), -80.0)) * factor;
            }
            x[first + i] = v;
        }
    }
}
