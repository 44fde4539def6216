//! The diffusion process of the DDPM models and its way back: 1000 steps, linear variances, respaced to
//! fewer (Ho et al. 2020; Nichol & Dhariwal 2021 for respacing and learned variances; Song et al. 2021 for
//! DDIM). Tables are f64, as in the official code.

use std::sync::Arc;

use super::program::{Branch, Denoise, Deviation, Instruction, Latent};
use super::solver::{Ancestry, GuidedChannels};

/// Steps of the process in training.
pub const TRAINED_STEPS: u32 = 1000;

/// The variances of the kept steps, from data (0) to noise.
#[derive(Clone, Debug)]
pub struct Process {
    /// The kept steps of the trained process: what the model is told as time.
    pub times: Vec<u32>,
    /// `β`: variance that a step adds.
    pub betas: Vec<f64>,
    /// `ᾱ`: share of the data's variance that is left after a step.
    pub alphas_bar: Vec<f64>,
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

    /// `ᾱ` of the step before, 1 at the first.
    fn bar_before(&self, i: usize) -> f64 {
        i.checked_sub(1).map_or(1.0, |i| self.alphas_bar[i])
    }

    /// `β̃`: variance of a step back when the data are known.
    fn posterior_variance(&self, i: usize) -> f64 {
        self.betas[i] * (1.0 - self.bar_before(i)) / (1.0 - self.alphas_bar[i])
    }

    /// `log β̃`, where the first, which is `log 0`, is replaced by the second.
    pub fn log_posterior_variance(&self, i: usize) -> f64 {
        let i = if i == 0 && self.steps() > 1 { 1 } else { i };
        self.posterior_variance(i).ln()
    }

    /// `√(1/ᾱ)` and `√(1/ᾱ - 1)`, which turn sample and noise into the predicted data.
    fn predict(&self, i: usize) -> [f64; 2] {
        let inverse = 1.0 / self.alphas_bar[i];
        [inverse.sqrt(), (inverse - 1.0).sqrt()]
    }

    /// An ancestral step: factors of predicted data and sample in the mean, and the deviation.
    fn ancestral(&self, i: usize, learned: bool) -> ([f64; 2], Deviation) {
        let (beta, bar, before) = (self.betas[i], self.alphas_bar[i], self.bar_before(i));
        let mean = [
            beta * before.sqrt() / (1.0 - bar),
            (1.0 - before) * (1.0 - beta).sqrt() / (1.0 - bar),
        ];
        let deviation = if learned {
            Deviation::Learned {
                low: self.log_posterior_variance(i) as f32,
                high: self.betas[i].ln() as f32,
            }
        } else {
            // The official choice where no variance is learned: β, but β̃ of the second step at the first.
            let variance =
                if i == 0 && self.steps() > 1 { self.posterior_variance(1) } else { beta };
            Deviation::Fixed(variance.sqrt() as f32)
        };
        (mean, deviation)
    }

    /// A DDIM step, in the same terms (its eq. 12).
    fn implicit(&self, i: usize, eta: f32) -> ([f64; 2], Deviation) {
        let (bar, before) = (self.alphas_bar[i], self.bar_before(i));
        let sigma =
            f64::from(eta) * ((1.0 - before) / (1.0 - bar)).sqrt() * (1.0 - bar / before).sqrt();
        // The noise direction, written as what is left of the sample without the predicted data.
        let direction = (1.0 - before - sigma * sigma).max(0.0).sqrt();
        let [of_sample, of_noise] = self.predict(i);
        let mean = [before.sqrt() - direction / of_noise, direction * of_sample / of_noise];
        (mean, Deviation::Fixed(sigma as f32))
    }
}

/// The steps of a run over a [`Process`].
#[derive(Clone, Debug)]
pub(super) struct Descent {
    /// The process.
    pub(super) process: Process,
    /// Whether DDIM's formulas are used.
    pub(super) implicit: bool,
    /// Choices.
    pub(super) ancestry: Ancestry,
    /// Guidance scale; 1 is none.
    pub(super) guidance: f32,
    /// Channels of a sample.
    pub(super) channels: usize,
    /// Whether the model predicts variances.
    pub(super) learned: bool,
}

impl Descent {
    /// Whether step `index` (from 0, the noisiest) adds noise.
    pub(super) fn wants_noise(&self, index: usize) -> bool {
        let adds = !self.implicit || self.ancestry.eta > 0.0;
        adds && index + 1 < self.process.steps()
    }

    /// Step `index`, from 0, the noisiest.
    pub(super) fn step(&self, index: usize, noise: Option<Arc<Vec<f32>>>) -> Vec<Instruction> {
        let i = self.process.steps() - 1 - index;
        let time = self.process.times[i] as f32;
        #[expect(clippy::float_cmp, reason = "exactly 1 switches guidance off")]
        let is_guided = self.guidance != 1.0;
        let pass = if is_guided {
            Instruction::JointForward { input: Latent::Sample, time }
        } else {
            let output = Latent::Output(0);
            Instruction::Forward {
                input: Latent::Sample,
                output,
                time,
                branch: Branch::Conditional,
            }
        };
        let (mean, deviation) = if self.implicit {
            self.process.implicit(i, self.ancestry.eta)
        } else {
            self.process.ancestral(i, self.learned)
        };
        let guided_channels = match self.ancestry.guided {
            _ if !is_guided => 0,
            GuidedChannels::Three => self.channels.min(3),
            GuidedChannels::All => self.channels,
        };
        let step = Denoise {
            guidance: self.guidance,
            guided_channels,
            predict: self.process.predict(i).map(|v| v as f32),
            clip: self.ancestry.clip,
            mean: mean.map(|v| v as f32),
            deviation,
            noise,
        };
        vec![pass, Instruction::Denoise(step)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, want: f64) {
        // The golden numbers have nine digits.
        assert!((got - want).abs() <= 5e-9 * want.abs(), "{got} for {want}");
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

    /// If the model predicts the noise exactly, a step of DDIM leads to the same data with less of it.
    #[test]
    fn ddim_moves_along_the_noise() {
        let process = Process::respaced(10);
        let (data, noise) = (0.3, -1.7);
        for i in 0..10 {
            let bar = process.alphas_bar[i];
            let x = bar.sqrt() * data + (1.0 - bar).sqrt() * noise;
            let ([of_data, of_x], deviation) = process.implicit(i, 0.0);
            let [a, b] = process.predict(i);
            let next = of_data * (a * x - b * noise) + of_x * x;
            let before = process.bar_before(i);
            let want = before.sqrt() * data + (1.0 - before).sqrt() * noise;
            assert!((next - want).abs() < 1e-12, "{i}: {next} for {want}");
            assert_eq!(deviation, Deviation::Fixed(0.0));
        }
    }

    /// DDIM with η = 1 has the mean and the variance of the ancestral step with the smaller variance.
    #[test]
    fn ddim_with_all_the_noise_is_ddpm() {
        let process = Process::respaced(20);
        for i in 1..20 {
            let (implicit, deviation) = process.implicit(i, 1.0);
            let (ancestral, _) = process.ancestral(i, true);
            for (a, b) in implicit.iter().zip(ancestral) {
                assert!((a - b).abs() < 1e-9, "{i}: {implicit:?} {ancestral:?}");
            }
            let Deviation::Fixed(sigma) = deviation else { panic!("{deviation:?}") };
            assert!((f64::from(sigma).powi(2) - process.posterior_variance(i)).abs() < 1e-7);
        }
    }

    #[test]
    fn the_last_step_adds_no_noise_and_guidance_leaves_channels_out() {
        let descent = Descent {
            process: Process::respaced(5),
            implicit: false,
            ancestry: Ancestry::default(),
            guidance: 1.5,
            channels: 4,
            learned: true,
        };
        let wants: Vec<_> = (0..5).map(|i| descent.wants_noise(i)).collect();
        assert_eq!(wants, [true, true, true, true, false]);
        let [Instruction::JointForward { time, .. }, Instruction::Denoise(step)] =
            &descent.step(0, None)[..]
        else {
            panic!("a joint pass and a step");
        };
        assert_eq!((*time, step.guided_channels), (999.0, 3));
        let ancestry = Ancestry { guided: GuidedChannels::All, ..Ancestry::default() };
        let all = Descent { ancestry, ..descent.clone() };
        let [_, Instruction::Denoise(step)] = &all.step(0, None)[..] else { panic!() };
        assert_eq!(step.guided_channels, 4);
        let plain = Descent { guidance: 1.0, ..descent };
        assert!(matches!(plain.step(4, None)[0], Instruction::Forward { time: 0.0, .. }));
    }
}
