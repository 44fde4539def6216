//! The configuration of a model: its shape, and how it was trained.
//!
//! One JSON document describes a model wherever it comes from: the `diffmoe` entry in the header of
//! our safetensors files and the `case.json` of a parity case use the same keys, and the constructor
//! arguments under `params` are those of the official YAML files.

use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::text_config::{TextConfig, TextSection};
use super::width::ffn_width;

/// Which of the paper's four architectures a model is (paper §4, Table 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Plain `DiT`: every block has one feed-forward network.
    Dense,
    /// Token choice: each token takes its best experts.
    Tc,
    /// Expert choice: each expert takes its best tokens, sample by sample.
    Ec,
    /// `DiffMoE`: each expert selects from the pool of the whole batch; the capacity predictor gives the number.
    DiffMoe,
}

/// What the time input of the model means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Rectified flow: `t` in [0, 1], 0 is noise and 1 is data (the official code's direction).
    Flow,
    /// DDPM: `t` is an integer step in 0..1000, 0 is data.
    Ddpm,
}

/// What the output of a flow model means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prediction {
    /// The velocity `v = dz/dt`, as in the paper.
    #[default]
    Velocity,
    /// The sample `x₀` (diffusers' name), from which the velocity follows as `(x − z) / (1 − t)`: for patches of more numbers than
    /// half the hidden size, whose noise a token has no memory for (Li and He 2025, arXiv 2511.13720).
    #[serde(rename = "data", alias = "sample")]
    Sample,
}

/// The two shapes a feed-forward network comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnForm {
    /// `fc2(gelu_tanh(fc1 x))`, with biases.
    Gelu,
    /// `down(silu(gate x) ⊙ up x)`, without biases.
    SwiGlu,
}

/// One embedding table that conditions the model: classes, subjects, drawing styles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelTable {
    /// What the table is about, in one word: `class`, `subject`, `style`.
    pub name: String,
    /// Name of the tensor, shape `[values + 1, D]`.
    pub tensor: String,
    /// The row that means "no label", used for the unconditional pass of guidance.
    pub null: u32,
    /// The name of each row before the null row; empty if the checkpoint has none.
    #[serde(default)]
    pub values: Vec<String>,
}

impl LabelTable {
    /// Finds a row by its name (case-insensitive, spaces and dashes ignored) or by its number.
    pub fn find(&self, text: &str) -> Option<u32> {
        let fold = |s: &str| -> String {
            s.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
        };
        let wanted = fold(text);
        if let Some(i) = self.values.iter().position(|v| fold(v) == wanted) {
            return Some(i as u32);
        }
        text.parse::<u32>().ok().filter(|&n| n < self.null)
    }

    /// The name of a row, or its number where the table has no names.
    pub fn label(&self, row: u32) -> String {
        self.values.get(row as usize).cloned().unwrap_or_else(|| row.to_string())
    }
}

/// A model's shape. Made only by [`Config::from_json`], which has checked every number.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Short name, for display.
    pub name: String,
    /// Architecture.
    pub kind: Kind,
    /// Meaning of the time input.
    pub objective: Objective,
    /// Meaning of the output of a flow model.
    pub prediction: Prediction,
    /// Factor applied to `t` before the sinusoidal embedding (1 in the official code, 1000 in our own models).
    pub time_scale: f32,
    /// Whether samples are pixels in [-1, 1] (`true`) or latents of a variational autoencoder.
    pub pixels: bool,
    /// Height and width of a sample, in pixels or latent cells.
    pub input_size: [usize; 2],
    /// Channels of a sample.
    pub in_channels: usize,
    /// Channels of the model's output: twice `in_channels` where a variance is predicted too.
    pub out_channels: usize,
    /// Side of a square patch; one patch is one token.
    pub patch_size: usize,
    /// Width `K` of the detail head, the convolutions over whole pixels that finish a predicted sample; 0 for none.
    pub detail_channels: usize,
    /// Whether the detail head also sees where in its patch each pixel lies.
    pub detail_phase: bool,
    /// Number of transformer blocks.
    pub depth: usize,
    /// `D`.
    pub hidden_size: usize,
    /// `H`.
    pub num_heads: usize,
    /// Width of one attention head.
    pub head_dim: usize,
    /// Whether queries and keys go through a layer norm with weight and bias, head by head (eps 1e-5). No
    /// official model does; re-trainings by others do.
    pub qk_norm: bool,
    /// `M`, the hidden width of one feed-forward network or expert.
    pub ffn_hidden: usize,
    /// Shape of the feed-forward networks and experts.
    pub ffn_form: FfnForm,
    /// `E`; 0 for a dense model.
    pub num_experts: usize,
    /// Mean number of experts per token in training (`C` in the paper); for token choice the number itself.
    pub capacity: f64,
    /// Whether only odd blocks are MoE (`true`), or all.
    pub interleave: bool,
    /// Hidden width of the shared expert that sees every token; 0 for none.
    pub shared_hidden: usize,
    /// Shape of the shared expert.
    pub shared_form: FfnForm,
    /// The conditioning tables; at least one, unless the model reads text.
    pub labels: Vec<LabelTable>,
    /// The text encoder of a text-conditioned model.
    pub text: Option<TextConfig>,
    /// Sampling settings that suit the model.
    pub defaults: SamplingDefaults,
}

/// Sampling settings that a checkpoint recommends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingDefaults {
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale.
    pub guidance: f32,
    /// Name of the scheduler. Model files call it `solver`.
    #[serde(rename = "solver", alias = "scheduler")]
    pub scheduler: String,
}

impl Default for SamplingDefaults {
    fn default() -> Self {
        Self { steps: 50, guidance: 1.5, scheduler: "euler".into() }
    }
}

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
}

fn one() -> f32 {
    1.0
}
fn one_expert() -> f64 {
    1.0
}
fn four_channels() -> usize {
    4
}
fn yes() -> bool {
    true
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
    qk_norm: bool,
    #[serde(default)]
    prediction: Prediction,
    #[serde(default = "yes")]
    learn_sigma: bool,
    #[serde(default)]
    detail_head: Option<DetailHeadParams>,
    #[serde(rename = "MoE_config", default)]
    moe: Option<MoeParams>,
}

#[derive(Deserialize)]
struct DetailHeadParams {
    channels: usize,
    #[serde(default)]
    phase: bool,
}

#[derive(Deserialize)]
struct MoeParams {
    num_experts: usize,
    #[serde(default = "one_expert")]
    capacity: f64,
    #[serde(default)]
    n_shared_experts: Option<usize>,
    #[serde(default = "yes")]
    interleave: bool,
}

impl Config {
    /// Channels that the first convolution of the detail head sees: predicted sample, noised sample, time and, with
    /// `detail_phase`, the phases of rows and columns.
    pub fn detail_inputs(&self) -> usize {
        2 * self.in_channels + 1 + if self.detail_phase { 2 } else { 0 }
    }

    /// Phase of row or column `at` in its patch of side `p`: `(2 (at mod p) + 1) / p - 1`, from -1 to 1.
    pub(crate) fn phase(&self, at: usize) -> f32 {
        let p = self.patch_size;
        (2 * (at % p) + 1) as f32 / p as f32 - 1.0
    }

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
        let shared = moe.as_ref().and_then(|m| m.n_shared_experts).unwrap_or(0);
        // DiffMoE's shared expert is one GELU network of width 8D whatever their number; the
        // baselines use a SwiGLU of width n·D.
        let (shared_hidden, shared_form) = match (doc.kind, shared) {
            (_, 0) | (Kind::Dense, _) => (0, FfnForm::Gelu),
            (Kind::DiffMoe, _) => (d.saturating_mul(8), FfnForm::Gelu),
            (Kind::Tc | Kind::Ec, n) => (d.saturating_mul(n), FfnForm::SwiGlu),
        };
        let mut labels = doc.labels;
        let text = doc.text.map(TextConfig::new).transpose()?;
        if labels.is_empty() && text.is_none() {
            labels.push(LabelTable {
                name: "class".into(),
                tensor: "y_embedder.embedding_table.weight".into(),
                null: doc.null_class.unwrap_or(p.num_classes as u32),
                values: Vec::new(),
            });
        }
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
            qk_norm: p.qk_norm,
            ffn_hidden: ffn_width(d, p.mlp_ratio),
            ffn_form: if p.use_swiglu { FfnForm::SwiGlu } else { FfnForm::Gelu },
            num_experts: moe.as_ref().map_or(0, |m| m.num_experts),
            capacity: moe.as_ref().map_or(1.0, |m| m.capacity),
            interleave: moe.as_ref().is_none_or(|m| m.interleave),
            shared_hidden,
            shared_form,
            labels,
            text,
            defaults: doc.defaults,
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
        let more = [self.ffn_hidden, self.num_experts, self.detail_channels];
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
        if [hidden_size, head_dim, self.ffn_hidden].iter().any(|n| !n.is_multiple_of(4)) {
            return wrong("hidden_size, head_dim and the FFN width must be multiples of 4".into());
        }
        if self.kind != Kind::Dense && !(1..=32).contains(&self.num_experts) {
            return wrong(format!("{} experts; 1 to 32 are supported", self.num_experts));
        }
        if self.objective == Objective::Ddpm && self.prediction != Prediction::Velocity {
            return wrong(
                "prediction \"data\" needs a flow model; DDPM models predict the noise".into(),
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
        self.check_capacity()?;
        if !self.time_scale.is_finite() || self.time_scale <= 0.0 {
            return wrong(format!("time_scale {}", self.time_scale));
        }
        Ok(())
    }

    /// The baselines take a number of tokens or experts that follows from the capacity.
    fn check_capacity(&self) -> Result<(), ConfigError> {
        let (capacity, experts) = (self.capacity, self.num_experts);
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

    /// Tokens of each sample that an expert takes with expert choice, `⌊T/E·C⌋`.
    pub fn tokens_of_expert(&self) -> usize {
        // The official code divides first, in f64, and truncates the product.
        (self.tokens() as f64 / self.num_experts as f64 * self.capacity) as usize
    }

    /// Experts that a token takes with token choice.
    pub fn experts_of_token(&self) -> usize {
        self.capacity as usize
    }

    /// Whether a sample is an image as it is: pixels in red, green and blue. Anything else is shown through a
    /// decoder or a preview.
    pub fn makes_pixels(&self) -> bool {
        self.pixels && self.in_channels == 3
    }

    /// Rows and columns of patches in one sample.
    pub fn grid(&self) -> [usize; 2] {
        self.input_size.map(|side| side / self.patch_size)
    }

    /// `T`, the tokens of one sample.
    pub fn tokens(&self) -> usize {
        self.grid().iter().product()
    }

    /// Cells of one channel of a sample, `H·W`.
    pub fn plane(&self) -> usize {
        self.input_size.iter().product()
    }

    /// Numbers in one sample, `C·H·W`.
    pub fn sample_len(&self) -> usize {
        self.in_channels * self.plane()
    }

    /// Numbers in the model's output for one sample.
    pub fn output_len(&self) -> usize {
        self.out_channels * self.plane()
    }

    /// Width and height of a sample, for display.
    pub fn extent(&self) -> String {
        let [height, width] = self.input_size;
        format!("{width}×{height}")
    }

    /// Whether block `i` (from 0) routes tokens to experts.
    pub fn is_moe(&self, block: usize) -> bool {
        self.kind != Kind::Dense && (!self.interleave || block % 2 == 1)
    }

    /// The blocks that route, in order.
    pub fn moe_blocks(&self) -> Vec<usize> {
        (0..self.depth).filter(|&i| self.is_moe(i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_shapes_are_refused_with_the_reason() {
        let text = r#"{"kind":"dense","t_kind":"flow","params":{"input_size":9,"num_classes":10,
            "patch_size":2,"depth":1,"hidden_size":64,"num_heads":4}}"#;
        let error = Config::from_json(text).unwrap_err().to_string();
        assert!(error.contains("not a multiple of patch_size"), "{error}");
    }

    #[test]
    fn samples_may_be_wider_than_high() {
        let read = |size: &str| {
            let text = r#"{"kind":"dense","t_kind":"flow","params":{"input_size":SIZE,"num_classes":10,
                "patch_size":2,"depth":1,"hidden_size":64,"num_heads":4,"learn_sigma":false}}"#;
            Config::from_json(&text.replace("SIZE", size)).map_err(|error| error.to_string())
        };
        let wide = read("[4, 10]").unwrap();
        assert_eq!((wide.input_size, wide.grid(), wide.tokens()), ([4, 10], [2, 5], 10));
        assert_eq!((wide.plane(), wide.sample_len(), wide.output_len()), (40, 160, 160));
        assert_eq!(wide.extent(), "10×4");
        assert_eq!(read("6"), read("[6, 6]"), "one number is a square");
        assert!(read("[4, 9]").unwrap_err().contains("input_size 9 is not a multiple"));
        assert!(read("[0, 4]").unwrap_err().contains("a size is 0"));
        assert!(read("[4, 99999998]").unwrap_err().contains("above 65,536"));
        for other in ["[4]", "[4, 4, 4]", "\"4x4\"", "-4"] {
            let error = read(other).unwrap_err();
            assert!(error.contains("a number or [height, width]"), "{other}: {error}");
        }
    }

    #[test]
    fn capacities_that_no_routing_can_have_are_refused() {
        let read = |kind: &str, capacity: &str| {
            Config::from_json(&format!(
                r#"{{"kind":"{kind}","t_kind":"flow","params":{{"input_size":8,"num_classes":10,
                "patch_size":2,"depth":2,"hidden_size":64,"num_heads":4,
                "MoE_config":{{"num_experts":4,"capacity":{capacity}}}}}}}"#
            ))
            .map_err(|e| e.to_string())
        };
        assert!(read("ec", "4.5").unwrap_err().contains("at most 4, at which"));
        assert!(read("ec", "-1").unwrap_err().contains("above 0"));
        assert!(read("tc", "5").unwrap_err().contains("1 to 4 experts"));
        assert!(read("tc", "0.5").unwrap_err().contains("1 to 4 experts"));
        // 16/4·0.7 is 2.8; 0.7 in f32 would do here, but not for 40 tokens.
        assert_eq!(read("ec", "0.7").unwrap().tokens_of_expert(), 2);
        assert_eq!(read("ec", "4").unwrap().tokens_of_expert(), 16);
    }

    #[test]
    fn names_beyond_the_table_are_refused() {
        let read = |values: &str| {
            let text = r#"{"kind":"dense","t_kind":"flow","params":{"input_size":4,"num_classes":2,"patch_size":2,
                "depth":1,"hidden_size":8,"num_heads":1},
                "labels":[{"name":"class","tensor":"t","null":2,"values":VALUES}]}"#;
            Config::from_json(&text.replace("VALUES", values)).map_err(|error| error.to_string())
        };
        assert!(read(r#"["a","b"]"#).is_ok() && read(r#"["a"]"#).is_ok() && read("[]").is_ok());
        let error = read(r#"["a","b","c"]"#).unwrap_err();
        assert!(error.contains("3 names for the 2 values of the table \"class\""), "{error}");
    }

    #[test]
    fn sizes_whose_products_overflow_are_refused() {
        for (key, kind) in [
            ("hidden_size", "diffmoe"),
            ("hidden_size", "tc"),
            ("in_channels", "dense"),
            ("num_heads", "dense"),
            ("head_dim", "dense"),
            ("depth", "dense"),
            ("input_size", "dense"),
            ("patch_size", "dense"),
        ] {
            let mut text: serde_json::Value = serde_json::from_str(
                r#"{"t_kind":"flow","params":{"input_size":4,"num_classes":2,"patch_size":2,"depth":1,"hidden_size":8,
                "num_heads":1,"MoE_config":{"num_experts":2,"n_shared_experts":9223372036854775807}}}"#,
            )
            .unwrap();
            text["kind"] = kind.into();
            text["params"][key] = serde_json::json!(usize::MAX);
            assert!(Config::from_json(&text.to_string()).is_err(), "{key}");
        }
    }

    #[test]
    fn a_detail_head_needs_a_predicted_sample() {
        let read = |more: &str| {
            Config::from_json(&format!(
                r#"{{"kind":"dense","t_kind":"flow","params":{{"input_size":6,"in_channels":3,"num_classes":2,
                "patch_size":2,"depth":1,"hidden_size":16,"num_heads":2,{more}}}}}"#
            ))
            .map_err(|e| e.to_string())
        };
        let data = r#""prediction":"data","learn_sigma":false"#;
        let head = |channels: i32| format!(r#""detail_head":{{"channels":{channels}}}"#);
        let config = read(&format!("{data},{}", head(5))).unwrap();
        assert_eq!(config.detail_channels, 5);
        let without = read(data).unwrap();
        assert_eq!(without.detail_channels, 0);
        let with_phase = read(&format!(r#"{data},"detail_head":{{"channels":5,"phase":true}}"#)).unwrap();
        assert_eq!([config.detail_inputs(), with_phase.detail_inputs()], [7, 9]);
        assert_eq!(with_phase.parameters() - config.parameters(), 9 * 2 * 5);
        // 9·(7·5 + 5·5 + 5·3) weights and 5 + 5 + 3 biases.
        assert_eq!(config.parameters() - without.parameters(), 688);
        let names: Vec<_> = config.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
        let conv_in = ("detail_head.conv_in.weight".to_owned(), vec![5, 7, 3, 3]);
        let first = names.len() - 6;
        assert_eq!(names[first], conv_in);
        assert!(names[first - 1].0.starts_with("final_layer."));
        assert!(read(&format!("{data},{}", head(0))).unwrap_err().contains("at least 1"));
        assert!(read(&format!("{data},{}", head(-1))).is_err());
        assert!(read(&format!("{data},{}", head(99_999))).unwrap_err().contains("65,536"));
        let velocity = read(&format!(r#""learn_sigma":false,{}"#, head(5))).unwrap_err();
        assert!(velocity.contains("prediction \"data\""), "{velocity}");
        let sigma = read(&format!(r#""prediction":"data",{}"#, head(5))).unwrap_err();
        assert!(sigma.contains("learn_sigma false"), "{sigma}");
    }

    #[test]
    fn labels_are_found_by_name_or_number() {
        let table = LabelTable {
            name: "class".into(),
            tensor: String::new(),
            null: 10,
            values: vec!["AnnualCrop".into(), "Sea Lake".into()],
        };
        assert_eq!(table.find("annual-crop"), Some(0));
        assert_eq!(table.find("sealake"), Some(1));
        assert_eq!(table.find("7"), Some(7));
        assert_eq!(table.find("10"), None, "the null row is no class");
        assert_eq!(table.find("volcano"), None);
    }
}
