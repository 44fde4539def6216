// One step back through the diffusion process, in place, from predicted noise (DDPM and DDIM):
//   ε  = u + guidance · (c - u)            in the first `guided` numbers of a sample; elsewhere ε = c
//   x₀ = predict_latent · x - predict_noise · ε       clipped to [-1, 1] if requested
//   x  = mean_start · x₀ + mean_latent · x + σ · noise
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

override LANES: u32;

// What changes from step to step.
struct Numbers {
    guidance: f32,
    predict_latent: f32,  // factor of x in x₀
    predict_noise: f32,   // factor of ε in x₀
    mean_start: f32,      // factor of x₀ in the mean
    mean_latent: f32,     // factor of x in the mean
    deviation: f32,       // σ where it is given
    low: f32,             // log σ² at v = -1, where σ is learned
    high: f32,            // log σ² at v = 1
    clip: u32,            // 1: yes
    noise: u32,           // 0: none, 1: σ is given, 2: σ is learned
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> numbers: Numbers;
@group(0) @binding(2) var<storage, read> noise: array<f32>;          // (B, C, height, width)
@group(0) @binding(3) var<storage, read_write> latents: array<f32>;  // all latents

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
        predicted = plain + numbers.guidance * (predicted - plain);
    }
    var start = numbers.predict_latent * x - numbers.predict_noise * predicted;
    if numbers.clip == 1u {
        start = clamp(start, -1.0, 1.0);
    }
    var result = numbers.mean_start * start + numbers.mean_latent * x;
    if numbers.noise > 0u {
        var deviation = numbers.deviation;
        if numbers.noise == 2u {
            let share = (latents[params.conditional + place + params.sample_len] + 1.0) / 2.0;
            let log_deviation = 0.5 * (share * numbers.high + (1.0 - share) * numbers.low);
            // Overflow of `exp` is undefined; beyond this nothing is an image any more.
            deviation = exp(clamp(log_deviation, -80.0, 80.0));
        }
        result += deviation * noise[at];
    }
    latents[params.first + at] = result;
}
