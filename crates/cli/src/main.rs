//! Commands, their help, and the one place where errors become exit codes:
//! 0 for success, 1 for a verification with differences or a device that computes wrong numbers, 2 for a request that
//! failed.

// First, because its macros replace those of the standard library in all other modules.
#[macro_use]
mod print;

mod atlas;
mod batches;
mod bench;
mod checksum;
mod convert;
mod decode;
mod decoder;
mod doctor;
mod hub;
mod image_set;
mod info;
mod join;
mod labels;
mod make_random;
mod numbers;
mod output;
mod record;
mod refined_source;
mod report;
mod sample;
mod scheduler_options;
mod sweep;
mod trace;
mod training_run;
mod verify;
mod verify_decoder;
mod window;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use diffmoe::engine::{CpuMath, EngineError, WeightChoice};
use diffmoe::gpu::GpuError;
use diffmoe::kernels::WeightPrecision;
use diffmoe::pipeline::{Backend, LoadError};
use scheduler_options::by_name;

/// Result of a command: an exit code, or an error that is printed to stderr.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// Generate images with DiffMoE diffusion transformers, and see which expert works on which token.
///
/// `diffmoe sample` draws sixteen images with the embedded model, on the GPU if there is one, and writes one PNG.
#[derive(Parser)]
#[command(name = "diffmoe", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Sample(Box<sample::Arguments>),
    Sweep(Box<sweep::Arguments>),
    Join(join::Arguments),
    Decode(decode::Arguments),
    Verify(verify::Arguments),
    Info(info::Arguments),
    Trace(trace::Arguments),
    Record(record::Arguments),
    Atlas(Box<atlas::Arguments>),
    Bench(bench::Arguments),
    Doctor(doctor::Arguments),
    Convert(convert::Arguments),
    MakeRandom(make_random::Arguments),
    Window(window::Arguments),
}

/// `--backend`, from the library's table.
fn backend_parser() -> impl clap::builder::TypedValueParser<Value = Backend> {
    by_name(Backend::ALL.iter().map(|backend| (backend.name(), backend.hint())))
}

/// `--cpu-math`, from the library's table.
fn math_parser() -> impl clap::builder::TypedValueParser<Value = CpuMath> {
    by_name(CpuMath::ALL.iter().map(|math| (math.name(), math.hint())))
}

/// Format of large matrices on a GPU; the CPU keeps that of the file.
#[derive(Clone, Copy, clap::ValueEnum)]
enum WeightsName {
    /// As in the file: int4, int8 or f16; f32 becomes f16.
    Auto,
    /// Half a byte per value, and a scale per 32 values.
    Int4,
    /// One byte per value, and a scale per row.
    Int8,
    /// Two bytes per value.
    F16,
    /// Four bytes per value.
    F32,
}

impl From<WeightsName> for WeightChoice {
    fn from(name: WeightsName) -> Self {
        match name {
            WeightsName::Auto => Self::Auto,
            WeightsName::Int4 => WeightPrecision::Int4.into(),
            WeightsName::Int8 => WeightPrecision::Int8.into(),
            WeightsName::F16 => WeightPrecision::F16.into(),
            WeightsName::F32 => WeightPrecision::F32.into(),
        }
    }
}

/// A height and a width, as in `16x24`.
fn size(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once(['x', '×']).map(|(height, width)| [height, width]);
    let sides = sides.and_then(|[h, w]| Some([h.trim().parse().ok()?, w.trim().parse().ok()?]));
    sides.ok_or_else(|| "expected HEIGHTxWIDTH in pixels or latent cells, as in 16x24".to_owned())
}

fn main() -> ExitCode {
    diffmoe::platform::quiet_vulkan();
    let command = Arguments::parse().command;
    let is_on_cpu = command.backend() == Some(Backend::Cpu);
    let outcome = match command {
        Command::Sample(arguments) => sample::run(&arguments),
        Command::Sweep(arguments) => sweep::run(*arguments),
        Command::Join(arguments) => join::run(&arguments),
        Command::Decode(arguments) => decode::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Info(arguments) => info::run(&arguments),
        Command::Trace(arguments) => trace::run(&arguments),
        Command::Record(arguments) => record::run(&arguments),
        Command::Atlas(arguments) => atlas::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::MakeRandom(arguments) => make_random::run(&arguments),
        Command::Window(arguments) => window::run(&arguments),
    };
    match (outcome, print::failure()) {
        (Ok(code), None) => code,
        (Ok(_), Some(error)) => {
            eprintln!("error: cannot write to standard output: {error}");
            ExitCode::from(2)
        }
        (Err(error), _) => {
            let advice = if is_on_cpu { "" } else { advice(&*error) };
            eprintln!("error: {error}{advice}");
            ExitCode::from(2)
        }
    }
}

impl Command {
    /// The chosen backend, for commands with one.
    fn backend(&self) -> Option<Backend> {
        match self {
            Self::Sample(arguments) => Some(arguments.backend),
            Self::Sweep(arguments) => Some(arguments.sample.backend),
            Self::Decode(arguments) => Some(arguments.backend),
            Self::Verify(arguments) => Some(arguments.backend),
            Self::Bench(arguments) => Some(arguments.backend),
            _ => None,
        }
    }
}

/// What to try if a device fails; the library does not know our options.
fn advice(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let of_gpu = |error: &GpuError| match error {
        GpuError::NoAdapter(_) => {
            "; install a GPU driver (or Mesa's lavapipe), or use --backend cpu"
        }
        _ => "; use --backend cpu",
    };
    let of_engine = |error: &EngineError| match error {
        EngineError::DeviceLost(_) | EngineError::Refused(_) => {
            "; start the run again, or use --backend cpu"
        }
        EngineError::TooLarge(_) | EngineError::Unsupported(_) => "; use --backend cpu",
        _ => "",
    };
    if let Some(error) = error.downcast_ref::<LoadError>() {
        return match error {
            LoadError::Gpu(error) => of_gpu(error),
            LoadError::Engine(error) => of_engine(error),
            _ => "",
        };
    }
    if let Some(error) = error.downcast_ref::<EngineError>() {
        return of_engine(error);
    }
    error.downcast_ref::<GpuError>().map_or("", of_gpu)
}
