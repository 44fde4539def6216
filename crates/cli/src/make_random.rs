//! `diffmoe make-random`: a model of one of the paper's sizes with random weights, for measurements.

use std::path::PathBuf;
use std::process::ExitCode;

use diffmoe::checkpoint::{random_tensor, write_model};
use diffmoe::model::{Preset, Storage, TensorSpec, file_bytes};
use indicatif::ProgressBar;

use super::Outcome;
use super::convert::DtypeName;
use super::output::Output;

/// Write a model of one of the paper's sizes with random weights, for measurements; its images are noise.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Size, such as S-E16, L-E8, dense-XL-ddpm, tc-B-E16.
    #[arg(value_name = "PRESET")]
    preset: Preset,
    /// Height and width of a sample in latent cells, instead of the paper's.
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = super::size)]
    size: Option<[usize; 2]>,
    /// Model file to write, or the stem of its parts.
    #[arg(short, long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Format of large matrices.
    #[arg(long, value_enum, default_value = "f16")]
    dtype: DtypeName,
    /// Write parts of about this size and an index; open the model through the index.
    #[arg(long, value_name = "MB")]
    part_mb: Option<u64>,
    /// Seed of the weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let storage: Storage = arguments.dtype.into();
    let preset = match arguments.size {
        Some(size) => arguments.preset.of_size(size)?,
        None => arguments.preset,
    };
    let config = preset.config();
    if arguments.part_mb == Some(0) {
        return Err("part size must be at least 1 MB, got 0".into());
    }
    let tensors = config.stored_tensors();
    let bar = ProgressBar::new(tensors.len() as u64);
    let read = |spec: &TensorSpec| {
        bar.inc(1);
        Ok(random_tensor(&config, spec, arguments.seed))
    };
    let part_bytes = arguments.part_mb.map(|mb| mb.saturating_mul(1_000_000));
    let text = preset.to_json();
    let path = if part_bytes.is_some() {
        // Puts its files in place itself, when all of them are whole.
        write_model(&arguments.out, &text, &tensors, storage, part_bytes, &read)?
    } else {
        let out = Output::reserve(&arguments.out)?;
        out.write(|part| write_model(part, &text, &tensors, storage, None, &read).map(drop))?;
        arguments.out.clone()
    };
    bar.finish_and_clear();
    println!(
        "wrote {}: {} with random weights, {:.1} MB",
        path.display(),
        config.name,
        file_bytes(&config, storage) as f64 / 1e6
    );
    Ok(ExitCode::SUCCESS)
}
