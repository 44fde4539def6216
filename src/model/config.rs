//! The configuration of a model: its shape, how it was trained, and the sizes that follow. `document` reads it.

use serde::{Deserialize, Serialize};

use super::labels::LabelTable;
use super::text_config::TextConfig;

/// The most experts of a layer: bits of a routing mask.
pub const MOST_EXPERTS: usize = u64::BITS as usize;

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
    /// The opposite velocity, noise minus data, of models that count time from data to noise: they see `1 - t` (`ProMoE`,
    /// as Stable Diffusion 3).
    Reversed,
}

/// What happens to a token before a layer reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NormForm {
    /// `(x − mean) / √(variance + ε)`
    #[default]
    Layer,
    /// `x / √(mean of x² + ε)` (Zhang and Sennrich 2019, arXiv 1910.07467)
    Rms,
}

impl NormForm {
    /// The factor of the mean that is subtracted, which is all that the two differ in.
    pub(crate) fn centring(self) -> f32 {
        match self {
            Self::Layer => 1.0,
            Self::Rms => 0.0,
        }
    }
}

/// Tokens that carry the labels and take part from some block on (in-context conditioning of `JiT`, arXiv 2511.13720). They
/// are dropped before the final layer, and no trace has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextTokens {
    /// For each sample.
    pub count: usize,
    /// The first block that they take part in.
    pub start: usize,
}

/// The shapes a feed-forward network comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnForm {
    /// `fc2(gelu_tanh(fc1 x))`, with biases.
    Gelu,
    /// `fc2(silu(fc1 x))`, with biases. Experts do not have this form.
    Silu,
    /// `down(silu(gate x) ⊙ up x)`, with biases only where [`Config::swiglu_bias`] says so.
    SwiGlu,
}

/// How the scores of token choice and expert choice select experts and become their weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Router {
    /// The largest scores; weights are their softmax over all experts, as in the official `DiffMoE` code.
    #[default]
    Softmax,
    /// Cosines of tokens and prototypes of experts, which are also the weights (`ProMoE`, arXiv 2510.24711): a token takes
    /// the expert with the largest one, or with expert choice an expert the tokens.
    Prototypes {
        /// Whether the last expert has no prototype. It takes the tokens of samples without a label, and no others, with
        /// weight 1; they go nowhere else.
        unconditional: bool,
    },
    /// The largest `σ(score) + bias`; the weights are the σ of a token's experts, divided by their sum if there are several,
    /// times `scale` (DeepSeek-V3; DSMoE, arXiv 2512.01252).
    Sigmoid {
        /// Sum of a token's weights.
        scale: f32,
    },
}

/// A model's shape. Made only by [`Config::from_json`], which has checked every number.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the architecture of its own")]
pub struct Config {
    /// Short name, for display.
    pub name: String,
    /// Architecture.
    pub kind: Kind,
    /// Meaning of the time input.
    pub objective: Objective,
    /// Meaning of the output of a flow model.
    pub prediction: Prediction,
    /// Factor applied to `t`, or `1 - t` of reversed models, before the sinusoidal embedding (1 in the official code, 1000 in our own models).
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
    /// The norms before attention, before feed-forward networks and before the final layer, which have no weights.
    pub norm: NormForm,
    /// Whether queries and keys go through such a norm with a weight, and with a bias if it is a layer norm, head by head. No
    /// official model does; re-trainings by others do.
    pub qk_norm: bool,
    /// What this norm adds to the variance: 1e-5 unless the model says otherwise.
    pub qk_norm_eps: f32,
    /// Whether queries and keys are rotated by the position of their patch (2-D RoPE).
    pub rope: bool,
    /// Whether patches have a position embedding. By default they do unless queries and keys are rotated.
    pub pos_embed: bool,
    /// Tokens that carry the labels, beside those of patches.
    pub context: Option<ContextTokens>,
    /// Hidden width of the feed-forward network of a block without experts.
    pub ffn_hidden: usize,
    /// Shape of the feed-forward networks of blocks without experts.
    pub ffn_form: FfnForm,
    /// Whether the layers of `SwiGLU` networks have biases.
    pub swiglu_bias: bool,
    /// `M`, the hidden width of an expert.
    pub expert_hidden: usize,
    /// Shape of the experts.
    pub expert_form: FfnForm,
    /// What token choice and expert choice do with the scores of the gate.
    pub router: Router,
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
    /// The transformer that takes over near the end of a run, if the file has one.
    pub refiner: Option<Box<Refiner>>,
}

/// A second transformer in the file of a model, for the low noise levels: the model settles the composition with few
/// large patches, its refiner draws the details with smaller ones (an ensemble of expert denoisers, as in eDiff-I, arXiv
/// 2211.01324, and in the refiner of SDXL, arXiv 2307.01952).
#[derive(Clone, Debug, PartialEq)]
pub struct Refiner {
    /// It computes the steps that begin at this time of a run or later; between 0 (noise) and 1 (data).
    pub from: f32,
    /// Its shape. Samples, labels, objective and the number of experts are those of the model.
    pub config: Config,
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
    /// Averaging of the last predictions over shifts, as `scheduler::CycleSpin` is written: `2`, or `4,0.7`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle_spin: Option<String>,
    /// Labels that the model draws well, if an evaluation has found them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub showcase: Option<Showcase>,
}

/// Combinations of labels that a model draws well, from an evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Showcase {
    /// How they were chosen: the score and its threshold, in words.
    #[serde(default)]
    pub judge: String,
    /// One row of every label table each, best first.
    pub rows: Vec<Vec<u32>>,
}

impl Default for SamplingDefaults {
    fn default() -> Self {
        Self {
            steps: 50,
            guidance: 1.5,
            scheduler: "euler".into(),
            cycle_spin: None,
            showcase: None,
        }
    }
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

    /// Tokens of each sample that an expert takes with expert choice, `⌊T/E·C⌋`. Of experts with prototypes only these are
    /// counted, and each takes a token at least.
    pub fn tokens_of_expert(&self) -> usize {
        // The official code divides first, in f64, and truncates the product.
        let of = |experts: usize| (self.tokens() as f64 / experts as f64 * self.capacity) as usize;
        match self.prototypes() {
            0 => of(self.num_experts),
            prototypes => of(prototypes).clamp(1, self.tokens()),
        }
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

    /// What the model sees of the time `t` of a run, before its sinusoidal embedding.
    pub(crate) fn model_time(&self, t: f32) -> f32 {
        let own = if self.prediction == Prediction::Reversed { 1.0 - t } else { t };
        own * self.time_scale
    }

    /// Experts with a prototype, of a router by prototypes.
    pub(crate) fn prototypes(&self) -> usize {
        match self.router {
            Router::Prototypes { unconditional } => self.num_experts - usize::from(unconditional),
            Router::Softmax | Router::Sigmoid { .. } => 0,
        }
    }

    /// The label whose samples a router by prototypes sends to its last expert.
    pub(crate) fn unconditional_row(&self) -> Option<u32> {
        let is_wanted = matches!(self.router, Router::Prototypes { unconditional: true });
        self.labels.first().filter(|_| is_wanted).map(|table| table.null)
    }

    /// Rows and columns of patches in one sample.
    pub fn grid(&self) -> [usize; 2] {
        self.input_size.map(|side| side / self.patch_size)
    }

    /// The configuration with the smallest patches: the refiner's, or this one.
    pub fn finest(&self) -> &Self {
        self.refiner.as_ref().map_or(self, |refiner| &refiner.config)
    }

    /// `T`, the tokens of one sample.
    pub fn tokens(&self) -> usize {
        self.grid().iter().product()
    }

    /// Tokens of one sample in the residual stream: those of patches, then those that carry the labels.
    pub fn stream_tokens(&self) -> usize {
        self.tokens() + self.context.map_or(0, |context| context.count)
    }

    /// Tokens of one sample that others attend to in block `i`.
    pub(crate) fn keys_in(&self, block: usize) -> usize {
        match self.context {
            Some(context) if block < context.start => self.tokens(),
            _ => self.stream_tokens(),
        }
    }

    /// Whether tokens that carry the labels come in before block `i`.
    pub(crate) fn context_enters(&self, block: usize) -> Option<ContextTokens> {
        self.context.filter(|context| context.start == block)
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
