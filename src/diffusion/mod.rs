//! With which numbers a sample is denoised: noise, times, solver steps, guidance. Plain maths, no device.

mod ddpm;
mod dopri5;
mod flow;
mod noise;
mod plan;
mod solver;
#[cfg(test)]
mod testing;

pub use ddpm::{Process, TRAINED_STEPS};
pub use noise::{gaussian, random_rows, step_noise};
pub use plan::{Next, Plan, Request};
pub use solver::{Ancestry, GuidedChannels, Solver, Tolerance, UnknownSolver};
