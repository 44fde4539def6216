// Decides which tokens each expert takes, wholly on the device; the same scores give the same lists on
// every device:
//   POOL    n = #{s : capacities[s, e] > thresholds[e]}; the n largest gates of the pool (the paper's rule)
//   TOKEN   the tokens with capacities[s, e] > thresholds[e] themselves
//   SAMPLE  the `k` largest gates of each segment of tokens (expert-choice baseline)
//   CHOICE  the tokens that have this expert among their `k` largest gates (token-choice baseline)
// Equal gates at the cut go to the lowest token index (CHOICE: lowest expert index).
//
// A workgroup owns one expert and one segment (the whole pool, but for SAMPLE); a lane owns a run
// of consecutive tokens, so that prefix sums over lanes are prefix sums over tokens and each
// expert's list comes out in ascending order. The n-th largest gate is found without sorting, by four
// radix passes over 256-bin histograms of its bits. The only atomics are integer counts, whose order
// does not matter. Every barrier is in control flow that depends on constants alone: data only ever
// changes loops without barriers.

struct Params {
    tokens: u32,   // S
    experts: u32,  // E
    segment: u32,  // tokens that compete with each other
    rule: u32,
    k: u32,        // SAMPLE: tokens per expert and segment; CHOICE: experts per token
}

const POOL = 0u;
const TOKEN = 1u;
const SAMPLE = 2u;
const CHOICE = 3u;
const LANES = 256u;
const NONE = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gates: array<f32>;          // (S, E)
@group(0) @binding(2) var<storage, read> capacities: array<f32>;     // (S, E)
@group(0) @binding(3) var<storage, read> thresholds: array<f32>;     // (E)
@group(0) @binding(4) var<storage, read_write> counts: array<u32>;   // (E): n_e
@group(0) @binding(5) var<storage, read_write> slots: array<u32>;    // (S, E): place in the list, or NONE
@group(0) @binding(6) var<storage, read_write> chosen: array<u32>;   // (E, S): ascending tokens, n_e valid

// A histogram while the cut is searched.
var<workgroup> bins: array<atomic<u32>, LANES>;
var<workgroup> sums: array<vec2<u32>, LANES>;
// The bin that holds the wanted rank, and the number of keys above it.
var<workgroup> found: vec2<u32>;

// Inclusive prefix sum over the lanes; afterwards `sums[LANES - 1]` is the total.
fn scan(lane: u32, value: vec2<u32>) -> vec2<u32> {
    workgroupBarrier();
    sums[lane] = value;
    workgroupBarrier();
    for (var reach = 1u; reach < LANES; reach *= 2u) {
        var before = vec2(0u);
        if lane >= reach {
            before = sums[lane - reach];
        }
        workgroupBarrier();
        sums[lane] += before;
        workgroupBarrier();
    }
    return sums[lane];
}

// Bits of the gate. A softmax is never negative, so they sort like the number itself.
fn key(s: u32, e: u32) -> u32 {
    return bitcast<u32>(gates[s * params.experts + e]);
}

fn passes(s: u32, e: u32) -> bool {
    return capacities[s * params.experts + e] > thresholds[e];
}

// Whether expert e is among the k best of token s.
fn is_choice(s: u32, e: u32) -> bool {
    let own = key(s, e);
    var better = 0u;
    for (var i = 0u; i < params.experts; i++) {
        let other = key(s, i);
        better += u32(other > own || (other == own && i < e));
    }
    return better < params.k;
}

// (1, 0): taken for certain. (0, 1): a tie at the cut, taken while places are left. (0, 0): not taken.
fn verdict(s: u32, e: u32, cut: u32) -> vec2<u32> {
    switch params.rule {
        case TOKEN: { return vec2(u32(passes(s, e)), 0u); }
        case CHOICE: { return vec2(u32(is_choice(s, e)), 0u); }
        default: {
            let own = key(s, e);
            return vec2(u32(own > cut), u32(own == cut));
        }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let e = group.x;
    let run = (params.segment + LANES - 1u) / LANES;
    let end = (group.y + 1u) * params.segment;
    let first = min(group.y * params.segment + lane * run, end);
    let last = min(first + run, end);

    // How many tokens the cut must let through.
    var over = 0u;
    if params.rule == POOL {
        for (var s = first; s < last; s++) {
            over += u32(passes(s, e));
        }
    }
    scan(lane, vec2(over, 0u));
    let wanted = select(params.k, sums[LANES - 1u].x, params.rule == POOL);

    // The wanted-th largest key, eight bits at a time: `cut` grows from the top.
    var cut = 0u;
    var known = 0u;
    var places = wanted;
    for (var digit = 0u; digit < 4u; digit++) {
        let shift = 24u - 8u * digit;
        atomicStore(&bins[lane], 0u);
        workgroupBarrier();
        for (var s = first; s < last; s++) {
            let own = key(s, e);
            if (own & known) == cut {
                atomicAdd(&bins[(own >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        // Lane 0 looks at the highest bin, so the scan counts from the largest keys down.
        let bin = LANES - 1u - lane;
        let here = atomicLoad(&bins[bin]);
        let reached = scan(lane, vec2(here, 0u)).x;
        if reached >= places && reached - here < places {
            found = vec2(bin, reached - here);
        }
        workgroupBarrier();
        cut |= found.x << shift;
        known |= 255u << shift;
        places -= found.y;
    }
    // Of the tokens at the cut, `places` are taken. Where none is wanted no bin was found.
    if wanted == 0u {
        cut = NONE;
        places = 0u;
    }

    var own = vec2(0u);
    for (var s = first; s < last; s++) {
        own += verdict(s, e, cut);
    }
    var before = scan(lane, own) - own;
    let total = sums[LANES - 1u];
    let base = group.y * params.k * u32(params.rule == SAMPLE);
    for (var s = first; s < last; s++) {
        let v = verdict(s, e, cut);
        let is_taken = v.x == 1u || (v.y == 1u && before.y < places);
        let slot = base + before.x + min(before.y, places);
        slots[s * params.experts + e] = select(NONE, slot, is_taken);
        if is_taken {
            chosen[e * params.tokens + slot] = s;
        }
        before += v;
    }
    if lane == 0u && group.y == 0u {
        let taken = total.x + min(total.y, places);
        counts[e] = select(taken, taken * (params.tokens / params.segment), params.rule == SAMPLE);
    }
}
