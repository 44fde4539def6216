//! `diffmoe info`: contents of a model file, without loading it onto a device.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use diffmoe::checkpoint::{Checkpoint, Nearest, Source, nearest_family};
use diffmoe::engine::{Footprint, WeightChoice};
use diffmoe::gpu::{Gpu, Profile};
use diffmoe::kernels::WeightPrecision;
use diffmoe::model::{
    Config, FfnForm, Kind, Objective, Prediction, Preset, Router, Storage, TensorSpec, file_bytes,
};
use diffmoe::platform;

use super::numbers::grouped;
use super::{Outcome, decoder};

/// Describe a model or an image decoder: architecture, size, labels, recommended settings, model card.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Embedded model, or a safetensors file.
    #[arg(value_name = "NAME|FILE", default_value = diffmoe_models::DEFAULT)]
    model: PathBuf,
    /// One of the paper's sizes instead of a file, such as S-E16, L-E8, dense-XL-ddpm: memory needed, and whether it
    /// fits on this machine.
    #[arg(long, value_name = "PRESET", conflicts_with = "model")]
    preset: Option<Preset>,
    /// With --preset: height and width of a sample in latent cells, instead of the paper's.
    #[arg(long, value_name = "HEIGHTxWIDTH", value_parser = super::size, requires = "preset")]
    size: Option<[usize; 2]>,
    /// With --preset: batch size.
    #[arg(long, default_value_t = 1, requires = "preset")]
    batch: usize,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
}

/// The detail head, if the model has one.
fn print_detail_head(config: &Config) {
    if config.detail_channels > 0 {
        println!(
            "  detail head   {} channels, finishes the predicted sample{}",
            config.detail_channels,
            if config.detail_phase { ", sees the place of a pixel in its patch" } else { "" }
        );
    }
}

/// Memory that one image takes on either device.
fn print_memory(checkpoint: &Checkpoint, refiner: Option<&Checkpoint>) {
    let kinds = WeightChoice::Auto.resolve(checkpoint).to_string();
    let both = || std::iter::once(checkpoint).chain(refiner);
    let on_cpu = |of: &Checkpoint| {
        let storage = |t: &TensorSpec| of.storage(&t.name).unwrap_or(Storage::F32);
        Footprint::on_cpu(of.config(), 1, storage).total()
    };
    let on_gpu = |of: &Checkpoint| {
        let precisions = WeightChoice::Auto.resolve(of);
        Footprint::on_gpu(of.config(), 1, precisions, Profile::Gpu, WEBGPU_BINDING).total()
    };
    println!(
        "  memory        {} on the CPU, {} on a GPU with {kinds} weights, for one image at a \
            time",
        megabytes(both().map(on_cpu).sum::<u64>() as usize),
        megabytes(both().map(on_gpu).sum::<u64>() as usize)
    );
}

/// The sampling settings that the model recommends.
fn print_defaults(config: &Config) {
    let defaults = &config.defaults;
    println!(
        "  sampling      {} with {} steps, guidance {}",
        defaults.scheduler, defaults.steps, defaults.guidance
    );
    if let Some(showcase) = &defaults.showcase {
        println!(
            "  well drawn    {} combinations of labels: {}",
            showcase.rows.len(),
            showcase.judge
        );
    }
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    if let Some(preset) = arguments.preset {
        let preset = arguments.size.map_or(Ok(preset), |size| preset.of_size(size))?;
        return needs(&preset.config(), arguments);
    }
    if let Some(outcome) = decoder::describe(&arguments.model, arguments.tensors) {
        return outcome;
    }
    let checkpoint = diffmoe_models::open_any(&arguments.model)
        .inspect_err(|_| print_nearest(&arguments.model))?;
    let config = checkpoint.config();
    let list = checkpoint.list();
    println!("{}", config.name);
    println!("  architecture  {}", architecture(config));
    println!(
        "  samples       {0}, {1} channels of {2}; {3} tokens of {4}×{4}",
        config.extent(),
        config.in_channels,
        if config.pixels { "pixels in [-1, 1]" } else { "latents" },
        config.tokens(),
        config.patch_size
    );
    println!(
        "  time          {}",
        match config.objective {
            Objective::Flow => {
                let output = match config.prediction {
                    Prediction::Velocity => "velocity",
                    Prediction::Sample => "data",
                    Prediction::Reversed => "opposite velocity, and sees 1 - t",
                };
                let scale = config.time_scale;
                format!(
                    "flow, t from 0 (noise) to 1 (data), scaled by {scale}; predicts the {output}"
                )
            }
            Objective::Ddpm => "DDPM, 1000 steps".to_owned(),
        }
    );
    if let Some(context) = config.context {
        println!(
            "  class tokens  {}, from block {} on; traces do not have them",
            context.count, context.start
        );
    }
    print_detail_head(config);
    if let Some(refiner) = &config.refiner {
        let fine = &refiner.config;
        println!(
            "  refiner       from t = {0} on: {1} tokens of {2}×{2}; {3}",
            refiner.from,
            fine.tokens(),
            fine.patch_size,
            architecture(fine)
        );
        print_detail_head(fine);
    }
    for table in &config.labels {
        println!("  {:<13} {}", table.name, labels(&table.values, table.null));
    }
    if let Some(text) = &config.text {
        println!(
            "  text          prompts of up to {} tokens out of {}; encoder of {} layers, width {}",
            text.max_length - 2,
            text.vocab_size,
            text.depth,
            text.hidden_size
        );
        if !text.examples.is_empty() {
            println!("  examples      {}", text.examples.join(" · "));
        }
    }
    print_defaults(config);
    let mut storage: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in &list {
        *storage.entry(&tensor.dtype).or_default() += tensor.bytes;
    }
    let bytes: usize = storage.values().sum();
    let parts: Vec<_> =
        storage.iter().map(|(dtype, bytes)| format!("{dtype} {}", megabytes(*bytes))).collect();
    let refiner = checkpoint.refiner()?;
    let of_refiner = refiner.as_ref().map(|refiner| refiner.config().parameters());
    let and =
        of_refiner.map_or_else(String::new, |n| format!(" and {} of the refiner", grouped(n)));
    println!("  parameters    {}{and}", grouped(config.parameters()));
    println!("  storage       {} ({})", megabytes(bytes), parts.join(", "));
    print_memory(&checkpoint, refiner.as_ref());
    let card: Option<serde_json::Value> = serde_json::from_str(checkpoint.config_text()).ok();
    if let Some(card) = card.as_ref().and_then(|c| c.get("card")).and_then(|c| c.as_object()) {
        for (key, value) in card {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            println!("  {key:<13} {text}");
        }
    }
    if arguments.tensors {
        for tensor in &list {
            println!("{:<52} {:<5} {:?}", tensor.name, tensor.dtype, tensor.shape);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// For a file of tensors that is no model of ours: which known family it is most like, and what differs.
fn print_nearest(path: &Path) {
    /// Tensors of a list.
    const SHOWN: usize = 6;
    let shapes = Source::open(path, "ema").and_then(|source| source.shapes());
    let Some(nearest) = shapes.ok().and_then(|shapes| nearest_family(&shapes)) else { return };
    let Nearest { family, matching, expected, missing, unexpected, reshaped } = nearest;
    println!("{}", path.display());
    println!("  nearest       {family}: {matching} of its {expected} tensors match");
    for (title, lines) in
        [("missing", missing), ("not part", unexpected), ("other shape", reshaped)]
    {
        for (i, line) in lines.iter().take(SHOWN).enumerate() {
            println!("  {:<13} {line}", if i == 0 { title } else { "" });
        }
        if lines.len() > SHOWN {
            println!("  {:<13} and {} more", "", lines.len() - SHOWN);
        }
    }
}

/// Bytes per binding that WebGPU guarantees.
const WEBGPU_BINDING: u64 = 128 << 20;

/// The memory that a size needs, before anything is allocated; an error if it fits neither CPU nor GPU.
fn needs(config: &Config, arguments: &Arguments) -> Outcome {
    let batch = arguments.batch;
    if !(1..=256).contains(&batch) {
        return Err("batch must be 1–256".into());
    }
    println!("{}", config.name);
    println!("  architecture  {}", architecture(config));
    println!("  parameters    {}", grouped(config.parameters()));
    println!(
        "  activated     {} at C = 1, router included",
        grouped(config.activated_parameters(1.0))
    );
    let files = [
        ("f32", Storage::F32),
        ("f16", Storage::F16),
        ("int8", Storage::Int8),
        ("int4", Storage::Int4),
    ];
    for (name, storage) in files {
        println!("  file, {name:<5}   {}", megabytes(file_bytes(config, storage) as usize));
    }
    let free = platform::free_memory();
    let mut is_on_cpu = false;
    for (name, storage) in files {
        let cpu = Footprint::on_cpu(config, batch, |tensor| storage.of(tensor));
        let fits = free.is_none_or(|free| cpu.total() <= free);
        is_on_cpu |= fits;
        let verdict = match free {
            Some(free) => format!(
                "{}, {} free here",
                if fits { "fits" } else { "does not fit" },
                megabytes(free as usize)
            ),
            None => "free memory is unknown on this system".into(),
        };
        println!("  cpu, {name:<8} {}: {verdict}", megabytes(cpu.total() as usize));
    }
    let gpu = Gpu::headless();
    let is_on_gpu = match &gpu {
        Ok(gpu) => {
            use WeightPrecision::{F16, F32, Int4, Int8};
            let fits = |precision| fits_gpu(config, batch, gpu, free, precision);
            // Each has its line, whatever the results of the others.
            [F32, F16, Int8, Int4].map(fits).contains(&true)
        }
        Err(error) => {
            println!("  gpu           {error}");
            false
        }
    };
    if arguments.tensors {
        for tensor in config.tensors() {
            println!("{:<52} {:?}", tensor.name, tensor.shape);
        }
    }
    if is_on_cpu || is_on_gpu {
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!(
        "{} with batch {batch} fits neither into memory nor onto a GPU of this machine; choose \
         fewer experts or a smaller size",
        config.name
    )
    .into())
}

/// The memory that a size needs on a GPU with weights of one precision, and whether it fits as far as the device
/// reports. A software adapter uses main memory.
fn fits_gpu(
    config: &Config,
    batch: usize,
    gpu: &Gpu,
    free: Option<u64>,
    precision: WeightPrecision,
) -> bool {
    let limit = gpu.binding_limit;
    let need = Footprint::on_gpu(config, batch, precision, gpu.profile, limit);
    let is_there = !gpu.is_software() || free.is_none_or(|free| need.total() <= free);
    let fits = need.largest.1 <= limit && is_there;
    println!(
        "  gpu, {precision:<8} {}, largest binding {} ({}) of {} allowed: {}",
        megabytes(need.total() as usize),
        megabytes(need.largest.1 as usize),
        need.largest.0,
        megabytes(limit as usize),
        if fits { "fits, as far as the device reports" } else { "does not fit" },
    );
    fits
}

fn architecture(config: &Config) -> String {
    let kind = match config.kind {
        Kind::Dense if config.context.is_some() => "dense DiT (JiT)",
        Kind::Dense => "dense DiT",
        Kind::Tc if config.context.is_some() => "token-choice MoE DiT (JiTMoE)",
        Kind::Tc if matches!(config.router, Router::Sigmoid { .. }) => {
            "token-choice MoE DiT (DSMoE)"
        }
        Kind::Tc if matches!(config.router, Router::Prototypes { .. }) => {
            "token-choice MoE DiT (ProMoE)"
        }
        Kind::Tc => "token-choice MoE DiT",
        Kind::Ec if matches!(config.router, Router::Prototypes { .. }) => {
            "expert-choice MoE DiT (ProMoE)"
        }
        Kind::Ec => "expert-choice MoE DiT",
        Kind::DiffMoe => "DiffMoE",
    };
    let form = match config.ffn_form {
        FfnForm::Gelu => "GELU",
        FfnForm::Silu => "SiLU",
        FfnForm::SwiGlu => "SwiGLU",
    };
    let positions = if config.rope { " with 2-D RoPE" } else { "" };
    let experts = match config.moe_blocks().len() {
        0 => String::new(),
        layers => {
            let blocks: Vec<_> = config.moe_blocks().iter().map(ToString::to_string).collect();
            let blocks = blocks.join(", ");
            format!(", {} experts in {layers} layers (blocks {blocks})", config.num_experts)
        }
    };
    format!(
        "{kind}, {} blocks, hidden size {}, {} heads of {}{positions}, {form}{experts}",
        config.depth, config.hidden_size, config.num_heads, config.head_dim
    )
}

fn labels(names: &[String], null: u32) -> String {
    const SHOWN: usize = 12;
    if names.is_empty() {
        return format!("{null}, numbered from 0");
    }
    let more = if names.len() > SHOWN { ", …" } else { "" };
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    format!("{null}: {}{more}", shown.join(", "))
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
