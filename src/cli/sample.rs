//! `diffmoe sample`: from a model to a picture file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use diffmoe::checkpoint::{TensorOut, embedded, write_safetensors};
use diffmoe::diffusion::Solver;
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Config, Engine, LabelTable, Routing, RoutingRule};
use diffmoe::sampler::{OpenModel, Run, Settings, check_decoder, random_rows};
use diffmoe::trace::Trace;
use diffmoe::vae::DecoderFile;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;
use super::solver_options::SolverOptions;
use super::{BackendName, Outcome, decoder, model_file};

/// Draw pictures and write them as one PNG.
///
/// Without options: sixteen pictures of random classes from the embedded model. The seed is printed, and the
/// same seed and settings give the same picture again, bit for bit on one machine.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  diffmoe sample
  diffmoe sample --class SeaLake,Industrial --count 8 --trace routing.json
  diffmoe sample --model my-text-model.safetensors --prompt \"a robot, fluent 3d\" --negative \"blob\"
  diffmoe sample --gamma 0.3              # lower threshold: more experts for each token
  diffmoe sample --model my-model.safetensors --steps 50 --solver heun --seed 7 --out seven.png")]
pub(super) struct Arguments {
    /// Embedded model, or a safetensors file.
    #[arg(long, value_name = "NAME|FILE", default_value = embedded::DEFAULT)]
    model: String,
    /// What to draw, by name or number; several are drawn in turn. `any` leaves it to the model. Default: random.
    #[arg(long, value_name = "NAME|NUMBER", value_delimiter = ',')]
    class: Vec<String>,
    /// Drawing style, for models that know styles; as `--class`.
    #[arg(long, value_name = "NAME|NUMBER", value_delimiter = ',')]
    style: Vec<String>,
    /// What to draw, in words, for models that read text; give it several times to draw several in turn.
    /// Default: the model's examples.
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// What to lead away from, in words, for models that read text. Needs a guidance above 1.
    #[arg(long, value_name = "TEXT", default_value = "")]
    negative: String,
    /// Seed of the noise and of random classes. Default: a new one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Denoising steps. Default: the model's.
    #[arg(long)]
    steps: Option<u32>,
    /// Guidance scale: 1 is none, more follows the class more closely. Default: the model's.
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    cfg: Option<f32>,
    /// How to get from noise to data. Default: the model's.
    #[command(flatten)]
    solver: SolverOptions,
    /// Number of pictures. Default: 16, or four of each class or prompt that was given.
    #[arg(long)]
    count: Option<usize>,
    /// Pictures that share one pass through the model.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Where to compute.
    #[arg(long, value_enum, default_value = "auto")]
    backend: BackendName,
    /// token: a token's experts depend on the token alone; pool: the paper's rule, all tokens of a batch compete.
    #[arg(long, value_enum, default_value = "token")]
    routing: RuleName,
    /// One threshold for every expert instead of the trained ones, 0 to 1; lower means more compute.
    #[arg(long, value_name = "THRESHOLD", allow_negative_numbers = true)]
    gamma: Option<f32>,
    /// Shift of the trained thresholds, -1 to 1; positive saves compute.
    #[arg(
        long,
        value_name = "SHIFT",
        allow_negative_numbers = true,
        default_value_t = 0.0,
        conflicts_with = "gamma"
    )]
    threshold_shift: f32,
    /// Picture file. Default: diffmoe-MODEL-SEED.png.
    #[arg(long, value_name = "FILE.png")]
    out: Option<PathBuf>,
    /// Whole factor by which pictures are enlarged. Default: to at least 128 pixels in a grid.
    #[arg(long)]
    scale: Option<u32>,
    /// Image decoder for a model that makes latents: a safetensors file of diffusers with an AutoencoderKL
    /// (such as sd-vae-ft-mse) or an AutoencoderTiny (TAESD).
    #[arg(long, value_name = "FILE")]
    vae: Option<PathBuf>,
    /// Also write the latents, for `diffmoe decode`.
    #[arg(long, value_name = "FILE.safetensors")]
    latents: Option<PathBuf>,
    /// Also write which expert took which token at every step: .json or .safetensors (docs/trace-format.md).
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum RuleName {
    Token,
    Pool,
}

/// Units of the progress bar in one picture.
const PROGRESS: u64 = 1000;

/// Most pictures in one call: a grid of them is still an image that programs can open.
const MAX_COUNT: usize = 10_000;

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let checkpoint = model_file::open(&arguments.model)?;
    let config = checkpoint.config();
    let vae = vae(arguments, config)?;
    let seed = arguments.seed.unwrap_or_else(new_seed);
    let settings = settings(arguments, config, seed)?;
    settings.check(config)?;
    let count = settings.pictures();
    note_cut_prompts(config, &settings);
    if !(1..=256).contains(&arguments.batch) {
        return Err(
            format!("a batch of {} is not possible; choose 1 to 256", arguments.batch).into()
        );
    }
    if let Some(scale) = arguments.scale.filter(|s| !(1..=64).contains(s)) {
        return Err(format!("a scale of {scale} is not possible; choose 1 to 64").into());
    }
    let default_name = || PathBuf::from(format!("diffmoe-{}-{seed}.png", config.name));
    let path = arguments.out.clone().unwrap_or_else(default_name);
    if path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        return Err(format!("{} is no PNG file name; end it in .png", path.display()).into());
    }
    let out = Output::reserve(&path)?;
    let trace_out = arguments.trace.as_deref().map(Output::reserve).transpose()?;
    let latents_out = arguments.latents.as_deref().map(Output::reserve).transpose()?;

    let started = Instant::now();
    let model = OpenModel::open(&checkpoint, arguments.backend.into(), WeightPrecision::F16)?;
    if let Some(note) = model.note() {
        eprintln!("note: {note}");
    }
    let mut samples = Vec::new();
    let mut trace: Option<Trace> = None;
    let mut ready: Option<Box<dyn Engine>> = None;
    if matches!(settings.solver, Solver::Dopri5(_)) && count > arguments.batch {
        return Err(format!(
            "dopri5 chooses its steps for a whole batch: ask for at most {} pictures, or for a --batch of {count}",
            arguments.batch
        )
        .into());
    }
    let bar = ProgressBar::new(count as u64 * PROGRESS);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {percent} %, {eta} left")?);
    let mut first = 0;
    while first < count {
        let size = arguments.batch.min(count - first);
        // The last batch may be smaller than the others.
        let engine = match ready.take() {
            Some(engine) if engine.batch() == size => engine,
            other => {
                let engine = model.engine(size)?;
                if other.is_none() {
                    eprintln!("{}", headline(config, &settings, &engine.device()));
                }
                engine
            }
        };
        let batch = settings.part(first..first + size);
        let run = Run::start(engine, config, batch, first as u64);
        let done = bar.position();
        let part = (size as u64 * PROGRESS) as f32;
        let finished = run.finish(|fraction| bar.set_position(done + (fraction * part) as u64))?;
        ready = Some(finished.engine);
        samples.extend(finished.samples);
        match &mut trace {
            None => trace = Some(finished.trace),
            Some(trace) => trace.append_batch(finished.trace),
        }
        first += size;
    }
    bar.finish_and_clear();
    if samples.iter().any(|v| !v.is_finite()) {
        return Err("the model produced numbers that are not finite; the weights or the guidance \
            scale are beyond what f32 can hold: try a smaller --cfg"
            .into());
    }
    if let Some(out) = latents_out {
        let side = config.input_size;
        let shape = [count, config.in_channels, side, side];
        let tensors = [TensorOut::f32("latents", &shape, &samples)];
        out.write(|part| write_safetensors(part, &tensors, []))?;
    }
    let mut side = config.input_size;
    if let Some(vae) = &vae {
        // The model's memory is free for the decoder.
        drop((ready, model));
        let (pictures, size) =
            decoder::decode(vae, &samples, [side, side], arguments.backend.into())?;
        (samples, side) = (pictures, size[1]);
    }
    let grid = diffmoe::picture::grid(&samples, side as u32, arguments.scale);
    out.write(|part| grid.save(part))?;
    let trace = trace.ok_or("no picture was asked for")?;
    if let Some(out) = trace_out {
        out.write(|part| trace.save(part))?;
    }
    println!("wrote {} in {:.1} s", path.display(), started.elapsed().as_secs_f32());
    for path in [&arguments.trace, &arguments.latents].into_iter().flatten() {
        println!("wrote {}", path.display());
    }
    report_capacity(&trace, &settings, config);
    Ok(ExitCode::SUCCESS)
}

/// The decoder that turns the model's samples into pixels, where they are none.
fn vae(
    arguments: &Arguments,
    config: &Config,
) -> Result<Option<DecoderFile>, Box<dyn std::error::Error>> {
    let makes_pixels = config.makes_pixels();
    match &arguments.vae {
        None if makes_pixels => Ok(None),
        None => Err(format!(
            "{} makes latents; give the decoder that turns them into pixels with --vae FILE (a safetensors \
             file of diffusers, such as sd-vae-ft-mse)",
            arguments.model
        )
        .into()),
        Some(_) if makes_pixels => {
            Err(format!("{} makes pixels; leave --vae out", arguments.model).into())
        }
        Some(path) => {
            let file = decoder::open(path)?;
            check_decoder(&file, config)?;
            Ok(Some(file))
        }
    }
}

fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Short enough to be read out and typed again.
    u64::from(now.subsec_nanos()) % 1_000_000
}

fn settings(
    arguments: &Arguments,
    config: &Config,
    seed: u64,
) -> Result<Settings, Box<dyn std::error::Error>> {
    let named = |table: &LabelTable| {
        if table.name == "style" { &arguments.style } else { &arguments.class }
    };
    if !arguments.style.is_empty() && config.labels.iter().all(|t| t.name != "style") {
        return Err(format!("{} knows no styles; leave --style out", config.name).into());
    }
    if !arguments.class.is_empty() && config.labels.iter().all(|t| t.name == "style") {
        return Err(
            format!("{} knows no classes; say what to draw with --prompt", config.name).into()
        );
    }
    let classes = arguments.class.len().max(arguments.style.len()).max(arguments.prompt.len());
    let count = arguments.count.unwrap_or(if classes == 0 { 16 } else { 4 * classes });
    if !(1..=MAX_COUNT).contains(&count) {
        return Err(format!("{count} pictures are not possible; choose 1 to {MAX_COUNT}").into());
    }
    let mut labels = Vec::new();
    for (i, table) in config.labels.iter().enumerate() {
        let rows =
            named(table).iter().map(|text| resolve(table, text)).collect::<Result<Vec<_>, _>>()?;
        labels.push(match rows.as_slice() {
            [] => random_rows(seed, i as u32, table.null, count),
            rows => rows.iter().copied().cycle().take(count).collect(),
        });
    }
    let defaults = &config.defaults;
    let solver = arguments.solver.resolve(config)?;
    let rule = match arguments.routing {
        RuleName::Pool => RoutingRule::Pool,
        RuleName::Token => RoutingRule::Token,
    };
    Ok(Settings {
        labels,
        prompts: prompts(arguments, config, count),
        negative: arguments.negative.clone(),
        seed,
        steps: arguments.steps.unwrap_or(defaults.steps),
        guidance: arguments.cfg.unwrap_or(defaults.guidance),
        solver,
        routing: Routing { rule, gamma: arguments.gamma, shift: arguments.threshold_shift },
    })
}

/// A prompt for each picture: those that were given in turn, or the model's examples, or none.
fn prompts(arguments: &Arguments, config: &Config, count: usize) -> Vec<String> {
    let nothing = [String::new()];
    let given = match &config.text {
        _ if !arguments.prompt.is_empty() => &arguments.prompt[..],
        Some(text) if !text.examples.is_empty() => &text.examples,
        Some(_) => &nothing,
        None => &[],
    };
    given.iter().cycle().take(count).cloned().collect()
}

/// Says which prompts are longer than the model reads.
fn note_cut_prompts(config: &Config, settings: &Settings) {
    let Some(text) = &config.text else { return };
    let tokenizer = text.tokenizer();
    let asked: BTreeSet<_> = settings.prompts.iter().chain([&settings.negative]).collect();
    for prompt in asked.into_iter().filter(|p| tokenizer.encode(p, text.max_length).is_cut) {
        eprintln!("note: the model reads only the beginning of {prompt:?}");
    }
}

/// A row of a label table by name or number, or an error that shows what there is.
fn resolve(table: &LabelTable, text: &str) -> Result<u32, String> {
    if text.eq_ignore_ascii_case("any") {
        return Ok(table.null);
    }
    table.find(text).ok_or_else(|| {
        const SHOWN: usize = 12;
        let wanted = text.to_lowercase();
        let near = |v: &&String| {
            let v = v.to_lowercase();
            v.contains(&wanted) || wanted.contains(&v)
        };
        let mut shown: Vec<_> = table.values.iter().filter(near).take(SHOWN).cloned().collect();
        if shown.is_empty() {
            shown = table.values.iter().take(SHOWN).cloned().collect();
        }
        let more = if shown.len() < table.values.len() { ", …" } else { "" };
        let numbers = table.null.saturating_sub(1);
        if shown.is_empty() {
            format!("there is no {} {text:?}; give a number from 0 to {numbers}", table.name)
        } else {
            format!(
                "there is no {} {text:?}; give a number from 0 to {numbers} or a name: {}{more}",
                table.name,
                shown.join(", ")
            )
        }
    })
}

fn headline(config: &Config, settings: &Settings, device: &str) -> String {
    let Settings { steps, guidance, solver, seed, .. } = settings;
    let pictures = settings.pictures();
    let steps = match solver {
        Solver::Dopri5(tolerance) => format!("tolerance {}", tolerance.relative),
        _ => format!("{steps} steps"),
    };
    format!(
        "{} · {device} · {pictures} pictures · {solver}, {steps} · guidance {guidance} · seed {seed}",
        config.name
    )
}

/// Says how much compute the pictures asked for, by what they show.
fn report_capacity(trace: &Trace, settings: &Settings, config: &Config) {
    let Some(capacity) = trace.capacity() else { return };
    println!("capacity C = {capacity:.2}: mean number of experts that worked on a token");
    let names: Vec<String> = match (settings.labels.first(), config.labels.first()) {
        _ if !settings.prompts.is_empty() => settings.prompts.clone(),
        (Some(rows), Some(table)) => rows.iter().map(|&row| table.label(row)).collect(),
        _ => return,
    };
    let mut by_name: BTreeMap<&str, (f32, u32)> = BTreeMap::new();
    for (name, c) in names.iter().zip(trace.capacity_by_picture()) {
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

#[cfg(test)]
#[cfg(feature = "app")]
#[allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]
mod tests {
    use clap::Parser;
    use diffmoe::app::session::{Choice, Controls};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// The settings of a command line, with the model's configuration.
    fn line(text: &str) -> (Config, Settings) {
        let line = Line::try_parse_from(["sample"].into_iter().chain(text.split_whitespace()));
        let arguments = line.map_err(|error| error.to_string()).unwrap().arguments;
        let checkpoint = model_file::open(&arguments.model).unwrap();
        let config = checkpoint.config().clone();
        let settings = settings(&arguments, &config, arguments.seed.unwrap()).unwrap();
        (config, settings)
    }

    #[test]
    fn the_app_means_the_same_by_the_same_settings() {
        let (config, expected) = line("--seed 7 --count 4");
        let defaults = Controls { seed: 7, ..Controls::for_model(&config) };
        assert_eq!(defaults.settings(&config), expected, "nothing chosen: random rows");

        let (config, expected) = line(
            "--class 3 --style any --seed 9 --count 5 --steps 11 --cfg 1.75 --solver heun \
             --routing pool --gamma 0.3",
        );
        let choices = config.labels.iter().map(|table| match table.name.as_str() {
            "style" => Choice::Any,
            _ => Choice::Row(3),
        });
        let controls = Controls {
            choices: choices.collect(),
            prompt: String::new(),
            negative: String::new(),
            seed: 9,
            steps: 11,
            guidance: 1.75,
            solver: Solver::Heun,
            count: 5,
            routing: Routing { rule: RoutingRule::Pool, gamma: Some(0.3), shift: 0.0 },
        };
        assert_eq!(controls.settings(&config), expected);
    }
}
