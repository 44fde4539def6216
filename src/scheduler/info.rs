//! The row of a scheduler in the table, a choice from the table with the values of its options, and what a scheduler is
//! started with.

use std::str::FromStr;

use super::ALL;
use super::contract::Scheduler;
use super::cycle_spin::CycleSpin;
use super::guidance::Guidance;
use super::noise::StepNoise;
use super::options::{OptionError, OptionInfo};
use crate::model::{Config, Objective, UnknownName, one_of};

/// Most options of one scheduler.
const MAX_OPTIONS: usize = 4;

/// One scheduler.
#[derive(Debug)]
pub struct SchedulerInfo {
    /// Name in options, links and files.
    pub name: &'static str,
    /// Title of a control.
    pub title: &'static str,
    /// What it does, in one line.
    pub hint: &'static str,
    /// Which models it samples.
    pub objectives: &'static [Objective],
    /// Its options.
    pub options: &'static [OptionInfo],
    /// Whether it chooses its own steps; the number of steps of a run then has no effect.
    pub is_adaptive: bool,
    /// Most steps for a DDPM model.
    pub max_ddpm_steps: u32,
    /// How a run resumes after a lost device.
    pub resume: Resume,
    /// Creates one for a run.
    pub(super) start: fn(SchedulerKind, &Config, ScheduleConfig) -> Box<dyn Scheduler>,
}

/// How a run continues on another device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// After its last finished step. On the same kind of device the samples are the same, bit for bit.
    Exact,
    /// From its beginning.
    Restart,
}

/// What a scheduler is started with; the settings were checked.
#[derive(Clone, Debug)]
pub struct ScheduleConfig {
    /// Steps, for schedulers that do not choose their own.
    pub steps: u32,
    /// Guidance: `scale.into()` for the whole way.
    pub guidance: Guidance,
    /// How the last predictions are averaged over shifts; without effect unless [`SchedulerKind::spins`].
    pub spin: CycleSpin,
    /// Noise added by the steps.
    pub noise: StepNoise,
    /// Share of the way from noise to data that is taken, above 0 and at most 1; below 1 a run starts from an image with
    /// noise ([`Scheduler::start`]).
    pub strength: f32,
    /// Whether every step ends with [`Instruction::Keep`](super::Instruction::Keep).
    pub keeps: bool,
}

impl ScheduleConfig {
    /// The whole way from noise to data.
    pub fn new(steps: u32, guidance: impl Into<Guidance>, noise: StepNoise) -> Self {
        let (guidance, spin) = (guidance.into(), CycleSpin::default());
        Self { steps, guidance, spin, noise, strength: 1.0, keeps: false }
    }

    /// The steps that are taken, at least one.
    pub fn taken(&self) -> u32 {
        steps_taken(self.steps, self.strength)
    }

    /// The steps that are left out at the noisy end.
    pub(super) fn skipped(&self) -> u32 {
        self.steps - self.taken()
    }
}

/// How many of `steps` are taken at this strength: its share of them, rounded down as in the pipelines of diffusers, and
/// at least one.
pub fn steps_taken(steps: u32, strength: f32) -> u32 {
    // 0.7 as f32 is a little less than 7/10, but means seven steps of ten.
    let share = f64::from(steps) * f64::from(strength);
    ((share * (1.0 + 1e-6)).floor() as u32).clamp(1, steps.max(1))
}

impl SchedulerInfo {
    /// Most steps of a run.
    pub fn max_steps(&self, objective: Objective) -> u32 {
        match objective {
            Objective::Flow => 10_000,
            Objective::Ddpm => self.max_ddpm_steps,
        }
    }

    /// The options that have an effect for models of an objective.
    pub fn options_for(&self, objective: Objective) -> impl Iterator<Item = &'static OptionInfo> {
        self.options.iter().filter(move |option| option.applies(objective))
    }
}

/// A scheduler and the values of its options.
///
/// ```
/// use diffmoe::scheduler::SchedulerKind;
///
/// let kind: SchedulerKind = "dopri5".parse()?;
/// let kind = kind.with("rtol", 1e-4)?;
/// assert!(kind.with("rtol", 2.0).is_err(), "out of range");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy)]
pub struct SchedulerKind {
    info: &'static SchedulerInfo,
    /// In the order of the row's options.
    values: [f32; MAX_OPTIONS],
}

impl SchedulerKind {
    /// A row of the table with its default options.
    pub fn new(info: &'static SchedulerInfo) -> Self {
        let mut values = [0.0; MAX_OPTIONS];
        values.iter_mut().zip(info.options).for_each(|(v, option)| *v = option.default_value());
        Self { info, values }
    }

    /// The schedulers that sample models of an objective, the plainest first.
    pub fn for_objective(objective: Objective) -> Vec<Self> {
        let rows = ALL.iter().filter(|info| info.objectives.contains(&objective));
        rows.map(|info| Self::new(info)).collect()
    }

    /// The scheduler recommended by a model, or else the first of its objective.
    pub fn default_of(config: &Config) -> Self {
        let suitable = Self::for_objective(config.objective);
        let named = suitable.iter().find(|kind| kind.name() == config.defaults.scheduler);
        *named.unwrap_or(&suitable[0])
    }

    /// Its row.
    pub fn info(self) -> &'static SchedulerInfo {
        self.info
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.info.name
    }

    /// Whether it chooses its own steps.
    pub fn is_adaptive(self) -> bool {
        self.info.is_adaptive
    }

    /// Whether it can average predictions over shifts of the image ([`CycleSpin`]): for flow models, whose predictions
    /// add up, and with steps that are known beforehand.
    pub fn spins(self, objective: Objective) -> bool {
        objective == Objective::Flow && !self.is_adaptive()
    }

    /// Whether a run can continue after its last finished step on another device.
    pub fn resumes(self) -> bool {
        self.info.resume == Resume::Exact
    }

    /// Whether it samples models of an objective.
    pub fn suits(self, objective: Objective) -> bool {
        self.info.objectives.contains(&objective)
    }

    /// The value of an option; `None` where the scheduler does not have it.
    pub fn get(self, option: &str) -> Option<f32> {
        Some(self.values[self.position(option)?])
    }

    /// The same with another value of an option.
    ///
    /// # Errors
    /// When the scheduler does not have it or the value is out of range.
    pub fn with(self, option: &str, value: f32) -> Result<Self, OptionError> {
        self.set(option, |option| option.check(value))
    }

    /// The same with a value as a user writes it.
    ///
    /// # Errors
    /// As [`SchedulerKind::with`].
    pub fn with_text(self, option: &str, text: &str) -> Result<Self, OptionError> {
        self.set(option, |option| option.parse(text))
    }

    /// The options and their values.
    pub fn options(self) -> impl Iterator<Item = (&'static OptionInfo, f32)> {
        self.info.options.iter().zip(self.values)
    }

    /// The options that differ from their defaults.
    pub fn changed_options(self) -> impl Iterator<Item = (&'static OptionInfo, f32)> {
        self.options().filter(|(option, value)| value.to_bits() != option.default_value().to_bits())
    }

    /// Makes a scheduler for a run.
    ///
    /// # Panics
    /// When a DDPM model is to be sampled in no step or in more than [`SchedulerInfo::max_steps`].
    pub fn schedule(self, config: &Config, mut run: ScheduleConfig) -> Box<dyn Scheduler> {
        if !self.spins(config.objective) {
            run.spin = CycleSpin::default();
        }
        (self.info.start)(self, config, run)
    }

    /// A numeric option that the scheduler declares.
    pub(super) fn number(self, option: &str) -> f32 {
        self.get(option).unwrap_or_default()
    }

    fn position(self, name: &str) -> Option<usize> {
        self.info.options.iter().position(|option| option.name == name)
    }

    fn set(
        mut self,
        name: &str,
        value: impl FnOnce(&OptionInfo) -> Result<f32, OptionError>,
    ) -> Result<Self, OptionError> {
        let at = self.position(name).ok_or_else(|| self.not_taken(name))?;
        self.values[at] = value(&self.info.options[at])?;
        Ok(self)
    }

    /// The error for an option of other schedulers.
    pub(crate) fn not_taken(self, option: &str) -> OptionError {
        let takes = |info: &&&SchedulerInfo| info.options.iter().any(|o| o.name == option);
        let takers = one_of(ALL.iter().filter(takes).map(|info| info.name));
        OptionError::NotTaken { option: option.to_owned(), scheduler: self.name(), takers }
    }
}

impl PartialEq for SchedulerKind {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.values == other.values
    }
}

impl std::fmt::Debug for SchedulerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = f.debug_struct(self.name());
        for (option, value) in self.options() {
            text.field(option.name, &value);
        }
        text.finish()
    }
}

impl FromStr for SchedulerKind {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = ALL.iter().find(|info| info.name == text);
        found
            .map(|info| Self::new(info))
            .ok_or_else(|| UnknownName::new("scheduler", text, ALL.iter().map(|info| info.name)))
    }
}

impl std::fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for (i, info) in ALL.iter().enumerate() {
            assert_eq!(info.name.parse::<SchedulerKind>().unwrap().to_string(), info.name);
            assert!(ALL[..i].iter().all(|other| other.name != info.name), "{} twice", info.name);
            assert!(info.hint.ends_with('.') && !info.title.is_empty(), "{}", info.name);
            assert!(info.options.len() <= MAX_OPTIONS && !info.objectives.is_empty());
            let is_ddpm = info.objectives.contains(&Objective::Ddpm);
            assert_eq!(info.max_ddpm_steps > 0, is_ddpm, "{}", info.name);
            for option in info.options {
                assert_eq!(option.check(option.default_value()), Ok(option.default_value()));
                assert!(option.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
                assert!(!option.title.is_empty() && option.hint.ends_with('.'), "{}", option.name);
                // One name, one meaning: front ends offer the options of all schedulers together.
                for other in ALL.iter().flat_map(|info| info.options) {
                    assert!(other.name != option.name || other == option, "{}", option.name);
                }
            }
        }
        for objective in [Objective::Flow, Objective::Ddpm] {
            assert!(!SchedulerKind::for_objective(objective).is_empty());
        }
        let error = "rk4".parse::<SchedulerKind>().unwrap_err().to_string();
        assert!(error.contains("unknown scheduler \"rk4\": expected euler, heun,"), "{error}");
    }

    #[test]
    fn strength_is_the_share_of_the_steps_that_are_taken() {
        let taken = |strength| steps_taken(10, strength);
        assert_eq!([0.01, 0.1, 0.3, 0.35, 0.7, 0.99, 1.0].map(taken), [1, 1, 3, 3, 7, 9, 10]);
        for steps in 1..=100 {
            for taken in 1..=steps {
                assert_eq!(steps_taken(steps, taken as f32 / steps as f32), taken, "{steps}");
            }
        }
    }

    #[test]
    fn options_are_checked_and_read_back() {
        let kind: SchedulerKind = "ddim".parse().unwrap();
        let kind = kind.with_text("eta", "0.25").unwrap().with_text("clip", "true").unwrap();
        let kind = kind.with_text("guided-channels", "all").unwrap();
        let changed: Vec<_> =
            kind.changed_options().map(|(option, value)| option.format(value)).collect();
        assert_eq!(changed, ["all", "true", "0.25"]);
        for (option, value) in kind.options() {
            assert_eq!(option.parse(&option.format(value)), Ok(value));
        }
        let refused = |option, text| kind.with_text(option, text).unwrap_err().to_string();
        let plain: SchedulerKind = "ddim".parse().unwrap();
        assert!(
            kind != plain && plain == "ddim".parse().unwrap() && plain != "ddpm".parse().unwrap()
        );
        assert!(
            format!("{kind:?}").starts_with("ddim {") && format!("{kind:?}").contains("eta: 0.25")
        );
        assert_eq!(refused("eta", "1.5"), "eta must be 0.0–1.0, got 1.5");
        assert_eq!(refused("eta", "NaN"), "eta must be 0.0–1.0, got NaN");
        assert_eq!(refused("guided-channels", "4"), "guided-channels must be 3 or all, got 4");
        assert!(refused("rtol", "0.1").contains("not an option of ddim"));
        assert!(refused("rtol", "0.1").ends_with("choose dopri5"), "{}", refused("rtol", "0.1"));
    }
}
