//! `diffmoe convert`: PyTorch checkpoints, safetensors files and folders of diffusers to one file that includes its
//! configuration, or to such a folder.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use diffmoe::checkpoint::{
    Checkpoint, CheckpointError, Hints, InferError, Inferred, ModelOut, Source, StoredRows,
    infer_config,
};
use diffmoe::model::{Config, Objective, REFINER, Role, Storage, TensorSpec};
use serde_json::value::to_raw_value;

use super::Outcome;
use super::hub::{self, config_beside};
use super::output::Output;
use super::refined_source::{Entries, Part, RefinerSource, Sources};
use super::training_run::{RunConfig, find_checkpoint, find_yaml};

/// Convert a PyTorch checkpoint to a model file.
///
/// Accepts the folder of an official training run (YAML and .pt), a bare .pt state_dict such as DiT-XL/2 or SiT-XL/2,
/// or a safetensors file or index (to change its precision; an image decoder of diffusers keeps its names and gets its
/// config.json into the header), or a folder that diffusers loads. Nothing in a .pt file is executed: anything but tensors is ignored or rejected.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  diffmoe convert runs/000_DiffMoE_S_E16_Flow -o s-e16.safetensors --dtype f16
  diffmoe convert DiT-XL-2-256x256.pt --time ddpm -o dit-xl.safetensors --dtype int8
  diffmoe convert s-e16.safetensors --layout diffusers -o s-e16-diffusers
  diffmoe convert s-e16-diffusers -o again.safetensors
  diffmoe convert coarse.safetensors --refiner fine.safetensors -o both.safetensors")]
pub(super) struct Arguments {
    /// Folder of a run or of diffusers, .pt file, .safetensors file, or the .json index of several.
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Model file to write; with --layout diffusers, a folder.
    #[arg(short, long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// One file, or a folder that diffusers loads.
    #[arg(long, value_enum, default_value = "file")]
    layout: Layout,
    /// With --layout diffusers: write weights in parts where they are larger than this.
    #[arg(long, value_name = "MB", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    part_mb: u64,
    /// Format of large matrices; routing tensors stay in f32. Default: that of each tensor in the source, bit for bit;
    /// f32 for PyTorch files and bf16.
    #[arg(long, value_enum)]
    dtype: Option<DtypeName>,
    /// Weights to use from a training checkpoint.
    #[arg(long, value_enum, default_value = "ema")]
    weights: WeightsName,
    /// YAML file of the training run. Default: the one in the checkpoint's folder or up to two levels above.
    #[arg(long, value_name = "FILE")]
    yaml: Option<PathBuf>,
    /// Training objective, if there is no YAML file.
    #[arg(long, value_enum)]
    time: Option<TimeName>,
    /// Number of attention heads, if there is no YAML file and the size does not determine it.
    #[arg(long)]
    heads: Option<usize>,
    /// Mean number of experts per token, for token choice and expert choice without a YAML file.
    #[arg(long)]
    capacity: Option<f64>,
    /// Height and width of a sample in pixels or latent cells, if there is no YAML file and it is not square.
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = super::size)]
    size: Option<[usize; 2]>,
    /// Display name of the model.
    #[arg(long)]
    name: Option<String>,
    /// Model file with smaller patches that takes over near the end of a run: the file to write has both models.
    #[arg(long, value_name = "FILE.safetensors")]
    refiner: Option<PathBuf>,
    /// Of a model with a refiner, only one of both.
    #[arg(long, value_enum, conflicts_with = "refiner")]
    only: Option<Part>,
    /// Time from which on the refiner computes, between 0 (noise) and 1 (data).
    #[arg(long, value_name = "TIME", default_value_t = 0.5, requires = "refiner")]
    refiner_from: f32,
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

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Layout {
    File,
    Diffusers,
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
    let is_file = arguments.layout == Layout::File;
    if is_file && arguments.out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("safetensors")) {
        return Err(format!("{} must end in .safetensors", arguments.out.display()).into());
    }
    let file = find_checkpoint(&arguments.source)?;
    let weights = match arguments.weights {
        WeightsName::Ema => "ema",
        WeightsName::Model => "model",
    };
    let source = Source::open(&file, weights)?;
    let shapes = source.shapes()?;
    let is_decoder = shapes.keys().any(|name| name.starts_with("decoder."));
    let mut text = if is_decoder {
        decoder_text(arguments, &file, &source)?
    } else {
        model_text(arguments, &file, &source, &shapes)?
    };
    let refiner = arguments.refiner.as_ref();
    let refiner = refiner.map(|path| RefinerSource::open(path, weights)).transpose()?;
    let prefix = if arguments.only == Some(Part::Refiner) { REFINER } else { "" };
    let source = Sources { model: source, refiner, prefix };
    if let Some(refiner) = &source.refiner {
        text = refiner.refine(&text, arguments.refiner_from)?;
    }
    if let Some(part) = arguments.only {
        text = part.document(&text)?;
    }
    let tensors = if is_decoder {
        let spec =
            |(name, shape): (&String, &Vec<usize>)| TensorSpec::new(name, shape, Role::Projection);
        shapes.iter().map(spec).collect()
    } else {
        let mut tensors = Config::from_json(&text)?.stored_tensors();
        tensors.retain(|t| !t.is_optional() || source.has(&t.name));
        tensors
    };
    let tensors = stored(tensors, &source, arguments.dtype)?;
    let formats: BTreeMap<_, _> = tensors.iter().map(|(t, storage)| (&*t.name, *storage)).collect();
    let clipped = RefCell::new(BTreeSet::new());
    let read = |spec: &TensorSpec| -> Result<StoredRows<'_>, CheckpointError> {
        let rows = source.rows(spec)?;
        let storage = formats[&*spec.name];
        if rows.integers() == Some(storage) {
            return Ok(rows);
        }
        let width = rows.width();
        let values = rows.decode();
        if is_clipped(&values, storage) {
            clipped.borrow_mut().insert(spec.name.clone());
        }
        Ok(StoredRows::floats(width, values))
    };
    let mut model =
        ModelOut { config_text: &text, tensors: &tensors, part_bytes: None, is_module: false };
    if is_file {
        let out = Output::reserve(&arguments.out)?;
        out.write(|part| model.write(part, &read).map(drop))?;
    } else {
        model.part_bytes = Some(arguments.part_mb.saturating_mul(1_000_000));
        hub::write(model, &arguments.out, &read)?;
    }
    note_clipped(&clipped.into_inner());
    let numbers: u64 = tensors.iter().map(|(t, _)| t.elements()).sum();
    let which = source.model.weights().map_or(String::new(), |w| format!(", {w} weights"));
    let bytes = if is_file {
        std::fs::metadata(&arguments.out)?.len()
    } else {
        Checkpoint::open(&arguments.out)?.bytes()
    };
    println!(
        "wrote {}: {} tensors, {numbers} numbers{which}, {:.1} MB",
        arguments.out.display(),
        tensors.len(),
        bytes as f64 / 1e6
    );
    Ok(ExitCode::SUCCESS)
}

/// How each tensor is stored: as asked for, or as in the source.
fn stored(
    tensors: Vec<TensorSpec>,
    source: &Sources,
    dtype: Option<DtypeName>,
) -> Result<Vec<(TensorSpec, Storage)>, CheckpointError> {
    let of = |spec: TensorSpec| {
        let storage = match dtype {
            Some(dtype) => Storage::from(dtype).of(&spec),
            None => source.kept_by(&spec.name)?,
        };
        Ok((spec, storage))
    };
    tensors.into_iter().map(of).collect()
}

/// The configuration of an image decoder, which has its own reader.
fn decoder_text(
    arguments: &Arguments,
    file: &Path,
    source: &Source,
) -> Result<String, Box<dyn std::error::Error>> {
    let config = file.with_file_name("config.json");
    let beside = || {
        std::fs::read_to_string(&config).map_err(|e| {
            format!("cannot read {}, the configuration of the decoder: {e}", config.display())
        })
    };
    let text = source.config_text().map_or_else(beside, Ok)?;
    if !matches!(arguments.dtype, None | Some(DtypeName::F32)) {
        return Err("image decoders stay as they are; remove --dtype".into());
    }
    Ok(text)
}

/// The configuration of the source, which has to fit its tensors.
fn model_text(
    arguments: &Arguments,
    file: &Path,
    source: &Source,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Result<String, Box<dyn std::error::Error>> {
    let case = || std::fs::read_to_string(file.with_file_name("case.json")).ok();
    let beside = || config_beside(file).or_else(case);
    let ours = source.config_text().or_else(|| source.is_safetensors().then(beside).flatten());
    let text = match ours {
        Some(text) => described(arguments, source, text)?,
        None => inferred(arguments, file, shapes)?,
    };
    let config = Config::from_json(&text).map_err(|e| format!("{}: {e}", source.label()))?;
    source.check(&config)?;
    Ok(text)
}

/// The configuration in a file, with the requested name. Options that would be ignored are errors.
fn described(
    arguments: &Arguments,
    source: &Source,
    text: String,
) -> Result<String, Box<dyn std::error::Error>> {
    let given = [
        ("--yaml", arguments.yaml.is_some()),
        ("--time", arguments.time.is_some()),
        ("--heads", arguments.heads.is_some()),
        ("--capacity", arguments.capacity.is_some()),
        ("--size", arguments.size.is_some()),
    ];
    if let Some((option, _)) = given.iter().find(|(_, is_given)| *is_given) {
        return Err(
            format!("{} contains its configuration; remove {option}", source.label()).into()
        );
    }
    let Some(name) = &arguments.name else { return Ok(text) };
    let mut entries: Entries = serde_json::from_str(&text)?;
    entries.insert("name".into(), to_raw_value(name)?);
    Ok(serde_json::to_string(&entries)?)
}

/// Infers the configuration from the tensors, the YAML file of the run and the options. Prints the file and all
/// assumptions.
fn inferred(
    arguments: &Arguments,
    file: &Path,
    shapes: &BTreeMap<String, Vec<usize>>,
) -> Result<String, Box<dyn std::error::Error>> {
    let yaml = match &arguments.yaml {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            Some(RunConfig { path: path.clone(), text })
        }
        None => find_yaml(file)?,
    };
    let by =
        yaml.as_ref().map_or_else(String::new, |yaml| format!(", with {}", yaml.path.display()));
    let hints = Hints {
        yaml: yaml.map(|yaml| yaml.text),
        time: arguments.time.map(|time| match time {
            TimeName::Flow => Objective::Flow,
            TimeName::Ddpm => Objective::Ddpm,
        }),
        heads: arguments.heads,
        capacity: arguments.capacity,
        size: arguments.size,
        name: arguments.name.clone(),
    };
    let Inferred { config_text, assumed } = infer_config(shapes, &hints)
        .map_err(|e| format!("{}{by}: {e}{}", file.display(), advice(&e)))?;
    if !by.is_empty() {
        eprintln!("note: converted{by}");
    }
    if !assumed.is_empty() {
        eprintln!("note: assumed {}", assumed.join("; "));
    }
    Ok(config_text)
}

/// Whether values exceed the range of their format: 65,504 for f16, and eight times as much for int4, whose scales are
/// f16.
fn is_clipped(values: &[f32], storage: Storage) -> bool {
    let largest = match storage {
        Storage::F16 => 65_504.0,
        Storage::Int4 => 8.0 * 65_504.0,
        Storage::F32 | Storage::Int8 => return false,
    };
    values.iter().any(|v| v.abs() > largest)
}

fn note_clipped(names: &BTreeSet<String>) {
    const SHOWN: usize = 5;
    if names.is_empty() {
        return;
    }
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    eprintln!(
        "note: values of {} tensors exceed the range of f16 and were clipped ({}{more}); --dtype f32 keeps them",
        names.len(),
        shown.join(", ")
    );
}

/// The option that supplies what cannot be inferred from the tensors.
fn advice(error: &InferError) -> &'static str {
    match error {
        InferError::UnknownObjective => {
            "; add --time ddpm (DiT) or --time flow (SiT, DiffMoE flow)"
        }
        InferError::UnknownSize { .. } => "; add --size HEIGHTxWIDTH, in pixels or latent cells",
        InferError::UnknownHeads { .. } => "; add --heads N, or --yaml FILE of the training run",
        InferError::UnknownCapacity { .. } => {
            "; add --capacity N, or --yaml FILE of the training run"
        }
        _ => "",
    }
}
