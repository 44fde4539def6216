//! Seeded randomness with the same bits on every machine.
//!
//! `ChaCha8` gives the integers and Box–Muller turns them into Gaussian numbers in f64 with the `libm`
//! crate: the standard library's `ln` and `cos` differ from platform to platform, and a shared seed would
//! then show another image in the browser.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Gaussian noise for one sample, `len` numbers. Each image of a run has a stream of its own, so image 3
/// of a seed is the same whether 4 or 40 are drawn.
pub fn gaussian(seed: u64, image: u64, len: usize) -> Vec<f32> {
    stream(seed, image, len)
}

/// Noise on the arc between two noises: `a` at 0, `b` at 1, and as long as they are in between. Spherical interpolation,
/// because their weighted mean would be shorter than noise is.
///
/// # Panics
/// When the lengths differ.
pub fn between(a: &[f32], b: &[f32], share: f32) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "two noises of one length");
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let cosine = dot(a, b) / libm::sqrt(dot(a, a) * dot(b, b));
    let share = f64::from(share);
    // Almost parallel ones, of which the sine is almost 0, are as good as on a line.
    let factors = if cosine.abs() < 0.9995 {
        let angle = libm::acos(cosine);
        [1.0 - share, share].map(|share| libm::sin(share * angle) / libm::sin(angle))
    } else {
        [1.0 - share, share]
    };
    let mix = |(x, y): (&f32, &f32)| factors[0] * f64::from(*x) + factors[1] * f64::from(*y);
    a.iter().zip(b).map(|pair| mix(pair) as f32).collect()
}

/// Gaussian noise that step `step` (from 0) adds to a sample, `len` numbers: each step of each image has
/// a stream of its own.
///
/// # Panics
/// When there are 2⁴⁰ images before this one.
pub fn step_noise(seed: u64, image: u64, step: u32, len: usize) -> Vec<f32> {
    const IMAGE_BITS: u32 = 40;
    assert!(image >> IMAGE_BITS == 0, "image {image}");
    // Streams below 2⁴⁰ are the samples' own.
    stream(seed, (u64::from(step) + 1) << IMAGE_BITS | image, len)
}

/// The noise that a scheduler adds on the way.
#[derive(Clone, Debug)]
pub enum StepNoise {
    /// From a seed. Each image of the run has noise of its own, whatever the batch.
    Seeded {
        /// The seed.
        seed: u64,
        /// Which images of the run the batch holds.
        images: Range<u64>,
    },
    /// Recorded numbers, `[B, C, h, w]` for each step: to repeat a run of another program.
    Recorded(Vec<Arc<Vec<f32>>>),
}

impl StepNoise {
    /// Noise for one step of the whole batch, `sample_len` numbers for each image.
    ///
    /// # Panics
    /// When fewer steps were recorded.
    pub fn of(&self, step: u32, sample_len: usize) -> Arc<Vec<f32>> {
        match self {
            Self::Seeded { seed, images } => {
                let of = |image| step_noise(*seed, image, step, sample_len);
                Arc::new(images.clone().flat_map(of).collect())
            }
            Self::Recorded(steps) => steps[step as usize].clone(),
        }
    }
}

fn stream(seed: u64, number: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number);
    let mut noise = Vec::with_capacity(len + 1);
    while noise.len() < len {
        // The first is in (0, 1], so that its logarithm is finite.
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - uniform(&mut rng)));
        let angle = std::f64::consts::TAU * uniform(&mut rng);
        noise.push((radius * libm::cos(angle)) as f32);
        noise.push((radius * libm::sin(angle)) as f32);
    }
    noise.truncate(len);
    noise
}

/// `count` row numbers below `rows`, drawn without repetition as long as there are rows left.
/// `purpose` separates draws of one seed from each other, and from the noise.
pub fn random_rows(seed: u64, purpose: u32, rows: u32, count: usize) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Noise uses the low streams, one an image.
    rng.set_stream(u64::MAX - u64::from(purpose));
    let mut drawn = Vec::with_capacity(count);
    // A deck of all rows, from which a drawn row is replaced by the last. Only rows that are not in their own place are
    // stored: a damaged file may claim billions.
    let (mut left, mut moved) = (0, BTreeMap::new());
    for _ in 0..if rows == 0 { 0 } else { count } {
        if left == 0 {
            left = rows;
            moved.clear();
        }
        let pick = (uniform(&mut rng) * f64::from(left)) as u32;
        left -= 1;
        let last = moved.remove(&left).unwrap_or(left);
        drawn.push(if pick == left { last } else { moved.insert(pick, last).unwrap_or(pick) });
    }
    drawn
}

/// A number in [0, 1) with 53 random bits.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_a_deck_that_is_laid_out() {
        for (seed, rows, count) in [(1, 1, 3), (2, 5, 23), (3, 876, 400), (4, 40, 40), (5, 0, 4)] {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(u64::MAX - 7);
            let (mut deck, mut want) = (Vec::new(), Vec::new());
            for _ in 0..if rows == 0 { 0 } else { count } {
                if deck.is_empty() {
                    deck.extend(0..rows);
                }
                let pick = (uniform(&mut rng) * deck.len() as f64) as usize;
                want.push(deck.swap_remove(pick));
            }
            assert_eq!(random_rows(seed, 7, rows, count), want, "{rows} rows");
        }
        // Without memory for all of them.
        let drawn = random_rows(6, 0, u32::MAX, 1000);
        assert!(drawn.iter().any(|&row| row > u32::MAX / 2));
    }

    #[test]
    fn noise_never_changes() {
        // Written down once: a change here would silently change every shared image.
        let bits: Vec<u32> = gaussian(1, 0, 5).iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, NOISE_OF_SEED_1, "{bits:?}");
    }
    const NOISE_OF_SEED_1: [u32; 5] =
        [1_063_476_734, 1_056_664_576, 1_048_847_452, 1_068_058_032, 3_192_711_832];

    #[test]
    fn noise_is_standard_normal() {
        let noise = gaussian(7, 3, 100_001);
        assert_eq!(noise.len(), 100_001);
        let moment =
            |p: i32| noise.iter().map(|v| f64::from(*v).powi(p)).sum::<f64>() / noise.len() as f64;
        assert!(moment(1).abs() < 0.01, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.02, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.1, "fourth moment {}", moment(4));
    }

    #[test]
    fn images_and_seeds_differ() {
        let all = [gaussian(1, 0, 8), gaussian(1, 1, 8), gaussian(2, 0, 8)];
        assert_ne!(all[0], all[1]);
        assert_ne!(all[0], all[2]);
        assert_eq!(gaussian(1, 1, 4), all[1][..4], "length must not matter");
    }

    #[test]
    fn the_way_between_two_noises_is_an_arc() {
        let (a, b) = (gaussian(1, 0, 3000), gaussian(2, 0, 3000));
        assert_eq!(between(&a, &b, 0.0), a);
        assert_eq!(between(&a, &b, 1.0), b);
        let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let cosine = |a: &[f32], b: &[f32]| {
            let dot: f64 = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            dot / (length(a) * length(b))
        };
        let whole = cosine(&a, &b).acos();
        for share in [0.1_f32, 0.25, 0.5, 0.8] {
            let middle = between(&a, &b, share);
            // The angle to both ends, in parts of the whole.
            let parts = [cosine(&a, &middle).acos() / whole, cosine(&b, &middle).acos() / whole];
            let want = [f64::from(share), 1.0 - f64::from(share)];
            assert!(parts.iter().zip(want).all(|(p, w)| (p - w).abs() < 0.02), "{parts:?}");
            assert!((length(&middle) / length(&a) - 1.0).abs() < 0.03);
        }
        // Written down once, as the noise itself is.
        let bits: Vec<u32> = between(&a, &b, 0.3)[..3].iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, BETWEEN_SEEDS_1_AND_2, "{bits:?}");
    }
    const BETWEEN_SEEDS_1_AND_2: [u32; 3] = [3_184_817_418, 1_042_311_352, 1_060_848_264];

    #[test]
    fn steps_have_noise_of_their_own() {
        let all = [gaussian(1, 3, 8), step_noise(1, 3, 0, 8), step_noise(1, 3, 1, 8)];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
        assert_ne!(step_noise(1, 4, 0, 8), all[1]);
        // Written down once, as the noise of the samples is.
        let bits: Vec<u32> = all[1][..3].iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, NOISE_OF_THE_FIRST_STEP, "{bits:?}");
    }
    const NOISE_OF_THE_FIRST_STEP: [u32; 3] = [3_190_475_097, 1_061_277_346, 3_192_609_829];

    #[test]
    fn every_image_has_noise_of_its_own_whatever_the_batch() {
        let noise = |images| StepNoise::Seeded { seed: 4, images }.of(1, 16);
        let both = noise(6..8);
        assert_ne!(both[..16], both[16..]);
        assert_eq!(noise(7..8)[..], both[16..]);
    }

    #[test]
    fn rows_repeat_only_when_all_were_drawn() {
        let mut rows = random_rows(5, 0, 10, 20);
        assert_ne!(rows[..10], rows[10..]);
        rows.sort_unstable();
        let twice: Vec<u32> = (0..10).flat_map(|r| [r, r]).collect();
        assert_eq!(rows, twice);
        assert!(random_rows(5, 0, 0, 3).is_empty());
    }
}
