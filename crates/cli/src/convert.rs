//! `diffmoe convert`: PyTorch checkpoints and safetensors files to one file that includes its configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use diffmoe::checkpoint::{Hints, InferError, Source, infer_config, write_model};
use diffmoe::model::{Config, Objective, Role, Storage, TensorSpec};

use super::Outcome;
use super::output::Output;

/// Convert a PyTorch checkpoint to a model file.
///
/// Accepts the folder of an official training run (YAML and .pt), a bare .pt state_dict such as DiT-XL/2 or SiT-XL/2,
/// or a safetensors file (to change its precision; an image decoder of diffusers keeps its names and gets its
/// config.json into the header). Nothing in a .pt file is executed: anything but tensors and settings is rejected.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  diffmoe convert runs/000_DiffMoE_S_E16_Flow -o s-e16.safetensors --dtype f16
  diffmoe convert DiT-XL-2-256x256.pt --time ddpm -o dit-xl.safetensors --dtype int8")]
pub(super) struct Arguments {
    /// Folder of a run, .pt file, or .safetensors file.
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Model file to write.
    #[arg(short, long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Format of large matrices; routing tensors stay in f32.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: DtypeName,
    /// Weights to use from a training checkpoint.
    #[arg(long, value_enum, default_value = "ema")]
    weights: WeightsName,
    /// Training objective, if there is no YAML file.
    #[arg(long, value_enum)]
    time: Option<TimeName>,
    /// Number of attention heads, if there is no YAML file and the size is not a published one.
    #[arg(long)]
    heads: Option<usize>,
    /// Height and width of a sample in pixels or latent cells, if there is no YAML file and it is not square.
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = super::size)]
    size: Option<[usize; 2]>,
    /// Display name of the model.
    #[arg(long)]
    name: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum DtypeName {
    F32,
    F16,
    Int8,
    Int4,
}

impl From<DtypeName> for Storage {
    fn from(name: DtypeName) -> Self {
        match name {
            DtypeName::F32 => Self::F32,
            DtypeName::F16 => Self::F16,
            DtypeName::Int8 => Self::Int8,
            DtypeName::Int4 => Self::Int4,
        }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum WeightsName {
    Ema,
    Model,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum TimeName {
    Flow,
    Ddpm,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    if arguments.out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("safetensors")) {
        return Err(format!("{} must end in .safetensors", arguments.out.display()).into());
    }
    let file = find_checkpoint(&arguments.source)?;
    let weights = match arguments.weights {
        WeightsName::Ema => "ema",
        WeightsName::Model => "model",
    };
    let source = Source::open(&file, weights)?;
    let shapes = source.shapes()?;
    let (text, tensors) = describe(arguments, &file, &source, &shapes)?;
    let out = Output::reserve(&arguments.out)?;
    let storage = arguments.dtype.into();
    out.write(|part| {
        let read = |spec: &TensorSpec| source.read(&spec.name);
        write_model(part, &text, &tensors, storage, None, &read).map(drop)
    })?;
    let numbers: usize = tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum();
    let which = source.weights().map_or(String::new(), |w| format!(", {w} weights"));
    let bytes = std::fs::metadata(&arguments.out)?.len();
    println!(
        "wrote {}: {} tensors, {numbers} numbers{which}, {:.1} MB",
        arguments.out.display(),
        tensors.len(),
        bytes as f64 / 1e6
    );
    Ok(ExitCode::SUCCESS)
}

/// The configuration to write and the tensors that belong to it.
fn describe(
    arguments: &Arguments,
    file: &Path,
    source: &Source,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Result<(String, Vec<TensorSpec>), Box<dyn std::error::Error>> {
    let all = || {
        let spec =
            |(name, shape): (&String, &Vec<usize>)| TensorSpec::new(name, shape, Role::Projection);
        shapes.iter().map(spec).collect::<Vec<_>>()
    };
    if shapes.keys().any(|name| name.starts_with("decoder.")) {
        // An image decoder, which has its own reader.
        let config = file.with_file_name("config.json");
        let text = std::fs::read_to_string(&config).map_err(|e| {
            format!("cannot read {}, the configuration of the decoder: {e}", config.display())
        })?;
        if !matches!(arguments.dtype, DtypeName::F32) {
            return Err("image decoders stay in f32; remove --dtype".into());
        }
        return Ok((text, all()));
    }
    let beside = || std::fs::read_to_string(file.with_file_name("case.json")).ok();
    let ours = source
        .config_text()
        .or_else(|| matches!(source, Source::Safetensors(_)).then(beside).flatten());
    let text = if let Some(text) = ours {
        text
    } else {
        let hints = Hints {
            yaml: find_yaml(file)?,
            time: arguments.time.map(|time| match time {
                TimeName::Flow => Objective::Flow,
                TimeName::Ddpm => Objective::Ddpm,
            }),
            heads: arguments.heads,
            size: arguments.size,
            name: arguments.name.clone(),
        };
        infer_config(shapes, &hints)
            .map_err(|e| format!("{}: {e}{}", file.display(), advice(&e)))?
    };
    let config = Config::from_json(&text)?;
    let is_there = |t: &TensorSpec| shapes.contains_key(&t.name) || !t.is_optional();
    let tensors = config.tensors().into_iter().filter(is_there).collect();
    Ok((text, tensors))
}

/// The option that supplies what cannot be inferred from the tensors.
fn advice(error: &InferError) -> &'static str {
    match error {
        InferError::UnknownObjective => {
            "; add --time ddpm (DiT) or --time flow (SiT, DiffMoE flow)"
        }
        InferError::UnknownSize { .. } => "; add --size HEIGHTxWIDTH, in pixels or latent cells",
        InferError::UnknownHeads { .. } => "; add --heads N",
        _ => "",
    }
}

/// The file itself, or the last checkpoint of a run's folder.
fn find_checkpoint(source: &Path) -> Result<PathBuf, String> {
    if !source.is_dir() {
        return Ok(source.to_owned());
    }
    let mut found = files_with(&source.join("checkpoints"), &["pt"]);
    if found.is_empty() {
        found = files_with(source, &["pt"]);
    }
    // Named by the number of steps.
    found.sort_by_key(|path| path.file_name().map(std::ffi::OsStr::to_owned));
    found.pop().ok_or_else(|| {
        format!("there is no .pt file in {} or its folder checkpoints", source.display())
    })
}

/// The YAML file in the checkpoint's folder or up to two levels above, as in official runs.
fn find_yaml(file: &Path) -> Result<Option<String>, String> {
    for folder in file.ancestors().skip(1).take(3) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        match &files_with(folder, &["yaml", "yml"])[..] {
            [] => {}
            [one] => {
                let text = std::fs::read_to_string(one);
                return text.map(Some).map_err(|e| format!("cannot read {}: {e}", one.display()));
            }
            _ => {
                return Err(format!(
                    "{} contains several YAML files; keep only the one of the training run",
                    folder.display()
                ));
            }
        }
    }
    Ok(None)
}

fn files_with(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let fits = |path: &PathBuf| {
        path.extension().is_some_and(|e| extensions.iter().any(|x| e.eq_ignore_ascii_case(x)))
    };
    entries.map(|entry| entry.path()).filter(fits).collect()
}
