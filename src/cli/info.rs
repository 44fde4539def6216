//! `diffmoe info`: what a model file holds, without loading it onto a device.

use std::collections::BTreeMap;
use std::process::ExitCode;

use diffmoe::checkpoint::embedded;
use diffmoe::model::{Config, FfnForm, Kind, TimeKind};

use super::{Outcome, decoder, model_file};

/// Describe a model or an image decoder: architecture, size, labels, recommended settings, model card.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Embedded model, or a safetensors file.
    #[arg(value_name = "NAME|FILE", default_value = embedded::DEFAULT)]
    model: String,
    /// List every tensor.
    #[arg(long)]
    tensors: bool,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    if let Some(outcome) =
        decoder::describe(std::path::Path::new(&arguments.model), arguments.tensors)
    {
        return outcome;
    }
    let checkpoint = model_file::open(&arguments.model)?;
    let config = checkpoint.config();
    let list = checkpoint.list();
    println!("{}", config.name);
    println!("  architecture  {}", architecture(config));
    println!(
        "  samples       {0}×{0}, {1} channels of {2}; {3} tokens of {4}×{4}",
        config.input_size,
        config.in_channels,
        if config.pixels { "pixels in [-1, 1]" } else { "latents" },
        config.tokens(),
        config.patch_size
    );
    println!(
        "  time          {}",
        match config.time_kind {
            TimeKind::Flow =>
                format!("flow, t from 0 (noise) to 1 (data), scaled by {}", config.time_scale),
            TimeKind::Ddpm => "DDPM, 1000 steps".to_owned(),
        }
    );
    for table in &config.labels {
        println!("  {:<13} {}", table.name, labels(&table.values, table.null));
    }
    let defaults = &config.defaults;
    println!(
        "  sampling      {} with {} steps, guidance {}",
        defaults.solver, defaults.steps, defaults.guidance
    );
    let mut storage: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in &list {
        *storage.entry(&tensor.dtype).or_default() += tensor.bytes;
    }
    let bytes: usize = storage.values().sum();
    let parts: Vec<_> =
        storage.iter().map(|(dtype, bytes)| format!("{dtype} {}", megabytes(*bytes))).collect();
    println!("  parameters    {}", grouped(config.parameters()));
    println!("  storage       {} ({})", megabytes(bytes), parts.join(", "));
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

fn architecture(config: &Config) -> String {
    let kind = match config.kind {
        Kind::Dense => "dense DiT",
        Kind::Tc => "token-choice MoE DiT",
        Kind::Ec => "expert-choice MoE DiT",
        Kind::DiffMoe => "DiffMoE",
    };
    let form = match config.ffn_form {
        FfnForm::Gelu => "GELU",
        FfnForm::SwiGlu => "SwiGLU",
    };
    let experts = match config.moe_blocks().len() {
        0 => String::new(),
        layers => format!(", {} experts in {layers} layers", config.num_experts),
    };
    format!(
        "{kind}, {} blocks, hidden size {}, {} heads of {}, {form}{experts}",
        config.depth, config.hidden_size, config.num_heads, config.head_dim
    )
}

fn labels(names: &[String], null: u32) -> String {
    const SHOWN: usize = 12;
    if names.is_empty() {
        return format!("{null} numbered from 0");
    }
    let more = if names.len() > SHOWN { ", …" } else { "" };
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    format!("{null}: {}{more}", shown.join(", "))
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// 140191616 as 140,191,616.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1000, 140_191_616].map(super::grouped),
            ["0", "999", "1,000", "140,191,616"]
        );
    }
}
