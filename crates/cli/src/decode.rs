//! `diffmoe decode`: latents in a file to an image file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use diffmoe::checkpoint::TensorFile;
use diffmoe::pipeline::Backend;
use diffmoe::pixels;

use super::output::Output;
use super::{Outcome, backend_parser, decoder};

/// Decode latents to images and write them as one PNG.
///
/// The file contains latents as sampled by a model, [B, C, height, width], in a tensor named `latents` or `z`, or in
/// its only tensor.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  diffmoe sample --model latent-model.safetensors --latents z.safetensors --vae vae.safetensors
  diffmoe decode z.safetensors --vae another-vae.safetensors --out again.png")]
pub(super) struct Arguments {
    /// Safetensors file with the latents.
    #[arg(value_name = "LATENTS")]
    latents: PathBuf,
    /// Image decoder: a safetensors file of diffusers with an AutoencoderKL or an AutoencoderTiny (TAESD).
    #[arg(long, value_name = "FILE")]
    vae: PathBuf,
    /// Image file to write.
    #[arg(long, short, value_name = "FILE.png", default_value = "decoded.png")]
    out: PathBuf,
    /// Where to compute.
    #[arg(long, value_parser = backend_parser(), default_value = "auto")]
    pub(super) backend: Backend,
    /// Integer factor by which images are enlarged.
    #[arg(long, default_value_t = 1)]
    scale: u32,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    if !(1..=64).contains(&arguments.scale) {
        let scale = arguments.scale;
        return Err(format!("scale must be 1–64, got {scale}").into());
    }
    if arguments.out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        let path = arguments.out.display();
        return Err(format!("{path} must end in .png").into());
    }
    let file = decoder::open(&arguments.vae)?;
    let (latents, size) = read(&TensorFile::open(&arguments.latents)?, file.latent_channels())?;
    let count = latents.len() / (file.latent_channels() * size[0] * size[1]);
    let extent = size.map(|side| side.saturating_mul(file.factor()));
    pixels::grid_extent(count, extent, Some(arguments.scale))?;
    let out = Output::reserve(&arguments.out)?;
    let started = Instant::now();
    let backend = arguments.backend;
    let (images, size) = decoder::decode(&file, &latents, size, backend)?;
    let grid = pixels::grid(&images, size, Some(arguments.scale));
    out.write(|part| grid.save(part))?;
    println!("wrote {} in {:.1} s", arguments.out.display(), started.elapsed().as_secs_f32());
    Ok(ExitCode::SUCCESS)
}

/// The latents in a file, and their height and width.
fn read(
    file: &TensorFile,
    channels: usize,
) -> Result<(Vec<f32>, [usize; 2]), Box<dyn std::error::Error>> {
    let names: Vec<&str> = file.names().collect();
    let name = match names.as_slice() {
        [only] => *only,
        names => names
            .iter()
            .copied()
            .find(|name| ["latents", "z"].contains(name))
            .ok_or_else(|| format!("{} has no tensor \"latents\"", file.label()))?,
    };
    let shape = file.shape(name)?;
    match *shape {
        [batch, c, height, width] if c == channels && batch > 0 && height > 0 && width > 0 => {
            Ok((file.read(name)?, [height, width]))
        }
        _ => Err(format!(
            "{name} in {} has shape {shape:?}; this decoder expects [B, {channels}, height, \
                width]",
            file.label()
        )
        .into()),
    }
}
