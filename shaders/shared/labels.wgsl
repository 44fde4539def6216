// Labels of a sample from the embedding tables. Appended to kernels that bind them here, with B in `params.batch`, D in
// `params.hidden` and the number of tables in `params.tables`.
//   label[j, b, :] = (1 - shares[j, b]) labels[rows[0, j, b], :] + shares[j, b] labels[rows[1, j, b], :]
// `labels` holds all embedding tables one below the other, and `rows` numbers their rows throughout. A share of 0 takes
// the first row as it is.

@group(0) @binding(1) var<storage, read> labels: array<f32>;  // (all rows, D)
@group(0) @binding(2) var<storage, read> rows: array<u32>;    // (2, tables, B)
@group(0) @binding(3) var<storage, read> shares: array<f32>;  // (tables, B)

// Column d of what sample b gets from table j.
fn label_of(j: u32, b: u32, d: u32) -> f32 {
    let place = j * params.batch + b;
    let share = shares[place];
    let label = labels[rows[place] * params.hidden + d];
    if share > 0.0 {
        let other = rows[params.tables * params.batch + place];
        return (1.0 - share) * label + share * labels[other * params.hidden + d];
    }
    return label;
}
