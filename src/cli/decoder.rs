//! What the commands that know image decoders share: decoding with a progress bar, and their descriptions.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use diffmoe::checkpoint::{CheckpointError, TensorFile};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::Progress;
use diffmoe::sampler::{Backend, OpenDecoder};
use diffmoe::vae::{Decoder, DecoderFile, DecoderKind};
use indicatif::{ProgressBar, ProgressStyle};

use super::Outcome;

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

/// Pixels along a side of a picture: a decoder of full size takes 8 GiB for this.
const MOST_SIDE: usize = 2048;

/// A decoder on its device, for latents of one size.
pub(super) struct Ready {
    decoder: Box<dyn Decoder>,
}

impl Ready {
    /// For latents of `size` (height and width).
    pub(super) fn open(
        file: &DecoderFile,
        size: [usize; 2],
        backend: Backend,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let [height, width] = size.map(|n| n.saturating_mul(file.factor()));
        if height.max(width) > MOST_SIDE {
            return Err(format!(
                "these latents make pictures of {width} × {height}, which take gigabytes to decode; \
                 {MOST_SIDE} pixels along a side are the most"
            )
            .into());
        }
        let place = OpenDecoder::open(file, backend, WeightPrecision::F16)?;
        if let Some(note) = place.note() {
            eprintln!("note: {note}");
        }
        Ok(Self { decoder: place.decoder(size)? })
    }

    /// What computes, for people.
    pub(super) fn device(&self) -> String {
        self.decoder.device()
    }

    /// Height and width of its pictures.
    pub(super) fn size(&self) -> [usize; 2] {
        let [_, height, width] = self.decoder.picture_shape();
        [height, width]
    }

    /// Number of pictures in these latents.
    fn count(&self, latents: &[f32]) -> usize {
        latents.len() / self.decoder.latent_shape().iter().product::<usize>()
    }

    /// Pictures `[B, 3, height, width]` of latents `[B, C, height, width]`; `on_picture` is called after each.
    pub(super) fn pictures(
        &mut self,
        latents: &[f32],
        mut on_picture: impl FnMut(),
    ) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        /// Units between two looks at what is finished.
        const BUDGET: usize = 32;
        let mut left = self.count(latents);
        self.decoder.begin(latents);
        let mut pictures = Vec::new();
        while left > 0 {
            if self.decoder.advance(BUDGET)? != Progress::Working {
                self.decoder.wait()?;
            }
            while let Some(picture) = self.decoder.take() {
                pictures.extend(picture);
                on_picture();
                left -= 1;
            }
        }
        if pictures.iter().any(|v| !v.is_finite()) {
            return Err(
                "the decoder produced numbers that are not finite; check that the latents \
                belong to this decoder"
                    .into(),
            );
        }
        Ok(pictures)
    }
}

/// Pictures `[B, 3, height, width]` of latents `[B, C, height, width]`, and their size, with a bar that moves once
/// a picture.
pub(super) fn decode(
    file: &DecoderFile,
    latents: &[f32],
    size: [usize; 2],
    backend: Backend,
) -> Result<(Vec<f32>, [usize; 2]), Box<dyn std::error::Error>> {
    let mut ready = Ready::open(file, size, backend)?;
    let (count, size) = (ready.count(latents), ready.size());
    let [height, width] = size;
    eprintln!("decoding {count} pictures of {width}×{height} on {}", ready.device());
    let bar = ProgressBar::new(count as u64);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} picture {pos}/{len}, {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let pictures = ready.pictures(latents, || bar.inc(1))?;
    bar.finish_and_clear();
    Ok((pictures, size))
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
    let kind = match file.kind() {
        DecoderKind::Kl => "AutoencoderKL",
        DecoderKind::Tiny => "AutoencoderTiny",
    };
    let widths: Vec<_> = file.widths().iter().map(ToString::to_string).collect();
    println!("  architecture  {kind}, decoder; channels {}", widths.join(" → "));
    println!(
        "  latents       {} channels, {} × {} pixels for each cell, scaled by {}",
        file.latent_channels(),
        file.factor(),
        file.factor(),
        file.scaling()
    );
    println!("  parameters    {} in the decoder", super::info::grouped(file.parameters()));
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
    println!("  storage       {:.1} MB with all its tensors", bytes as f64 / 1e6);
    println!("  use           diffmoe sample --model … --vae {}", file.label());
    if list_tensors {
        for tensor in &list {
            println!("{:<64} {:<5} {:?}", tensor.name, tensor.dtype, tensor.shape);
        }
    }
    Ok(ExitCode::SUCCESS)
}
