//! With which numbers a sample is denoised: noise, times, solver steps, guidance. Plain maths, no device.

mod flow;
mod noise;

pub use flow::{Solver, UnknownSolver, guided_step};
pub use noise::{gaussian, random_rows};
