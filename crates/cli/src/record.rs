//! `diffmoe record`: a short run as a small file, to explore without the model.

use std::path::PathBuf;
use std::process::ExitCode;

use diffmoe::engine::WeightChoice;
use diffmoe::pipeline::{Backend, Pipeline, Recipe, Recording, RunState, Settings};

use super::checksum::short_hash;
use super::output::Output;
use super::{Outcome, backend_parser};

/// Record a run for the page, which shows it while the model is downloaded.
///
/// The settings are the model's defaults; the labels are random rows from the seed. The file contains as many of the
/// images as its size allows, with the router's scores, rounded.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  diffmoe record --model emoji --seed 7 --out assets/emoji.recording")]
pub(super) struct Arguments {
    /// Embedded model, or a safetensors file: a DiffMoE flow model that makes pixels.
    #[arg(long, value_name = "NAME|FILE", default_value = diffmoe_models::DEFAULT)]
    model: PathBuf,
    /// Seed of the noise and of the labels.
    #[arg(long)]
    seed: u64,
    /// Images of the run; fewer are recorded if not all fit.
    #[arg(long, default_value_t = 4)]
    count: usize,
    /// Denoising steps. Default: the model's.
    #[arg(long)]
    steps: Option<u32>,
    /// Maximum size of the file.
    #[arg(long, value_name = "BYTES", default_value_t = 150_000)]
    most: usize,
    /// Where to compute.
    #[arg(long, value_parser = backend_parser(), default_value = "cpu")]
    backend: Backend,
    /// File to write.
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let checkpoint = diffmoe_models::open_any(&arguments.model)?;
    let config = checkpoint.config();
    if !(1..=16).contains(&arguments.count) {
        return Err(format!("count must be 1–16, got {}", arguments.count).into());
    }
    let settings = Settings::builder(config).images(arguments.count).seed(arguments.seed);
    let settings = match arguments.steps {
        Some(steps) => settings.steps(steps),
        None => settings,
    };
    let settings = settings.record_scores(true).build()?;
    let recipe = Recipe {
        model: Some(arguments.model.to_string_lossy().into_owned()),
        hash: Some(short_hash(&checkpoint)),
        ..Recipe::of(&settings, config)
    };
    let out = Output::reserve(&arguments.out)?;
    let pipeline = Pipeline::open(&checkpoint, arguments.backend, WeightChoice::Auto)?;
    let mut samples = vec![RunState::start(config, &settings, 0).latent];
    let names = settings.names(config);
    let mut run = pipeline.start(settings)?;
    while !run.is_finished() {
        run.advance_with(usize::MAX, |snapshot| samples.push(snapshot.latent.clone()))?;
    }
    // The most images that fit.
    for images in (1..=arguments.count).rev() {
        let recording = Recording::of_run(recipe.clone(), config, &samples, run.trace(), images)?;
        let bytes = recording.to_bytes();
        if bytes.len() > arguments.most {
            continue;
        }
        out.write(|part| std::fs::write(part, &bytes))?;
        println!(
            "wrote {}: {images} of {} images, {} bytes ({})",
            arguments.out.display(),
            arguments.count,
            bytes.len(),
            names[..images].join("; ")
        );
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!(
        "one image takes more than {} bytes: allow --most more, or fewer --steps",
        arguments.most
    )
    .into())
}
