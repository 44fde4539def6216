//! `diffmoe bench`: time of a denoising step and, on GPUs with timestamp queries, the share of each kernel.

mod micro;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{Branches, CpuEngine, CpuMath, CpuModel};
use diffmoe::engine::{Engine, GpuEngine, GpuModel, RunConfig};
use diffmoe::gpu::Gpu;
use diffmoe::model::Config;
use diffmoe::pipeline::Backend;
use diffmoe::scheduler::Instruction;
use diffmoe::scheduler::{Next, ScheduleConfig, SchedulerKind, StepNoise, gaussian};
use indicatif::ProgressBar;
use serde::Serialize;

use super::output::Output;
use super::{Outcome, WeightsName, backend_parser, by_name, math_parser};

/// Measure the time of a guided step (both branches of guidance) and of each kernel in it.
///
/// Reports the median of many steps with the fastest and the slowest. Other programs on the machine affect the
/// result, and a software adapter such as lavapipe is not representative of a GPU.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Embedded model, or a safetensors file.
    #[arg(long, value_name = "NAME|FILE", default_value = diffmoe_models::DEFAULT)]
    model: PathBuf,
    /// Device to measure; auto measures the CPU, and the GPU if there is any adapter.
    #[arg(long, value_parser = backend_parser(), default_value = "auto")]
    pub(super) backend: Backend,
    /// Format of large matrices on a GPU; sums are always f32.
    #[arg(long, value_enum, default_value = "auto")]
    weights: WeightsName,
    /// How a GPU computes the two branches of guidance; the results are the same.
    #[arg(long, value_parser = branches_parser(), default_value = "suitable")]
    branches: Branches,
    /// Format of the numbers in large products on the CPU.
    #[arg(long, value_parser = math_parser(), default_value = "f32")]
    cpu_math: CpuMath,
    /// Batch size.
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Steps to measure, after one warm-up step.
    #[arg(long, default_value_t = 10)]
    steps: u32,
    /// Also measure what recording the router's scores for Explore adds to a step.
    #[arg(long)]
    scores: bool,
    /// Measure single kernels instead, on a GPU: dispatches, products, experts, attention.
    #[arg(long, conflicts_with_all = ["model", "batch", "steps", "scores", "weights", "branches", "cpu_math"])]
    micro: bool,
    /// Also write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Pairs of measurements for `--scores`.
const SCORE_ROUNDS: usize = 9;

/// `--branches`, from the library's table.
fn branches_parser() -> impl clap::builder::TypedValueParser<Value = Branches> {
    by_name(Branches::ALL.iter().map(|branches| (branches.name(), branches.hint())))
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    model: String,
    batch: usize,
    tokens: usize,
    devices: Vec<Device>,
    /// The same of the model's refiner, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    refiner: Option<Box<Report>>,
}

#[derive(Serialize)]
struct Device {
    name: String,
    load_ms: f64,
    step_ms: Spread,
    /// Time of a step that records the router's scores over that of one that does not, measured in turns.
    scores_ratio: Option<Spread>,
    /// GPU only.
    dispatches_per_step: Option<usize>,
    submissions_per_step: Option<f64>,
    weight_bytes: Option<u64>,
    kernels: Vec<Kernel>,
}

#[derive(Serialize)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

#[derive(Serialize)]
struct Kernel {
    name: String,
    dispatches: usize,
    ms: f64,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    if arguments.micro {
        return single_kernels(arguments);
    }
    let checkpoint = diffmoe_models::open_any(&arguments.model)?;
    if !(1..=256).contains(&arguments.batch) || !(1..=10_000).contains(&arguments.steps) {
        return Err("batch must be 1–256 and steps 1–10000".into());
    }
    let json = reserve(arguments)?;
    let mut report = measure(&checkpoint, arguments)?;
    let refiner = checkpoint.refiner()?;
    let refiner = refiner.map(|refiner| measure(&refiner, arguments)).transpose()?;
    report.refiner = refiner.map(Box::new);
    report.print();
    write(json, &report)
}

/// Times a model on the devices that were asked for, without its refiner.
fn measure(
    checkpoint: &Checkpoint,
    arguments: &Arguments,
) -> Result<Report, Box<dyn std::error::Error>> {
    let mut devices = Vec::new();
    if !matches!(arguments.backend, Backend::Gpu) {
        devices.push(cpu(checkpoint, arguments)?);
    }
    if !matches!(arguments.backend, Backend::Cpu) {
        match Gpu::headless() {
            Ok(gpu) => devices.push(graphics(gpu, checkpoint, arguments)?),
            Err(error) if matches!(arguments.backend, Backend::Auto) => {
                eprintln!("note: {error}: only the CPU was measured");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let config = checkpoint.config();
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        model: config.name.clone(),
        batch: arguments.batch,
        tokens: config.tokens(),
        devices,
        refiner: None,
    })
}

fn single_kernels(arguments: &Arguments) -> Outcome {
    if matches!(arguments.backend, Backend::Cpu) {
        return Err("--micro measures kernels of a GPU; leave out --backend cpu".into());
    }
    let json = reserve(arguments)?;
    let micro = micro::measure()?;
    micro.print();
    write(json, &micro)
}

/// The file for `--json`, asked for before anything is measured.
fn reserve(arguments: &Arguments) -> Result<Option<Output>, Box<dyn std::error::Error>> {
    Ok(arguments.json.as_deref().map(Output::reserve).transpose()?)
}

fn write(json: Option<Output>, results: &impl Serialize) -> Outcome {
    if let Some(json) = json {
        let text = serde_json::to_string_pretty(results)?;
        json.write(|part| std::fs::write(part, &text))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cpu(
    checkpoint: &Checkpoint,
    arguments: &Arguments,
) -> Result<Device, Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let model = Arc::new(CpuModel::load_with(checkpoint, arguments.cpu_math)?);
    let weight_bytes = Some(model.weight_bytes());
    let mut engine = CpuEngine::new(model, arguments.batch);
    let load_ms = milliseconds(begin);
    let step_ms = time_steps(&mut engine, checkpoint, arguments, false)?;
    let scores_ratio = scores_ratio(&mut engine, checkpoint, arguments)?;
    Ok(Device {
        name: engine.device(),
        load_ms,
        step_ms,
        scores_ratio,
        dispatches_per_step: None,
        submissions_per_step: None,
        weight_bytes,
        kernels: Vec::new(),
    })
}

fn graphics(
    gpu: Gpu,
    checkpoint: &Checkpoint,
    arguments: &Arguments,
) -> Result<Device, Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let model = Arc::new(GpuModel::load(Arc::new(gpu), checkpoint, arguments.weights)?);
    let mut engine = GpuEngine::with_branches(model.clone(), arguments.batch, arguments.branches)?;
    let load_ms = milliseconds(begin);
    let step_ms = time_steps(&mut engine, checkpoint, arguments, false)?;
    let submissions = engine.submissions() as f64 / f64::from(arguments.steps + 1);
    let scores_ratio = scores_ratio(&mut engine, checkpoint, arguments)?;
    let ops = one_step(checkpoint.config(), arguments);
    let mut kernels: BTreeMap<&str, Kernel> = BTreeMap::new();
    for timing in engine.time_step(&ops)?.unwrap_or_default() {
        let new = || Kernel { name: timing.kernel.to_owned(), dispatches: 0, ms: 0.0 };
        let kernel = kernels.entry(timing.kernel).or_insert_with(new);
        kernel.dispatches += 1;
        kernel.ms += timing.nanoseconds / 1e6;
    }
    let mut kernels: Vec<_> = kernels.into_values().collect();
    kernels.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    Ok(Device {
        name: engine.device(),
        load_ms,
        step_ms,
        scores_ratio,
        dispatches_per_step: Some(engine.dispatches(&ops)?.len()),
        submissions_per_step: Some(submissions),
        weight_bytes: Some(model.weight_bytes()),
        kernels,
    })
}

/// A guided step: Euler for flow models, ancestral for DDPM.
fn one_step(config: &Config, arguments: &Arguments) -> Vec<Instruction> {
    let scheduler = SchedulerKind::for_objective(config.objective)[0];
    let noise = StepNoise::Seeded { seed: 0, images: 0..arguments.batch as u64 };
    let run = ScheduleConfig::new(2, 2.0, noise);
    match scheduler.schedule(config, run).next() {
        Next::Step(ops) => ops,
        other => unreachable!("the first step of a run of two ended with {other:?}"),
    }
}

/// Times whole steps, waiting for each.
fn time_steps(
    engine: &mut dyn Engine,
    checkpoint: &Checkpoint,
    arguments: &Arguments,
    record_scores: bool,
) -> Result<Spread, Box<dyn std::error::Error>> {
    let config = checkpoint.config();
    let ops = one_step(config, arguments);
    let images = 0..arguments.batch as u64;
    engine.start(&RunConfig {
        latent: images.flat_map(|i| gaussian(0, i, config.sample_len())).collect(),
        labels: config
            .labels
            .iter()
            .map(|table| (0..arguments.batch as u32).map(|i| i % table.null.max(1)).collect())
            .collect(),
        prompts: vec![String::new(); if config.text.is_some() { arguments.batch } else { 0 }],
        record_scores,
        ..RunConfig::default()
    })?;
    let bar = ProgressBar::new(u64::from(arguments.steps));
    bar.set_message(engine.device());
    let mut times = Vec::new();
    for step in 0..=arguments.steps {
        let begin = Instant::now();
        engine.finish_step(&ops)?;
        times.push(milliseconds(begin));
        bar.set_position(u64::from(step));
        while engine.take_snapshot().is_some() {}
    }
    bar.finish_and_clear();
    // The first step compiles and records.
    times.remove(0);
    Ok(Spread::of(times))
}

/// Times steps without and with recorded scores in turns, so that other programs meet both alike, and compares the
/// medians of neighbours. `None` unless it was asked for.
fn scores_ratio(
    engine: &mut dyn Engine,
    checkpoint: &Checkpoint,
    arguments: &Arguments,
) -> Result<Option<Spread>, Box<dyn std::error::Error>> {
    if !arguments.scores {
        return Ok(None);
    }
    let mut ratios = Vec::new();
    for _ in 0..SCORE_ROUNDS {
        let without = time_steps(engine, checkpoint, arguments, false)?;
        let with = time_steps(engine, checkpoint, arguments, true)?;
        ratios.push(with.median / without.median);
    }
    Ok(Some(Spread::of(ratios)))
}

impl Spread {
    /// Of at least one value.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { min: values[0], median: values[values.len() / 2], max: values[values.len() - 1] }
    }
}

fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

impl Report {
    fn print(&self) {
        let Self { model, batch, tokens, .. } = self;
        println!("{model}, {batch} images of {tokens} tokens, guided step (both branches)");
        for device in &self.devices {
            let Device { name, load_ms, step_ms, .. } = device;
            println!("\n{name}");
            println!("  load   {load_ms:9.1} ms");
            println!(
                "  step   {:9.2} ms median, {:.2} to {:.2}",
                step_ms.median, step_ms.min, step_ms.max
            );
            if let Some(ratio) = &device.scores_ratio {
                let percent = |ratio: f64| 100.0 * (ratio - 1.0);
                println!(
                    "  scores {:+9.1} % median of {SCORE_ROUNDS} pairs, {:+.1} to {:+.1} %",
                    percent(ratio.median),
                    percent(ratio.min),
                    percent(ratio.max)
                );
            }
            if let (Some(dispatches), Some(submissions)) =
                (device.dispatches_per_step, device.submissions_per_step)
            {
                println!("  {dispatches} dispatches and {submissions:.0} submission per step");
            }
            if let Some(bytes) = device.weight_bytes {
                println!("  {:.1} MB of weights", bytes as f64 / 1e6);
            }
            let total: f64 = device.kernels.iter().map(|k| k.ms).sum();
            for Kernel { name, dispatches, ms } in &device.kernels {
                let share = 100.0 * ms / total;
                println!(
                    "  {name:<24} {dispatches:4} × {:9.3} ms {share:5.1} %",
                    ms / *dispatches as f64
                );
            }
            if device.dispatches_per_step.is_some() && device.kernels.is_empty() {
                println!("  the adapter has no timestamp queries, so kernels are not timed");
            }
        }
        if let Some(refiner) = &self.refiner {
            print!("\nrefiner: ");
            refiner.print();
        }
    }
}
