//! `diffmoe verify`: compares this implementation with recorded results, tensor by tensor.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{Engine, EngineError, RunConfig};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{Config, Routing, RoutingRule};
use diffmoe::pipeline::{Backend, Pipeline, Sampling, Settings};
use diffmoe::scheduler::{
    GuidanceInterval, Next, Observation, Process, ScheduleConfig, SchedulerKind, StepNoise,
};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::report::{Recorded, Report, record};
use super::{Outcome, backend_parser, verify_decoder};

/// Check the implementation against recorded results of another one.
///
/// A case is a folder with `model.safetensors`, `case.json` (configuration and sampling settings) and
/// `io.safetensors` (inputs, outputs and intermediate values). Every recorded tensor is compared; routing is
/// compared as sets, exactly. The exit code is 1 if anything differs.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Folder of the case.
    #[arg(value_name = "CASE_DIR")]
    case: PathBuf,
    /// Where to compute.
    #[arg(long, value_parser = backend_parser(), default_value = "auto")]
    pub(super) backend: Backend,
    /// Largest difference that passes, relative to the largest recorded value if that exceeds 1.
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f32,
}

/// The settings in `case.json` that do not belong to the model.
#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    steps: u32,
    #[serde(default)]
    heun_steps: u32,
    #[serde(default = "no_guidance")]
    cfg_scale: f32,
    /// Where guidance applies in runs whose names end in `_interval`.
    #[serde(default)]
    interval: Option<[f32; 2]>,
    /// One for each sample, if the model reads text.
    #[serde(default)]
    prompts: Vec<String>,
    #[serde(default)]
    negative: String,
}

fn no_guidance() -> f32 {
    1.0
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    if !(arguments.tolerance >= 0.0 && arguments.tolerance.is_finite()) {
        return Err(format!("the tolerance must be 0 or more, got {}", arguments.tolerance).into());
    }
    let folder = &arguments.case;
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path).map_err(|error| {
            format!("cannot read {}: {error}; a case needs model.safetensors, case.json and io.safetensors", path.display())
        })
    };
    let case: Case = serde_json::from_slice(&read("case.json")?)
        .map_err(|e| format!("{}: {e}", folder.join("case.json").display()))?;
    let io_bytes = read("io.safetensors")?;
    let io = SafeTensors::deserialize(&io_bytes)
        .map_err(|e| format!("{}: {e}", folder.join("io.safetensors").display()))?;
    if case.kind.starts_with("vae") {
        let backend = arguments.backend;
        return verify_decoder::run(folder, &io, backend, arguments.tolerance);
    }
    let checkpoint = Checkpoint::open(&folder.join("model.safetensors"))?;
    let config = checkpoint.config();
    let input = Inputs::read(&io, config, &case)?;
    let model = Pipeline::open(&checkpoint, arguments.backend, WeightPrecision::F32)?;
    if let Some(note) = model.note() {
        eprintln!("note: {note}");
    }
    let mut engine = model.engine_to_inspect(input.times.len())?;
    println!("{} on {}", folder.display(), engine.device());

    let mut report = Report::new(arguments.tolerance);
    let mut untested = Vec::new();
    let taps = engine.forward_with_taps(&input.run, &input.times)?;
    let mut names: Vec<&str> = io.names();
    names.sort_unstable_by_key(|name| natural_order(name));
    for name in names.into_iter().filter(|name| !is_input(name)) {
        let mut wanted = record(&io, name)?;
        if let Some((_, shape, values)) = taps.iter().find(|(tap, ..)| tap == name) {
            report.compare(name, &wanted, shape, values);
        } else if let Some(times) = respaced_times(name, &case)? {
            report.compare(name, &wanted, &[times.len()], &times);
        } else if let Some(values) = sample(name, engine.as_mut(), config, &case, &input, &io)? {
            keep_first_half(&mut wanted, &input.shape);
            report.compare(name, &wanted, &input.shape, &values);
        } else {
            untested.push(name.to_owned());
        }
    }
    if !untested.is_empty() {
        println!("no results for: {}", untested.join(", "));
    }
    let failed = report.finish()?;
    Ok(ExitCode::from(u8::from(failed)))
}

struct Inputs {
    shape: Vec<usize>,
    times: Vec<f32>,
    run: RunConfig,
}

impl Inputs {
    fn read(io: &SafeTensors<'_>, config: &Config, case: &Case) -> Result<Self, String> {
        let x = record(io, "x")?;
        let t = record(io, "t")?;
        let batch = t.values.len();
        let [height, width] = config.input_size;
        if batch == 0 || x.shape != [batch, config.in_channels, height, width] {
            return Err(format!("x {:?} and t {:?} do not fit the model", x.shape, t.shape));
        }
        let mut labels = Vec::new();
        for (key, table) in ["y", "style"].iter().zip(&config.labels) {
            let values = record(io, key)?.values;
            // A cast would turn -1 and NaN into 0.
            let is_row = |v: &f32| *v >= 0.0 && v.fract() == 0.0 && *v <= table.null as f32;
            if values.len() != batch || !values.iter().all(is_row) {
                return Err(format!(
                    "{key} needs a {} from 0 to {} for each sample",
                    table.name, table.null
                ));
            }
            labels.push(values.into_iter().map(|v| v as u32).collect());
        }
        if config.text.is_some() && case.prompts.len() != batch {
            return Err(format!(
                "case.json needs a list \"prompts\" of {batch} for a text-conditioned model"
            ));
        }
        let routing = Routing { rule: RoutingRule::Pool, ..Routing::default() };
        let (prompts, negative) = (case.prompts.clone(), case.negative.clone());
        let run = RunConfig {
            latent: x.values,
            labels,
            prompts,
            negative,
            routing,
            ..RunConfig::default()
        };
        Ok(Self { shape: x.shape, times: t.values, run })
    }
}

/// Whether a recorded tensor is an input: inputs of the pass, noise of a sampling run.
fn is_input(name: &str) -> bool {
    ["x", "t", "y", "style"].contains(&name) || name.ends_with("_noise")
}

/// The steps of the trained process that a recorded run took, from `*_timesteps`.
fn respaced_times(key: &str, case: &Case) -> Result<Option<Vec<f32>>, String> {
    if !key.ends_with("_timesteps") {
        return Ok(None);
    }
    if !(1..=diffmoe::scheduler::TRAINED_STEPS).contains(&case.steps) {
        return Err(format!("case.json has {} DDPM steps, expected 1–1000", case.steps));
    }
    let times = Process::respaced(case.steps).times;
    Ok(Some(times.into_iter().map(|time| time as f32).collect()))
}

/// The official guided DDPM loop carries the sample twice and discards the second half; this does the same.
fn keep_first_half(wanted: &mut Recorded, shape: &[usize]) {
    let is_double = wanted.shape.len() == shape.len()
        && wanted.shape[0] == 2 * shape[0]
        && wanted.shape[1..] == shape[1..];
    if is_double {
        wanted.shape[0] /= 2;
        wanted.values.truncate(wanted.values.len() / 2);
    }
}

/// Samples as the recorded key requests (`NAME_cfg`, `NAME_nocfg`, `NAME_interval`), or nothing if that is not supported.
fn sample(
    key: &str,
    engine: &mut dyn Engine,
    config: &Config,
    case: &Case,
    input: &Inputs,
    io: &SafeTensors<'_>,
) -> Result<Option<Vec<f32>>, Box<dyn std::error::Error>> {
    let Some((name, guidance)) = key.rsplit_once('_') else { return Ok(None) };
    let Ok(scheduler) = SchedulerKind::from_str(name) else { return Ok(None) };
    let settings = Settings {
        labels: input.run.labels.clone(),
        mix: Vec::new(),
        prompts: input.run.prompts.clone(),
        sampling: Sampling {
            negative: input.run.negative.clone(),
            seed: 0,
            steps: if name == "heun" { case.heun_steps } else { case.steps },
            guidance: if guidance == "nocfg" { 1.0 } else { case.cfg_scale },
            guidance_interval: match case.interval {
                Some([low, high]) if guidance == "interval" => GuidanceInterval { low, high },
                _ => GuidanceInterval::default(),
            },
            scheduler,
            routing: input.run.routing,
            muted: input.run.muted.clone(),
            shifts: input.run.shifts.clone(),
            ..Sampling::default()
        },
        init: None,
        record_scores: false,
    };
    settings.check(config)?;
    let guidance = settings.sampling.guided();
    let Sampling { steps, seed, .. } = settings.sampling;
    let noise = match record(io, &format!("{key}_noise")) {
        Ok(noise) => recorded_noise(key, &noise, &input.shape, steps)?,
        Err(_) => StepNoise::Seeded { seed, images: 0..input.times.len() as u64 },
    };
    let mut scheduler = scheduler.schedule(config, ScheduleConfig::new(steps, guidance, noise));
    engine.start(&input.run)?;
    let mut last = None;
    loop {
        match scheduler.next() {
            Next::Step(ops) => engine.finish_step(&ops)?,
            Next::Done => return Ok(last),
            Next::Stalled(reason) => return Err(EngineError::Stalled(reason).into()),
            Next::Wait => return Err("the device returned no result for a step".into()),
        }
        while let Some(snapshot) = engine.take_snapshot() {
            scheduler.observe(Observation { sample: &snapshot.latent, reports: &snapshot.reports });
            last = Some(snapshot.latent);
        }
    }
}

/// The noise of each step, `[B, …]`; of a guided run the first half of `[2B, …]`.
fn recorded_noise(
    key: &str,
    noise: &Recorded,
    shape: &[usize],
    steps: u32,
) -> Result<StepNoise, String> {
    let len: usize = shape.iter().product();
    let step: usize = noise.shape.iter().skip(1).product();
    if noise.shape.len() != shape.len() + 1 || (step != len && step != 2 * len) {
        return Err(format!("{key}_noise {:?} does not fit x {shape:?}", noise.shape));
    }
    // The last step adds none.
    if noise.shape[0] + 1 < steps as usize {
        return Err(format!("{key}_noise has {} of {steps} steps", noise.shape[0]));
    }
    let steps = noise.values.chunks_exact(step).map(|step| Arc::new(step[..len].to_vec()));
    Ok(StepNoise::Recorded(steps.collect()))
}

/// Sorts `blocks.10` after `blocks.9`, so that the first failure is where the error starts.
fn natural_order(name: &str) -> (usize, String) {
    let block = name.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok());
    (block.unwrap_or(usize::MAX), name.to_owned())
}
