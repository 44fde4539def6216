//! Inferring the configuration of a bare state_dict from the names and shapes of its tensors, and from the YAML file
//! of the training run if there is one. The number of heads and the objective cannot be inferred from shapes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::model::{Config, ConfigError, Objective, TensorSpec};

/// Information that the tensors do not contain.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// The official configuration file of a run.
    pub yaml: Option<String>,
    /// Kind of training; overrides the file.
    pub time: Option<Objective>,
    /// Number of attention heads, if no file gives it.
    pub heads: Option<usize>,
    /// Height and width of a sample; overrides the tensors and the file.
    pub size: Option<[usize; 2]>,
    /// Name for people.
    pub name: Option<String>,
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
    /// The YAML file is damaged, or is not that of an official training run.
    #[error("the YAML file of the training run is not usable: {0}")]
    Yaml(String),
    /// These are not the tensors of a DiT.
    #[error("{0}")]
    Tensors(String),
    /// The configuration that follows is impossible.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

type Shapes = BTreeMap<String, Vec<usize>>;

/// The configuration of a model with these tensors, as JSON in the form that checkpoints carry.
///
/// # Errors
/// When something is not known, or the tensors are not those of such a model.
pub fn infer_config(shapes: &Shapes, hints: &Hints) -> Result<String, InferError> {
    let has = |part: &str| shapes.keys().any(|name| name.contains(part));
    let kind = if has(".mlp.capacity_predictor.") {
        "diffmoe"
    } else if has(".mlp.gate.weight") {
        "tc"
    } else if has(".mlp.gate_weight") {
        "ec"
    } else {
        "dense"
    };
    let (mut params, rf, name) = match &hints.yaml {
        Some(text) => from_yaml(text)?,
        None => (from_shapes(shapes, hints)?, None, None),
    };
    if let Some(size) = hints.size {
        params["input_size"] = json!(size);
    }
    let time = match (hints.time, rf) {
        (Some(time), _) => time,
        (None, Some(true)) => Objective::Flow,
        (None, Some(false)) => Objective::Ddpm,
        (None, None) => return Err(InferError::UnknownObjective),
    };
    let table = shape(shapes, "y_embedder.embedding_table.weight", 2)?;
    let solver = if time == Objective::Flow { "euler" } else { "ddpm" };
    let name = hints.name.clone().or(name).unwrap_or_else(|| format!("imported {kind} model"));
    let text = json!({
        "name": name, "kind": kind, "t_kind": time, "null_class": table[0].saturating_sub(1),
        "params": params, "defaults": { "steps": 250, "guidance": 1.5, "solver": solver }
    })
    .to_string();
    let problems = differences(&Config::from_json(&text)?, shapes);
    if problems.is_empty() { Ok(text) } else { Err(InferError::Tensors(problems)) }
}

/// The first tensors that do not fit, in words; empty if all do.
fn differences(config: &Config, shapes: &Shapes) -> String {
    const SHOWN: usize = 8;
    let needed = config.tensors();
    let wrong = needed.iter().filter(|t| !t.is_optional());
    let wrong = wrong.filter_map(|TensorSpec { name, shape, .. }| match shapes.get(name) {
        None => Some(format!("{name} {shape:?} is missing")),
        Some(found) if found != shape => {
            Some(format!("{name} has shape {found:?}, expected {shape:?}"))
        }
        Some(_) => None,
    });
    let needed: BTreeSet<_> = needed.iter().map(|t| &t.name).collect();
    let extra = shapes.keys().filter(|name| !needed.contains(name));
    let all: Vec<_> = wrong.chain(extra.map(|name| format!("{name} is unexpected"))).collect();
    if all.is_empty() {
        return String::new();
    }
    let more = all.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!(
        "the tensors do not match a {:?} model: {}{more}",
        config.kind,
        all[..all.len().min(SHOWN)].join("; ")
    )
}

/// Constructor arguments, whether the run was a flow, and its name.
fn from_yaml(text: &str) -> Result<(Value, Option<bool>, Option<String>), InferError> {
    let file: Value = serde_saphyr::from_str(text).map_err(|e| InferError::Yaml(e.to_string()))?;
    let params = file.pointer("/model/params").or(file.get("params"));
    let missing = "it has no model.params, unlike the official configurations";
    let params = params.ok_or_else(|| InferError::Yaml(missing.into()))?;
    let rf = file.pointer("/basic/rf").and_then(Value::as_bool);
    let name = file.pointer("/basic/exp_name").and_then(Value::as_str).map(str::to_owned);
    Ok((params.clone(), rf, name))
}

/// Constructor arguments that give tensors of these shapes.
fn from_shapes(shapes: &Shapes, hints: &Hints) -> Result<Value, InferError> {
    let patch = shape(shapes, "x_embedder.proj.weight", 4)?;
    let &[d, channels, p, _] = patch else {
        return Err(InferError::Tensors("x_embedder is not a patch embedding".into()));
    };
    let tokens = shape(shapes, "pos_embed", 3)?[1];
    let across = tokens.isqrt();
    if across * across != tokens && hints.size.is_none() {
        return Err(InferError::UnknownSize { tokens });
    }
    let out = shape(shapes, "final_layer.linear.weight", 2)?[0];
    let block = |name: &str| {
        let prefix = name.strip_prefix("blocks.")?;
        prefix.split('.').next()?.parse::<usize>().ok()
    };
    let depth = shapes.keys().filter_map(|name| block(name)).max().map_or(0, |last| last + 1);
    // Heads of the published sizes, which cannot be inferred from shapes.
    let known = [(384, 6), (768, 12), (1024, 16), (1152, 16)];
    let heads = hints.heads.or(known.iter().find(|k| k.0 == d).map(|k| k.1));
    let heads = heads.ok_or(InferError::UnknownHeads { hidden_size: d })?;
    let first = |suffix: &str| {
        let fits = |name: &&String| name.ends_with(suffix) && !name.contains("shared");
        shapes.iter().find(|(name, _)| fits(name)).map(|(_, shape)| shape[0])
    };
    let swiglu = first(".up_proj.weight");
    let hidden = swiglu.or(first(".fc1.weight"));
    let no_ffn = || InferError::Tensors("no tensor belongs to a feed-forward network".into());
    let hidden = hidden.ok_or_else(no_ffn)?;
    let mut params = json!({
        "input_size": across * p, "in_channels": channels, "patch_size": p,
        "num_classes": shape(shapes, "y_embedder.embedding_table.weight", 2)?[0].saturating_sub(1),
        "depth": depth, "hidden_size": d, "num_heads": heads, "mlp_ratio": hidden as f64 / d.max(1) as f64,
        "use_swiglu": swiglu.is_some(), "learn_sigma": out == 2 * channels * p * p,
        "qk_norm": shapes.contains_key("blocks.0.attn.q_norm.weight"),
    });
    let expert = |name: &str| {
        let (_, rest) = name.split_once(".mlp.experts.")?;
        rest.split('.').next()?.parse::<usize>().ok()
    };
    if let Some(last) = shapes.keys().filter_map(|name| expert(name)).max() {
        let shared = shapes.iter().find(|(name, _)| name.contains(".shared_experts.gate_proj."));
        let has_shared = shapes.keys().any(|name| name.contains(".shared_experts."));
        let shared = shared.map_or(usize::from(has_shared), |(_, shape)| shape[0] / d.max(1));
        params["MoE_config"] = json!({
            "num_experts": last + 1, "capacity": 1, "n_shared_experts": shared,
            "interleave": !shapes.keys().any(|name| name.starts_with("blocks.0.mlp.experts.")),
        });
    }
    Ok(params)
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
mod tests {
    use super::*;
    use crate::model::Preset;

    fn shapes_of(config: &Config) -> Shapes {
        config.tensors().into_iter().map(|t| (t.name, t.shape)).collect()
    }

    /// Names and shapes of DiT-XL/2 at 256 and 512 pixels and of SiT-XL/2 are those of the dense preset.
    #[test]
    fn published_shapes_are_recognised() {
        for (name, time) in [
            ("dense-XL-ddpm", Objective::Ddpm),
            ("dense-XL", Objective::Flow),
            ("S-E8", Objective::Flow),
            ("tc-S-E4", Objective::Flow),
            ("ec-L-E16-ddpm", Objective::Ddpm),
        ] {
            let config = name.parse::<Preset>().unwrap().config();
            let hints = Hints { time: Some(time), ..Hints::default() };
            let text = infer_config(&shapes_of(&config), &hints).unwrap();
            let found = Config::from_json(&text).unwrap();
            assert_eq!(Config { name: config.name.clone(), ..found }, config);
        }
    }

    #[test]
    fn at_512_pixels_there_are_four_times_as_many_tokens() {
        let config = "dense-XL-ddpm".parse::<Preset>().unwrap().config();
        let mut shapes = shapes_of(&config);
        shapes.insert("pos_embed".into(), vec![1, 1024, 1152]);
        let hints = Hints { time: Some(Objective::Ddpm), ..Hints::default() };
        let config = Config::from_json(&infer_config(&shapes, &hints).unwrap()).unwrap();
        assert_eq!((config.input_size, config.tokens()), ([64, 64], 1024));
    }

    #[test]
    fn tokens_that_make_no_square_need_a_shape() {
        let config = "S".parse::<Preset>().unwrap().of_size([16, 24]).unwrap().config();
        let shapes = shapes_of(&config);
        let hints = Hints { time: Some(Objective::Flow), ..Hints::default() };
        let unknown = infer_config(&shapes, &hints).unwrap_err();
        assert!(matches!(unknown, InferError::UnknownSize { tokens: 96 }), "{unknown}");
        let hints = Hints { size: Some([16, 24]), ..hints };
        let found = Config::from_json(&infer_config(&shapes, &hints).unwrap()).unwrap();
        assert_eq!(Config { name: config.name.clone(), ..found }, config);
        let hints = Hints { size: Some([16, 16]), ..hints };
        let text = infer_config(&shapes, &hints).unwrap_err().to_string();
        assert!(text.contains("pos_embed"), "{text}");
    }

    #[test]
    fn what_the_tensors_do_not_tell_is_asked_for() {
        let config = "S".parse::<Preset>().unwrap().config();
        let shapes = shapes_of(&config);
        let ask = |shapes: &Shapes, hints: &Hints| infer_config(shapes, hints).unwrap_err();
        assert!(matches!(ask(&shapes, &Hints::default()), InferError::UnknownObjective));
        let time = Hints { time: Some(Objective::Flow), ..Hints::default() };
        let mut odd = shapes.clone();
        odd.insert("x_embedder.proj.weight".into(), vec![400, 4, 2, 2]);
        assert!(matches!(ask(&odd, &time), InferError::UnknownHeads { hidden_size: 400 }));
        let mut less = shapes.clone();
        less.remove("blocks.3.attn.qkv.bias");
        less.insert("blocks.0.attn.rope".into(), vec![1]);
        let text = ask(&less, &time).to_string();
        assert!(text.contains("blocks.3.attn.qkv.bias") && text.contains("rope"), "{text}");
        assert!(ask(&Shapes::new(), &time).to_string().contains("as in every DiT"));
        let yaml = Hints { yaml: Some("a: [1, 2".into()), ..time };
        assert!(matches!(ask(&shapes, &yaml), InferError::Yaml(_)));
    }
}
