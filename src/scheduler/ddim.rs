//! DDIM for DDPM models (Song et al. 2021): deterministic, or with a share of DDPM's noise.

use super::contract::{Fixed, FixedSteps};
use super::epsilon::{CLIP, EpsilonModel, GUIDED_CHANNELS, Step};
use super::info::{Resume, SchedulerInfo};
use super::noise::StepNoise;
use super::options::{OptionInfo, OptionValues};
use super::process::{Process, TRAINED_STEPS};
use super::program::{Deviation, Instruction, Level};
use crate::model::Objective;

pub(super) static DDIM: SchedulerInfo = SchedulerInfo {
    name: "ddim",
    title: "DDIM",
    hint: "No added noise: fewer steps are needed.",
    objectives: &[Objective::Ddpm],
    options: &[GUIDED_CHANNELS, CLIP, ETA],
    is_adaptive: false,
    max_ddpm_steps: TRAINED_STEPS,
    resume: Resume::Exact,
    start: |kind, config, run| {
        let model = EpsilonModel::new(kind, config, &run);
        let (process, eta) = (Process::respaced(run.steps), kind.number(ETA.name));
        let (skipped, noise) = (run.skipped(), run.noise.clone());
        Box::new(
            Fixed::new(Ddim { process, model, eta, noise, skipped }, run.taken())
                .keeping(run.keeps),
        )
    },
};

/// `eta`: 0 is deterministic, 1 adds as much noise as DDPM.
const ETA: OptionInfo = OptionInfo {
    name: "eta",
    title: "Noise η",
    hint: "Share of DDPM's noise added at each step.",
    values: OptionValues::Number { min: 0.0, max: 1.0, default: 0.0 },
    only: Some(Objective::Ddpm),
};

#[derive(Clone, Debug)]
struct Ddim {
    process: Process,
    model: EpsilonModel,
    eta: f32,
    noise: StepNoise,
    /// Steps at the noisy end that are left out.
    skipped: u32,
}

impl FixedSteps for Ddim {
    fn step(&self, index: u32) -> Vec<Instruction> {
        let index = self.skipped + index;
        let i = self.process.steps() - 1 - index as usize;
        let (mean, deviation) = implicit(&self.process, i, self.eta);
        let adds_noise = i > 0 && self.eta > 0.0;
        self.model.step(Step {
            time: self.process.times[i] as f32,
            predict: self.process.predict(i),
            mean,
            deviation,
            noise: adds_noise.then(|| self.noise.of(index, self.model.sample_len)),
        })
    }

    fn level(&self, index: u32) -> Level {
        self.process.level(self.skipped, index)
    }
}

/// A DDIM step, in the same terms (its eq. 12).
fn implicit(process: &Process, i: usize, eta: f32) -> ([f64; 2], Deviation) {
    let (bar, before) = (process.alphas_bar[i], process.bar_before(i));
    let sigma =
        f64::from(eta) * ((1.0 - before) / (1.0 - bar)).sqrt() * (1.0 - bar / before).sqrt();
    // The noise direction, written as what is left of the sample without the predicted data.
    let direction = (1.0 - before - sigma * sigma).max(0.0).sqrt();
    let [of_sample, of_noise] = process.predict(i);
    let mean = [before.sqrt() - direction / of_noise, direction * of_sample / of_noise];
    (mean, Deviation::Fixed(sigma as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::ddpm::ancestral;

    /// If the model predicts the noise exactly, a step of DDIM leads to the same data with less of it.
    #[test]
    fn ddim_moves_along_the_noise() {
        let process = Process::respaced(10);
        let (data, noise) = (0.3, -1.7);
        for i in 0..10 {
            let bar = process.alphas_bar[i];
            let x = bar.sqrt() * data + (1.0 - bar).sqrt() * noise;
            let ([of_data, of_x], deviation) = implicit(&process, i, 0.0);
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
            let (implicit, deviation) = implicit(&process, i, 1.0);
            let (ancestral, _) = ancestral(&process, i, true);
            for (a, b) in implicit.iter().zip(ancestral) {
                assert!((a - b).abs() < 1e-9, "{i}: {implicit:?} {ancestral:?}");
            }
            let Deviation::Fixed(sigma) = deviation else { panic!("{deviation:?}") };
            assert!((f64::from(sigma).powi(2) - process.posterior_variance(i)).abs() < 1e-7);
        }
    }
}
