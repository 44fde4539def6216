//! `diffmoe doctor`: whether the graphics device computes what it should.

use std::path::PathBuf;
use std::process::ExitCode;

use diffmoe::pipeline::{Backend, examine_now};

use super::{Outcome, backend_parser};

/// Check the graphics device and print a report, to be sent with a description of wrong images.
///
/// Every kernel runs in both variants on fixed inputs, and a block of a model is compared with the CPU. `sample` and the
/// app do a part of this at the first use of a device and remember the result; this command checks again. The exit
/// code is 1 if something is wrong.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Embedded model, or a safetensors file.
    #[arg(long, value_name = "NAME|FILE", default_value = diffmoe_models::DEFAULT)]
    model: PathBuf,
    /// Where `sample` would compute.
    #[arg(long, value_parser = backend_parser(), default_value = "auto")]
    backend: Backend,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let checkpoint = diffmoe_models::open_any(&arguments.model)?;
    let report = examine_now(arguments.backend, Some(&checkpoint));
    println!("{}", report.text.trim_end());
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
