// What `attention` and `attention_software` have in common: parameters and bindings. Appended after either.

struct Params {
    tokens: u32,        // T, queries of a sample
    keys: u32,          // keys of a sample where there are no spans
    heads: u32,         // H
    query_quads: u32,   // columns of `queries` / 4
    memory_quads: u32,  // columns of `memory` / 4
    first_key: u32,     // first column of the keys / 4; values follow H · d columns later
    has_spans: u32,
    scale: f32,         // 1 / √d
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> queries: array<vec4<f32>>;  // (B · T, …), H · d from column 0 on
@group(0) @binding(2) var<storage, read> memory: array<vec4<f32>>;   // (rows, …)
@group(0) @binding(3) var<storage, read> spans: array<vec2<u32>>;    // (B): first row and number of keys
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;  // (B, T, H, d)

// First row and number of the keys that a sample sees.
fn memory_span(sample: u32) -> vec2<u32> {
    var span = vec2(sample * params.keys, params.keys);
    if params.has_spans == 1u {
        span = spans[sample];
    }
    return span;
}

// Where a head's key lies in `memory`.
fn key_at(row: u32, column: u32) -> u32 {
    return row * params.memory_quads + params.first_key + column;
}
