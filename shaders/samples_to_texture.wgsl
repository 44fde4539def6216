// One image out of a batch in a buffer as a texture. The buffer is (B, C, height, width), f32 in [-1, 1]; the first
// three channels become red, green and blue, or all of them the first channel where there are fewer than three.
//
// A lane owns one pixel; neighbours read neighbouring numbers.

struct Params {
    width: u32,
    height: u32,
    channels: u32,
    first: u32,         // element where the image begins
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> samples: array<f32>;
@group(0) @binding(2) var image: texture_storage_2d<rgba8unorm, write>;

override LANES: u32;

fn channel(c: u32, pixel: u32) -> f32 {
    let plane = params.width * params.height;
    let source = select(c, 0u, params.channels < 3u);
    return samples[params.first + source * plane + pixel] * 0.5 + 0.5;
}

@compute @workgroup_size(LANES, LANES)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if at.x >= params.width || at.y >= params.height {
        return;
    }
    let pixel = at.y * params.width + at.x;
    // Storing converts to eight bits and clamps.
    let rgb = vec3(channel(0u, pixel), channel(1u, pixel), channel(2u, pixel));
    textureStore(image, at.xy, vec4(rgb, 1.0));
}
