//! Damaged and hostile input for everything that reads what others wrote: files, links, saved images, prompts.
//!
//! Whatever the input is, a reader must not panic, must answer within a second, and must not hold more than eight times
//! the input and 64 MiB. [`Campaign`] changes inputs of a committed corpus at random, the same ones for the same seed,
//! and keeps those that get another answer than all before.

pub mod allocation;
mod campaign;
mod mutate;
mod targets;

pub use campaign::{Campaign, Fault, Report, reaction};
pub use targets::{TARGETS, Target};

use std::path::{Path, PathBuf};

/// Counts what every thread holds.
#[global_allocator]
static COUNTING: allocation::Counting = allocation::Counting;

/// The committed inputs of a target, by file name.
///
/// # Errors
/// When the folder cannot be read.
pub fn seeds(target: &Target) -> std::io::Result<Vec<Vec<u8>>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(corpus(target))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    paths.sort();
    paths.iter().map(std::fs::read).collect()
}

/// The folder of the committed inputs of a target.
pub fn corpus(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}
