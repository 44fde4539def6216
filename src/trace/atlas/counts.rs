//! What is kept of each image of a survey: passes and tokens, by noise band, layer and expert.

use serde::{Deserialize, Serialize};

use crate::model::Objective;
use crate::scheduler::{Branch, TRAINED_STEPS};
use crate::trace::Trace;

/// Bands of noise levels in an atlas.
pub const BANDS: usize = 4;

/// Counts of one image over its passes with labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCounts {
    /// Passes in each band.
    pub passes: Vec<u32>,
    /// Tokens that each expert took, `[bands][layers][E]`.
    pub taken: Vec<u32>,
}

/// How much of a sample is noise at a model time: 1 for noise alone, 0 for data.
pub fn noise_level(objective: Objective, time: f32) -> f32 {
    match objective {
        Objective::Flow => 1.0 - time,
        Objective::Ddpm => (time + 1.0) / TRAINED_STEPS as f32,
    }
}

/// The band of a noise level; a level on the edge of two belongs to the later one, with less noise.
pub fn band_of(noise: f32, bands: usize) -> usize {
    // Times of a solver are sums of rounded numbers.
    let place = (1.0 - noise) * bands as f32 + 1e-4;
    (place.max(0.0) as usize).min(bands.saturating_sub(1))
}

impl ImageCounts {
    /// Counts one image of a run. Every pass with labels counts, at its own noise level.
    pub fn of(trace: &Trace, image: usize, objective: Objective) -> Self {
        let (tokens, experts) = (trace.tokens(), trace.experts());
        let layers = trace.blocks().len();
        let mut counts = Self { passes: vec![0; BANDS], taken: vec![0; BANDS * layers * experts] };
        for forward in trace.forwards().iter().filter(|f| f.branch == Branch::Conditional) {
            let band = band_of(noise_level(objective, forward.time), BANDS);
            counts.passes[band] += 1;
            for (layer, routing) in forward.layers.iter().enumerate() {
                let first = (band * layers + layer) * experts;
                let cells = &mut counts.taken[first..first + experts];
                for mask in routing.masks.chunks_exact(tokens.max(1)).nth(image).unwrap_or(&[]) {
                    for (expert, cell) in cells.iter_mut().enumerate() {
                        *cell += (mask >> expert & 1) as u32;
                    }
                }
            }
        }
        counts
    }

    /// Whether the counts are those of a model with so many layers and experts.
    pub fn fits(&self, layers: usize, experts: usize) -> bool {
        self.passes.len() == BANDS && self.taken.len() == BANDS * layers * experts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ForwardRouting, LayerRouting};
    use crate::trace::tests::trace;

    #[test]
    fn bands_divide_the_way_from_noise_to_data() {
        let bands = [1.0, 0.76, 0.75, 0.5, 0.26, 0.25, 0.0, -0.1].map(|noise| band_of(noise, 4));
        assert_eq!(bands, [0, 0, 1, 2, 2, 3, 3, 3]);
        // A tenth is no number of two's powers.
        let tenths: Vec<_> = (0..10).map(|i| band_of(1.0 - i as f32 * 0.1, 10)).collect();
        assert_eq!(tenths, (0..10).collect::<Vec<_>>());
        assert!((noise_level(Objective::Ddpm, 999.0) - 1.0).abs() < 1e-6);
        assert!((noise_level(Objective::Flow, 0.25) - 0.75).abs() < 1e-6);
    }

    /// Every bit of every mask, one by one.
    #[test]
    fn counts_are_those_of_every_bit() {
        let mut trace = trace();
        // A second pass of step 1, as Heun has, nearly without noise.
        let forward = ForwardRouting {
            step: 1,
            time: 0.9,
            branch: Branch::Conditional,
            scale: 1,
            layers: [1, 3]
                .map(|block| LayerRouting {
                    block,
                    masks: vec![0b101, 0b100, 0b010, 0],
                    scores: None,
                })
                .into(),
        };
        trace.extend(vec![forward]);
        for image in 0..2 {
            let counts = ImageCounts::of(&trace, image, Objective::Flow);
            assert!(counts.fits(2, 3) && !counts.fits(2, 4));
            assert_eq!(counts.passes, [0, 0, 2, 1]);
            for band in 0..BANDS {
                for layer in 0..2 {
                    for expert in 0..3 {
                        let mut brute = 0;
                        for forward in trace.forwards() {
                            let noise = 1.0 - forward.time;
                            let high = 1.0 - band as f32 / 4.0;
                            let inside = noise <= high && noise > high - 0.25;
                            if forward.branch == Branch::Unconditional || !inside {
                                continue;
                            }
                            for token in 2 * image..2 * image + 2 {
                                let mask = forward.layers[layer].masks[token];
                                brute += (mask >> expert & 1) as u32;
                            }
                        }
                        let place = (band * 2 + layer) * 3 + expert;
                        assert_eq!(counts.taken[place], brute, "{image} {band} {layer} {expert}");
                    }
                }
            }
        }
    }
}
