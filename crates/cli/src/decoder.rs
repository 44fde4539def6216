//! Shared by the commands with image decoders: decoding with a progress bar, and descriptions of decoders.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use diffmoe::checkpoint::{CheckpointError, TensorFile};
use diffmoe::kernels::WeightPrecision;
use diffmoe::pipeline::{Backend, Decoding, LoadedDecoder};
use diffmoe::vae::DecoderFile;
use indicatif::{ProgressBar, ProgressStyle};

use super::Outcome;
use super::numbers::grouped;

/// Opens a decoder for `--vae`.
pub(super) fn open(path: &Path) -> Result<DecoderFile, Box<dyn std::error::Error>> {
    let file = TensorFile::open(path).map_err(|error| match error {
        CheckpointError::Unreadable { .. } | CheckpointError::Malformed { .. } => {
            format!("{error}; `--vae` takes a safetensors file").into()
        }
        other => Box::<dyn std::error::Error>::from(other),
    })?;
    Ok(DecoderFile::from_tensors(file)?)
}

/// A decoder on its device, for latents of one size; decodes any number of them, one batch after the other.
pub(super) struct Ready {
    place: LoadedDecoder,
    size: [usize; 2],
}

impl Ready {
    /// For latents of `size` (height and width).
    pub(super) fn open(
        file: &DecoderFile,
        size: [usize; 2],
        backend: Backend,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let place = LoadedDecoder::open(file, backend, WeightPrecision::F16)?;
        if let Some(note) = place.note() {
            eprintln!("note: {note}");
        }
        Ok(Self { place, size })
    }

    /// Begins with latents `[B, C, height, width]`.
    pub(super) fn begin(&self, latents: Vec<f32>) -> Result<Begun, Box<dyn std::error::Error>> {
        let decoder = self.place.decoder(self.size)?;
        let [_, height, width] = decoder.image_shape();
        let device = decoder.device();
        Ok(Begun { size: [height, width], device, decoding: Decoding::begin(decoder, latents) })
    }
}

/// Latents that are being decoded.
pub(super) struct Begun {
    /// Height and width of the images.
    pub(super) size: [usize; 2],
    /// Description of the device.
    pub(super) device: String,
    decoding: Decoding,
}

impl Begun {
    /// Images `[B, 3, height, width]`; `heard` gets the finished fraction and the number of finished images.
    pub(super) fn finish(
        self,
        heard: impl FnMut(f32, usize),
    ) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        Ok(self.decoding.finish(heard)?)
    }
}

/// Images `[B, 3, height, width]` of latents `[B, C, height, width]`, and their size, with a progress bar.
pub(super) fn decode(
    file: &DecoderFile,
    latents: &[f32],
    size: [usize; 2],
    backend: Backend,
) -> Result<(Vec<f32>, [usize; 2]), Box<dyn std::error::Error>> {
    let begun = Ready::open(file, size, backend)?.begin(latents.to_vec())?;
    let (count, size) = (begun.decoding.count(), begun.size);
    let [height, width] = size;
    eprintln!("decoding {count} images of {width}×{height} on {}", begun.device);
    let bar = ProgressBar::new(1000 * count as u64);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {percent} %, {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let images = begun.finish(|fraction, done| {
        bar.set_position((fraction * 1000.0 * count as f32) as u64);
        bar.set_message(format!("image {} of {count}", count.min(done + 1)));
    })?;
    bar.finish_and_clear();
    Ok((images, size))
}

/// `diffmoe info` for a decoder; nothing where the file is something else.
pub(super) fn describe(path: &Path, list_tensors: bool) -> Option<Outcome> {
    let tensors = TensorFile::open(path).ok()?;
    DecoderFile::kind_of(&tensors)?;
    Some(print(tensors, list_tensors))
}

fn print(tensors: TensorFile, list_tensors: bool) -> Outcome {
    let list = tensors.list();
    let file = DecoderFile::from_tensors(tensors)?;
    println!("{}", file.label());
    let kind = file.kind().name();
    let widths: Vec<_> = file.widths().iter().map(ToString::to_string).collect();
    println!("  architecture  {kind}, decoder; channels {}", widths.join(" → "));
    println!(
        "  latents       {} channels, {} × {} pixels per cell, scaled by {}",
        file.latent_channels(),
        file.factor(),
        file.factor(),
        file.scaling()
    );
    println!("  parameters    {} in the decoder", grouped(file.parameters()));
    for side in [16, 32, 64] {
        let giga = file.multiply_adds([side, side]) as f64 / 1e9;
        let pixels = side * file.factor();
        let memory = file.activation_bytes([side, side]).map_or_else(
            || "too large for a GPU".to_owned(),
            |bytes| {
                format!("{:.0} MiB of feature maps on a GPU", bytes as f64 / f64::from(1 << 20))
            },
        );
        println!("  {pixels:>4} × {pixels:<6} {giga:.1} billion multiply-adds, {memory}");
    }
    let bytes: usize = list.iter().map(|tensor| tensor.bytes).sum();
    println!("  storage       {:.1} MB with all tensors", bytes as f64 / 1e6);
    println!("  use           diffmoe sample --model … --vae {}", file.label());
    if list_tensors {
        for tensor in &list {
            println!("{:<64} {:<5} {:?}", tensor.name, tensor.dtype, tensor.shape);
        }
    }
    Ok(ExitCode::SUCCESS)
}
