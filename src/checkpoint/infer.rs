//! Inferring the configuration of a bare state_dict from the names and shapes of its tensors, and from the YAML file
//! of the training run if there is one. The number of heads, the capacity and the objective cannot be inferred from
//! shapes: they are errors unless given, and every assumption is reported.

use serde_json::{Map, Value, json};

use super::check::{self, Shapes};
use super::hints::Hints;
use super::published::Family;
use super::yaml::Run;
use crate::model::{Config, ConfigError, Objective};

/// An inferred configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inferred {
    /// JSON in the form that checkpoints carry.
    pub config_text: String,
    /// Assumptions that neither tensors nor hints confirm, one phrase each.
    pub assumed: Vec<String>,
}

/// Why the configuration of a bare state_dict is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// The objective (flow or DDPM) is unknown: set [`Hints::time`] or [`Hints::yaml`].
    #[error("cannot infer the training objective (flow or DDPM) from the tensors")]
    UnknownObjective,
    /// The arrangement of tokens is unknown: set [`Hints::size`] or [`Hints::yaml`].
    #[error("cannot infer height and width from {tokens} tokens, which do not form a square")]
    UnknownSize {
        /// Tokens of a sample.
        tokens: usize,
    },
    /// The number of attention heads is unknown: set [`Hints::heads`] or [`Hints::yaml`].
    #[error(
        "cannot infer the number of attention heads at hidden size {hidden_size} from the \
            tensors"
    )]
    UnknownHeads {
        /// `D`.
        hidden_size: usize,
    },
    /// The capacity of a token-choice or expert-choice model is unknown: set [`Hints::capacity`] or [`Hints::yaml`].
    #[error(
        "cannot infer the capacity (mean number of experts per token) of a {kind} model from the tensors"
    )]
    UnknownCapacity {
        /// Token choice or expert choice.
        kind: &'static str,
    },
    /// The YAML file of the training run is damaged, or is that of something else.
    #[error("the YAML file of the training run is not usable: {0}")]
    Yaml(String),
    /// These are not the tensors of a DiT.
    #[error("{0}")]
    Tensors(String),
    /// The configuration that follows is impossible.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Whether a YAML file is that of an official training run, with the model arguments under `model.params`.
///
/// # Errors
/// When it is not valid YAML.
pub fn is_run_config(text: &str) -> Result<bool, InferError> {
    Ok(Run::read(text).map_err(InferError::Yaml)?.is_some())
}

/// The configuration of a model with these tensors.
///
/// # Errors
/// When something is not known, or the tensors are not those of such a model.
pub fn infer_config(shapes: &Shapes, hints: &Hints) -> Result<Inferred, InferError> {
    /// Problems in an error.
    const SHOWN: usize = 8;
    let has = |part: &str| shapes.keys().any(|name| name.contains(part));
    let kind = if has(".mlp.capacity_predictor.") {
        "diffmoe"
    } else if has(".mlp.gate.weight") || has(".mlp.cluster_centers") {
        "tc"
    } else if has(".mlp.gate_weight") {
        "ec"
    } else {
        "dense"
    };
    let mut assumed = Vec::new();
    let published = Family::of(kind, shapes, hints).map_err(InferError::Tensors)?;
    let family = published.map_or(kind, Family::name);
    let run = if let Some(text) = &hints.yaml {
        let missing = "it has no model.params, which the official configurations have";
        let run = Run::read(text).map_err(InferError::Yaml)?;
        let mut run = run.ok_or_else(|| InferError::Yaml(missing.into()))?;
        if run.is_partial {
            let sizes = from_shapes(shapes, hints, published, &mut assumed)?;
            run.params = merged(sizes, run.params);
        }
        run
    } else {
        let params = from_shapes(shapes, hints, published, &mut assumed)?;
        Run { params, is_flow: None, name: None, is_partial: false }
    };
    let Run { mut params, is_flow, name, .. } = run;
    if let Some(size) = hints.size {
        params.insert("input_size".into(), json!(size));
    }
    if hints.heads.is_some() || !params.contains_key("num_heads") {
        let heads = heads(published, kind, shapes, hints, &mut assumed)?;
        params.insert("num_heads".into(), json!(heads));
    }
    let named = published.and_then(|of| of.kind_of(name.as_deref().unwrap_or_default()));
    let kind = named.unwrap_or(kind);
    if let Some(published) = published {
        published
            .complete(kind, &mut params, shapes, hints, &mut assumed)
            .map_err(InferError::Tensors)?;
    }
    capacity(kind, &mut params, hints, &mut assumed)?;
    let time = match (hints.time, is_flow) {
        (Some(time), _) => time,
        (None, Some(true)) => Objective::Flow,
        (None, Some(false)) => Objective::Ddpm,
        (None, None) => {
            let published = published.ok_or(InferError::UnknownObjective)?;
            published.objective(shapes, &mut assumed)
        }
    };
    let rows = shape(shapes, "y_embedder.embedding_table.weight", 2)?[0];
    if params.get("num_classes").and_then(Value::as_u64) == Some(rows as u64) {
        return Err(InferError::Tensors(format!(
            "the label table has {rows} rows for {rows} classes, without a row for unconditional samples \
             (class_dropout_prob 0 in training); such models are not supported"
        )));
    }
    let usual = if time == Objective::Flow { "euler" } else { "ddpm" };
    let (solver, steps, guidance) =
        published.and_then(Family::sampling).unwrap_or((usual, 250, 1.5));
    let name = hints.name.clone().or(name).unwrap_or_else(|| format!("imported {family} model"));
    let mut document = json!({
        "name": name, "kind": kind, "t_kind": time, "null_class": rows.saturating_sub(1),
        "params": params, "defaults": { "steps": steps, "guidance": guidance, "solver": solver }
    });
    if published.is_some_and(Family::makes_pixels) {
        document["space"] = json!("pixels");
    }
    if let Some(scale) = published.and_then(Family::time_scale) {
        document["time_scale"] = json!(scale);
    }
    let config_text = document.to_string();
    let problems = check::problems(&Config::from_json(&config_text)?, shapes);
    if problems.is_empty() {
        return Ok(Inferred { config_text, assumed });
    }
    let more = match problems.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Err(InferError::Tensors(format!(
        "the tensors are not those of a {kind} model: {}{more}",
        problems[..problems.len().min(SHOWN)].join("; ")
    )))
}

/// Arguments with others in the place of theirs, those of `MoE_config` one by one.
fn merged(mut of: Map<String, Value>, others: Map<String, Value>) -> Map<String, Value> {
    for (key, value) in others {
        match (of.get_mut(&key), value) {
            (Some(Value::Object(inner)), Value::Object(value)) => inner.extend(value),
            (_, value) => drop(of.insert(key, value)),
        }
    }
    of
}

/// The number of attention heads, from a hint, a norm or a published width.
fn heads(
    published: Option<Family>,
    kind: &str,
    shapes: &Shapes,
    hints: &Hints,
    assumed: &mut Vec<String>,
) -> Result<usize, InferError> {
    /// Published dense models by hidden size. 384 is missing because DiT-S has 6 heads and the official DiffMoE
    /// configuration 16.
    const PUBLISHED: [(usize, usize, &str); 3] =
        [(768, 12, "DiT-B"), (1024, 16, "DiT-L"), (1152, 16, "DiT-XL")];
    let d = shape(shapes, "x_embedder.proj.weight", 4)?[0];
    if let Some(heads) = hints.heads {
        return Ok(heads);
    }
    // The query norm has the width of a head.
    if let Some(&[width]) = shapes.get("blocks.0.attn.q_norm.weight").map(Vec::as_slice)
        && width > 0
        && d.is_multiple_of(width)
    {
        return Ok(d / width);
    }
    let table = match published {
        Some(family) => family.heads(),
        None if kind == "dense" => &PUBLISHED,
        None => &[],
    };
    let published = table.iter().find(|(width, ..)| *width == d);
    let &(_, heads, name) = published.ok_or(InferError::UnknownHeads { hidden_size: d })?;
    assumed.push(format!("{heads} attention heads, as {name} has"));
    Ok(heads)
}

/// Sets the capacity of a model with experts.
fn capacity(
    kind: &str,
    params: &mut Map<String, Value>,
    hints: &Hints,
    assumed: &mut Vec<String>,
) -> Result<(), InferError> {
    let moe = params.get_mut("MoE_config").and_then(Value::as_object_mut);
    let Some(moe) = moe.filter(|_| kind != "dense") else { return Ok(()) };
    if let Some(capacity) = hints.capacity {
        moe.insert("capacity".into(), json!(capacity));
    }
    if moe.get("capacity").is_some_and(|capacity| !capacity.is_null()) {
        return Ok(());
    }
    match kind {
        "tc" => return Err(InferError::UnknownCapacity { kind: "token-choice" }),
        "ec" => return Err(InferError::UnknownCapacity { kind: "expert-choice" }),
        _ => {}
    }
    // DiffMoE inference uses the capacity predictor instead.
    assumed.push("a training capacity of 1, which sampling does not use".into());
    moe.insert("capacity".into(), json!(1));
    Ok(())
}

/// Constructor arguments that give tensors of these shapes.
fn from_shapes(
    shapes: &Shapes,
    hints: &Hints,
    published: Option<Family>,
    assumed: &mut Vec<String>,
) -> Result<Map<String, Value>, InferError> {
    let patch = shape(shapes, "x_embedder.proj.weight", 4)?;
    let &[d, channels, p, _] = patch else {
        return Err(InferError::Tensors("x_embedder is not a patch embedding".into()));
    };
    let has_table = shapes.contains_key("pos_embed") || published != Some(Family::DsMoe);
    let tokens = if has_table { shape(shapes, "pos_embed", 3)?[1] } else { Family::TOKENS };
    if !has_table && hints.size.is_none() {
        assumed.push("images of 256 pixels: no tensor depends on the size".into());
    }
    let across = tokens.isqrt();
    if across * across != tokens && hints.size.is_none() {
        return Err(InferError::UnknownSize { tokens });
    }
    let out = shape(shapes, "final_layer.linear.weight", 2)?[0];
    let patch_len = channels.saturating_mul(p).saturating_mul(p);
    let block = |name: &str| {
        let prefix = name.strip_prefix("blocks.")?;
        prefix.split('.').next()?.parse::<usize>().ok()
    };
    let last = shapes.keys().filter_map(|name| block(name)).max();
    let depth = last.map_or(0, |last| last.saturating_add(1));
    let first = |suffix: &str| {
        let fits = |name: &&String| name.ends_with(suffix) && !name.contains("shared");
        shapes.iter().find(|(name, _)| fits(name)).and_then(|(_, shape)| shape.first().copied())
    };
    // In DSMoE only the experts have it.
    let swiglu = first(".up_proj.weight").filter(|_| published != Some(Family::DsMoe));
    let hidden = swiglu.or(first(".fc1.weight"));
    let no_ffn = || InferError::Tensors("no tensor belongs to a feed-forward network".into());
    let hidden = hidden.ok_or_else(no_ffn)?;
    let mut params = json!({
        "input_size": across.saturating_mul(p), "in_channels": channels, "patch_size": p,
        "num_classes": shape(shapes, "y_embedder.embedding_table.weight", 2)?[0].saturating_sub(1),
        "depth": depth, "hidden_size": d, "mlp_ratio": hidden as f64 / d.max(1) as f64,
        "use_swiglu": swiglu.is_some(), "learn_sigma": Some(out) == patch_len.checked_mul(2),
        "qk_norm": shapes.contains_key("blocks.0.attn.q_norm.weight"),
    });
    if let Some(weight) = shapes.get("detail_head.conv_in.weight") {
        // Only a predicted sample is finished by one.
        params["prediction"] = json!("data");
        let outputs = weight.first().copied().unwrap_or(0);
        let phase = weight.get(1) == Some(&channels.saturating_mul(2).saturating_add(3));
        params["detail_head"] = json!({ "channels": outputs, "phase": phase });
    }
    let expert = |name: &str| {
        let (_, rest) = name.split_once(".mlp.experts.")?;
        rest.split('.').next()?.parse::<usize>().ok()
    };
    if let Some(last) = shapes.keys().filter_map(|name| expert(name)).max() {
        let shared = shapes.iter().find(|(name, _)| name.contains(".shared_experts.gate_proj."));
        let has_shared = shapes.keys().any(|name| name.contains(".shared_experts."));
        let width = shared.and_then(|(_, shape)| shape.first());
        let shared = width.map_or(usize::from(has_shared), |width| width / d.max(1));
        params["MoE_config"] = json!({
            "num_experts": last.saturating_add(1), "n_shared_experts": shared,
            "interleave": !shapes.keys().any(|name| name.starts_with("blocks.0.mlp.experts.")),
        });
    }
    match params {
        Value::Object(params) => Ok(params),
        _ => unreachable!("it was written as an object"),
    }
}

fn shape<'a>(shapes: &'a Shapes, name: &str, dimensions: usize) -> Result<&'a [usize], InferError> {
    let found = shapes.get(name).filter(|shape| shape.len() == dimensions);
    found.map(Vec::as_slice).ok_or_else(|| {
        InferError::Tensors(format!(
            "there is no tensor {name} with {dimensions} dimensions, as in every DiT"
        ))
    })
}

#[cfg(test)]
#[path = "infer_tests.rs"]
mod tests;
