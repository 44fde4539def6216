// One step back through the diffusion process, in place, from predicted noise (DDPM and DDIM):
//   ε  = u + guidance · (c - u)            in the first `guided` numbers of a sample; elsewhere ε = c
//   x₀ = predict.x · x - predict.y · ε     clipped to [-1, 1] if asked for
//   x  = mean.x · x₀ + mean.y · x + σ · noise
// c and u are the conditional and the unconditional output. σ is given, or learned: the output's second
// half v interpolates log σ² between `low` and `high` by (v + 1) / 2. One lane per element of x.

struct Params {
    count: u32,          // B · C · height · width
    sample_len: u32,     // C · height · width
    output_len: u32,     // C_out · height · width
    guided: u32,         // guided numbers of each sample
    first: u32,          // element of `latents` where x begins
    conditional: u32,    // the same for c
    unconditional: u32,  // the same for u; read where guided > 0
}

const LANES = 64u;

// What changes from step to step, at these places of `numbers`.
const GUIDANCE = 0u;
const PREDICT = 1u;   // two
const CLIP = 3u;      // 1: yes
const MEAN = 4u;      // two
const DEVIATION = 6u;
const LOW = 7u;
const HIGH = 8u;
const NOISE = 9u;     // 0: none, 1: σ = DEVIATION, 2: σ is learned

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> numbers: array<f32>;        // (10)
@group(0) @binding(2) var<storage, read> noise: array<f32>;          // (B, C, height, width)
@group(0) @binding(3) var<storage, read_write> latents: array<f32>;  // all slots

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = (group.y * groups.x + group.x) * LANES + lane;
    if at >= params.count {
        return;
    }
    let sample = at / params.sample_len;
    let offset = at % params.sample_len;
    let place = sample * params.output_len + offset;
    let x = latents[params.first + at];
    var predicted = latents[params.conditional + place];
    if offset < params.guided {
        let plain = latents[params.unconditional + place];
        predicted = plain + numbers[GUIDANCE] * (predicted - plain);
    }
    var start = numbers[PREDICT] * x - numbers[PREDICT + 1u] * predicted;
    if numbers[CLIP] > 0.0 {
        start = clamp(start, -1.0, 1.0);
    }
    var result = numbers[MEAN] * start + numbers[MEAN + 1u] * x;
    if numbers[NOISE] > 0.0 {
        var deviation = numbers[DEVIATION];
        if numbers[NOISE] > 1.0 {
            let share = (latents[params.conditional + place + params.sample_len] + 1.0) / 2.0;
            let log_deviation = 0.5 * (share * numbers[HIGH] + (1.0 - share) * numbers[LOW]);
            // Overflow of `exp` is undefined; beyond this nothing is a picture any more.
            deviation = exp(clamp(log_deviation, -80.0, 80.0));
        }
        result += deviation * noise[at];
    }
    latents[params.first + at] = result;
}
