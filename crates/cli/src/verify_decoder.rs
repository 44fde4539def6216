//! `diffmoe verify` for an image decoder: every recorded layer in the order of the computation, so that
//! the first failure is where the error begins.

use std::path::Path;
use std::process::ExitCode;

use diffmoe::engine::Taps;
use diffmoe::kernels::WeightPrecision;
use diffmoe::pipeline::{Backend, LoadedDecoder};
use diffmoe::vae::DecoderFile;
use safetensors::SafeTensors;

use super::Outcome;
use super::report::{Report, record};

/// Compares a decoder's layers and images with the recorded ones, from the latents `z` `[B, C, h, w]`.
pub(super) fn run(
    folder: &Path,
    io: &SafeTensors<'_>,
    backend: Backend,
    tolerance: f32,
) -> Outcome {
    let file = DecoderFile::open(&folder.join("model.safetensors"))?;
    let z = record(io, "z")?;
    let (size, len) = match *z.shape {
        [batch, c, h, w] if c == file.latent_channels() && batch * h * w > 0 => ([h, w], c * h * w),
        _ => {
            let c = file.latent_channels();
            return Err(format!("z has shape {:?}, expected [B, {c}, h, w]", z.shape).into());
        }
    };
    let place = LoadedDecoder::open(&file, backend, WeightPrecision::F32)?;
    if let Some(note) = place.note() {
        eprintln!("note: {note}");
    }
    let mut decoder = place.decoder(size)?;
    println!("{} on {}", folder.display(), decoder.device());
    // One latent at a time; their layers are put together again.
    let mut all: Taps = Vec::new();
    for latent in z.values.chunks_exact(len) {
        for (i, (name, shape, values)) in decoder.decode_with_taps(latent)?.into_iter().enumerate()
        {
            if let Some((_, shape, before)) = all.get_mut(i) {
                shape[0] += 1;
                before.extend(values);
            } else {
                all.push((name, [&[1], &shape[..]].concat(), values));
            }
        }
    }
    let mut report = Report::new(tolerance);
    for (name, shape, values) in &all {
        if io.tensor(name).is_ok() {
            report.compare(name, &record(io, name)?, shape, values);
        }
    }
    let known = |name: &&str| *name == "z" || all.iter().any(|(tap, ..)| tap == name);
    let untested: Vec<_> = io.names().into_iter().filter(|name| !known(name)).collect();
    if !untested.is_empty() {
        println!("no results for: {}", untested.join(", "));
    }
    let failed = report.finish()?;
    Ok(ExitCode::from(u8::from(failed)))
}
