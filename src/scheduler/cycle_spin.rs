//! Cycle spinning: the last predictions are means over shifts of the image.
//!
//! A transformer predicts each patch from its own token, so small steps remain along the borders of patches. Shifted by
//! a part of a patch, the same image has its borders elsewhere; in the mean of the predictions, shifted back, the steps
//! fade (Coifman and Donoho 1995, for wavelets). Only the end of the way matters, where details are drawn.

use std::fmt;
use std::str::FromStr;

/// How predictions are averaged over shifts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CycleSpin {
    /// Shifts along the diagonal of a patch, `i/count` of it each; 1 switches averaging off.
    pub count: u32,
    /// From where on the way from noise (0) to data (1) on.
    pub from: f32,
}

/// None.
impl Default for CycleSpin {
    fn default() -> Self {
        Self { count: 1, from: Self::FROM }
    }
}

/// Not a form of cycle spinning.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cycle spinning must be COUNT or COUNT,FROM with COUNT from 1 (off) to {most} and FROM from 0 to 1, such as 2 or 4,0.7; got \
     {given}", most = CycleSpin::MOST
)]
pub struct CycleSpinError {
    given: String,
}

impl CycleSpin {
    /// Where it begins unless that is given: at the last evaluations of a run of ten steps.
    pub const FROM: f32 = 0.85;
    /// Most shifts: of a patch of eight pixels, those by one pixel.
    pub const MOST: u32 = 8;

    /// Whether nothing is averaged.
    pub fn is_off(self) -> bool {
        self.count == 1
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// When they are out of range.
    pub fn check(self) -> Result<Self, CycleSpinError> {
        let is_valid = (1..=Self::MOST).contains(&self.count) && (0.0..=1.0).contains(&self.from);
        if is_valid { Ok(self) } else { Err(CycleSpinError { given: self.to_string() }) }
    }

    /// The shifts besides none, in pixels down and to the right, at `t` for patches of this size.
    #[expect(clippy::cast_possible_wrap, reason = "a few shifts, and patches of a few pixels")]
    pub(super) fn shifts(self, t: f32, patch: usize) -> impl Iterator<Item = [i32; 2]> {
        let count = if t >= self.from { self.count } else { 1 };
        (1..count as i32).map(move |i| [i * patch as i32 / self.count as i32; 2])
    }
}

/// `COUNT` or `COUNT,FROM`
impl FromStr for CycleSpin {
    type Err = CycleSpinError;

    fn from_str(text: &str) -> Result<Self, CycleSpinError> {
        let wrong = || CycleSpinError { given: text.to_owned() };
        let (count, from) = match text.split_once(',') {
            Some((count, from)) => (count, from.trim().parse().map_err(|_| wrong())?),
            None => (text, Self::FROM),
        };
        let count = count.trim().parse().map_err(|_| wrong())?;
        Self { count, from }.check().map_err(|_| wrong())
    }
}

impl fmt::Display for CycleSpin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.count)?;
        if self.from.to_bits() == Self::FROM.to_bits() {
            Ok(())
        } else {
            write!(f, ",{}", self.from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Prediction;
    use crate::scheduler::testing::{Machine, flow_model};
    use crate::scheduler::{ALL, Branch, Instruction, Latent, Next};
    use crate::scheduler::{ScheduleConfig, SchedulerKind, StepNoise};

    #[test]
    fn forms_are_read_and_checked() {
        assert_eq!("2".parse(), Ok(CycleSpin { count: 2, ..CycleSpin::default() }));
        assert_eq!(" 4 , 0.5".parse(), Ok(CycleSpin { count: 4, from: 0.5 }));
        for text in ["1", "8", "2,0", "3,1", "4,0.7"] {
            assert_eq!(text.parse::<CycleSpin>().unwrap().to_string(), text);
        }
        for wrong in ["", "0", "9", "-2", "2.5", "2,", "2,-0.1", "2,1.1", "2,NaN", "a", "2,0,1"] {
            let error = wrong.parse::<CycleSpin>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("got {wrong}")), "{error}");
        }
    }

    #[test]
    fn shifts_lie_on_the_diagonal_of_a_patch() {
        let of =
            |count, t, patch| CycleSpin { count, from: 0.5 }.shifts(t, patch).collect::<Vec<_>>();
        assert_eq!(of(4, 0.5, 8), [[2; 2], [4; 2], [6; 2]]);
        assert_eq!(of(2, 1.0, 4), [[2; 2]]);
        assert_eq!(of(3, 0.9, 8), [[2; 2], [5; 2]]);
        assert!(of(4, 0.49, 8).is_empty() && of(1, 1.0, 8).is_empty());
    }

    fn steps(name: &str, spin: CycleSpin) -> Vec<Vec<Instruction>> {
        let kind: SchedulerKind = name.parse().unwrap();
        let noise = StepNoise::Seeded { seed: 0, images: 0..1 };
        let run = ScheduleConfig { spin, ..ScheduleConfig::new(6, 2.0, noise) };
        let config = crate::model::Config { patch_size: 4, ..flow_model(Prediction::Sample) };
        let mut scheduler = kind.schedule(&config, run);
        let next = || match scheduler.next() {
            Next::Step(step) => Some(step),
            _ => None,
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn predictions_that_shifts_do_not_change_lead_to_the_same_sample() {
        // A machine of one pixel, which no shift changes.
        let model = |z: f32, t: f32, branch| match branch {
            Branch::Conditional => (2.0 * t).cos() - 0.3 * z,
            Branch::Unconditional => 0.5 - 0.1 * z,
        };
        let end = |steps: &[Vec<Instruction>]| {
            let mut machine = Machine::new(0.7, model);
            for step in steps {
                machine.run(step);
            }
            machine.latent()
        };
        let spin = CycleSpin { count: 3, from: 0.5 };
        let of_flow = ALL.iter().filter(|row| !row.is_adaptive);
        for row in of_flow.filter(|row| row.objectives.contains(&crate::model::Objective::Flow)) {
            let [plain, spun] = [CycleSpin::default(), spin].map(|spin| steps(row.name, spin));
            assert!((end(&plain) - end(&spun)).abs() < 1e-6, "{}", row.name);
            let passes = |steps: &[Vec<Instruction>]| -> usize {
                steps.iter().flatten().map(|op| op.passes().len()).sum()
            };
            let recorded = |steps: &[Vec<Instruction>]| -> usize {
                steps.iter().flatten().map(|op| op.recorded_passes().len()).sum()
            };
            assert!(passes(&spun) > passes(&plain), "{}", row.name);
            assert_eq!(recorded(&spun), passes(&plain), "{}", row.name);
        }
    }

    #[test]
    fn a_shifted_prediction_is_shifted_back() {
        let all = steps("euler", "2,0.8".parse().unwrap());
        let shifts = |step: &[Instruction]| -> Vec<(Latent, [i32; 2])> {
            let shift = |op: &Instruction| match op {
                Instruction::Shift { input, by, .. } => Some((*input, *by)),
                _ => None,
            };
            step.iter().filter_map(shift).collect()
        };
        assert!(all[..5].iter().all(|step| shifts(step).is_empty()));
        assert_eq!(shifts(&all[5]), [(Latent::Sample, [2; 2]), (Latent::Shifted, [-2; 2])]);
    }
}
