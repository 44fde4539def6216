//! Families of models from other people's code, recognised by the form of their tensors, and what their published
//! configurations add to it.

use serde_json::{Map, Value, json};

use super::check::Shapes;
use super::hints::Hints;
use crate::model::Objective;

/// A family of published models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// `SwiGLU` experts in every block, with shared experts of width 2D (arXiv 2407.11633). Those that normalise queries and
    /// keys are flow models.
    DitMoe,
    /// A sigmoid router with a bias for the selection (arXiv 2512.01252).
    DsMoe,
    /// A router by prototypes, and an expert for samples without a label (arXiv 2510.24711).
    ProMoe,
    /// A transformer on pixels that predicts the sample, with RMS norms and tokens that carry the label (arXiv 2511.13720);
    /// with experts it is a JiTMoE, which has the router of DSMoE (arXiv 2512.01252).
    Jit,
}

/// Of published models: hidden size, attention heads, name.
type Heads = (usize, usize, &'static str);

impl Family {
    /// Tokens of an image of 256 pixels, for which all models of DSMoE were trained.
    pub(super) const TOKENS: usize = 256;

    /// The family that tensors of this kind of routing belong to, if it is none of the official `DiffMoE` code.
    ///
    /// # Errors
    /// When models like this are not supported.
    pub(super) fn of(kind: &str, shapes: &Shapes, hints: &Hints) -> Result<Option<Self>, String> {
        let has = |part: &str| shapes.keys().any(|name| name.contains(part));
        if has("in_context_posemb") {
            if hints.yaml.is_some() {
                return Err("this is a JiT, whose code has no YAML files; remove it".into());
            }
            return Ok(Some(Self::Jit));
        }
        if has(".cluster_centers") {
            if hints.time == Some(Objective::Ddpm) {
                return Err("this is a ProMoE; its published code defines flow models only".into());
            }
            return Ok(Some(Self::ProMoe));
        }
        if has(".mlp.gate.e_score_correction_bias") {
            return Ok(Some(Self::DsMoe));
        }
        let shape = |name: &str| shapes.get(&format!("blocks.0.mlp.{name}.weight"));
        let shared = shape("shared_experts.gate_proj").filter(|shape| shape.len() == 2);
        let is_dit_moe = hints.yaml.is_none()
            && kind == "tc"
            && shape("experts.0.up_proj").is_some()
            && shared.is_some_and(|shape| Some(shape[0]) == shape[1].checked_mul(2));
        Ok(is_dit_moe.then_some(Self::DitMoe))
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DitMoe => "DiT-MoE",
            Self::DsMoe => "DSMoE",
            Self::ProMoe => "ProMoE",
            Self::Jit => "JiT",
        }
    }

    /// Its published models.
    pub(super) fn heads(self) -> &'static [Heads] {
        match self {
            // S has the heads of DiT-S.
            Self::DitMoe => &[
                (384, 6, "DiT-MoE-S"),
                (768, 12, "DiT-MoE-B"),
                (1152, 16, "DiT-MoE-XL"),
                (1408, 16, "DiT-MoE-G"),
            ],
            Self::DsMoe => &[
                (384, 6, "DSMoE-S"),
                (768, 12, "DSMoE-B"),
                (1024, 16, "DSMoE-L"),
                (1152, 16, "DSMoE-3B"),
            ],
            Self::ProMoe => &[
                (384, 6, "ProMoE-S"),
                (768, 12, "ProMoE-B"),
                (1024, 16, "ProMoE-L"),
                (1152, 16, "ProMoE-XL"),
            ],
            Self::Jit => &[(768, 12, "JiT-B"), (1024, 16, "JiT-L"), (1280, 16, "JiT-H")],
        }
    }

    /// The kind of training where nothing tells it.
    pub(super) fn objective(self, shapes: &Shapes, assumed: &mut Vec<String>) -> Objective {
        let (objective, what) = match self {
            Self::DitMoe if has_norms(shapes) => {
                (Objective::Flow, "the flow objective, as DiT-MoE-XL and DiT-MoE-G have")
            }
            Self::DitMoe => {
                (Objective::Ddpm, "the DDPM objective, as DiT-MoE-S and DiT-MoE-B have")
            }
            Self::DsMoe => (Objective::Flow, "the flow objective, as DSMoE has"),
            Self::ProMoe => (Objective::Flow, "the flow objective, as ProMoE has"),
            Self::Jit => (Objective::Flow, "the flow objective, as JiT has"),
        };
        assumed.push(what.into());
        objective
    }

    /// The factor of the time, where it is not 1.
    pub(super) fn time_scale(self) -> Option<u32> {
        (self == Self::ProMoe).then_some(1000)
    }

    /// Whether samples are images as they are.
    pub(super) fn makes_pixels(self) -> bool {
        self == Self::Jit
    }

    /// The sampling settings that its authors use, where they are known: scheduler, steps and guidance scale.
    pub(super) fn sampling(self) -> Option<(&'static str, u32, f32)> {
        (self == Self::Jit).then_some(("heun", 50, 2.9))
    }

    /// The kind that the name of a run tells, where tensors do not.
    pub(super) fn kind_of(self, name: &str) -> Option<&'static str> {
        (self == Self::ProMoe && name.starts_with("ProMoE_EC")).then_some("ec")
    }

    /// Adds to constructor arguments what the code of the family fixes, and what its published models have in common
    /// where no configuration file was given.
    ///
    /// # Errors
    /// When something is not known.
    pub(super) fn complete(
        self,
        kind: &str,
        params: &mut Map<String, Value>,
        shapes: &Shapes,
        hints: &Hints,
        assumed: &mut Vec<String>,
    ) -> Result<(), String> {
        let is_bare = hints.yaml.is_none();
        if self == Self::DsMoe {
            let norm = params.get("norm_type").filter(|norm| **norm != "layernorm");
            if let Some(norm) = norm {
                return Err(format!(
                    "a norm_type of {norm}; DSMoE is supported with \"layernorm\""
                ));
            }
            params.insert("use_swiglu".into(), json!(false));
            params.insert("mlp_act".into(), json!("silu"));
            if is_bare && !shapes.contains_key("pos_embed") {
                params.insert("rope_type".into(), json!("2d"));
            }
        }
        let is_flow = match (self, hints.time) {
            (Self::DitMoe, None) => has_norms(shapes),
            (Self::DitMoe, Some(time)) => time == Objective::Flow,
            (Self::ProMoe, _) => true,
            (Self::DsMoe | Self::Jit, _) => false,
        };
        if is_flow {
            params.insert("prediction".into(), json!("reversed"));
        }
        if self == Self::DitMoe && has_norms(shapes) {
            params.insert("qk_norm_eps".into(), json!(1e-6));
            assumed.push(
                "an epsilon of 1e-6 in norms of queries and keys, as DiT-MoE-XL and DiT-MoE-G have"
                    .into(),
            );
        }
        if self == Self::Jit {
            form_of_jit(params, shapes, assumed)?;
            if kind == "dense" {
                return Ok(());
            }
        }
        let moe = params.get_mut("MoE_config").and_then(Value::as_object_mut);
        let moe = moe.ok_or("its configuration has no MoE_config")?;
        match self {
            Self::DitMoe if hints.capacity.is_none() => {
                assumed.push("two experts per token, as DiT-MoE has".into());
                moe.insert("capacity".into(), json!(2));
            }
            Self::DitMoe => {}
            Self::ProMoe => choice_of_promoe(kind, moe, shapes, hints, assumed)?,
            Self::Jit => {
                moe.insert("router".into(), json!("sigmoid"));
                choice_by_sigmoid((self, "JiTMoE"), moe, shapes, hints, assumed)?;
            }
            Self::DsMoe => {
                moe.insert("router".into(), json!("sigmoid"));
                // The code never reads their capacity.
                if let Some(k) = moe.remove("num_experts_per_tok") {
                    moe.insert("capacity".into(), k);
                }
                if is_bare {
                    choice_by_sigmoid((self, "DSMoE"), moe, shapes, hints, assumed)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether queries and keys are normalised.
fn has_norms(shapes: &Shapes) -> bool {
    shapes.contains_key("blocks.0.attn.q_norm.weight")
}

/// The form of the router and the widths of the networks, from shapes; what the published models have in common where the
/// configuration file does not tell it.
fn choice_of_promoe(
    kind: &str,
    moe: &mut Map<String, Value>,
    shapes: &Shapes,
    hints: &Hints,
    assumed: &mut Vec<String>,
) -> Result<(), String> {
    let rows = |ending: &str| {
        let found = shapes.iter().find(|(name, _)| name.ends_with(ending));
        found.and_then(|(_, shape)| shape.first().copied())
    };
    moe.insert("router".into(), json!("prototypes"));
    moe.insert("moe_intermediate_size".into(), json!(rows(".mlp.experts.0.fc1.weight")));
    let shared = rows(".mlp.shared_experts.fc1.weight");
    moe.insert("use_shared_expert".into(), json!(shared.is_some()));
    moe.insert("shared_expert_intermediate_size".into(), json!(shared));
    let experts = moe.get("num_experts").and_then(Value::as_u64);
    let prototypes = rows(".mlp.cluster_centers").map(|rows| rows as u64);
    moe.insert("use_uncond_expert".into(), json!(prototypes != experts));
    for unused in ["num_routed_experts", "n_shared_experts"] {
        moe.remove(unused);
    }
    let mut told = (moe.remove("router_weight_mode"), moe.remove("top_k"));
    if hints.yaml.is_none() {
        assumed.push("cosines as weights of experts, and token choice, as ProMoE has".into());
        told.0 = Some(json!("identity"));
        if hints.capacity.is_none() {
            assumed.push("one expert per token, as ProMoE has".into());
        }
        told.1 = Some(json!(1));
    }
    // What the published code takes where a file does not say.
    let mode = told.0.unwrap_or(json!("softmax"));
    if mode != "identity" {
        return Err(format!(
            "a router_weight_mode of {mode}; only \"identity\", which all published configurations have, is supported"
        ));
    }
    let count = if kind == "ec" { 1 } else { 2 };
    moe.insert("capacity".into(), told.1.unwrap_or(json!(count)));
    Ok(())
}

/// What all models of JiT have in common, and the tokens that carry the label.
fn form_of_jit(
    params: &mut Map<String, Value>,
    shapes: &Shapes,
    assumed: &mut Vec<String>,
) -> Result<(), String> {
    /// Hidden size, and the first block in which tokens that carry the label take part.
    const START: [(u64, usize, &str); 3] =
        [(768, 4, "JiT-B"), (1024, 8, "JiT-L"), (1280, 10, "JiT-H")];
    if params.get("patch_size").and_then(Value::as_u64) == Some(32) {
        return Err("this is a JiT for 512 pixels, which begins with noise of twice the size; such models are not supported".into());
    }
    let d = params.get("hidden_size").and_then(Value::as_u64);
    let Some((_, start, name)) = START.into_iter().find(|row| Some(row.0) == d) else {
        return Err(format!(
            "a JiT of hidden size {}: the first block with class tokens cannot be inferred from the tensors; known are \
             the sizes of JiT-B (768), JiT-L (1024) and JiT-H (1280)",
            d.unwrap_or(0)
        ));
    };
    let context = shapes.get("in_context_posemb").and_then(|shape| shape.get(1));
    assumed.push(format!("class tokens from block {start} on, as {name} has"));
    let form = json!({
        "norm_type": "rmsnorm", "rope_type": "2d", "pos_embed": true, "swiglu_bias": true, "prediction": "data",
        "qk_norm_eps": 1e-6, "context_tokens": context, "context_start": start,
    });
    if let Value::Object(form) = form {
        params.extend(form);
    }
    Ok(())
}

/// Width of the experts, experts of a token and their weights, from shapes and published models.
fn choice_by_sigmoid(
    (family, name): (Family, &str),
    moe: &mut Map<String, Value>,
    shapes: &Shapes,
    hints: &Hints,
    assumed: &mut Vec<String>,
) -> Result<(), String> {
    /// Number of experts, experts of a token, sum of their weights; of all published models.
    const DSMOE: [(u64, u64, f64); 2] = [(16, 2, 2.0), (48, 5, 2.5)];
    const JITMOE: [(u64, u64, f64); 2] = [(16, 2, 2.5), (48, 5, 2.5)];
    let published = if family == Family::Jit { JITMOE } else { DSMOE };
    let width = shapes.iter().find(|(name, _)| name.ends_with(".mlp.experts.0.up_proj.weight"));
    let width = width.and_then(|(_, shape)| shape.first());
    moe.insert("moe_intermediate_size".into(), json!(width));
    let experts = moe.get("num_experts").and_then(Value::as_u64).unwrap_or(0);
    let Some((_, k, scale)) = published.into_iter().find(|row| row.0 == experts) else {
        return Err(format!(
            "{name} with {experts} experts: the experts of a token and routed_scaling_factor cannot be inferred from the \
             tensors{}",
            if family == Family::Jit { "" } else { "; pass the YAML file of the training run" }
        ));
    };
    if hints.capacity.is_none() {
        assumed.push(format!("{k} experts per token, as {name} with {experts} experts has"));
        moe.insert("capacity".into(), json!(k));
    }
    assumed
        .push(format!("a routed_scaling_factor of {scale}, as {name} with {experts} experts has"));
    moe.insert("routed_scaling_factor".into(), json!(scale));
    Ok(())
}
