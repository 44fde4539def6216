//! Classifier-free guidance: how strong it is, and on which part of the way from noise to data it applies.

use std::fmt;
use std::str::FromStr;

/// Guidance of a run: `null + scale·(label − null)` inside the interval. Outside there is only the conditional pass,
/// which is half the work (Kynkäänniemi et al. 2024, arXiv 2404.07724).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// 1 is none.
    pub scale: f32,
    /// Where it applies.
    pub interval: GuidanceInterval,
}

/// Guidance of this scale on the whole way.
impl From<f32> for Guidance {
    fn from(scale: f32) -> Self {
        Self { scale, interval: GuidanceInterval::default() }
    }
}

impl Guidance {
    /// Whether there is an unconditional pass at `t`, 0 for noise and 1 for data.
    pub(super) fn applies(self, t: f32) -> bool {
        #[expect(clippy::float_cmp, reason = "exactly 1 is documented to switch guidance off")]
        let is_on = self.scale != 1.0;
        is_on && self.interval.contains(t)
    }
}

/// The part of the way from noise (0) to data (1) on which guidance applies: `low ≤ t < high`, and `t = 1` where `high`
/// is 1. Of a DDPM model, whose steps count from 999 for noise to 0 for data, `t = 1 − step/999`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuidanceInterval {
    /// Where it begins, 0 to 1.
    pub low: f32,
    /// Where it ends, above `low` and at most 1.
    pub high: f32,
}

/// The whole way.
impl Default for GuidanceInterval {
    fn default() -> Self {
        Self { low: 0.0, high: 1.0 }
    }
}

/// An interval that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guidance interval must be LOW,HIGH with 0 ≤ LOW < HIGH ≤ 1, such as 0.1,0.7; got {0}")]
pub struct GuidanceIntervalError(String);

impl GuidanceInterval {
    /// Checks the bounds.
    ///
    /// # Errors
    /// When they are not in order or outside of the way.
    pub fn check(self) -> Result<Self, GuidanceIntervalError> {
        let Self { low, high } = self;
        let is_part = low >= 0.0 && low < high && high <= 1.0;
        if is_part { Ok(self) } else { Err(GuidanceIntervalError(self.to_string())) }
    }

    /// Whether it is the whole way.
    pub fn is_whole(self) -> bool {
        self == Self::default()
    }

    /// Whether `t` lies in it, 0 for noise and 1 for data.
    pub fn contains(self, t: f32) -> bool {
        (self.low..self.high).contains(&t) || (t >= 1.0 && self.high >= 1.0)
    }
}

/// `LOW,HIGH`
impl FromStr for GuidanceInterval {
    type Err = GuidanceIntervalError;

    fn from_str(text: &str) -> Result<Self, GuidanceIntervalError> {
        let wrong = || GuidanceIntervalError(text.to_owned());
        let (low, high) = text.split_once(',').ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse().map_err(|_| wrong());
        Self { low: number(low)?, high: number(high)? }.check().map_err(|_| wrong())
    }
}

impl fmt::Display for GuidanceInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Prediction;
    use crate::scheduler::testing::{Machine, ddpm_model, flow_model};
    use crate::scheduler::{
        ALL, Branch, Instruction, Next, ScheduleConfig, SchedulerKind, StepNoise,
    };

    const MIDDLE: GuidanceInterval = GuidanceInterval { low: 0.1, high: 0.7 };

    #[test]
    fn intervals_are_read_and_checked() {
        assert_eq!("0.1,0.7".parse(), Ok(MIDDLE));
        assert_eq!(" 0.1 , 0.7".parse(), Ok(MIDDLE));
        assert_eq!(MIDDLE.to_string().parse(), Ok(MIDDLE));
        for wrong in
            ["", "0.1", "0.7,0.1", "0.5,0.5", "-0.1,1", "0,1.1", "NaN,1", "0,NaN", "a,b", "0,1,1"]
        {
            let error = wrong.parse::<GuidanceInterval>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("got {wrong}")), "{error}");
        }
        assert!(GuidanceInterval::default().is_whole() && !MIDDLE.is_whole());
    }

    #[test]
    fn the_lower_bound_is_inside_and_the_upper_one_is_not_but_at_the_data() {
        let inside = |interval: GuidanceInterval| {
            (0..=10).map(|i| i as f32 / 10.0).filter(|&t| interval.contains(t)).count()
        };
        assert_eq!(inside(MIDDLE), 6, "0.1 to 0.6");
        assert_eq!(inside(GuidanceInterval::default()), 11);
        assert_eq!(inside(GuidanceInterval { low: 0.5, high: 1.0 }), 6, "0.5 to 1");
    }

    fn wavy(z: f32, t: f32, branch: Branch) -> f32 {
        let bend = if branch == Branch::Conditional { 2.0 } else { 0.5 };
        (bend * t).cos() - 0.3 * z
    }

    fn steps(name: &str, steps: u32, guidance: Guidance, is_flow: bool) -> Vec<Vec<Instruction>> {
        let kind: SchedulerKind = name.parse().unwrap();
        let noise = StepNoise::Seeded { seed: 0, images: 0..1 };
        let run = ScheduleConfig::new(steps, guidance, noise);
        let config = if is_flow { flow_model(Prediction::Velocity) } else { ddpm_model() };
        let mut scheduler = kind.schedule(&config, run);
        let next = || match scheduler.next() {
            Next::Step(step) => Some(step),
            _ => None,
        };
        std::iter::from_fn(next).collect()
    }

    /// Conditional and unconditional passes.
    fn passes(steps: &[Vec<Instruction>]) -> (usize, usize) {
        let all: Vec<_> = steps.iter().flatten().flat_map(Instruction::passes).collect();
        let conditional = all.iter().filter(|pass| pass.1 == Branch::Conditional).count();
        (conditional, all.len() - conditional)
    }

    #[test]
    fn outside_the_interval_every_scheduler_saves_the_unconditional_pass() {
        let guidance = Guidance { scale: 2.0, interval: MIDDLE };
        for info in ALL.iter().filter(|info| !info.is_adaptive) {
            for is_flow in [true, false] {
                let objective = if is_flow {
                    crate::model::Objective::Flow
                } else {
                    crate::model::Objective::Ddpm
                };
                if !info.objectives.contains(&objective) {
                    continue;
                }
                let (some, null) = passes(&steps(info.name, 10, guidance, is_flow));
                let (all, every) = passes(&steps(info.name, 10, 2.0.into(), is_flow));
                assert_eq!(some, all, "{}", info.name);
                assert_eq!(all, every, "{}", info.name);
                let share = null as f32 / every as f32;
                assert!((share - 0.6).abs() <= 0.11, "{}: {null} of {every}", info.name);
            }
        }
        assert_eq!(passes(&steps("euler", 10, guidance, true)), (10, 6));
        // Heun also looks at the ends of steps: 0.1 to 0.6 as starts and as ends.
        assert_eq!(passes(&steps("heun", 10, guidance, true)), (20, 12));
    }

    /// The trainer's sampler in f64: Euler's and Heun's method on velocities that are guided inside of the interval.
    #[test]
    fn samples_are_those_of_the_formula() {
        let guidance = Guidance { scale: 2.5, interval: MIDDLE };
        for (name, is_heun) in [("euler", false), ("heun", true)] {
            let mut machine = Machine::new(1.0, wavy);
            for step in steps(name, 10, guidance, true) {
                machine.run(&step);
            }
            let velocity = |z: f64, i: usize| {
                let t = i as f64 / 10.0;
                let plain = |bend: f64| (bend * t).cos() - 0.3 * z;
                let (label, null) = (plain(2.0), plain(0.5));
                if (1..7).contains(&i) { null + 2.5 * (label - null) } else { label }
            };
            let mut z = 1.0;
            for i in 0..10 {
                let first = velocity(z, i);
                let second = if is_heun { velocity(z + 0.1 * first, i + 1) } else { first };
                z += 0.05 * (first + second);
            }
            let got = f64::from(machine.latent());
            assert!((got - z).abs() < 1e-5, "{name}: {got} for {z}");
        }
    }
}
