//! Ancestral sampling of DDPM models (Ho et al. 2020; Nichol & Dhariwal 2021 for learned variances).

use super::contract::{Fixed, FixedSteps};
use super::epsilon::{CLIP, EpsilonModel, GUIDED_CHANNELS, Step};
use super::info::{Resume, SchedulerInfo};
use super::noise::StepNoise;
use super::process::{Process, TRAINED_STEPS};
use super::program::{Deviation, Instruction, Level};
use crate::model::Objective;

pub(super) static DDPM: SchedulerInfo = SchedulerInfo {
    name: "ddpm",
    title: "DDPM",
    hint: "Ancestral sampling: noise is added at every step.",
    objectives: &[Objective::Ddpm],
    options: &[GUIDED_CHANNELS, CLIP],
    is_adaptive: false,
    max_ddpm_steps: TRAINED_STEPS,
    resume: Resume::Exact,
    start: |kind, config, run| {
        let model = EpsilonModel::new(kind, config, &run);
        let process = Process::respaced(run.steps);
        let steps = Ddpm { process, model, skipped: run.skipped(), noise: run.noise.clone() };
        Box::new(Fixed::new(steps, run.taken()).keeping(run.keeps))
    },
};

#[derive(Clone, Debug)]
struct Ddpm {
    process: Process,
    model: EpsilonModel,
    noise: StepNoise,
    /// Steps at the noisy end that are left out.
    skipped: u32,
}

impl FixedSteps for Ddpm {
    fn step(&self, index: u32) -> Vec<Instruction> {
        let index = self.skipped + index;
        let i = self.process.steps() - 1 - index as usize;
        let (mean, deviation) = ancestral(&self.process, i, self.model.learns_variance);
        self.model.step(Step {
            time: self.process.times[i] as f32,
            predict: self.process.predict(i),
            mean,
            deviation,
            noise: (i > 0).then(|| self.noise.of(index, self.model.sample_len)),
        })
    }

    fn level(&self, index: u32) -> Level {
        self.process.level(self.skipped, index)
    }
}

/// Factors of predicted data and sample in the mean, and the deviation.
pub(super) fn ancestral(process: &Process, i: usize, learned: bool) -> ([f64; 2], Deviation) {
    let (beta, bar, before) = (process.betas[i], process.alphas_bar[i], process.bar_before(i));
    let mean =
        [beta * before.sqrt() / (1.0 - bar), (1.0 - before) * (1.0 - beta).sqrt() / (1.0 - bar)];
    let deviation = if learned {
        Deviation::Learned {
            low: process.log_posterior_variance(i) as f32,
            high: libm::log(process.betas[i]) as f32,
        }
    } else {
        // The official choice where no variance is learned: β, but β̃ of the second step at the first.
        let variance =
            if i == 0 && process.steps() > 1 { process.posterior_variance(1) } else { beta };
        Deviation::Fixed(variance.sqrt() as f32)
    };
    (mean, deviation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::testing::ddpm_model;
    use crate::scheduler::{Next, ScheduleConfig, SchedulerKind};

    fn steps(change: &[(&str, &str)], guidance: f32) -> Vec<Vec<Instruction>> {
        let kind: SchedulerKind = "ddpm".parse().unwrap();
        let kind = change
            .iter()
            .fold(kind, |kind, (option, value)| kind.with_text(option, value).unwrap());
        let noise = StepNoise::Seeded { seed: 4, images: 0..1 };
        let run = ScheduleConfig::new(5, guidance, noise);
        let mut scheduler = kind.schedule(&ddpm_model(), run);
        let next = || match scheduler.next() {
            Next::Step(step) => Some(step),
            _ => None,
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn the_last_step_adds_no_noise_and_guidance_leaves_channels_out() {
        let guided = steps(&[], 1.5);
        let noisy = |step: &Vec<Instruction>| match &step[1] {
            Instruction::Denoise(step) => step.noise.is_some(),
            other => panic!("{other:?}"),
        };
        assert_eq!(guided.iter().map(noisy).collect::<Vec<_>>(), [true, true, true, true, false]);
        let [Instruction::JointForward { time, .. }, Instruction::Denoise(step)] = &guided[0][..]
        else {
            panic!("a joint pass and a step");
        };
        assert_eq!((*time, step.guided_channels), (999.0, 3));
        let all = steps(&[("guided-channels", "all")], 1.5);
        let [_, Instruction::Denoise(step)] = &all[0][..] else { panic!() };
        assert_eq!(step.guided_channels, 4);
        assert!(matches!(steps(&[], 1.0)[4][0], Instruction::Forward { time: 0.0, .. }));
    }
}
