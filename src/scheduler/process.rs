//! The diffusion process of DDPM models: 1000 steps with linear variances, respaced to fewer (Ho et al. 2020;
//! Nichol & Dhariwal 2021 for respacing). Tables are f64, as in the official code.

use std::sync::LazyLock;

use super::program::Level;
use crate::model::Objective;

/// Steps of the process in training.
pub const TRAINED_STEPS: u32 = 1000;

/// The variances of the kept steps, from data (0) to noise.
#[derive(Clone, Debug)]
pub struct Process {
    /// The kept steps of the trained process, passed to the model as time.
    pub times: Vec<u32>,
    /// `β`: variance that a step adds.
    pub betas: Vec<f64>,
    /// `ᾱ`: share of the data's variance that is left after a step.
    pub alphas_bar: Vec<f64>,
}

/// The noise level of a sample at a model time, `σ` of `α·x₀ + σ·ε`: 1 for noise alone, 0 for data. `1 − t` for flow
/// models, `√(1 − ᾱ)` for DDPM models.
pub fn noise_level(objective: Objective, time: f32) -> f32 {
    static BARS: LazyLock<Vec<f64>> = LazyLock::new(|| Process::respaced(TRAINED_STEPS).alphas_bar);
    match objective {
        Objective::Flow => 1.0 - time,
        Objective::Ddpm => {
            // The cast saturates.
            let step = (time.round() as usize).min(BARS.len() - 1);
            (1.0 - BARS[step]).sqrt() as f32
        }
    }
}

impl Process {
    /// Keeps `steps` of the 1000, evenly spread, first and last included.
    ///
    /// # Panics
    /// When `steps` is not 1 to 1000.
    pub fn respaced(steps: u32) -> Self {
        assert!((1..=TRAINED_STEPS).contains(&steps), "{steps} steps");
        let last = f64::from(TRAINED_STEPS - 1);
        let beta = |i: u32| 1e-4 + (0.02 - 1e-4) * f64::from(i) / last;
        let mut bars = Vec::new();
        (0..TRAINED_STEPS).fold(1.0, |bar, i| {
            bars.push(bar * (1.0 - beta(i)));
            bars[i as usize]
        });
        let stride = if steps == 1 { 1.0 } else { last / f64::from(steps - 1) };
        let mut at = 0.0;
        let times: Vec<u32> = (0..steps)
            .map(|_| {
                // Added up, and halves to even, as the official code does: the rounding decides on steps.
                let time = f64::round_ties_even(at) as u32;
                at += stride;
                time
            })
            .collect();
        let alphas_bar: Vec<f64> = times.iter().map(|&t| bars[t as usize]).collect();
        let before = std::iter::once(1.0).chain(alphas_bar.iter().copied());
        let betas = alphas_bar.iter().zip(before).map(|(bar, before)| 1.0 - bar / before).collect();
        Self { times, betas, alphas_bar }
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.times.len()
    }

    /// The level of a sample before step `index` of a run that leaves out `skipped` steps, and after its last one.
    pub(super) fn level(&self, skipped: u32, index: u32) -> Level {
        let left = self.steps() - (skipped + index) as usize;
        let bar = self.bar_before(left);
        Level { signal: bar.sqrt() as f32, noise: (1.0 - bar).sqrt() as f32 }
    }

    /// `ᾱ` of the previous step, 1 at the first.
    pub(super) fn bar_before(&self, i: usize) -> f64 {
        i.checked_sub(1).map_or(1.0, |i| self.alphas_bar[i])
    }

    /// `β̃`: variance of a step back when the data are known.
    pub(super) fn posterior_variance(&self, i: usize) -> f64 {
        self.betas[i] * (1.0 - self.bar_before(i)) / (1.0 - self.alphas_bar[i])
    }

    /// `log β̃`, where the first, which is `log 0`, is replaced by the second.
    pub fn log_posterior_variance(&self, i: usize) -> f64 {
        let i = if i == 0 && self.steps() > 1 { 1 } else { i };
        libm::log(self.posterior_variance(i))
    }

    /// `√(1/ᾱ)` and `√(1/ᾱ - 1)`, which turn sample and noise into the predicted data.
    pub(super) fn predict(&self, i: usize) -> [f64; 2] {
        let inverse = 1.0 / self.alphas_bar[i];
        [inverse.sqrt(), (inverse - 1.0).sqrt()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, want: f64) {
        // The golden numbers have nine digits.
        assert!((got - want).abs() <= 5e-9 * want.abs(), "{got} for {want}");
    }

    #[test]
    fn noise_falls_from_one_to_zero() {
        let level = |objective, time| f64::from(noise_level(objective, time));
        assert!((level(Objective::Flow, 0.25) - 0.75).abs() < 1e-7);
        // √(1 − ᾱ) of the official bars.
        for (time, bar) in [(0.0, 0.9999_f64), (500.0, 0.077_796_658_4), (999.0, 4.035_829_77e-5)] {
            let want = (1.0 - bar).sqrt();
            assert!((level(Objective::Ddpm, time) - want).abs() < 1e-6, "{time}");
        }
        assert!(level(Objective::Ddpm, 1e9) > 0.999, "beyond the process it is noise");
    }

    /// Numbers printed by the official module.
    #[test]
    fn the_whole_process_is_the_official_one() {
        let all = Process::respaced(1000);
        assert_eq!(all.times, (0..1000).collect::<Vec<_>>());
        for (i, beta) in [(0, 1e-4), (1, 1.199_199_2e-4), (999, 2e-2)] {
            near((all.betas[i] * 1e11).round() / 1e11, beta);
        }
        assert!((all.betas[500] - 1.005_996_0e-2).abs() < 5e-10);
        let bars =
            [(0, 0.9999), (1, 0.999_780_092), (500, 0.077_796_658_4), (999, 4.035_829_77e-5)];
        for (i, bar) in bars {
            near(all.alphas_bar[i], bar);
        }
        let logs =
            [(0, -9.816_725_14), (1, -9.816_725_14), (2, -9.367_121_5), (999, -3.912_023_83)];
        for (i, log) in logs {
            near(all.log_posterior_variance(i), log);
        }
    }

    #[test]
    fn respacing_keeps_the_official_steps() {
        let ten = Process::respaced(10);
        assert_eq!(ten.times, [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]);
        let fifty = Process::respaced(50);
        assert_eq!(fifty.times[..7], [0, 20, 41, 61, 82, 102, 122]);
        let many = Process::respaced(250);
        assert_eq!(many.times[..3], [0, 4, 8]);
        assert_eq!(many.times[247..], [991, 995, 999]);
        near(many.betas[0], 1e-4);
        for (i, beta) in [(1, 5.990_655_64e-4), (249, 7.751_934_50e-2)] {
            near(many.betas[i], beta);
        }
        assert_eq!(Process::respaced(1).times, [0]);
    }
}
