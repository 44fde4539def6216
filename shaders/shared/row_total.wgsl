// The sum over the lanes of a workgroup that owns a row, with two barriers where a tree has eight: eight lanes add up eight
// values each, then all lanes the same eight sums. The order does not depend on the kernel, so a layer norm has the same
// bits wherever it is done. Appended to kernels of LANES lanes.

const LANES = 64u;
const BLOCK = 8u;  // lanes whose values one lane adds up

// One place of padding spreads blocks over all banks.
var<workgroup> parts: array<array<f32, BLOCK + 1u>, LANES / BLOCK>;
var<workgroup> sums: array<f32, LANES / BLOCK>;

// Sum over all lanes, the same for each.
fn total(lane: u32, value: f32) -> f32 {
    parts[lane / BLOCK][lane % BLOCK] = value;
    workgroupBarrier();
    if lane < LANES / BLOCK {
        var sum = 0.0;
        for (var i = 0u; i < BLOCK; i++) {
            sum += parts[lane][i];
        }
        sums[lane] = sum;
    }
    // The next call may overwrite `parts` from here on, and `sums` after its first barrier.
    workgroupBarrier();
    var all = 0.0;
    for (var i = 0u; i < LANES / BLOCK; i++) {
        all += sums[i];
    }
    return all;
}
