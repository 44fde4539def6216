//! `diffmoe bench`: placeholder until the engines are merged.
use super::Outcome;

/// Measure.
#[derive(clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments) -> Outcome {
    Err("not measured yet".into())
}
