//! `diffmoe atlas`: which expert works on which label at which noise level, measured over many images.

mod log;
mod report;
mod survey;

use std::path::{Path, PathBuf};
use std::time::Instant;

use diffmoe::engine::CpuMath;
use diffmoe::pipeline::{Backend, SurveyBatch};
use diffmoe::trace::atlas::Atlas;

use super::batches::{Batches, Device};
use super::output::Output;
use super::scheduler_options::SchedulerOptions;
use super::{Outcome, WeightsName, backend_parser};
use log::Log;
use survey::Planned;

/// Measure which expert works on which label at which noise level, and which labels need most compute.
///
/// Draws images of many labels and counts the tokens that each expert takes from each label, by layer and noise level.
/// For comparison, the same is computed with labels assigned to the images at random. Explore shows the result under
/// Labels. The same command resumes an interrupted survey.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  diffmoe atlas emoji
  diffmoe atlas eurosat --seeds 30 --out eurosat.atlas.json
  diffmoe atlas emoji --class fox,ghost,pizza --style noto,fluent3d --seeds 4 --out few.atlas.json
  diffmoe atlas my-model.safetensors --labels 200
  diffmoe atlas emoji --csv > emoji.csv")]
pub(super) struct Arguments {
    /// Embedded model, or a safetensors file; with --csv also an atlas.
    #[arg(value_name = "NAME|FILE")]
    model: PathBuf,
    /// Labels to draw, by name or number. Default: some of them, evenly spread over the model's list.
    #[arg(long, value_name = "NAME|NUMBER", value_delimiter = ',')]
    class: Vec<String>,
    /// Drawing styles, for models with styles; like `--class`. Every label is drawn in every style.
    #[arg(long, value_name = "NAME|NUMBER", value_delimiter = ',')]
    style: Vec<String>,
    /// Prompt, for text-conditioned models; repeat the option for several. Default: the model's examples.
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Number of labels to draw if none are named.
    #[arg(long, default_value_t = 48)]
    labels: usize,
    /// Images of each label, or of each label in each style. Default: about 24 per label, at least one per
    /// combination.
    #[arg(long)]
    seeds: Option<usize>,
    /// Seed of the noise; every image has its own.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Denoising steps.
    #[arg(long, default_value_t = 8)]
    steps: u32,
    /// Guidance scale: 1 switches it off. Default: the model's.
    #[arg(long, visible_alias = "cfg", value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Scheduler; here the default is euler for flow models and ddim for DDPM models.
    #[command(flatten)]
    scheduler: SchedulerOptions,
    /// Batch size: images that share one pass through the model.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Where to compute.
    #[arg(long, value_parser = backend_parser(), default_value = "auto")]
    backend: Backend,
    /// Format of large matrices on a GPU; sums are always f32.
    #[arg(long, value_enum, default_value = "auto")]
    weights: WeightsName,
    /// Atlas to write. Default: MODEL.atlas.json, beside the model file.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Print an existing atlas as CSV instead of measuring one: a line for each label, noise level, layer and expert.
    #[arg(long)]
    csv: bool,
}

impl Arguments {
    /// Where the atlas goes.
    fn path(&self) -> PathBuf {
        let embedded = self.model.to_str().filter(|name| diffmoe_models::bytes(name).is_some());
        let beside = || match embedded {
            Some(name) => PathBuf::from(format!("{name}.atlas.json")),
            None => self.model.with_extension("atlas.json"),
        };
        self.out.clone().unwrap_or_else(beside)
    }
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    if arguments.csv {
        return report::print(&existing(arguments)?.to_csv());
    }
    let planned = Planned::read(arguments)?;
    let path = arguments.path();
    if let Some(atlas) = finished(&path, &planned) {
        println!("{} is complete", path.display());
        return report::print(&report::summary(&atlas));
    }
    let out = Output::reserve(&path)?;
    let started = Instant::now();
    let (mut log, mut batches) = Log::open(&path, &planned)?;
    let (there, images) = (drawn(&batches), planned.survey.images());
    if there > 0 {
        eprintln!("{there} of {images} images are there already");
    }
    if there < images {
        draw(arguments, &planned, &mut log, &mut batches)?;
    }
    let Planned { checkpoint, survey, hash } = planned;
    let atlas = survey.atlas(checkpoint.config(), hash, batches);
    let text = atlas.to_json()?;
    out.write(|part| std::fs::write(part, &text))?;
    log.remove();
    let seconds = started.elapsed().as_secs_f32();
    println!("wrote {}, {} bytes, in {seconds:.1} s", path.display(), text.len());
    report::print(&report::summary(&atlas))
}

/// Images that are drawn.
fn drawn(batches: &[SurveyBatch]) -> usize {
    batches.iter().map(SurveyBatch::images).sum()
}

/// Draws what is missing; every batch is kept as soon as it is there.
fn draw(
    arguments: &Arguments,
    planned: &Planned,
    log: &mut Log,
    batches: &mut Vec<SurveyBatch>,
) -> Result<(), Box<dyn std::error::Error>> {
    let Planned { checkpoint, survey, .. } = planned;
    let (config, images) = (checkpoint.config(), survey.images());
    let place = Device {
        backend: arguments.backend,
        weights: arguments.weights.into(),
        math: CpuMath::F32,
    };
    let mut first = drawn(batches);
    let mut device = Batches::open(checkpoint, survey.settings(), place, images - first)?;
    while first < images {
        let drawn = device.draw(first..images.min(first + arguments.batch))?;
        let batch = survey.batch(config, first, &drawn.samples, &drawn.trace);
        log.append(first, &batch)?;
        first += batch.images();
        batches.push(batch);
    }
    Ok(())
}

/// The atlas that is asked for, where it is there already.
fn finished(path: &Path, planned: &Planned) -> Option<Atlas> {
    let atlas = Atlas::from_json(&std::fs::read(path).ok()?).ok()?;
    planned.survey.describes(&atlas, &planned.hash).then_some(atlas)
}

/// An atlas by its own path, beside its model, or embedded.
fn existing(arguments: &Arguments) -> Result<Atlas, String> {
    let model = &arguments.model;
    let is_atlas = model.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let path = if is_atlas { model.to_owned() } else { arguments.path() };
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => match model.to_str().and_then(diffmoe_models::atlas) {
            Some(bytes) => bytes.to_vec(),
            None => {
                return Err(format!(
                    "cannot read {}: {error}; measure it with `diffmoe atlas {}`",
                    path.display(),
                    model.display()
                ));
            }
        },
    };
    Atlas::from_json(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}
