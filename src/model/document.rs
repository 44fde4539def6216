//! The JSON document that describes a model, read and checked.
//!
//! One document describes a model wherever it comes from: the `diffmoe` entry in the header of our safetensors files
//! and the `case.json` of a parity case use the same keys, and the constructor arguments under `params` are those of the
//! official YAML files.

use serde::Deserialize;

use super::config::{
    Config, ContextTokens, FfnForm, Kind, MOST_EXPERTS, NormForm, Objective, Prediction, Refiner,
    Router, SamplingDefaults,
};
use super::error::ConfigError;
use super::labels::LabelTable;
use super::moe_section::{Experts, MoeParams};
use super::text_config::{TextConfig, TextSection};
use super::width::ffn_width;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    name: Option<String>,
    kind: Kind,
    t_kind: Objective,
    #[serde(default = "one")]
    time_scale: f32,
    #[serde(default)]
    space: Option<String>,
    #[serde(default)]
    null_class: Option<u32>,
    params: Params,
    #[serde(default)]
    labels: Vec<LabelTable>,
    #[serde(default)]
    text: Option<TextSection>,
    #[serde(default)]
    defaults: SamplingDefaults,
    #[serde(default)]
    refiner: Option<RefinerSection>,
}

/// A refiner: from when on it computes, and what it has in place of the model's `params`.
#[derive(Deserialize)]
struct RefinerSection {
    from: f32,
}

fn one() -> f32 {
    1.0
}
fn four_channels() -> usize {
    4
}
fn yes() -> bool {
    true
}
fn eps_of_torch() -> f32 {
    1e-5
}
fn four() -> f64 {
    4.0
}

/// Height and width of a sample: one number for a square.
#[derive(Deserialize)]
#[serde(untagged, expecting = "input_size must be a number or [height, width]")]
enum InputSize {
    Square(usize),
    Sides([usize; 2]),
}

#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "keys of the official files")]
struct Params {
    input_size: InputSize,
    #[serde(default = "four_channels")]
    in_channels: usize,
    num_classes: usize,
    patch_size: usize,
    depth: usize,
    hidden_size: usize,
    num_heads: usize,
    #[serde(default)]
    head_dim: Option<usize>,
    #[serde(default = "four")]
    mlp_ratio: f64,
    #[serde(default)]
    use_swiglu: bool,
    #[serde(default)]
    mlp_act: Act,
    #[serde(default)]
    qk_norm: bool,
    #[serde(default = "eps_of_torch")]
    qk_norm_eps: f32,
    #[serde(default)]
    rope_type: Rope,
    #[serde(default)]
    norm_type: NormType,
    #[serde(default)]
    pos_embed: Option<bool>,
    #[serde(default)]
    swiglu_bias: bool,
    #[serde(default)]
    context_tokens: usize,
    #[serde(default)]
    context_start: usize,
    #[serde(default)]
    use_sinks: bool,
    #[serde(default)]
    enable_gqa: bool,
    #[serde(default)]
    prediction: Prediction,
    #[serde(default = "yes")]
    learn_sigma: bool,
    #[serde(default)]
    detail_head: Option<DetailHeadParams>,
    #[serde(rename = "MoE_config", default)]
    moe: Option<MoeParams>,
}

/// Activation of networks with two layers in blocks without experts.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Act {
    #[default]
    Gelu,
    Silu,
}

/// Kinds of rotary position embedding.
#[derive(Default, Deserialize, PartialEq)]
enum Rope {
    #[default]
    #[serde(rename = "none")]
    None,
    #[serde(rename = "2d")]
    Planar,
}

/// Norms in front of attention and feed-forward networks.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NormType {
    #[default]
    LayerNorm,
    RmsNorm,
}

#[derive(Deserialize)]
struct DetailHeadParams {
    channels: usize,
    #[serde(default)]
    phase: bool,
}

impl Config {
    /// Reads a configuration and checks that a model of that shape can exist.
    ///
    /// # Errors
    /// When the text is not JSON of the expected form, or a number in it is impossible.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let doc: Document = serde_json::from_str(text)?;
        let p = doc.params;
        let d = p.hidden_size;
        let moe = p.moe;
        let (detail_channels, detail_phase) =
            p.detail_head.as_ref().map_or((0, false), |head| (head.channels, head.phase));
        if p.detail_head.is_some() && detail_channels == 0 {
            return Err(ConfigError::Invalid(
                "a detail_head of 0 channels; it needs at least 1".into(),
            ));
        }
        let dense_form = match (p.use_swiglu, p.mlp_act) {
            (true, _) => FfnForm::SwiGlu,
            (false, Act::Silu) => FfnForm::Silu,
            (false, Act::Gelu) => FfnForm::Gelu,
        };
        let ffn_hidden = ffn_width(d, p.mlp_ratio);
        let form = if p.use_swiglu { FfnForm::SwiGlu } else { FfnForm::Gelu };
        let experts = Experts::new(doc.kind, d, (ffn_hidden, form), moe.as_ref())?;
        if p.use_sinks || p.enable_gqa {
            let what = "use_sinks (attention sinks) or enable_gqa (grouped queries), which are not supported";
            return Err(ConfigError::Invalid(what.into()));
        }
        let mut labels = doc.labels;
        let encoder = doc.text.map(TextConfig::new).transpose()?;
        if labels.is_empty() && encoder.is_none() {
            labels.push(LabelTable {
                name: "class".into(),
                tensor: "y_embedder.embedding_table.weight".into(),
                null: doc.null_class.unwrap_or(p.num_classes as u32),
                values: Vec::new(),
            });
        }
        let refiner = doc.refiner.map(|section| Refiner::new(&section, text)).transpose()?;
        let config = Self {
            name: doc.name.unwrap_or_else(|| "unnamed".into()),
            kind: doc.kind,
            objective: doc.t_kind,
            prediction: p.prediction,
            time_scale: doc.time_scale,
            pixels: doc.space.as_deref() == Some("pixels"),
            input_size: match p.input_size {
                InputSize::Square(side) => [side; 2],
                InputSize::Sides(sides) => sides,
            },
            in_channels: p.in_channels,
            out_channels: p.in_channels.saturating_mul(if p.learn_sigma { 2 } else { 1 }),
            patch_size: p.patch_size,
            detail_channels,
            detail_phase,
            depth: p.depth,
            hidden_size: d,
            num_heads: p.num_heads,
            head_dim: p.head_dim.unwrap_or(d / p.num_heads.max(1)),
            norm: match p.norm_type {
                NormType::LayerNorm => NormForm::Layer,
                NormType::RmsNorm => NormForm::Rms,
            },
            qk_norm: p.qk_norm,
            qk_norm_eps: p.qk_norm_eps,
            rope: p.rope_type == Rope::Planar,
            pos_embed: p.pos_embed.unwrap_or(p.rope_type == Rope::None),
            context: (p.context_tokens > 0)
                .then_some(ContextTokens { count: p.context_tokens, start: p.context_start }),
            ffn_hidden,
            ffn_form: dense_form,
            swiglu_bias: p.swiglu_bias,
            expert_hidden: experts.hidden,
            expert_form: experts.form,
            router: experts.router,
            num_experts: moe.as_ref().map_or(0, |m| m.num_experts),
            capacity: moe.as_ref().map_or(1.0, |m| m.capacity),
            interleave: moe.as_ref().is_none_or(|m| m.interleave),
            shared_hidden: experts.shared_hidden,
            shared_form: experts.shared_form,
            labels,
            text: encoder,
            defaults: doc.defaults,
            refiner: refiner.map(Box::new),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |text: String| Err(ConfigError::Invalid(text));
        let Self { input_size: [height, width], patch_size, .. } = *self;
        let Self { hidden_size, num_heads, head_dim, in_channels, .. } = *self;
        let sizes = [height, width, patch_size, hidden_size, self.depth];
        let sizes = sizes.into_iter().chain([num_heads, head_dim, in_channels]);
        if sizes.clone().any(|n| n == 0) {
            return wrong("a size is 0".into());
        }
        let more = [self.ffn_hidden, self.expert_hidden, self.num_experts, self.detail_channels];
        if sizes.chain(more).any(|n| n > 1 << 16) {
            return wrong("a size is above 65,536".into());
        }
        let products = [
            [num_heads, head_dim, 1],
            [patch_size, patch_size, self.out_channels],
            [height, width, self.out_channels],
            [self.shared_hidden, 1, 1],
        ];
        let product =
            |of: [usize; 3]| of.into_iter().fold(1_u64, |m, n| m.saturating_mul(n as u64));
        if products.into_iter().any(|of| product(of) > 1 << 28) {
            return wrong("the sizes of a sample, a patch, the heads or the shared expert multiply to more than 2^28".into());
        }
        if let Some(table) = self.labels.iter().find(|t| t.values.len() > t.null as usize) {
            let (name, names, rows) = (&table.name, table.values.len(), table.null);
            return wrong(format!("{names} names for the {rows} values of the table {name:?}"));
        }
        if let Some(side) = [height, width].iter().find(|side| !side.is_multiple_of(patch_size)) {
            return wrong(format!(
                "input_size {side} is not a multiple of patch_size \
                {patch_size}"
            ));
        }
        // The position embedding splits D in four, and the kernels read weights four at a time.
        let widths = [hidden_size, head_dim, self.ffn_hidden, self.expert_hidden];
        if widths.iter().any(|n| !n.is_multiple_of(4)) {
            return wrong("hidden_size, head_dim and the FFN width must be multiples of 4".into());
        }
        if self.kind != Kind::Dense && !(1..=MOST_EXPERTS).contains(&self.num_experts) {
            return wrong(format!(
                "{} experts; 1 to {MOST_EXPERTS} are supported",
                self.num_experts
            ));
        }
        if self.objective == Objective::Ddpm && self.prediction != Prediction::Velocity {
            return wrong(
                "prediction \"data\" or \"reversed\" needs a flow model; DDPM models predict the noise"
                    .into(),
            );
        }
        if self.detail_channels > 0 && self.prediction != Prediction::Sample {
            return wrong(
                "a detail_head finishes a predicted sample; it needs prediction \"data\"".into(),
            );
        }
        if self.detail_channels > 0 && self.out_channels != self.in_channels {
            return wrong("a detail_head predicts no variance; it needs learn_sigma false".into());
        }
        let by_label = matches!(self.router, Router::Prototypes { unconditional: true });
        if by_label && (self.labels.len() != 1 || self.text.is_some()) {
            return wrong("use_uncond_expert needs exactly one label table and no prompts".into());
        }
        self.check_context()?;
        self.check_capacity()?;
        self.check_showcase()?;
        self.check_refiner()?;
        if !(self.qk_norm_eps.is_finite() && self.qk_norm_eps > 0.0) {
            return wrong(format!("a qk_norm_eps of {}; it must be above 0", self.qk_norm_eps));
        }
        if !self.time_scale.is_finite() || self.time_scale <= 0.0 {
            return wrong(format!("time_scale {}", self.time_scale));
        }
        Ok(())
    }

    /// Tokens that carry the labels are computed in the blocks before theirs, too, and not read. That must not change
    /// which tokens an expert takes.
    fn check_context(&self) -> Result<(), ConfigError> {
        let Some(context) = self.context else { return Ok(()) };
        let wrong = |text: &str| Err(ConfigError::Invalid(format!("context_tokens {text}")));
        if context.count > 1 << 12 {
            return wrong("above 4,096");
        }
        if context.start >= self.depth {
            return wrong(&format!(
                "from block {}; the model has {} blocks, from 0",
                context.start, self.depth
            ));
        }
        if !matches!(self.kind, Kind::Dense | Kind::Tc)
            || matches!(self.router, Router::Prototypes { .. })
        {
            return wrong("need a dense model, or token choice without prototypes");
        }
        if self.labels.is_empty() || self.text.is_some() {
            return wrong("need labels and no prompts");
        }
        Ok(())
    }

    /// Whether the refiner continues what the model has begun.
    fn check_refiner(&self) -> Result<(), ConfigError> {
        let Some(refiner) = &self.refiner else { return Ok(()) };
        let wrong = |text: &str| Err(ConfigError::Invalid(format!("a refiner {text}")));
        let (from, config) = (refiner.from, &refiner.config);
        if !(from > 0.0 && from < 1.0) {
            return wrong(&format!("from {from}; it must be a time between 0 and 1"));
        }
        if self.objective != Objective::Flow {
            return wrong("of a DDPM model; only flow models have one");
        }
        let sample = |of: &Self| (of.input_size, of.in_channels, of.out_channels, of.prediction);
        if sample(self) != sample(config) {
            return wrong("with other samples; size, channels and prediction must be the model's");
        }
        if self.labels != config.labels {
            return wrong("with other labels; num_classes must be the model's");
        }
        let routing = |of: &Self| (of.kind, of.num_experts, of.moe_blocks());
        if routing(self) != routing(config) {
            return wrong("with other experts; their number and blocks must be the model's");
        }
        if !self.patch_size.is_multiple_of(config.patch_size) {
            let (ours, theirs) = (self.patch_size, config.patch_size);
            return wrong(&format!(
                "with patches of {theirs}, which do not divide those of {ours}"
            ));
        }
        Ok(())
    }

    fn check_showcase(&self) -> Result<(), ConfigError> {
        let Some(showcase) = &self.defaults.showcase else { return Ok(()) };
        let tables = self.labels.iter().map(|table| table.null);
        let fits = |rows: &&Vec<u32>| {
            rows.len() == tables.len()
                && rows.iter().zip(tables.clone()).all(|(row, null)| *row < null)
        };
        match showcase.rows.iter().find(|rows| !fits(rows)) {
            Some(rows) => Err(ConfigError::Invalid(format!(
                "a showcase with {rows:?}; expected a row of each of the {} label tables",
                self.labels.len()
            ))),
            None => Ok(()),
        }
    }

    /// The baselines take a number of tokens or experts that follows from the capacity.
    fn check_capacity(&self) -> Result<(), ConfigError> {
        let capacity = self.capacity;
        let experts = match self.prototypes() {
            0 => self.num_experts,
            prototypes => prototypes,
        };
        let reason = match self.kind {
            Kind::Dense => return Ok(()),
            _ if !(capacity > 0.0 && capacity.is_finite()) => "it must be above 0".to_owned(),
            Kind::Ec if capacity > experts as f64 => {
                format!("it must be at most {experts}, at which every expert takes all tokens")
            }
            Kind::Tc if !(1.0..=experts as f64).contains(&capacity) => {
                format!("a token takes 1 to {experts} experts")
            }
            _ => return Ok(()),
        };
        Err(ConfigError::Invalid(format!("a capacity of {capacity}: {reason}")))
    }
}

impl Refiner {
    /// A refiner by its section in the document of a model.
    fn new(section: &RefinerSection, text: &str) -> Result<Self, ConfigError> {
        let config = Config::from_json(&refiner_document(text)?)?;
        Ok(Self { from: section.from, config })
    }
}

/// The document of a model's refiner as one of its own: that of the model, with what the section `refiner` has instead, such
/// as its `params`. Labels that the model draws well are its own.
///
/// # Errors
/// When the text is no JSON, or there is no section with `params`.
pub fn refiner_document(text: &str) -> Result<String, ConfigError> {
    let mut document: serde_json::Value = serde_json::from_str(text)?;
    let section = document.as_object_mut().and_then(|entries| entries.remove("refiner"));
    let section = section.filter(|section| !section["params"].is_null());
    let section = section.ok_or_else(|| {
        ConfigError::Invalid("a refiner needs params, as the model has them".into())
    })?;
    for (key, value) in section.as_object().into_iter().flatten().filter(|(key, _)| *key != "from")
    {
        document[key] = value.clone();
    }
    let defaults = document.get_mut("defaults").and_then(serde_json::Value::as_object_mut);
    if let Some(defaults) = defaults {
        defaults.remove("showcase");
    }
    Ok(document.to_string())
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
