//! The model, described once: a tree with the official `state_dict` names, and the walk that builds it.
//!
//! Whatever needs all tensors is a [`Source`] of this walk: the list of names and shapes
//! ([`Config::tensors`](super::Config::tensors)), the memory on a GPU, and the loaders of both engines. A source turns the
//! description of each leaf into the values of its [`Leaf`] types.
//!
//! # Adding a tensor
//! Add a field to the tree and a line to the walk, with name, shape and [`Role`]. The check of checkpoints, `convert`,
//! random models, `info`, footprint and both loaders follow. Then use the field in `engine/cpu` and `engine/gpu`. Where
//! an engine needs it in a form that no leaf has, add a type to [`Leaf`] and a method to [`Source`]; the compiler
//! lists the sources that lack it.

use super::config::{Config, FfnForm, Kind, NormForm, Router};
use super::ffn::Ffn;
use super::leaf::{Leaf, Source};
use super::spec::{LinearSpec, Role, TensorSpec};
use super::text_config::TextConfig;

/// The whole model.
#[derive(Debug)]
pub(crate) struct Weights<L: Leaf> {
    /// `[T, D]`, where patches have positions
    pub(crate) pos_embed: Option<L::Table>,
    /// `in_context_posemb`, what the tokens that carry the labels differ in, where there are any: `[n, D]`
    pub(crate) context: Option<L::Table>,
    /// `x_embedder.proj`, `[D, C·p·p]`
    pub(crate) x_embedder: L::Linear,
    /// `t_embedder.mlp.0` and `.2`, `[D, 256]` and `[D, D]`
    pub(crate) t_embedder: [L::Time; 2],
    /// The tables of [`Config::labels`](super::Config), each `[rows, D]`
    pub(crate) label_tables: L::Stack,
    /// Where the model reads text
    pub(crate) text_encoder: Option<TextEncoder<L>>,
    /// `L` of them
    pub(crate) blocks: Vec<Block<L>>,
    /// From the residual stream to patches
    pub(crate) final_layer: FinalLayer<L>,
    /// Where patches are finished together
    pub(crate) detail_head: Option<DetailHead<L>>,
}

/// The text encoder, and how a prompt enters the condition.
#[derive(Debug)]
pub(crate) struct TextEncoder<L: Leaf> {
    /// `[L, D_t]`
    pub(crate) position_embedding: L::Table,
    /// `[V, D_t]`
    pub(crate) token_embedding: L::Table,
    /// Pre-norm transformer layers
    pub(crate) layers: Vec<TextLayer<L>>,
    /// `text_pool`, `[D, D_t]`: from the state of a prompt's first token to the condition
    pub(crate) text_pool: L::Linear,
}

/// One layer of the text encoder.
#[derive(Debug)]
pub(crate) struct TextLayer<L: Leaf> {
    /// Within a prompt, without norms of queries and keys
    pub(crate) attn: SelfAttention<L>,
    /// With GELU
    pub(crate) mlp: Ffn<L::Linear>,
}

/// One transformer block.
#[derive(Debug)]
pub(crate) struct Block<L: Leaf> {
    /// Within a sample
    pub(crate) attn: SelfAttention<L>,
    /// To a prompt, if the model reads text
    pub(crate) cross_attn: Option<CrossAttention<L>>,
    /// What follows attention
    pub(crate) mlp: Mlp<L>,
    /// `adaLN_modulation.1`, `[6·D, D]`: shift, scale and gate of the attention, then of the feed-forward network
    pub(crate) adaln_modulation: L::Modulation,
}

/// Attention of tokens to each other.
#[derive(Debug)]
pub(crate) struct SelfAttention<L: Leaf> {
    /// `[3·H·d, D]`: q, k and v outermost, then the head
    pub(crate) qkv: L::Linear,
    /// Weight, and bias unless they are RMS norms, of `q_norm`, then of `k_norm`, each `[d]`, where there are such norms
    pub(crate) qk_norm: Option<L::Stack>,
    /// `[D, H·d]`
    pub(crate) proj: L::Linear,
}

/// Attention of a block to a prompt.
#[derive(Debug)]
pub(crate) struct CrossAttention<L: Leaf> {
    /// `[H·d, D]`
    pub(crate) q_linear: L::Linear,
    /// `[2·H·d, D_t]`: keys of all heads, then values
    pub(crate) kv_linear: L::Linear,
    /// `[D, H·d]`
    pub(crate) proj: L::Linear,
}

/// The second half of a block.
#[derive(Debug)]
pub(crate) enum Mlp<L: Leaf> {
    /// One network for every token.
    Dense(Ffn<L::Linear>),
    /// Experts that tokens are routed to.
    Moe(Box<Moe<L>>),
}

/// What scores the experts of an MoE layer.
#[derive(Debug)]
pub(crate) enum Gate<L: Leaf> {
    /// `gate_weight` (`gate.weight` with token choice), `[E, D]`
    Linear(L::Linear),
    /// `cluster_centers`, `[E, D]` without the expert of samples without a label
    Prototypes(L::Table),
}

/// The MoE layer of a block.
#[derive(Debug)]
pub(crate) struct Moe<L: Leaf> {
    /// From tokens to scores
    pub(crate) gate: Gate<L>,
    /// `gate.e_score_correction_bias`, `[E]`: added to the scores for the selection; of a sigmoid router only
    pub(crate) selection_bias: Option<L::Table>,
    /// `[E]`; empty unless the model is a `DiffMoE`
    pub(crate) expert_threshold: Vec<f32>,
    /// `E` of them
    pub(crate) experts: L::Experts,
    /// `[D, D]` and `[E, D]`, with SiLU between them; `DiffMoE` only
    pub(crate) capacity_predictor: Option<[L::Linear; 2]>,
    /// Sees every token
    pub(crate) shared_experts: Option<Ffn<L::Linear>>,
}

/// The final layer.
#[derive(Debug)]
pub(crate) struct FinalLayer<L: Leaf> {
    /// `[p·p·C_out, D]`
    pub(crate) linear: L::Linear,
    /// `adaLN_modulation.1`, `[2·D, D]`: shift and scale
    pub(crate) adaln_modulation: L::Modulation,
}

/// Three convolutions of 3 × 3, with SiLU between them, whose result is added to the predicted sample.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the names of the tensors")]
pub(crate) struct DetailHead<L: Leaf> {
    /// `[K, 2C + 1, 3, 3]`: from the predicted sample, the noised one and the time
    pub(crate) conv_in: L::Conv,
    /// `[K, K, 3, 3]`
    pub(crate) conv_mid: L::Conv,
    /// `[C, K, 3, 3]`
    pub(crate) conv_out: L::Conv,
}

impl<L: Leaf> Weights<L> {
    /// The walk: every tensor of a model, in the order of the official `state_dict`.
    pub(crate) async fn visit<S: Source<L>>(
        config: &Config,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let (d, p) = (config.hidden_size, config.patch_size);
        let outer = |name: &str, shape: &[usize]| LinearSpec::new(name, shape, Role::Projection);
        let positions = TensorSpec::new("pos_embed", &[1, config.tokens(), d], Role::Position);
        let labels = config.labels.iter().map(|table| {
            TensorSpec::new(&table.tensor, &[table.null as usize + 1, d], Role::Table)
        });
        let pos_embed = config.pos_embed.then(|| source.table(&positions)).transpose()?;
        let context = config.context.map(|context| {
            TensorSpec::new("in_context_posemb", &[1, context.count, d], Role::Table)
        });
        let context = context.map(|spec| source.table(&spec)).transpose()?;
        let x_embedder =
            source.linear(&outer("x_embedder.proj", &[d, config.in_channels, p, p]))?;
        let t_embedder = [
            source.time(&outer("t_embedder.mlp.0", &[d, 256]))?,
            source.time(&outer("t_embedder.mlp.2", &[d, d]))?,
        ];
        let label_tables = source.stack(&labels.collect::<Vec<_>>())?;
        let text = config.text.as_ref();
        let text_encoder = text.map(|text| TextEncoder::visit(text, d, source)).transpose()?;
        let mut blocks = Vec::with_capacity(config.depth);
        for i in 0..config.depth {
            blocks.push(Block::visit(config, i, source)?);
            source.pause().await;
        }
        let linear = outer("final_layer.linear", &[p * p * config.out_channels, d]);
        let final_layer = FinalLayer {
            linear: source.linear(&linear)?,
            adaln_modulation: source.modulation(&modulation("final_layer", 2, d))?,
        };
        let has_head = config.detail_channels > 0;
        let detail_head = has_head.then(|| DetailHead::visit(config, source)).transpose()?;
        Ok(Self {
            pos_embed,
            context,
            x_embedder,
            t_embedder,
            label_tables,
            text_encoder,
            blocks,
            final_layer,
            detail_head,
        })
    }
}

impl<L: Leaf> DetailHead<L> {
    fn visit<S: Source<L>>(config: &Config, source: &mut S) -> Result<Self, S::Error> {
        let (c, k) = (config.in_channels, config.detail_channels);
        let mut conv = |layer: &str, [outputs, inputs]: [usize; 2]| {
            let name = format!("detail_head.{layer}");
            source.conv(&LinearSpec::new(&name, &[outputs, inputs, 3, 3], Role::Convolution))
        };
        Ok(Self {
            conv_in: conv("conv_in", [k, config.detail_inputs()])?,
            conv_mid: conv("conv_mid", [k, k])?,
            conv_out: conv("conv_out", [c, k])?,
        })
    }
}

impl<L: Leaf> TextEncoder<L> {
    /// The encoder for a model of width `d`.
    fn visit<S: Source<L>>(text: &TextConfig, d: usize, source: &mut S) -> Result<Self, S::Error> {
        let width = text.hidden_size;
        let table = |name: &str, rows: usize| {
            TensorSpec::new(format!("text_encoder.{name}"), &[rows, width], Role::Table)
        };
        let position_embedding = source.table(&table("position_embedding", text.max_length))?;
        let token_embedding = source.table(&table("token_embedding.weight", text.vocab_size))?;
        let mut layers = Vec::with_capacity(text.depth);
        for i in 0..text.depth {
            let name = format!("text_encoder.layers.{i}");
            let attn = SelfAttention::visit(&name, [width, width], None, source)?;
            let widths = [width, text.ffn_hidden];
            let mlp = Ffn::new(&format!("{name}.mlp"), None, (FfnForm::Gelu, false), widths);
            layers.push(TextLayer { attn, mlp: mlp.try_map(|layer| source.linear(layer))? });
        }
        let text_pool = LinearSpec::new("text_pool", &[d, width], Role::Projection);
        let text_pool = source.linear(&text_pool)?;
        Ok(Self { position_embedding, token_embedding, layers, text_pool })
    }
}

impl<L: Leaf> Block<L> {
    fn visit<S: Source<L>>(config: &Config, i: usize, source: &mut S) -> Result<Self, S::Error> {
        let name = format!("blocks.{i}");
        let mlp = format!("{name}.mlp");
        let (d, attention) = (config.hidden_size, config.num_heads * config.head_dim);
        let head = config.qk_norm.then_some((config.norm, config.head_dim));
        let text = config.text.as_ref();
        let text = text.map(|text| [d, attention, text.hidden_size]);
        Ok(Self {
            attn: SelfAttention::visit(&name, [d, attention], head, source)?,
            cross_attn: text.map(|w| CrossAttention::visit(&name, w, source)).transpose()?,
            mlp: if config.is_moe(i) {
                Mlp::Moe(Box::new(Moe::visit(config, &mlp, source)?))
            } else {
                let form = (config.ffn_form, config.swiglu_bias);
                let specs = Ffn::new(&mlp, None, form, [d, config.ffn_hidden]);
                Mlp::Dense(specs.try_map(|layer| source.linear(layer))?)
            },
            adaln_modulation: source.modulation(&modulation(&name, 6, d))?,
        })
    }
}

impl<L: Leaf> SelfAttention<L> {
    /// In a stream of width `d`, with heads that are together `attention` wide; `head` is the norm of queries and keys, if
    /// there is one, and the width of a head.
    fn visit<S: Source<L>>(
        block: &str,
        [d, attention]: [usize; 2],
        head: Option<(NormForm, usize)>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let linear = |layer: &str, shape: [usize; 2]| {
            LinearSpec::new(&format!("{block}.attn.{layer}"), &shape, Role::Matrix)
        };
        let norms = head.map(|(form, width)| {
            let parts = [("weight", Role::Norm), ("bias", Role::Bias)];
            let parts = &parts[..if form == NormForm::Rms { 1 } else { 2 }];
            let parts = ["q_norm", "k_norm"].map(|norm| parts.iter().map(move |part| (norm, part)));
            let spec = |(norm, (part, role)): (&str, &(&str, Role))| {
                TensorSpec::new(format!("{block}.attn.{norm}.{part}"), &[width], *role)
            };
            parts.into_iter().flatten().map(spec).collect::<Vec<_>>()
        });
        Ok(Self {
            qkv: source.linear(&linear("qkv", [3 * attention, d]))?,
            qk_norm: norms.map(|norms| source.stack(&norms)).transpose()?,
            proj: source.linear(&linear("proj", [d, attention]))?,
        })
    }
}

impl<L: Leaf> CrossAttention<L> {
    /// From a stream of width `d` to states of width `text`, with heads that are together `attention` wide.
    fn visit<S: Source<L>>(
        block: &str,
        [d, attention, text]: [usize; 3],
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let mut linear = |layer: &str, shape: [usize; 2]| {
            let name = format!("{block}.cross_attn.{layer}");
            source.linear(&LinearSpec::new(&name, &shape, Role::Matrix))
        };
        Ok(Self {
            q_linear: linear("q_linear", [attention, d])?,
            kv_linear: linear("kv_linear", [2 * attention, text])?,
            proj: linear("proj", [d, attention])?,
        })
    }
}

impl<L: Leaf> Moe<L> {
    fn visit<S: Source<L>>(config: &Config, name: &str, source: &mut S) -> Result<Self, S::Error> {
        let (d, e) = (config.hidden_size, config.num_experts);
        let [is_diffmoe, is_tc] = [Kind::DiffMoe, Kind::Tc].map(|kind| config.kind == kind);
        let gate = if is_tc { "gate.weight" } else { "gate_weight" };
        let gate = TensorSpec::new(format!("{name}.{gate}"), &[e, d], Role::Router);
        let gate = LinearSpec { weight: gate, bias: None };
        let prototypes = matches!(config.router, Router::Prototypes { .. }).then(|| {
            let shape = [config.prototypes(), d];
            TensorSpec::new(format!("{name}.cluster_centers"), &shape, Role::Table)
        });
        let thresholds = TensorSpec::new(format!("{name}.expert_threshold"), &[e], Role::Threshold);
        let ema_decay = TensorSpec::new(format!("{name}.ema_decay"), &[1], Role::Buffer);
        let predictor = |layer: usize, outputs: usize| {
            let name = format!("{name}.capacity_predictor.{layer}");
            LinearSpec::new(&name, &[outputs, d], Role::Router)
        };
        let all = format!("{name}.experts");
        let expert = |j: usize| {
            let form = (config.expert_form, config.swiglu_bias);
            Ffn::new(&format!("{all}.{j}"), Some(&all), form, [d, config.expert_hidden])
        };
        // With token choice, the gate comes after the experts.
        let first = match &prototypes {
            Some(prototypes) => Some(Gate::Prototypes(source.table(prototypes)?)),
            None if is_tc => None,
            None => Some(Gate::Linear(source.linear(&gate)?)),
        };
        let expert_threshold = if is_diffmoe { source.values(&thresholds)? } else { Vec::new() };
        if is_diffmoe {
            source.buffer(&ema_decay);
        }
        let experts = source.experts(&(0..e).map(expert).collect::<Vec<_>>())?;
        let gate = first.map_or_else(|| source.linear(&gate).map(Gate::Linear), Ok)?;
        let bias = format!("{name}.gate.e_score_correction_bias");
        let bias = TensorSpec::new(bias, &[e], Role::Threshold);
        let has_bias = matches!(config.router, Router::Sigmoid { .. });
        let selection_bias = has_bias.then(|| source.table(&bias)).transpose()?;
        let capacity_predictor = if is_diffmoe {
            Some([source.linear(&predictor(0, d))?, source.linear(&predictor(2, e))?])
        } else {
            None
        };
        let shared = format!("{name}.shared_experts");
        let form = (config.shared_form, config.swiglu_bias);
        let shared = Ffn::new(&shared, None, form, [d, config.shared_hidden]);
        let has_shared = config.shared_hidden > 0;
        let shared = has_shared.then(|| shared.try_map(|layer| source.linear(layer)));
        let shared_experts = shared.transpose()?;
        Ok(Self {
            gate,
            selection_bias,
            expert_threshold,
            experts,
            capacity_predictor,
            shared_experts,
        })
    }
}

/// An adaLN layer that makes `parts` vectors.
fn modulation(name: &str, parts: usize, d: usize) -> LinearSpec {
    LinearSpec::new(&format!("{name}.adaLN_modulation.1"), &[parts * d, d], Role::Modulation)
}
