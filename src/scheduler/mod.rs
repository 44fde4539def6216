//! Schedulers: the way from noise to data as lists of instructions. Plain maths, no device.
//!
//! A scheduler is one file and one row of [`ALL`]. Help texts, option checks, links, the JavaScript API and the
//! controls of the viewer are made from the table.

mod contract;
mod cycle_spin;
mod ddim;
mod ddpm;
mod dopri5;
mod dpm_solver;
mod epsilon;
mod euler;
mod flow;
mod guidance;
mod heun;
#[cfg(test)]
mod image_tests;
mod info;
mod noise;
mod options;
mod path;
mod process;
mod program;
#[cfg(test)]
mod testing;
mod unipc;

pub use contract::{Buffer, Fixed, FixedSteps, Next, Scheduler, SchedulerState};
pub use cycle_spin::{CycleSpin, CycleSpinError};
pub use epsilon::{DdpmOptions, GuidedChannels};
pub use guidance::{Guidance, GuidanceInterval, GuidanceIntervalError};
pub use info::{Resume, ScheduleConfig, SchedulerInfo, SchedulerKind, steps_taken};
pub use noise::{StepNoise, between, gaussian, random_rows, step_noise};
pub use options::{OptionError, OptionInfo, OptionValues};
pub use process::{Process, TRAINED_STEPS, noise_level};
pub(crate) use program::within_image;
pub use program::{Branch, Denoise, Deviation, Instruction, Latent, Level, Observation};

/// All schedulers. The first of an objective is the default of models that recommend none.
pub static ALL: &[&SchedulerInfo] = &[
    &euler::EULER,
    &heun::HEUN,
    &dopri5::DOPRI5,
    &ddpm::DDPM,
    &ddim::DDIM,
    &dpm_solver::DPM_SOLVER,
    &unipc::UNIPC,
];
