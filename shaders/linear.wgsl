// A linear layer with its activation and residual fused:  y = epilogue( act( x · Wᵀ + b ) )
// x (S, K), W (N, K) row-major as in a state_dict, y (S, N); sums in f32. How a workgroup goes about it is said in
// `shared/linear_tile`; x is staged as it is.

struct Row {
    at: u32,  // first quad
    is_inside: bool,
}

struct Rows {
    first: Row,
    second: Row,
}

// The rows that a lane stages.
fn rows_of(lane: u32, first: u32, second: u32) -> Rows {
    return Rows(row_at(first), row_at(second));
}

fn row_at(row: u32) -> Row {
    return Row(row * params.quads, row < params.rows);
}

// A quad on its way to workgroup memory.
struct Staged {
    x: vec4<f32>,
}

// Zeros outside.
fn staged_x(row: Row, k: u32) -> Staged {
    var value = vec4(0.0);
    if row.is_inside && k < params.quads {
        value = x[row.at + k];
    }
    return Staged(value);
}

fn x_numbers(staged: Staged, row: Row, column_group: u32, k: u32) -> vec4<f32> {
    return staged.x;
}
