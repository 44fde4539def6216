//! `diffmoe atlas`: which expert works on which label at which noise level, measured over many images.

mod log;
mod report;
mod sweep;
mod thumbnails;

use std::path::{Path, PathBuf};
use std::time::Instant;

use diffmoe::pipeline::Backend;
use diffmoe::trace::atlas::{Atlas, ImageCounts};

use super::batches::Batches;
use super::output::Output;
use super::scheduler_options::SchedulerOptions;
use super::{Outcome, WeightsName, backend_parser};
use log::{Line, Log};
use sweep::Sweep;

/// Measure which expert works on which label at which noise level, and which labels need most compute.
///
/// Draws images of many labels and counts the tokens that each expert takes of each label, by layer and noise level;
/// beside it stands what the same counts give when labels are dealt out at random. Explore shows the result under
/// Labels. A sweep that was interrupted goes on where it was when the same command is given again.
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
    /// Drawing styles, for models that know styles; as `--class`. Every label is drawn in every style.
    #[arg(long, value_name = "NAME|NUMBER", value_delimiter = ',')]
    style: Vec<String>,
    /// Prompts, for models that read text; give it several times. Default: the model's examples.
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Labels that are drawn where none are named.
    #[arg(long, default_value_t = 48)]
    labels: usize,
    /// Images of each label, or of each label in each style. Default: about 24 of a label, at least one of each
    /// combination.
    #[arg(long)]
    seeds: Option<usize>,
    /// Seed of the noise; every image has its own.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Denoising steps.
    #[arg(long, default_value_t = 8)]
    steps: u32,
    /// Guidance scale: 1 is none. Default: the model's.
    #[arg(long, visible_alias = "cfg", value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// How to get from noise to data; here the default is the plainest scheduler, euler or ddim.
    #[command(flatten)]
    scheduler: SchedulerOptions,
    /// Images that share one pass through the model.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Where to compute.
    #[arg(long, value_parser = backend_parser(), default_value = "auto")]
    backend: Backend,
    /// What large matrices are on a graphics device; sums are f32 in any case.
    #[arg(long, value_enum, default_value = "auto")]
    weights: WeightsName,
    /// The atlas. Default: MODEL.atlas.json, beside a model file.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Measure nothing: print an atlas that is there already, a line for each label, noise level, layer and expert.
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
    let sweep = Sweep::read(arguments)?;
    let path = arguments.path();
    if let Some(atlas) = finished(&path, &sweep) {
        println!("{} is complete", path.display());
        return report::print(&report::summary(&atlas));
    }
    let out = Output::reserve(&path)?;
    let started = Instant::now();
    let (mut log, mut lines) = Log::open(&path, &sweep)?;
    let images = sweep.plan.images();
    if !lines.is_empty() {
        eprintln!("{} of {images} images are there already", lines.len());
    }
    if lines.len() < images {
        draw(arguments, &sweep, &mut log, &mut lines)?;
    }
    let (counts, small): (Vec<ImageCounts>, Vec<_>) =
        lines.into_iter().map(|line| (line.counts, line.small)).unzip();
    let mut atlas = Atlas::measure(sweep.about(), &sweep.plan, &counts);
    atlas.thumbnails = thumbnails::sheet(sweep.checkpoint.config(), &small);
    let text = atlas.to_json()?;
    out.write(|part| std::fs::write(part, &text))?;
    log.remove();
    let seconds = started.elapsed().as_secs_f32();
    println!("wrote {}, {} bytes, in {seconds:.1} s", path.display(), text.len());
    report::print(&report::summary(&atlas))
}

/// Draws what is missing; every batch is kept as soon as it is there.
fn draw(
    arguments: &Arguments,
    sweep: &Sweep,
    log: &mut Log,
    lines: &mut Vec<Line>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (config, images) = (sweep.checkpoint.config(), sweep.plan.images());
    let place = (arguments.backend, arguments.weights.into());
    let left = images - lines.len();
    let mut batches = Batches::open(&sweep.checkpoint, &sweep.settings, place, left)?;
    while lines.len() < images {
        let first = lines.len();
        let drawn = batches.draw(first..images.min(first + arguments.batch))?;
        let samples = drawn.samples.chunks_exact(config.sample_len());
        let batch: Vec<Line> = samples
            .enumerate()
            .map(|(i, sample)| Line {
                image: first + i,
                counts: ImageCounts::of(&drawn.trace, i, config.objective),
                small: sweep
                    .is_first_of_label(first + i)
                    .then(|| thumbnails::small(config, sample))
                    .flatten(),
            })
            .collect();
        log.append(&batch)?;
        lines.extend(batch);
    }
    Ok(())
}

/// The atlas that is asked for, where it is there already.
fn finished(path: &Path, sweep: &Sweep) -> Option<Atlas> {
    let atlas = Atlas::from_json(&std::fs::read(path).ok()?).ok()?;
    sweep.describes(&atlas).then_some(atlas)
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
