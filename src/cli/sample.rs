//! `diffmoe sample`: from a model to a picture file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use diffmoe::checkpoint::embedded;
use diffmoe::diffusion::{Solver, random_rows};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Config, Engine, LabelTable, Routing, RoutingRule};
use diffmoe::sampler::{OpenModel, Run, Settings};
use diffmoe::trace::Trace;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;
use super::solver_options::SolverOptions;
use super::{BackendName, Outcome, model_file, picture};

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
    if !config.pixels || config.in_channels != 3 {
        return Err(format!(
            "{} makes latents, and decoding them to pixels is not implemented yet; \
             `diffmoe verify` can check such a model",
            arguments.model
        )
        .into());
    }
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
    let grid = picture::grid(&samples, config.input_size as u32, arguments.scale);
    out.write(|part| grid.save(part))?;
    let trace = trace.ok_or("no picture was asked for")?;
    if let Some(out) = trace_out {
        out.write(|part| trace.save(part))?;
    }
    println!("wrote {} in {:.1} s", path.display(), started.elapsed().as_secs_f32());
    if let Some(path) = &arguments.trace {
        println!("wrote {}", path.display());
    }
    report_capacity(&trace, &settings, config);
    Ok(ExitCode::SUCCESS)
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
