//! The inputs of the probes: numbers that look random, the same on every machine.

/// Samples that the rows belong to.
pub(super) const SAMPLES: usize = 2;

/// The generator xorshift32.
fn generator(seed: u32) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    }
}

/// Numbers in [-scale, scale).
pub(super) fn numbers(len: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut next = generator(seed);
    // 24 bits: exact in f32.
    (0..len).map(|_| ((next() >> 8) as f32 / 8_388_608.0 - 1.0) * scale).collect()
}

/// Integers from -7 to 7.
pub(super) fn integers(len: usize, seed: u32) -> Vec<i8> {
    let mut next = generator(seed);
    (0..len).map(|_| ((next() >> 8) % 15) as i8 - 7).collect()
}

/// Numbers in [0, 1).
pub(super) fn shares(len: usize, seed: u32) -> Vec<f32> {
    numbers(len, seed, 0.5).into_iter().map(|v| v + 0.5).collect()
}
