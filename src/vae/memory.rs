//! Assignment of a decoder's feature maps to shared buffers on the GPU.
//!
//! A feature map may be larger than a storage binding (512 × 512 × 256 numbers are 256 MiB; WebGPU
//! guarantees 128), so it is cut by *channels*: every buffer, a *slab*, holds whole planes. A convolution
//! adds up over the slabs of its input, and a group norm gathers statistics channel by channel, so
//! the cut changes nothing in the result. Slabs are all of one size and are reused as soon as nothing
//! reads what they hold.

use super::plan::{Plan, ValueId};

/// Where feature maps lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slabs {
    /// Elements of each slab.
    pub(super) len: usize,
    /// Number of slabs.
    pub(super) count: usize,
    /// For each feature map, its slabs in the order of its channels.
    pub(super) of_value: Vec<Vec<usize>>,
}

/// Some channels of a feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The slab, from whose beginning on they lie.
    pub(super) slab: usize,
    /// First quad of channels, and one past the last.
    pub(super) quads: (usize, usize),
}

/// Elements of a plane of four channels.
fn plane(plan: &Plan, value: ValueId, latent: [usize; 2]) -> usize {
    4 * plan.values[value].pixels(latent)
}

fn quads(plan: &Plan, value: ValueId) -> usize {
    plan.values[value].channels.div_ceil(4)
}

impl Slabs {
    /// The sharing that takes the least memory, with slabs of at most `limit` elements; nothing where not even
    /// four channels fit one.
    pub(super) fn plan(plan: &Plan, latent: [usize; 2], limit: usize) -> Option<Self> {
        /// Finer cuts save little and cost dispatches.
        const MOST_CUTS: usize = 4;
        let values = 0..plan.values.len();
        let largest_plane = values.clone().map(|v| plane(plan, v, latent)).max()?;
        let largest = values.map(|v| quads(plan, v) * plane(plan, v, latent)).max()?;
        let cuts = largest.div_ceil(limit).max(1);
        (cuts..cuts + MOST_CUTS)
            .map(|cuts| largest.div_ceil(cuts).next_multiple_of(largest_plane))
            .filter(|&len| len <= limit)
            .map(|len| Self::with_len(plan, latent, len))
            // The first of several: the fewest cuts.
            .min_by_key(Self::bytes)
            .or_else(|| {
                (largest_plane <= limit).then(|| Self::with_len(plan, latent, largest_plane))
            })
    }

    fn with_len(plan: &Plan, latent: [usize; 2], len: usize) -> Self {
        let mut of_value = vec![Vec::new(); plan.values.len()];
        let mut free: Vec<usize> = Vec::new();
        let mut count = 0;
        let mut give = |value: ValueId, of_value: &mut Vec<Vec<usize>>, free: &mut Vec<usize>| {
            if of_value[value].is_empty() {
                let needed = quads(plan, value).div_ceil(len / plane(plan, value, latent));
                for _ in 0..needed {
                    let slab = free.pop().unwrap_or_else(|| {
                        count += 1;
                        count - 1
                    });
                    of_value[value].push(slab);
                }
            }
        };
        give(0, &mut of_value, &mut free);
        for (step, ends) in plan.steps.iter().zip(plan.last_uses()) {
            give(step.layer.ends().1, &mut of_value, &mut free);
            for value in ends {
                free.extend(&of_value[value]);
            }
        }
        Self { len, count, of_value }
    }

    /// The pieces of a feature map.
    pub(super) fn pieces(&self, plan: &Plan, value: ValueId, latent: [usize; 2]) -> Vec<Piece> {
        let at_once = self.len / plane(plan, value, latent);
        let all = quads(plan, value);
        let firsts = (0..all).step_by(at_once);
        let piece = |(first, &slab): (usize, &usize)| Piece {
            slab,
            quads: (first, all.min(first + at_once)),
        };
        firsts.zip(&self.of_value[value]).map(piece).collect()
    }

    /// Bytes of all slabs.
    pub(super) fn bytes(&self) -> u64 {
        4 * self.len as u64 * self.count as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vae::DecoderFile;

    fn plan(name: &str) -> Plan {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        DecoderFile::open(&root.join(name).join("model.safetensors")).unwrap().plan
    }

    /// Nothing overwrites values that are still needed, whatever the cut.
    #[test]
    fn living_feature_maps_never_share_a_slab() {
        for (name, latent) in [("vae_kl_mini", [3, 5]), ("vae_tiny_mini", [8, 8])] {
            let plan = plan(name);
            let largest = (0..plan.values.len()).map(|v| plane(&plan, v, latent)).max().unwrap();
            for limit in [largest, 2 * largest + 1, 100 * largest] {
                let slabs = Slabs::plan(&plan, latent, limit).unwrap();
                assert!(slabs.len <= limit);
                let mut alive = vec![0];
                for (step, ends) in plan.steps.iter().zip(plan.last_uses()) {
                    let (from, to) = step.layer.ends();
                    assert!(alive.contains(&from), "{name}: a step reads what is gone");
                    if !alive.contains(&to) {
                        alive.push(to);
                    }
                    let mut used: Vec<_> = alive.iter().flat_map(|&v| &slabs.of_value[v]).collect();
                    let count = used.len();
                    used.sort_unstable();
                    used.dedup();
                    assert_eq!(used.len(), count, "{name}, {limit}: shared before {step:?}");
                    alive.retain(|value| !ends.contains(value));
                }
                for value in 0..plan.values.len() {
                    let pieces = slabs.pieces(&plan, value, latent);
                    let covered: usize = pieces.iter().map(|p| p.quads.1 - p.quads.0).sum();
                    assert_eq!(covered, quads(&plan, value));
                    let fits = |p: &Piece| {
                        (p.quads.1 - p.quads.0) * plane(&plan, value, latent) <= slabs.len
                    };
                    assert!(pieces.iter().all(fits) && pieces.len() == slabs.of_value[value].len());
                }
            }
            assert_eq!(Slabs::plan(&plan, latent, largest - 1), None);
        }
    }
}
