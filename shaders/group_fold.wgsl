// Second half of a group norm's statistics: joins the pieces of `group_stats` over a group's channels.
//   n = pixels · channels of a group,  m = Σ nᵢ mᵢ / n,  variance = Σ (sᵢ + nᵢ (mᵢ - m)²) / n
// table is (3, C): mean, scale = weight / √(variance + eps), bias; y = (x - mean) · scale + bias.
//
// A lane owns one channel and adds the pieces in their order; those of a group do the same work. C is
// padded to four: channels beyond the last become zeros.

struct Params {
    pixels: u32,
    chunk: u32,     // pixels in a piece, fewer in the last
    channels: u32,
    padded: u32,    // channels rounded up to four
    group: u32,     // channels of a group
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial: array<f32>;       // (chunks, C / 4, 2, 4)
@group(0) @binding(2) var<storage, read> weights: array<f32>;       // (2, channels): weight, bias
@group(0) @binding(3) var<storage, read_write> table: array<f32>;

override LANES: u32;

@compute @workgroup_size(LANES)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let channel = id.x;
    if channel >= params.padded {
        return;
    }
    var mean = 0.0;
    var scale = 0.0;
    var offset = 0.0;
    if channel < params.channels {
        let first = channel / params.group * params.group;
        let chunks = (params.pixels + params.chunk - 1u) / params.chunk;
        let size = f32(params.pixels) * f32(params.group);
        for (var c = first; c < first + params.group; c++) {
            for (var i = 0u; i < chunks; i++) {
                mean += partial[place(i, c)] * (count(i) / size);
            }
        }
        var squares = 0.0;
        for (var c = first; c < first + params.group; c++) {
            for (var i = 0u; i < chunks; i++) {
                let at = place(i, c);
                let distance = partial[at] - mean;
                squares += partial[at + 4u] + count(i) * distance * distance;
            }
        }
        scale = weights[channel] * inverseSqrt(squares / size + params.eps);
        offset = weights[params.channels + channel];
    }
    table[channel] = mean;
    table[params.padded + channel] = scale;
    table[2u * params.padded + channel] = offset;
}

// Where the mean of a channel in a piece lies; its squares are four further on.
fn place(piece: u32, channel: u32) -> u32 {
    return (piece * params.padded + channel / 4u * 4u) * 2u + channel % 4u;
}

// Pixels in a piece.
fn count(piece: u32) -> f32 {
    return f32(min(params.chunk, params.pixels - piece * params.chunk));
}
