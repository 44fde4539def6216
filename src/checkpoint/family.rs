//! What an unknown file is most like: the known family whose tensors it shares most of, and what differs.

use std::collections::BTreeMap;

use serde_json::json;

use super::check::Shapes;
use crate::model::{Config, MOST_EXPERTS};

/// Families with the official names of tensors: their name for people, their kind, and whether every block has experts.
const FAMILIES: [(&str, &str, Experts); 7] = [
    ("DiT or SiT (dense)", "dense", Experts::None),
    ("DiffMoE", "diffmoe", Experts::EverySecond),
    ("token-choice MoE DiT", "tc", Experts::EverySecond),
    ("expert-choice MoE DiT", "ec", Experts::EverySecond),
    ("DiT-MoE", "tc", Experts::Every),
    ("DSMoE", "tc", Experts::Sigmoid),
    ("ProMoE", "tc", Experts::Prototypes),
];

/// Which blocks of a family have experts.
#[derive(Clone, Copy, PartialEq)]
enum Experts {
    None,
    EverySecond,
    Every,
    /// Every second, with a sigmoid router.
    Sigmoid,
    /// Every second, with a router by prototypes.
    Prototypes,
}

/// The known family that is nearest to a file's tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Its name, for people.
    pub family: &'static str,
    /// Tensors with the name and the shape that it has.
    pub matching: usize,
    /// Tensors of a model of this family with the file's sizes.
    pub expected: usize,
    /// Tensors that it has and the file lacks.
    pub missing: Vec<String>,
    /// Tensors of the file that it does not have.
    pub unexpected: Vec<String>,
    /// Tensors of another shape.
    pub reshaped: Vec<String>,
}

/// The family that shares most tensors with a file; `None` if no tensor is that of a DiT. Numbers in names are written
/// as `N`, and tensors that differ only in them are listed once.
pub fn nearest_family(shapes: &Shapes) -> Option<Nearest> {
    let all = FAMILIES.iter().filter_map(|&(family, kind, experts)| {
        let config = Config::from_json(&guess(shapes, kind, experts)?).ok()?;
        compare(family, &config, shapes)
    });
    // The first one where several are as near.
    let best = all.reduce(|best, next| if next.score() > best.score() { next } else { best })?;
    (best.matching > 0).then_some(best)
}

impl Nearest {
    fn score(&self) -> f64 {
        let differences = self.missing.len() + self.unexpected.len() + self.reshaped.len();
        self.matching as f64 / self.expected.max(1) as f64 - differences as f64 * 0.01
    }
}

fn compare(family: &'static str, config: &Config, shapes: &Shapes) -> Option<Nearest> {
    // A number in a name of a hostile file may stand for millions of tensors.
    let tensors = config.tensors_up_to(2 * shapes.len() + 1000)?;
    let wanted: BTreeMap<_, _> = tensors.iter().map(|t| (t.name.as_str(), &t.shape)).collect();
    let [mut missing, mut unexpected, mut reshaped] = [const { Vec::new() }; 3];
    let mut matching = 0;
    for tensor in &tensors {
        match shapes.get(&tensor.name) {
            Some(shape) if *shape == tensor.shape => matching += 1,
            Some(shape) => reshaped.push(format!(
                "{} {shape:?} instead of {:?}",
                pattern(&tensor.name),
                tensor.shape
            )),
            None if tensor.is_optional() => {}
            None => missing.push(format!("{} {:?}", pattern(&tensor.name), tensor.shape)),
        }
    }
    for (name, shape) in shapes {
        if !wanted.contains_key(name.as_str()) {
            unexpected.push(format!("{} {shape:?}", pattern(name)));
        }
    }
    let [missing, unexpected, reshaped] = [missing, unexpected, reshaped].map(counted);
    let expected =
        tensors.iter().filter(|t| !t.is_optional() || shapes.contains_key(&t.name)).count();
    Some(Nearest { family, matching, expected, missing, unexpected, reshaped })
}

/// A name with `N` for its numbers.
fn pattern(name: &str) -> String {
    let part =
        |part: &str| if part.parse::<usize>().is_ok() { "N".into() } else { part.to_owned() };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// Each line once, with its number.
fn counted(lines: Vec<String>) -> Vec<String> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for line in lines {
        match counts.iter_mut().find(|(known, _)| *known == line) {
            Some((_, count)) => *count += 1,
            None => counts.push((line, 1)),
        }
    }
    let many = |(line, count)| if count > 1 { format!("{line} ×{count}") } else { line };
    counts.into_iter().map(many).collect()
}

/// A configuration of a family with the sizes that some of the tensors show; `None` where no width is seen.
fn guess(shapes: &Shapes, kind: &str, experts: Experts) -> Option<String> {
    let shape = |name: &str| shapes.get(name).map(Vec::as_slice);
    let numbers = |before: &str| {
        let number = |name: &String| name.split_once(before)?.1.split('.').next()?.parse().ok();
        shapes.keys().filter_map(number).max().map(|last: usize| last.saturating_add(1))
    };
    let first = |ending: &str| {
        let found = shapes.iter().find(|(name, s)| name.ends_with(ending) && s.len() == 2);
        found.map(|(_, shape)| shape[0])
    };
    let patch = match shape("x_embedder.proj.weight") {
        Some(&[width, channels, patch, _]) => Some([width, channels, patch]),
        _ => None,
    };
    let width =
        patch.map(|[width, ..]| width).or_else(|| match shape("t_embedder.mlp.0.weight") {
            Some(&[width, _]) => Some(width),
            _ => shapes
                .values()
                .find_map(|s| if let [1, _, width] = s[..] { Some(width) } else { None }),
        })?;
    let [channels, patch] = patch.map_or([4, 2], |[_, channels, patch]| [channels, patch]);
    let tokens = match shape("pos_embed") {
        Some(&[_, tokens, _]) => tokens,
        _ => 256,
    };
    let outputs = shape("final_layer.linear.weight").and_then(<[usize]>::first).copied();
    let is_sigmoid = experts == Experts::Sigmoid;
    let expert = first(".up_proj.weight");
    let swiglu = expert.filter(|_| !is_sigmoid);
    let hidden = swiglu.or_else(|| first(".fc1.weight")).unwrap_or(width.saturating_mul(4));
    let labels = shape("y_embedder.embedding_table.weight").and_then(<[usize]>::first);
    let norm = shape("blocks.0.attn.q_norm.weight").and_then(<[usize]>::first).copied();
    let divides = |size: &usize| *size > 0 && width.is_multiple_of(*size);
    let head = norm.filter(divides).or([64, 32, 8].into_iter().find(divides)).unwrap_or(width);
    let shared = first(".shared_experts.gate_proj.weight").map_or(0, |n| n / width.max(1));
    let shared = if kind == "diffmoe" {
        usize::from(first(".shared_experts.fc1.weight").is_some())
    } else {
        shared
    };
    let by_prototypes = experts == Experts::Prototypes;
    let expert = if by_prototypes { first(".experts.0.fc1.weight") } else { expert };
    let count = numbers(".experts.").unwrap_or(8).clamp(1, MOST_EXPERTS);
    let shared_width = first(".shared_experts.fc1.weight");
    let router = match experts {
        Experts::Sigmoid => "sigmoid",
        Experts::Prototypes => "prototypes",
        _ => "softmax",
    };
    let moe = json!({
        "num_experts": count, "capacity": 1, "n_shared_experts": shared, "interleave": experts != Experts::Every,
        "router": router, "moe_intermediate_size": expert.unwrap_or(width),
        "shared_expert_intermediate_size": shared_width,
        "use_shared_expert": !by_prototypes || shared_width.is_some(),
        "use_uncond_expert": first(".cluster_centers") != Some(count),
    });
    let config = json!({
        "name": "unknown", "kind": kind, "t_kind": "flow",
        "null_class": labels.map(|rows| rows.saturating_sub(1)),
        "params": {
            "input_size": tokens.isqrt().saturating_mul(patch), "in_channels": channels, "patch_size": patch,
            "num_classes": labels.map_or(1000, |rows| rows.saturating_sub(1)), "depth": numbers("blocks.")?,
            "hidden_size": width, "num_heads": width / head, "use_swiglu": swiglu.is_some(),
            "mlp_ratio": hidden as f64 / width.max(1) as f64, "qk_norm": norm.is_some(),
            "mlp_act": if is_sigmoid { "silu" } else { "gelu" },
            "rope_type": if is_sigmoid && shape("pos_embed").is_none() { "2d" } else { "none" },
            "learn_sigma": outputs == Some(2 * channels.saturating_mul(patch * patch)),
            "MoE_config": if experts == Experts::None { json!(null) } else { moe },
        },
    });
    Some(config.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Preset, TensorSpec};

    fn shapes(tensors: Vec<TensorSpec>) -> Shapes {
        tensors.into_iter().map(|t| (t.name, t.shape)).collect()
    }

    #[test]
    fn a_family_recognises_its_own_models() {
        for (preset, family) in [
            ("dense-S-flow", FAMILIES[0].0),
            ("S-E16", FAMILIES[1].0),
            ("tc-S-E16", FAMILIES[2].0),
            ("ec-S-E16", FAMILIES[3].0),
            ("dit-moe-S-8E2A", FAMILIES[4].0),
            ("dsmoe-S-E48", FAMILIES[5].0),
            ("promoe-S", FAMILIES[6].0),
        ] {
            let preset: Preset = preset.parse().unwrap();
            let nearest = nearest_family(&shapes(preset.config().tensors())).unwrap();
            assert_eq!(nearest.family, family);
            assert_eq!(nearest.matching, nearest.expected, "{nearest:?}");
            assert!(nearest.missing.is_empty() && nearest.unexpected.is_empty(), "{nearest:?}");
        }
    }

    #[test]
    fn what_differs_is_named_once() {
        let preset: Preset = "S-E16".parse().unwrap();
        let mut shapes = shapes(preset.config().tensors());
        shapes.retain(|name, _| !name.ends_with("expert_threshold"));
        shapes.insert("blocks.0.router_bias".into(), vec![16]);
        shapes.insert("blocks.1.router_bias".into(), vec![16]);
        shapes.insert("final_layer.linear.bias".into(), vec![7]);
        let nearest = nearest_family(&shapes).unwrap();
        assert_eq!(nearest.family, "DiffMoE");
        assert_eq!(nearest.unexpected, ["blocks.N.router_bias [16] ×2"]);
        assert_eq!(nearest.missing, ["blocks.N.mlp.expert_threshold [16] ×6"]);
        assert_eq!(nearest.reshaped.len(), 1);
        assert!(nearest.reshaped[0].starts_with("final_layer.linear.bias [7] instead of ["));
        assert_eq!(nearest_family(&Shapes::from([("lm_head".into(), vec![4, 4])])), None);
    }
}
