//! `diffmoe sample`: images as one file, or as a set of many files.

mod init;
mod like;
mod request;
mod set;
mod shard;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use diffmoe::checkpoint::{TensorOut, write_safetensors};
use diffmoe::engine::CpuMath;
use diffmoe::model::{Config, Muted, MutedError, RoutingRule, Shifts};
use diffmoe::pipeline::{Backend, Settings, png_texts};
use diffmoe::pixels;
use diffmoe::scheduler::{CycleSpin, GuidanceInterval};
use diffmoe::trace::Trace;
use diffmoe::vae::DecoderFile;

use super::batches::{Batches, Device};
use super::output::{self, Output};
use super::scheduler_options::{SchedulerOptions, by_name};
use super::{Outcome, WeightsName, backend_parser, decoder, math_parser};
pub(super) use request::Request;
use shard::Shard;

/// Generate images and write them as one PNG.
///
/// Without options: sixteen images of random classes from the embedded model. The seed is printed; the same seed
/// and settings reproduce the image, bit for bit on the same machine. The PNG contains the settings: pass it to --like
/// or drop it on the app to draw the same images again.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  diffmoe sample
  diffmoe sample --class SeaLake,Industrial --count 8 --trace routing.json
  diffmoe sample --model my-text-model.safetensors --prompt \"a robot, fluent 3d\" --negative \"blob\"
  diffmoe sample --gamma 0.3              # lower threshold: more experts for each token
  diffmoe sample --seed 7 --mute 1:3 --trace routing.json --trace-scores
  diffmoe sample --seed 7 --shift 3=1.5,5:2=-2  # block 3 takes fewer tokens, expert 2 of block 5 more
  diffmoe sample --model my-model.safetensors --steps 12 --scheduler dpmpp_2m --seed 7 --out seven.png
  diffmoe sample --like seven.png --guidance 4
  diffmoe sample --class fox --seed 7 --variation-seed 8 --variation-strength 0.2
  diffmoe sample --class fox --mix-class cat --mix-strength 0.4 --seed 7
  diffmoe sample --init-image photo.png --strength 0.5 --class fox --seed 7
  diffmoe sample --set images --count 50000 --seed 0 --routing pool --batch 64 --shard 2/8")]
pub(super) struct Arguments {
    /// Embedded model, or a safetensors file. Default: emoji, or the model of --like.
    #[arg(long, value_name = "NAME|FILE")]
    model: Option<PathBuf>,
    /// Use the settings inside a saved PNG, or those of another program's PNG as far as they apply; other options
    /// override them.
    #[arg(long, value_name = "FILE.png", conflicts_with = "set")]
    like: Option<PathBuf>,
    /// Class to draw, by name or number; several take turns. `any` is the null label;
    /// `varied` draws random classes; `best`, the default, those that the model draws well.
    #[arg(long, value_name = "NAME|NUMBER", value_delimiter = ',')]
    class: Vec<String>,
    /// Drawing style, for models with styles; like `--class`.
    #[arg(long, value_name = "NAME|NUMBER", value_delimiter = ',')]
    style: Vec<String>,
    /// Prompt, for text-conditioned models; repeat the option for several prompts, which take turns.
    /// Default: the model's examples.
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Negative prompt, for text-conditioned models. Needs a guidance scale above 1.
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    /// Seed of the noise and of random classes. Default: a random seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Mix the noise with that of another seed, as much as --variation-strength says.
    #[arg(long, value_name = "SEED", requires = "variation_strength")]
    variation_seed: Option<u64>,
    /// How much of the other seed's noise: 0 none, 1 all of it; small values give variations of an image.
    #[arg(long, value_name = "SHARE", requires = "variation_seed", allow_negative_numbers = true)]
    variation_strength: Option<f32>,
    /// Blend this class into that of every image, as much as --mix-strength says.
    #[arg(long, value_name = "NAME|NUMBER")]
    mix_class: Option<String>,
    /// Blend this drawing style into that of every image, for models with styles.
    #[arg(long, value_name = "NAME|NUMBER")]
    mix_style: Option<String>,
    /// How much of the blended class and style: 0 none, 1 nothing else. Default: 0.5.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    mix_strength: Option<f32>,
    /// Denoising steps. Default: the model's.
    #[arg(long)]
    steps: Option<u32>,
    /// Guidance scale: 1 switches it off, higher values follow the class or prompt more closely. Default: the model's.
    #[arg(long, visible_alias = "cfg", value_name = "SCALE", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Guide only on this part of the way from noise (0) to data (1), from LOW on and before HIGH; elsewhere a step is
    /// half the work. Default: 0,1.
    #[arg(long, value_name = "LOW,HIGH", allow_hyphen_values = true)]
    guidance_interval: Option<GuidanceInterval>,
    /// Average the last predictions over COUNT shifts of the image, from FROM on the way from noise (0) to data (1):
    /// hides the borders of patches, for the time of some more evaluations. 1 switches it off; FROM is 0.85 unless given.
    /// Default: the model's.
    #[arg(long, value_name = "COUNT[,FROM]", allow_hyphen_values = true)]
    cycle_spin: Option<CycleSpin>,
    /// Image to start from: a PNG or JPEG, cut and scaled to the model's size, or latents that --latents wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "set")]
    init_image: Option<PathBuf>,
    /// With --init-image: share of the way from noise to data that is taken, above 0 (the image as it is) to 1 (noise
    /// alone). Default: 0.6, and 1 with --mask.
    #[arg(long, requires = "init_image", allow_negative_numbers = true)]
    strength: Option<f32>,
    /// With --init-image: an image that is white where the image is redrawn and black where it is kept.
    #[arg(long, value_name = "FILE", requires = "init_image")]
    mask: Option<PathBuf>,
    #[command(flatten)]
    scheduler: SchedulerOptions,
    /// Number of images. Default: 16, or four of each given class or prompt.
    #[arg(long)]
    count: Option<usize>,
    /// Batch size: images that share one pass through the model. Default: 16.
    #[arg(long)]
    batch: Option<usize>,
    /// Where to compute.
    #[arg(long, value_parser = backend_parser(), default_value = "auto")]
    pub(super) backend: Backend,
    /// Format of large matrices on a GPU; sums are always f32. Default: auto.
    #[arg(long, value_enum)]
    weights: Option<WeightsName>,
    /// Format of the numbers in large products on the CPU; bf16 and int8 are faster and change images. They select the
    /// CPU.
    #[arg(long, value_parser = math_parser(), default_value = "f32")]
    cpu_math: CpuMath,
    #[arg(long, value_parser = rule_parser(), help = format!("Routing rule. Default: {}", RoutingRule::default()))]
    routing: Option<RoutingRule>,
    /// One threshold for all experts instead of the learned ones, 0 to 1; lower means more compute.
    #[arg(long, value_name = "THRESHOLD", allow_negative_numbers = true)]
    gamma: Option<f32>,
    /// Shift of the learned thresholds, -1 to 1; positive values save compute.
    #[arg(long, value_name = "SHIFT", allow_negative_numbers = true, conflicts_with = "gamma")]
    threshold_shift: Option<f32>,
    /// Shift of all thresholds in log-odds, γ of --gamma included: unlike differences of probabilities these also move
    /// thresholds near 0 and 1. Positive values save compute.
    #[arg(long, value_name = "LOG_ODDS", allow_negative_numbers = true)]
    log_odds: Option<f32>,
    /// Shift of the thresholds of a block, or of one expert in it, in log-odds; separate several by commas or repeat the
    /// option. What-if γ of Explore uses the same shifts.
    #[arg(long, value_name = "BLOCK[:EXPERT]=LOG_ODDS", value_delimiter = ',')]
    shift: Vec<Shifts>,
    /// Expert that takes no tokens, as the index of its block (`diffmoe info` lists those with experts) and its own,
    /// both from 0; separate several by commas or repeat the option.
    #[arg(long, value_name = "BLOCK:EXPERT", value_delimiter = ',', value_parser = muted)]
    mute: Vec<(usize, usize)>,
    /// Expert that works alone in its block: all others there are muted.
    #[arg(long, value_name = "BLOCK:EXPERT", value_delimiter = ',', value_parser = muted)]
    solo: Vec<(usize, usize)>,
    /// Instead of one PNG, write a set of images for evaluation into this folder, one file per batch; existing
    /// batches are skipped (docs/evaluation.md).
    #[arg(
        long,
        value_name = "FOLDER",
        requires_all = ["seed", "count"],
        conflicts_with_all = ["out", "scale", "smooth", "latents", "trace"]
    )]
    set: Option<PathBuf>,
    /// With --set: draw part I of N, so that N processes share the set.
    #[arg(long, value_name = "I/N", default_value = "1/1", requires = "set")]
    shard: Shard,
    /// Image file to write. Default: diffmoe-MODEL-SEED.png.
    #[arg(long, value_name = "FILE.png")]
    pub(super) out: Option<PathBuf>,
    /// Integer factor by which images are enlarged. Default: to at least 128 pixels in a grid.
    #[arg(long)]
    pub(super) scale: Option<u32>,
    /// Enlarge smoothly instead of pixel by pixel.
    #[arg(long)]
    pub(super) smooth: bool,
    /// Image decoder for a model that generates latents: a safetensors file of diffusers with an AutoencoderKL
    /// (such as sd-vae-ft-mse) or an AutoencoderTiny (TAESD).
    #[arg(long, value_name = "FILE")]
    vae: Option<PathBuf>,
    /// Also write the latents, for `diffmoe decode`.
    #[arg(long, value_name = "FILE.safetensors")]
    latents: Option<PathBuf>,
    /// Also write which expert took which token at every step: .json or .safetensors (docs/trace-format.md).
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// With --trace: also write the router's scores; the file becomes tens of times larger.
    #[arg(long, requires = "trace")]
    trace_scores: bool,
}

/// An expert of a block, as in `3:7`.
fn muted(text: &str) -> Result<(usize, usize), MutedError> {
    let muted: Muted = text.parse()?;
    muted.list().first().copied().ok_or_else(|| MutedError::Form(text.to_owned()))
}

/// `--routing`, from the library's table.
fn rule_parser() -> impl clap::builder::TypedValueParser<Value = RoutingRule> {
    by_name(RoutingRule::ALL.iter().map(|rule| (rule.name(), rule.hint())))
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let request = Request::read(arguments)?;
    match &arguments.set {
        Some(folder) => set::draw(arguments, &request, folder),
        None => draw_grid(arguments, &request),
    }
}

/// All images in one PNG.
fn draw_grid(arguments: &Arguments, request: &Request) -> Outcome {
    let Request { checkpoint, vae, settings, batch, scale, .. } = request;
    let config = checkpoint.config();
    check_scale(*scale)?;
    let default_name =
        || PathBuf::from(format!("diffmoe-{}-{}.png", config.name, settings.sampling.seed));
    let path = arguments.out.clone().unwrap_or_else(default_name);
    check_png(&path)?;
    let factor = vae.as_ref().map_or(1, DecoderFile::factor);
    let size = config.input_size.map(|side| side.saturating_mul(factor));
    pixels::grid_extent(request.shown().len(), size, *scale)?;
    check_places(arguments, &path)?;
    let out = Output::reserve(&path)?;
    let trace_out = arguments.trace.as_deref().map(Output::reserve).transpose()?;
    let latents_out = arguments.latents.as_deref().map(Output::reserve).transpose()?;

    let started = Instant::now();
    let images = request.drawn();
    let place =
        Device { backend: arguments.backend, weights: request.weights, math: arguments.cpu_math };
    let mut batches = Batches::open(checkpoint, settings, place, images.len())?;
    let mut samples = Vec::new();
    let mut capacity = Capacity::default();
    let mut trace: Option<Trace> = None;
    for first in images.clone().step_by(*batch) {
        let drawn = batches.draw(first..images.end.min(first + batch))?;
        samples.extend(drawn.samples);
        capacity.add(&drawn.trace);
        match &mut trace {
            // The traces of many batches need more memory than their images.
            _ if trace_out.is_none() => {}
            None => trace = Some(drawn.trace),
            Some(trace) => trace.append_batch(drawn.trace),
        }
    }
    // The model's memory is free for the decoder.
    drop(batches);
    let shown = request.shown();
    let place = shown.start - images.start;
    let len = config.sample_len();
    samples = samples[place * len..(place + shown.len()) * len].to_vec();
    let count = shown.len();
    // An output that cannot be written must not cost the others.
    let mut failed = None;
    let mut written = Vec::new();
    if let Some((out, path)) = latents_out.zip(arguments.latents.as_ref()) {
        let [height, width] = config.input_size;
        let shape = [count, config.in_channels, height, width];
        let tensors = [TensorOut::f32("latents", &shape, &samples)];
        match out.write(|part| write_safetensors(part, &tensors, [])) {
            Ok(()) => written.push(path),
            Err(error) => failed = Some(error),
        }
    }
    let mut size = config.input_size;
    if let Some(vae) = vae {
        (samples, size) = decoder::decode(vae, &samples, size, arguments.backend)?;
    }
    let grid = if request.smooth { pixels::smooth_grid } else { pixels::grid };
    let grid = grid(&samples, size, *scale);
    let names = settings.part(shown).names(config);
    let png = grid.to_png(&png_texts(&request.recipe(arguments), &names, size))?;
    match out.write(|part| std::fs::write(part, &png)) {
        Ok(()) => println!("wrote {} in {:.1} s", path.display(), started.elapsed().as_secs_f32()),
        Err(error) => failed = failed.or(Some(error)),
    }
    if let (Some(out), Some(trace), Some(path)) = (trace_out, trace, &arguments.trace) {
        match out.write(|part| trace.save(part)) {
            Ok(()) => written.push(path),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    for path in written {
        println!("wrote {}", path.display());
    }
    capacity.report(&settings.part(images), config);
    if let Some(error) = failed {
        return Err(error.into());
    }
    Ok(ExitCode::SUCCESS)
}

/// Rejects names of other kinds of files.
pub(super) fn check_png(path: &Path) -> Result<(), String> {
    let is_png = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    if is_png { Ok(()) } else { Err(format!("{} must end in .png", path.display())) }
}

fn check_scale(scale: Option<u32>) -> Result<(), String> {
    match scale.filter(|scale| !(1..=64).contains(scale)) {
        Some(scale) => Err(format!("scale must be 1–64, got {scale}")),
        None => Ok(()),
    }
}

impl Arguments {
    /// The same for a cell of a sweep: one image, unless more are asked for.
    ///
    /// # Errors
    /// For options that have no meaning there.
    pub(super) fn for_sweep(&mut self) -> Result<(), String> {
        let unsuitable = [
            ("--set", self.set.is_some()),
            ("--latents", self.latents.is_some()),
            ("--trace", self.trace.is_some()),
            ("--batch", self.batch.is_some()),
        ];
        if let Some((name, _)) = unsuitable.iter().find(|(_, is_given)| *is_given) {
            return Err(format!("{name} has no meaning for a sweep; remove it"));
        }
        if !(1..=16).contains(self.count.get_or_insert(1)) {
            return Err("count must be 1–16 images in each cell".to_owned());
        }
        check_scale(self.scale)
    }
}

/// Rejects two outputs with one path, and outputs that overwrite an input.
fn check_places(arguments: &Arguments, out: &Path) -> Result<(), String> {
    let written = [
        Some(("--out", out)),
        arguments.trace.as_deref().map(|path| ("--trace", path)),
        arguments.latents.as_deref().map(|path| ("--latents", path)),
    ];
    let read = [
        arguments.model.as_deref().map(|path| ("--model", path)),
        arguments.vae.as_deref().map(|path| ("--vae", path)),
        arguments.init_image.as_deref().map(|path| ("--init-image", path)),
        arguments.mask.as_deref().map(|path| ("--mask", path)),
    ];
    let outputs = written.iter().flatten().count();
    let places: Vec<_> = written.into_iter().chain(read).flatten().collect();
    output::distinct(&places, outputs)
}

/// Compute spent on the images.
#[derive(Default)]
struct Capacity {
    /// Sum over images; `None` without experts.
    sum: Option<f32>,
    by_image: Vec<f32>,
}

impl Capacity {
    /// Counts a batch.
    fn add(&mut self, trace: &Trace) {
        let Some(capacity) = trace.capacity() else { return };
        let by_image = trace.capacity_by_image();
        *self.sum.get_or_insert_default() += capacity * by_image.len() as f32;
        self.by_image.extend(by_image);
    }

    /// Prints it, by class or prompt.
    fn report(&self, settings: &Settings, config: &Config) {
        let Some(sum) = self.sum else { return };
        let capacity = sum / self.by_image.len().max(1) as f32;
        println!("capacity C = {capacity:.2}: mean number of experts per token");
        let names: Vec<String> = match (settings.labels.first(), config.labels.first()) {
            _ if !settings.prompts.is_empty() => settings.prompts.clone(),
            (Some(rows), Some(table)) => rows.iter().map(|&row| table.label(row)).collect(),
            _ => return,
        };
        let mut by_name: BTreeMap<&str, (f32, u32)> = BTreeMap::new();
        for (name, c) in names.iter().zip(&self.by_image) {
            let entry = by_name.entry(name).or_default();
            entry.0 += c;
            entry.1 += 1;
        }
        let mut means: Vec<(f32, &str)> =
            by_name.into_iter().map(|(name, (sum, n))| (sum / n as f32, name)).collect();
        means.sort_by(|a, b| b.0.total_cmp(&a.0));
        if let [(most, dense), .., (least, plain)] = means.as_slice() {
            println!("  most for {dense} {most:.2}, least for {plain} {least:.2}");
        }
    }
}
