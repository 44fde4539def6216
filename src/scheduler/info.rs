//! The row of a scheduler in the table, and what it is started with.

use super::contract::Scheduler;
use super::kind::SchedulerKind;
use super::noise::StepNoise;
use super::options::OptionInfo;
use crate::model::{Config, Objective};

/// Most options of one scheduler.
pub(super) const MAX_OPTIONS: usize = 4;

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
    /// What a lost device costs.
    pub resume: Resume,
    /// Makes one for a run.
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
    /// Guidance scale; 1 is none.
    pub guidance: f32,
    /// Noise that is added on the way.
    pub noise: StepNoise,
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
