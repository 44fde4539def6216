//! The CPU engine in workers: other threads that share no memory with this one, such as those of a browser.
//!
//! A host offers [`Workers`]; [`WorkersModel`] gives each of them the model's file, and its engines look like any other.
//! At the other end of a [`Link`] a [`Host`] runs [`CpuEngine`](super::CpuEngine)s. A batch is shared out by images,
//! because under the rule `token` an image does not depend on the others; under the rule `pool` one worker computes all
//! of it. Where there are two workers for each share, they compute one branch of guidance each. Either way the bytes of
//! the samples are those of one thread.

mod codec;
mod engine;
mod host;
mod link;
mod messages;
mod model;
mod packed;
mod parts;
mod pulse;
#[cfg(test)]
mod tests;
mod twins;

pub use engine::WorkersEngine;
pub use host::Host;
pub use link::{Link, Workers};
pub use model::WorkersModel;
