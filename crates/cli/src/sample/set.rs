//! `diffmoe sample --set`: many images for evaluation, drawn by any number of processes.
//!
//! The whole set is divided into batches, which are assigned to shards, so image k is in the same batch, and has the
//! same bits on the same kind of device, whatever the number of shards. A batch file exists only when it is complete;
//! running the command again draws what is missing.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use diffmoe::model::{Config, Kind};
use diffmoe::pixels;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::Outcome;
use super::super::batches::{Batches, Device};
use super::super::decoder::Ready;
use super::super::image_set::{self, BatchFile, Header};
use super::{Arguments, Request};

pub(super) fn draw(arguments: &Arguments, request: &Request, folder: &Path) -> Outcome {
    let Request { checkpoint, vae, settings, .. } = request;
    let (config, count) = (checkpoint.config(), settings.images());
    std::fs::create_dir_all(folder)
        .map_err(|e| format!("cannot create the folder {}: {e}", folder.display()))?;
    let mut header = whole(arguments, request)?;
    let batches: Vec<_> = arguments.shard.batches(count, request.batch).collect();
    let all = batches.len();
    let mut left = Vec::new();
    check_others(folder, &header)?;
    for images in batches {
        header = header.part(request, &images);
        if !is_finished(folder, &header)? {
            left.push(images);
        }
    }
    if left.len() < all {
        eprintln!("{} of {all} batches exist already", all - left.len());
    }
    if left.is_empty() {
        println!("shard {} of {} is complete", arguments.shard, folder.display());
        return Ok(ExitCode::SUCCESS);
    }

    let started = Instant::now();
    let drawn: usize = left.iter().map(ExactSizeIterator::len).sum();
    let place =
        Device { backend: arguments.backend, weights: request.weights, math: arguments.cpu_math };
    let mut painter = Batches::open(checkpoint, settings, place, drawn)?;
    header.device = painter.device();
    let backend = arguments.backend;
    let ready =
        vae.as_ref().map(|file| Ready::open(file, config.input_size, backend)).transpose()?;
    let computes = header.device.clone();
    let mut sum = 0.0;
    for images in left {
        let batch = painter.draw(images.clone())?;
        let (pixels, size) = match &ready {
            Some(decoder) => {
                let begun = decoder.begin(batch.samples)?;
                header.device = format!("{computes}; decoder on {}", begun.device);
                let size = begun.size;
                (begun.finish(|_, _| {})?, size)
            }
            None => (batch.samples, config.input_size),
        };
        let capacity = batch.trace.capacity().map(|_| batch.trace.capacity_by_image());
        sum += capacity.iter().flatten().map(|&c| f64::from(c)).sum::<f64>();
        header = header.part(request, &images);
        let bytes = pixels::rgb(&pixels, size);
        image_set::write(folder, &header, size, &bytes, capacity.as_deref())?;
    }
    drop(painter);
    println!(
        "drew {drawn} images of shard {} into {} in {:.1} s",
        arguments.shard,
        folder.display(),
        started.elapsed().as_secs_f32()
    );
    if config.kind == Kind::DiffMoe {
        println!("capacity C = {:.3} over the conditional passes", sum / drawn as f64);
    }
    Ok(ExitCode::SUCCESS)
}

impl Header {
    /// The same for some of the images.
    fn part(self, request: &Request, images: &std::ops::Range<usize>) -> Self {
        let part = request.settings.part(images.clone());
        let (first, images) = (images.start, images.len());
        Self { first, images, labels: part.labels, prompts: part.prompts, ..self }
    }
}

/// The header that all batches of a set share.
fn whole(arguments: &Arguments, request: &Request) -> Result<Header, Box<dyn std::error::Error>> {
    let Request { checkpoint, vae, settings, .. } = request;
    let config = checkpoint.config();
    let scheduler = settings.sampling.scheduler;
    let options: serde_json::Map<_, _> = scheduler
        .options()
        .filter(|(option, _)| option.applies(config.objective))
        .map(|(option, value)| (option.name.to_owned(), json!(option.format(value))))
        .collect();
    let mut all = json!({
        "model": config.name,
        "weights_sha256": fingerprint(checkpoint.files()),
        "seed": settings.sampling.seed,
        "batch": request.batch,
        "steps": settings.sampling.steps,
        "guidance": settings.sampling.guidance,
        "solver": scheduler.name(),
        "solver_options": options,
        "routing": settings.sampling.routing.rule.name(),
        "gamma": settings.sampling.routing.gamma,
        "threshold_shift": settings.sampling.routing.shift,
        "negative": settings.sampling.negative,
    });
    if settings.sampling.variation_strength != 0.0 {
        all["variation_seed"] = json!(settings.sampling.variation_seed);
        all["variation_strength"] = json!(settings.sampling.variation_strength);
    }
    if settings.mix.iter().any(Option::is_some) {
        all["mix"] = json!(settings.mix);
        all["mix_strength"] = json!(settings.sampling.mix_strength);
    }
    // Left out where it is the whole way, as in sets of earlier versions.
    if !settings.sampling.guidance_interval.is_whole() {
        all["guidance_interval"] = json!(settings.sampling.guidance_interval.to_string());
    }
    // Likewise.
    if !settings.sampling.cycle_spin.is_off() {
        all["cycle_spin"] = json!(settings.sampling.cycle_spin.to_string());
    }
    if settings.sampling.routing.log_odds != 0.0 {
        all["log_odds"] = json!(settings.sampling.routing.log_odds);
    }
    if !settings.sampling.shifts.is_empty() {
        all["shifts"] = json!(settings.sampling.shifts.to_string());
    }
    if !settings.sampling.muted.is_empty() {
        all["muted"] = json!(settings.sampling.muted.to_string());
    }
    if let (Some(_), Some(path)) = (vae, &arguments.vae) {
        let bytes =
            std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        all["decoder_sha256"] = json!(fingerprint([bytes.as_slice()]));
    }
    let serde_json::Value::Object(known) = all else { return Err("settings are an object".into()) };
    Ok(Header {
        format: 1,
        first: 0,
        images: 0,
        count: settings.images(),
        settings: known,
        tables: tables(config),
        labels: Vec::new(),
        prompts: Vec::new(),
        device: String::new(),
    })
}

fn tables(config: &Config) -> Vec<String> {
    config.labels.iter().map(|table| table.name.clone()).collect()
}

fn fingerprint<'a>(files: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    files.into_iter().for_each(|file| hash.update(file));
    let digits =
        |byte: &u8| [byte >> 4, byte & 15].map(|d| char::from(b"0123456789abcdef"[d as usize]));
    hash.finalize().iter().flat_map(digits).collect()
}

/// Rejects a folder with images of another set.
fn check_others(folder: &Path, expected: &Header) -> Result<(), String> {
    for path in image_set::list(folder)? {
        // What is damaged is drawn again by the shard it belongs to.
        let Ok(found) = BatchFile::open(&path) else { continue };
        if let Some(difference) = expected.difference(&found.header) {
            return Err(format!(
                "{} contains images of another set ({difference}); choose another folder or \
                    the settings of that set",
                folder.display()
            ));
        }
        // A set may grow, but a part of a larger set would never be complete.
        let (there, asked) = (found.header.count, expected.count);
        if there > asked {
            return Err(format!(
                "{} contains a set of {there} images; use --count {there}, or another folder for {asked}",
                folder.display()
            ));
        }
    }
    Ok(())
}

/// Whether a batch is there and whole.
fn is_finished(folder: &Path, expected: &Header) -> Result<bool, String> {
    let path = image_set::path(folder, expected.first);
    if !path.exists() {
        return Ok(false);
    }
    let found = match BatchFile::open(&path) {
        Ok(found) => found.header,
        Err(reason) => {
            eprintln!("note: {} will be drawn again: {reason}", path.display());
            return Ok(false);
        }
    };
    // A set that grows: its last batch has more images now.
    if found.images != expected.images {
        return Ok(false);
    }
    if (&found.labels, &found.prompts) != (&expected.labels, &expected.prompts) {
        return Err(format!(
            "{} has other classes or prompts; choose another folder or the settings of that set",
            path.display()
        ));
    }
    Ok(true)
}
