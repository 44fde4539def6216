//! Commands, their help, and the one place where errors become exit codes:
//! 0 is success, 1 a verification that found differences, 2 a request that could not be carried out.

mod bench;
mod convert;
mod info;
mod make_random;
mod model_file;
mod output;
mod picture;
mod sample;
mod solver_options;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use diffmoe::sampler::Backend;

/// What a command returns: an exit code, or an error that becomes one sentence on stderr.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// Generate images with DiffMoE diffusion transformers, and see which expert works on which token.
///
/// Start with `diffmoe sample`: it draws sixteen pictures with the embedded model, on the GPU if there is one,
/// and writes one PNG.
#[derive(Parser)]
#[command(name = "diffmoe", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Sample(sample::Arguments),
    Verify(verify::Arguments),
    Info(info::Arguments),
    Bench(bench::Arguments),
    Convert(convert::Arguments),
    MakeRandom(make_random::Arguments),
}

/// Where to compute.
#[derive(Clone, Copy, clap::ValueEnum)]
enum BackendName {
    /// A real GPU if there is one, else the CPU.
    Auto,
    /// Any wgpu adapter, software adapters such as lavapipe included.
    Gpu,
    /// The processor.
    Cpu,
}

impl From<BackendName> for Backend {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Auto => Self::Auto,
            BackendName::Gpu => Self::Gpu,
            BackendName::Cpu => Self::Cpu,
        }
    }
}

/// Runs the tool and returns its exit code.
pub(crate) fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Sample(arguments) => sample::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::MakeRandom(arguments) => make_random::run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}
