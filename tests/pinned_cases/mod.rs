//! The cases of `tests/pinned.rs` as plain data: nothing here names a type of the library.

pub(crate) mod compute;

/// One run on the CPU. What a case does not say is as in [`PLAIN`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) model: Model,
    pub(crate) solver: &'static str,
    pub(crate) steps: u32,
    /// Relative tolerance of dopri5.
    pub(crate) tolerance: f32,
    /// DDIM: share of DDPM's fresh noise.
    pub(crate) eta: f32,
    /// DDPM and DDIM: clip the predicted sample to [-1, 1].
    pub(crate) clip: bool,
    /// DDPM and DDIM: guide all channels instead of the first three.
    pub(crate) all_channels: bool,
    pub(crate) guidance: f32,
    pub(crate) batch: usize,
    /// Number of the first image; it chooses the noise.
    pub(crate) first: u64,
    /// The pool rule instead of the token rule.
    pub(crate) pool: bool,
    pub(crate) gamma: Option<f32>,
    pub(crate) shift: f32,
    /// Repeated until every image has one.
    pub(crate) prompts: &'static [&'static str],
    pub(crate) negative: &'static str,
    /// Folder of an image decoder: the images are compared instead of the latents.
    pub(crate) decoder: Option<&'static str>,
}

/// Where the weights of a case come from. Paths are relative to the root of the repository.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Model {
    /// Random weights for this configuration, written to a file as this dtype.
    Random(&'static str, &'static str),
    /// A file of `tests/fixtures`.
    Fixture(&'static str),
    /// A file of `tests/fixtures` converted to this dtype.
    Converted(&'static str, &'static str),
    /// A model that is part of the program. Its weights may be replaced, and these cases with them.
    Shipped(&'static str),
}

impl Model {
    /// The origin as it stands in the table.
    pub(crate) fn origin(self) -> &'static str {
        match self {
            Self::Random(..) => "random",
            Self::Fixture(_) | Self::Converted(..) => "fixture",
            Self::Shipped(_) => "shipped",
        }
    }
}

const PLAIN: Case = Case {
    name: "",
    model: Model::Random(FLOW, "f32"),
    solver: "euler",
    steps: 3,
    tolerance: 3e-2,
    eta: 0.0,
    clip: false,
    all_channels: false,
    guidance: 1.0,
    batch: 1,
    first: 0,
    pool: false,
    gamma: None,
    shift: 0.0,
    prompts: &[],
    negative: "",
    decoder: None,
};

/// A run of eight images.
const EIGHT: Case = Case { batch: 8, ..PLAIN };

/// Every second block with GELU experts; 64 tokens of a latent.
const FLOW: &str = r#"{"name":"flow","kind":"diffmoe","t_kind":"flow","params":{"input_size":16,
    "num_classes":10,"patch_size":2,"depth":4,"hidden_size":48,"num_heads":4,"learn_sigma":false,
    "MoE_config":{"num_experts":8,"interleave":true}}}"#;

/// Every block with SwiGLU experts and a shared expert, norms of queries and keys; no width is a multiple of 16.
const SHARED: &str = r#"{"name":"shared","kind":"diffmoe","t_kind":"flow","params":{"input_size":12,
    "num_classes":10,"patch_size":2,"depth":3,"hidden_size":40,"num_heads":2,"mlp_ratio":1.5,
    "use_swiglu":true,"qk_norm":true,"learn_sigma":false,
    "MoE_config":{"num_experts":6,"capacity":2,"n_shared_experts":1,"interleave":false}}}"#;

/// Pixels, large patches, prediction of the data, times up to 1000.
const DATA: &str = r#"{"name":"data","kind":"diffmoe","t_kind":"flow","time_scale":1000,"space":"pixels",
    "params":{"input_size":24,"in_channels":3,"num_classes":10,"patch_size":4,"depth":2,"hidden_size":32,
    "num_heads":2,"learn_sigma":false,"prediction":"data","MoE_config":{"num_experts":4}}}"#;

/// Noise prediction with learned variances.
const DDPM: &str = r#"{"name":"ddpm","kind":"diffmoe","t_kind":"ddpm","params":{"input_size":12,
    "num_classes":10,"patch_size":2,"depth":4,"hidden_size":32,"num_heads":2,
    "MoE_config":{"num_experts":8}}}"#;

/// Noise prediction with fixed variances; no experts, SwiGLU.
const FIXED: &str = r#"{"name":"fixed","kind":"dense","t_kind":"ddpm","params":{"input_size":12,
    "num_classes":10,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,"use_swiglu":true,
    "learn_sigma":false}}"#;

/// Token choice: two experts for each token, and a shared SwiGLU expert.
const TC: &str = r#"{"name":"tc","kind":"tc","t_kind":"flow","params":{"input_size":12,"num_classes":10,
    "patch_size":2,"depth":3,"hidden_size":32,"num_heads":2,"learn_sigma":false,
    "MoE_config":{"num_experts":4,"capacity":2,"n_shared_experts":2}}}"#;

/// A sigmoid router, rotary positions, `SiLU` in the block without experts.
const SIGMOID: &str = r#"{"name":"sigmoid","kind":"tc","t_kind":"flow","params":{"input_size":[12,8],"num_classes":10,
    "patch_size":2,"depth":3,"hidden_size":40,"num_heads":2,"mlp_act":"silu","rope_type":"2d","learn_sigma":false,
    "MoE_config":{"router":"sigmoid","num_experts":6,"capacity":3,"moe_intermediate_size":28,
    "routed_scaling_factor":2.5}}}"#;

/// A router by prototypes with an expert for samples without a label, and reversed time.
const PROTOTYPES: &str = r#"{"name":"prototypes","kind":"tc","t_kind":"flow","time_scale":1000,"params":{"input_size":[8,12],
    "num_classes":10,"patch_size":2,"depth":3,"hidden_size":40,"num_heads":2,"prediction":"reversed",
    "MoE_config":{"router":"prototypes","num_experts":6,"moe_intermediate_size":28,
    "shared_expert_intermediate_size":20}}}"#;

/// The same with expert choice.
const PROTOTYPES_EC: &str = r#"{"name":"prototypes_ec","kind":"ec","t_kind":"flow","time_scale":1000,"params":{"input_size":[8,12],
    "num_classes":10,"patch_size":2,"depth":3,"hidden_size":40,"num_heads":2,"prediction":"reversed",
    "MoE_config":{"router":"prototypes","num_experts":6,"capacity":1.5,"moe_intermediate_size":28,
    "shared_expert_intermediate_size":20}}}"#;

/// Expert choice.
const EC: &str = r#"{"name":"ec","kind":"ec","t_kind":"flow","params":{"input_size":12,"num_classes":10,
    "patch_size":2,"depth":3,"hidden_size":32,"num_heads":2,"learn_sigma":false,
    "MoE_config":{"num_experts":4,"capacity":1.5,"interleave":false}}}"#;

/// Expert choice, of a model whose guided passes hold both branches.
const EC_DDPM: &str = r#"{"name":"ec_ddpm","kind":"ec","t_kind":"ddpm","params":{"input_size":12,
    "num_classes":10,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,"MoE_config":{"num_experts":4}}}"#;

/// No experts.
const DENSE: &str = r#"{"name":"dense","kind":"dense","t_kind":"flow","params":{"input_size":12,
    "num_classes":10,"patch_size":2,"depth":3,"hidden_size":32,"num_heads":2,"learn_sigma":false}}"#;

/// Wider than high.
const WIDE: &str = r#"{"name":"wide","kind":"diffmoe","t_kind":"flow","params":{"input_size":[8,20],
    "num_classes":10,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,"learn_sigma":false,
    "MoE_config":{"num_experts":4}}}"#;

/// Higher than wide, with learned variances.
const HIGH: &str = r#"{"name":"high","kind":"diffmoe","t_kind":"ddpm","params":{"input_size":[20,8],
    "num_classes":10,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,"MoE_config":{"num_experts":4}}}"#;

/// Two label tables.
const TABLES: &str = r#"{"name":"tables","kind":"diffmoe","t_kind":"flow","params":{"input_size":12,
    "num_classes":10,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,"learn_sigma":false,
    "MoE_config":{"num_experts":4}},"labels":[
    {"name":"class","tensor":"class_embedder.weight","null":5,"values":["a","b","c","d","e"]},
    {"name":"style","tensor":"style_embedder.weight","null":3}]}"#;

const WORDPIECE: &str = "tests/fixtures/t2i_tiny/model.safetensors";
const BPE: &str = "tests/fixtures/t2i_bpe/model.safetensors";
const KL: Option<&str> = Some("tests/fixtures/vae_kl_mini");
const TINY: Option<&str> = Some("tests/fixtures/vae_tiny_mini");

/// Known words, unknown ones, other scripts, none, and more tokens than the encoder reads.
const PROMPTS: &[&str] = &[
    "A Robot, fluent 3D",
    "piñata: a red robot on a xylophone, in flat style of the flat robot",
    "",
    "狐, a fox!",
];

const fn random(config: &'static str) -> Model {
    Model::Random(config, "f32")
}

/// All cases, in the order of the table.
#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    // Solvers of flow models, batch sizes, routing rules, guidance.
    Case { name: "euler", ..PLAIN },
    Case { name: "euler_8", ..EIGHT },
    Case { name: "euler_8_pool", pool: true, ..EIGHT },
    Case { name: "euler_8_pool_guided", pool: true, guidance: 1.7, ..EIGHT },
    Case { name: "heun_guided", solver: "heun", guidance: 2.5, ..PLAIN },
    Case { name: "heun_8", solver: "heun", ..EIGHT },
    Case { name: "dopri5", solver: "dopri5", ..PLAIN },
    Case { name: "dopri5_8_pool_guided", solver: "dopri5", tolerance: 0.1, pool: true, guidance: 1.5, ..EIGHT },
    Case { name: "later_images", first: 5, batch: 3, ..PLAIN },
    // Thresholds.
    Case { name: "gamma_low_8", gamma: Some(0.4), ..EIGHT },
    Case { name: "gamma_high_8_pool", gamma: Some(0.6), pool: true, ..EIGHT },
    Case { name: "shift_up_8", shift: 0.1, ..EIGHT },
    Case { name: "shift_down_8_pool", shift: -0.1, pool: true, ..EIGHT },
    // SwiGLU, shared expert, qk_norm.
    Case { name: "shared", model: random(SHARED), ..PLAIN },
    Case { name: "shared_8_pool_guided", model: random(SHARED), solver: "heun", steps: 2, pool: true, guidance: 2.0, ..EIGHT },
    // Prediction of the data.
    Case { name: "data_8", model: random(DATA), ..EIGHT },
    Case { name: "data_heun_guided", model: random(DATA), solver: "heun", guidance: 2.0, ..PLAIN },
    Case { name: "data_dopri5", model: random(DATA), solver: "dopri5", ..PLAIN },
    // Diffusion with learned variances; guidance is one pass over both branches.
    Case { name: "ddpm", model: random(DDPM), solver: "ddpm", steps: 5, ..PLAIN },
    Case { name: "ddpm_8_pool_joint", model: random(DDPM), solver: "ddpm", pool: true, guidance: 2.0, ..EIGHT },
    Case { name: "ddpm_clip_all_joint", model: random(DDPM), solver: "ddpm", clip: true, all_channels: true, guidance: 2.0, batch: 3, ..PLAIN },
    Case { name: "ddim", model: random(DDPM), solver: "ddim", steps: 5, ..PLAIN },
    Case { name: "ddim_8_pool_joint", model: random(DDPM), solver: "ddim", pool: true, guidance: 2.0, ..EIGHT },
    Case { name: "ddim_eta", model: random(DDPM), solver: "ddim", eta: 0.5, ..PLAIN },
    Case { name: "ddim_eta_8_joint", model: random(DDPM), solver: "ddim", eta: 0.5, guidance: 2.0, ..EIGHT },
    // Fixed variances.
    Case { name: "fixed_ddpm_8_joint", model: random(FIXED), solver: "ddpm", guidance: 1.5, ..EIGHT },
    Case { name: "fixed_ddim_eta", model: random(FIXED), solver: "ddim", eta: 0.5, ..PLAIN },
    // Multistep schedulers.
    Case { name: "dpmpp_2m", solver: "dpmpp_2m", steps: 5, ..PLAIN },
    Case { name: "dpmpp_2m_8_pool_guided", solver: "dpmpp_2m", steps: 5, pool: true, guidance: 1.7, ..EIGHT },
    Case { name: "dpmpp_2m_ddpm_8_joint", model: random(DDPM), solver: "dpmpp_2m", steps: 5, guidance: 2.0, ..EIGHT },
    Case { name: "dpmpp_2m_data", model: random(DATA), solver: "dpmpp_2m", steps: 5, guidance: 2.0, ..PLAIN },
    Case { name: "unipc", solver: "unipc", steps: 5, ..PLAIN },
    Case { name: "unipc_8_pool_guided", solver: "unipc", steps: 5, pool: true, guidance: 1.7, ..EIGHT },
    Case { name: "unipc_ddpm_clip_all_joint", model: random(DDPM), solver: "unipc", steps: 5, clip: true, all_channels: true, guidance: 2.0, batch: 3, ..PLAIN },
    Case { name: "unipc_fixed", model: random(FIXED), solver: "unipc", steps: 5, ..PLAIN },
    // The other architectures.
    Case { name: "tc_8", model: random(TC), ..EIGHT },
    Case { name: "tc_heun_guided", model: random(TC), solver: "heun", guidance: 2.0, ..PLAIN },
    Case { name: "sigmoid_8_guided", model: random(SIGMOID), solver: "heun", steps: 2, guidance: 2.0, ..EIGHT },
    Case { name: "prototypes_8_guided", model: random(PROTOTYPES), solver: "heun", steps: 2, guidance: 2.0, ..EIGHT },
    Case { name: "prototypes_ec_8_guided", model: random(PROTOTYPES_EC), guidance: 2.0, ..EIGHT },
    Case { name: "ec", model: random(EC), ..PLAIN },
    Case { name: "ec_8_guided", model: random(EC), guidance: 2.0, ..EIGHT },
    Case { name: "ec_ddpm_joint", model: random(EC_DDPM), solver: "ddpm", guidance: 2.0, batch: 3, ..PLAIN },
    Case { name: "dense", model: random(DENSE), ..PLAIN },
    Case { name: "dense_heun_8_guided", model: random(DENSE), solver: "heun", guidance: 2.0, ..EIGHT },
    // Samples that are not square; several label tables.
    Case { name: "wide_pool", model: random(WIDE), pool: true, batch: 3, ..PLAIN },
    Case { name: "high_joint", model: random(HIGH), solver: "ddim", guidance: 2.0, batch: 2, ..PLAIN },
    Case { name: "tables_8_guided", model: random(TABLES), guidance: 2.0, ..EIGHT },
    // Files of other dtypes.
    Case { name: "f16", model: Model::Random(FLOW, "f16"), ..PLAIN },
    Case { name: "int8", model: Model::Random(FLOW, "int8"), ..PLAIN },
    Case { name: "int4_pool_guided", model: Model::Random(FLOW, "int4"), pool: true, guidance: 2.0, batch: 2, ..PLAIN },
    Case { name: "shared_int4", model: Model::Random(SHARED, "int4"), ..PLAIN },
    Case { name: "torch_int8", model: Model::Converted("tests/fixtures/torch/checkpoints/0000002.pt", "int8"), batch: 2, guidance: 2.0, ..PLAIN },
    // Models of the parity cases.
    Case { name: "fixture_gelu", model: Model::Fixture("tests/fixtures/diffmoe_flow/model.safetensors"), solver: "heun", steps: 2, pool: true, guidance: 1.5, batch: 3, ..PLAIN },
    Case { name: "fixture_swiglu", model: Model::Fixture("tests/fixtures/diffmoe_swiglu_shared/model.safetensors"), steps: 2, batch: 3, ..PLAIN },
    Case { name: "fixture_jit", model: Model::Fixture("tests/fixtures/jit_moe/model.safetensors"), solver: "heun", steps: 3, guidance: 1.5, batch: 3, ..PLAIN },
    // Prompts.
    Case { name: "wordpiece", model: Model::Fixture(WORDPIECE), prompts: PROMPTS, ..PLAIN },
    Case { name: "wordpiece_8_negative", model: Model::Fixture(WORDPIECE), prompts: PROMPTS, negative: "blob", guidance: 1.8, ..EIGHT },
    Case { name: "wordpiece_int8", model: Model::Converted(WORDPIECE, "int8"), prompts: PROMPTS, guidance: 1.8, batch: 4, ..PLAIN },
    Case { name: "bpe_4_pool_negative", model: Model::Fixture(BPE), solver: "heun", prompts: PROMPTS, negative: "a red blob", guidance: 1.8, pool: true, batch: 4, ..PLAIN },
    // Image decoders.
    Case { name: "decode_kl", decoder: KL, batch: 2, steps: 2, ..PLAIN },
    Case { name: "decode_kl_wide", model: random(WIDE), decoder: KL, steps: 2, ..PLAIN },
    Case { name: "decode_tiny", decoder: TINY, batch: 2, steps: 2, ..PLAIN },
    // The models of the program.
    Case { name: "emoji", model: Model::Shipped("assets/emoji.safetensors"), solver: "heun", steps: 2, guidance: 2.0, ..PLAIN },
    Case { name: "emoji_256", model: Model::Shipped("assets/emoji_256.safetensors"), solver: "dpmpp_2m", steps: 4, guidance: 2.0, ..PLAIN },
    Case { name: "eurosat", model: Model::Shipped("assets/eurosat.safetensors"), steps: 2, guidance: 2.0, pool: true, batch: 2, ..PLAIN },
    Case { name: "emoji_text", model: Model::Shipped("assets/emoji_text.safetensors"), steps: 2, guidance: 2.0, prompts: &["a fox, blob"], negative: "flat", ..PLAIN },
];
