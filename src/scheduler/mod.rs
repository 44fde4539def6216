//! Schedulers: noise, times, solver steps and guidance as lists of instructions. Plain maths, no device.

mod ddpm;
mod dopri5;
mod flow;
mod noise;
mod plan;
mod program;
mod solver;
#[cfg(test)]
mod testing;

pub use ddpm::{Process, TRAINED_STEPS};
pub use noise::{gaussian, random_rows, step_noise};
pub use plan::{Next, Plan, Request};
pub use program::{Branch, Denoise, Deviation, Instruction, Latent, Observation};
pub use solver::{Ancestry, GuidedChannels, Solver, Tolerance, UnknownSolver};
