// Decides which tokens each expert takes, wholly on the device; the same scores give the same lists on
// every device:
//   POOL           n = #{s : need[s, e] > thresholds[e]}; the n largest gates (the paper's rule), in each segment
//   TOKEN          the tokens with need[s, e] > thresholds[e] themselves
//   EXPERT_CHOICE  the `k` largest gates of each segment of tokens (expert-choice baseline); with `alone`, none where the
//                  gates of the segment are NOT_ASKED, and all where the last expert is asked
//   TOKEN_CHOICE   the tokens that have this expert among their `k` largest gates (token-choice baseline)
// Equal gates at the cut go to the lowest token index (TOKEN_CHOICE: lowest expert index). An expert whose threshold
// is above 1 takes no token under any rule.
//
// A workgroup owns one expert and one segment: a sample for EXPERT_CHOICE, a pool for POOL (one, or one for each branch
// of guidance), all tokens otherwise. A lane owns a run of consecutive tokens, so that prefix sums over lanes are prefix
// sums over tokens and each expert's list comes out in ascending order. Where the positions of a segment begin,
// EXPERT_CHOICE adds up; POOL counts what earlier segments take. The n-th largest gate is found without sorting, by four
// radix passes over 256-bin histograms of its bits. The only atomics are integer counts, whose order
// does not matter. Every barrier is in control flow that depends on constants and the rule alone: data
// only ever changes loops without barriers.

struct Params {
    tokens: u32,   // S
    experts: u32,  // E
    segment: u32,  // tokens that compete with each other
    rule: u32,
    k: u32,        // EXPERT_CHOICE: tokens per expert and segment; TOKEN_CHOICE: experts per token
    alone: u32,    // EXPERT_CHOICE: whether some segments belong to the last expert alone
}

const POOL = 0u;
const TOKEN = 1u;
const EXPERT_CHOICE = 2u;
const TOKEN_CHOICE = 3u;
const LANES = 256u;
const NONE = 0xffffffffu;
const NOT_ASKED = -65504.0;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> gate: array<f32>;           // (S, E)
@group(0) @binding(2) var<storage, read> need: array<f32>;           // (S, E)
@group(0) @binding(3) var<storage, read> thresholds: array<f32>;     // (E)
@group(0) @binding(4) var<storage, read_write> counts: array<u32>;   // (E): n_e
@group(0) @binding(5) var<storage, read_write> positions: array<u32>;  // (S, E): position in the list, or NONE
@group(0) @binding(6) var<storage, read_write> chosen: array<u32>;   // (E, S): ascending tokens, n_e valid

// A histogram while the cut is searched.
var<workgroup> bins: array<atomic<u32>, LANES>;
// Values and prefix sums of the lanes, in blocks; one place of padding spreads blocks over all banks.
const BLOCK = 16u;
const BLOCKS = LANES / BLOCK;
var<workgroup> sums: array<array<vec2<u32>, BLOCK + 1u>, BLOCKS>;
var<workgroup> totals: array<vec2<u32>, BLOCKS>;
// The bin that holds the wanted rank, and the number of keys above it.
var<workgroup> found: vec2<u32>;

struct Prefix {
    here: vec2<u32>,  // sum over the lanes up to this one
    all: vec2<u32>,   // over all lanes
}

// Three barriers, where a tree has two for each of its eight levels: one lane adds up a block.
fn scan(lane: u32, value: vec2<u32>) -> Prefix {
    let block = lane / BLOCK;
    workgroupBarrier();
    sums[block][lane % BLOCK] = value;
    workgroupBarrier();
    if lane < BLOCKS {
        var sum = vec2(0u);
        for (var i = 0u; i < BLOCK; i++) {
            sum += sums[lane][i];
            sums[lane][i] = sum;
        }
        totals[lane] = sum;
    }
    workgroupBarrier();
    var before = vec2(0u);
    var all = vec2(0u);
    for (var i = 0u; i < BLOCKS; i++) {
        if i == block {
            before = all;
        }
        all += totals[i];
    }
    return Prefix(before + sums[block][lane % BLOCK], all);
}

// Bits of the gate. A softmax is never negative, so they sort like the number itself; and with TOKEN_CHOICE those of a
// cosine, whatever its sign, come after those of the zeros beside it. EXPERT_CHOICE sorts numbers of both signs.
fn key(s: u32, e: u32) -> u32 {
    let bits = bitcast<u32>(gate[s * params.experts + e]);
    if params.rule == EXPERT_CHOICE {
        return bits ^ select(0x80000000u, NONE, bits >> 31u == 1u);
    }
    return bits;
}

// Tokens of a segment that expert e takes with EXPERT_CHOICE. Of a sample all tokens are asked, or none.
fn choices(segment: u32, e: u32) -> u32 {
    if params.alone == 0u {
        return params.k;
    }
    let is_asked = gate[segment * params.segment * params.experts + e] > NOT_ASKED;
    return select(0u, select(params.k, params.segment, e + 1u == params.experts), is_asked);
}

fn passes(s: u32, e: u32) -> bool {
    return need[s * params.experts + e] > thresholds[e];
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
    // POOL and TOKEN find that no probability exceeds it.
    if params.rule >= EXPERT_CHOICE && thresholds[e] > 1.0 {
        return vec2(0u);
    }
    switch params.rule {
        case TOKEN: { return vec2(u32(passes(s, e)), 0u); }
        case TOKEN_CHOICE: { return vec2(u32(is_choice(s, e)), 0u); }
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

    // How many tokens the cut must let through, and how many are taken in the segments before.
    var wanted = 0u;
    var base = 0u;
    if params.rule == EXPERT_CHOICE && thresholds[e] <= 1.0 {
        wanted = choices(group.y, e);
        for (var segment = 0u; segment < group.y; segment++) {
            base += choices(segment, e);
        }
    }
    if params.rule == POOL {
        var over = vec2(0u);
        for (var s = first; s < last; s++) {
            over.x += u32(passes(s, e));
        }
        for (var s = lane; s < group.y * params.segment; s += LANES) {
            over.y += u32(passes(s, e));
        }
        let all = scan(lane, over).all;
        wanted = all.x;
        base = all.y;
    }

    // The wanted-th largest key, eight bits at a time: `cut` grows from the top. Other rules have none.
    var cut = NONE;
    var places = 0u;
    if params.rule == POOL || params.rule == EXPERT_CHOICE {
        cut = 0u;
        places = wanted;
        var known = 0u;
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
            let reached = scan(lane, vec2(here, 0u)).here.x;
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
    }

    var own = vec2(0u);
    for (var s = first; s < last; s++) {
        own += verdict(s, e, cut);
    }
    let prefix = scan(lane, own);
    var before = prefix.here - own;
    let total = prefix.all;
    for (var s = first; s < last; s++) {
        let v = verdict(s, e, cut);
        let is_taken = v.x == 1u || (v.y == 1u && before.y < places);
        let position = base + before.x + min(before.y, places);
        positions[s * params.experts + e] = select(NONE, position, is_taken);
        if is_taken {
            chosen[e * params.tokens + position] = s;
        }
        before += v;
    }
    // The last segment's workgroup knows how many there are in all.
    let segments = params.tokens / params.segment;
    if lane == 0u && group.y + 1u == segments {
        let taken = total.x + min(total.y, places);
        counts[e] = base + taken;
    }
}
