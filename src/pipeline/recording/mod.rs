//! A run that was recorded to be looked at where its model is not: what it expected at each step, and its routing with
//! the router's scores, in a small file. The page shows one while the weights of its first model arrive.

mod data;
mod file;

pub use data::{Recording, RecordingError};
