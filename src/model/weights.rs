//! The model, described once: a tree with the official `state_dict` names, and the walk that builds it.
//!
//! Everything that needs all tensors is a [`Source`] of this walk: the list of names and shapes
//! ([`Config::tensors`](super::Config::tensors)), the memory on a graphics device, and the loaders of both engines. A source turns the
//! description of each leaf into whatever its [`Leaf`] types say.
//!
//! # Adding a tensor
//! Add a field to the tree and a line to the walk, with name, shape and [`Role`]. The check of checkpoints, `convert`,
//! random models, `info`, footprint and both loaders follow. Then use the field in `engine/cpu` and `engine/gpu`. Where
//! an engine needs it in a form that no leaf has, add a type to [`Leaf`] and a method to [`Source`]; the compiler
//! lists the sources that lack it.

use std::fmt::Debug;
use std::future::Future;

use super::config::{Config, FfnForm, Kind};
use super::spec::{LinearSpec, Role, TensorSpec};
use super::text_config::TextConfig;

/// What the leaves of a tree are.
pub(crate) trait Leaf: Debug {
    /// A linear layer, with or without a bias.
    type Linear: Debug;
    /// A table in f32.
    type Table: Debug;
    /// All label tables.
    type LabelTables: Debug;
    /// The norms of queries and keys.
    type Norms: Debug;
    /// An adaLN layer.
    type Modulation: Debug;
    /// The gate of an MoE layer.
    type Gate: Debug;
    /// The capacity predictor of an MoE layer.
    type Predictor: Debug;
    /// All experts of an MoE layer.
    type Experts: Debug;
}

/// Nothing is kept: for sources that only look.
impl Leaf for () {
    type Linear = ();
    type Table = ();
    type LabelTables = ();
    type Norms = ();
    type Modulation = ();
    type Gate = ();
    type Predictor = ();
    type Experts = ();
}

/// Makes leaves from their descriptions. The walk calls it in the order of the tree.
pub(crate) trait Source<L: Leaf> {
    /// Why a leaf cannot be made.
    type Error;
    /// A linear layer.
    fn linear(&mut self, spec: &LinearSpec) -> Result<L::Linear, Self::Error>;
    /// A table of rows.
    fn table(&mut self, spec: &TensorSpec) -> Result<L::Table, Self::Error>;
    /// The label tables, each `[rows, D]`; there may be none.
    fn label_tables(&mut self, specs: &[TensorSpec]) -> Result<L::LabelTables, Self::Error>;
    /// Weight and bias of the norm of queries, then of keys, each `[d]`.
    fn norms(&mut self, specs: &[TensorSpec; 4]) -> Result<L::Norms, Self::Error>;
    /// An adaLN layer `[n·D, D]`.
    fn modulation(&mut self, spec: &LinearSpec) -> Result<L::Modulation, Self::Error>;
    /// A gate `[E, D]`.
    fn gate(&mut self, spec: &TensorSpec) -> Result<L::Gate, Self::Error>;
    /// The layers `[D, D]` and `[E, D]` of a capacity predictor, with SiLU between them.
    fn predictor(&mut self, specs: &[LinearSpec; 2]) -> Result<L::Predictor, Self::Error>;
    /// The thresholds `[E]` that predicted capacities are compared with.
    fn thresholds(&mut self, spec: &TensorSpec) -> Result<Vec<f32>, Self::Error>;
    /// All experts of a layer, at least one; all have the same form and shapes.
    fn experts(&mut self, specs: &[Ffn<LinearSpec>]) -> Result<L::Experts, Self::Error>;
    /// State of the trainer.
    fn buffer(&mut self, _spec: &TensorSpec) {}
    /// Called after every block: the place to let a page draw while a model loads.
    fn pause(&mut self) -> impl Future<Output = ()> {
        std::future::ready(())
    }
}

/// The whole model.
#[derive(Debug)]
pub(crate) struct Weights<L: Leaf> {
    /// `[T, D]`
    pub(crate) pos_embed: L::Table,
    /// `x_embedder.proj`, `[D, C·p·p]`
    pub(crate) x_embedder: L::Linear,
    /// `t_embedder.mlp.0` and `.2`, `[D, 256]` and `[D, D]`
    pub(crate) t_embedder: [L::Linear; 2],
    /// The tables of [`Config::labels`](super::Config), each `[rows, D]`
    pub(crate) label_tables: L::LabelTables,
    /// Where the model reads text
    pub(crate) text_encoder: Option<TextEncoder<L>>,
    /// `L` of them
    pub(crate) blocks: Vec<Block<L>>,
    /// From the residual stream to patches
    pub(crate) final_layer: FinalLayer<L>,
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
    /// To a prompt, where the model reads text
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
    /// `q_norm` and `k_norm`, where there are such norms
    pub(crate) qk_norm: Option<L::Norms>,
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

/// The MoE layer of a block.
#[derive(Debug)]
pub(crate) struct Moe<L: Leaf> {
    /// `gate_weight` (`gate.weight` with token choice), `[E, D]`
    pub(crate) gate_weight: L::Gate,
    /// `[E]`; empty unless the model is a `DiffMoE`
    pub(crate) expert_threshold: Vec<f32>,
    /// `E` of them
    pub(crate) experts: L::Experts,
    /// `[D, D]` and `[E, D]`; `DiffMoE` only
    pub(crate) capacity_predictor: Option<L::Predictor>,
    /// Sees every token
    pub(crate) shared_experts: Option<Ffn<L::Linear>>,
}

/// A feed-forward network of hidden width `M`.
#[derive(Debug)]
pub(crate) enum Ffn<T> {
    /// `fc2(gelu(fc1 x))`
    Gelu {
        /// `[M, D]`
        fc1: T,
        /// `[D, M]`
        fc2: T,
    },
    /// `down(silu(gate x) ⊙ up x)`, without biases
    SwiGlu {
        /// `[M, D]`
        gate_proj: T,
        /// `[M, D]`
        up_proj: T,
        /// `[D, M]`
        down_proj: T,
    },
}

/// The final layer.
#[derive(Debug)]
pub(crate) struct FinalLayer<L: Leaf> {
    /// `[p·p·C_out, D]`
    pub(crate) linear: L::Linear,
    /// `adaLN_modulation.1`, `[2·D, D]`: shift and scale
    pub(crate) adaln_modulation: L::Modulation,
}

impl<L: Leaf> Weights<L> {
    /// The walk: every tensor of a model, in the order of the tree.
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
        let pos_embed = source.table(&positions)?;
        let x_embedder =
            source.linear(&outer("x_embedder.proj", &[d, config.in_channels, p, p]))?;
        let t_embedder = [
            source.linear(&outer("t_embedder.mlp.0", &[d, 256]))?,
            source.linear(&outer("t_embedder.mlp.2", &[d, d]))?,
        ];
        let label_tables = source.label_tables(&labels.collect::<Vec<_>>())?;
        let text_encoder = match &config.text {
            None => None,
            Some(text) => Some(TextEncoder::visit(text, d, source)?),
        };
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
        Ok(Self {
            pos_embed,
            x_embedder,
            t_embedder,
            label_tables,
            text_encoder,
            blocks,
            final_layer,
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
        let layer = |i: usize, source: &mut S| -> Result<_, S::Error> {
            let name = format!("text_encoder.layers.{i}");
            let mlp = format!("{name}.mlp");
            let mlp = Ffn::specs(&mlp, FfnForm::Gelu, [width, text.ffn_hidden], None);
            Ok(TextLayer {
                attn: SelfAttention::visit(&name, [width, width], None, source)?,
                mlp: mlp.try_map(|layer| source.linear(layer))?,
            })
        };
        Ok(Self {
            position_embedding: source.table(&table("position_embedding", text.max_length))?,
            token_embedding: source.table(&table("token_embedding.weight", text.vocab_size))?,
            layers: (0..text.depth).map(|i| layer(i, source)).collect::<Result<_, _>>()?,
            text_pool: source.linear(&LinearSpec::new(
                "text_pool",
                &[d, width],
                Role::Projection,
            ))?,
        })
    }
}

impl<L: Leaf> Block<L> {
    fn visit<S: Source<L>>(config: &Config, i: usize, source: &mut S) -> Result<Self, S::Error> {
        let name = format!("blocks.{i}");
        let d = config.hidden_size;
        let attention = config.num_heads * config.head_dim;
        let head = config.qk_norm.then_some(config.head_dim);
        Ok(Self {
            attn: SelfAttention::visit(&name, [d, attention], head, source)?,
            cross_attn: match &config.text {
                None => None,
                Some(text) => {
                    Some(CrossAttention::visit(&name, [d, attention, text.hidden_size], source)?)
                }
            },
            mlp: Mlp::visit(config, &format!("{name}.mlp"), config.is_moe(i), source)?,
            adaln_modulation: source.modulation(&modulation(&name, 6, d))?,
        })
    }
}

impl<L: Leaf> SelfAttention<L> {
    /// In a stream of width `d`, with heads that are together `attention` wide; `head` is the width of a head whose
    /// queries and keys are normalised.
    fn visit<S: Source<L>>(
        block: &str,
        [d, attention]: [usize; 2],
        head: Option<usize>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let linear = |layer: &str, shape: [usize; 2]| {
            LinearSpec::new(format!("{block}.attn.{layer}"), &shape, Role::Matrix)
        };
        let norm = |width: usize, part: &str, role: Role| {
            TensorSpec::new(format!("{block}.attn.{part}"), &[width], role)
        };
        let norms = head.map(|width| {
            [
                norm(width, "q_norm.weight", Role::Norm),
                norm(width, "q_norm.bias", Role::Bias),
                norm(width, "k_norm.weight", Role::Norm),
                norm(width, "k_norm.bias", Role::Bias),
            ]
        });
        Ok(Self {
            qkv: source.linear(&linear("qkv", [3 * attention, d]))?,
            qk_norm: norms.map(|norms| source.norms(&norms)).transpose()?,
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
            source.linear(&LinearSpec::new(name, &shape, Role::Matrix))
        };
        Ok(Self {
            q_linear: linear("q_linear", [attention, d])?,
            kv_linear: linear("kv_linear", [2 * attention, text])?,
            proj: linear("proj", [d, attention])?,
        })
    }
}

impl<L: Leaf> Mlp<L> {
    fn visit<S: Source<L>>(
        config: &Config,
        name: &str,
        is_moe: bool,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        if is_moe {
            return Ok(Self::Moe(Box::new(Moe::visit(config, name, source)?)));
        }
        let specs =
            Ffn::specs(name, config.ffn_form, [config.hidden_size, config.ffn_hidden], None);
        Ok(Self::Dense(specs.try_map(|layer| source.linear(layer))?))
    }
}

impl<L: Leaf> Moe<L> {
    fn visit<S: Source<L>>(config: &Config, name: &str, source: &mut S) -> Result<Self, S::Error> {
        let (d, e) = (config.hidden_size, config.num_experts);
        let is_diffmoe = config.kind == Kind::DiffMoe;
        let gate = if config.kind == Kind::Tc { "gate.weight" } else { "gate_weight" };
        let gate = TensorSpec::new(format!("{name}.{gate}"), &[e, d], Role::Router);
        let expert_threshold =
            TensorSpec::new(format!("{name}.expert_threshold"), &[e], Role::Threshold);
        let ema_decay = TensorSpec::new(format!("{name}.ema_decay"), &[1], Role::Buffer);
        let predictor = |layer: usize, outputs: usize| {
            let name = format!("{name}.capacity_predictor.{layer}");
            LinearSpec::new(name, &[outputs, d], Role::Router)
        };
        let all = format!("{name}.experts");
        let expert = |j: usize| {
            let widths = [d, config.ffn_hidden];
            Ffn::specs(&format!("{all}.{j}"), config.ffn_form, widths, Some(&all))
        };
        Ok(Self {
            gate_weight: source.gate(&gate)?,
            expert_threshold: if is_diffmoe {
                let thresholds = source.thresholds(&expert_threshold)?;
                source.buffer(&ema_decay);
                thresholds
            } else {
                Vec::new()
            },
            experts: source.experts(&(0..e).map(expert).collect::<Vec<_>>())?,
            capacity_predictor: if is_diffmoe {
                Some(source.predictor(&[predictor(0, d), predictor(2, e)])?)
            } else {
                None
            },
            shared_experts: match config.shared_hidden {
                0 => None,
                width => {
                    let name = format!("{name}.shared_experts");
                    let specs = Ffn::specs(&name, config.shared_form, [d, width], None);
                    Some(specs.try_map(|layer| source.linear(layer))?)
                }
            },
        })
    }
}

/// An adaLN layer that makes `parts` vectors.
fn modulation(name: &str, parts: usize, d: usize) -> LinearSpec {
    LinearSpec::new(format!("{name}.adaLN_modulation.1"), &[parts * d, d], Role::Modulation)
}

impl Ffn<LinearSpec> {
    /// The layers of a network of width `d` and hidden width `m`; of an expert where `experts` names all of them.
    fn specs(name: &str, form: FfnForm, [d, m]: [usize; 2], experts: Option<&str>) -> Self {
        let group = experts.unwrap_or(name);
        let linear = |layer: &str, beside: &str, shape: [usize; 2]| {
            let linear = LinearSpec::new(format!("{name}.{layer}"), &shape, Role::Matrix)
                .in_group(Some(format!("{group}.{beside}")));
            if experts.is_some() { linear.of_expert() } else { linear }
        };
        match form {
            FfnForm::Gelu => {
                Self::Gelu { fc1: linear("fc1", "fc1", [m, d]), fc2: linear("fc2", "fc2", [d, m]) }
            }
            FfnForm::SwiGlu => Self::SwiGlu {
                gate_proj: linear("gate_proj", "gate_proj", [m, d]).without_bias(),
                up_proj: linear("up_proj", "gate_proj", [m, d]).without_bias(),
                down_proj: linear("down_proj", "down_proj", [d, m]).without_bias(),
            },
        }
    }
}

impl<T> Ffn<T> {
    /// The same network with other leaves.
    pub(crate) fn try_map<U, E>(
        &self,
        mut leaf: impl FnMut(&T) -> Result<U, E>,
    ) -> Result<Ffn<U>, E> {
        Ok(match self {
            Self::Gelu { fc1, fc2 } => Ffn::Gelu { fc1: leaf(fc1)?, fc2: leaf(fc2)? },
            Self::SwiGlu { gate_proj, up_proj, down_proj } => Ffn::SwiGlu {
                gate_proj: leaf(gate_proj)?,
                up_proj: leaf(up_proj)?,
                down_proj: leaf(down_proj)?,
            },
        })
    }

    /// `fc1` or `gate_proj`; `up_proj` where there is one; `fc2` or `down_proj`.
    pub(crate) fn layers(&self) -> (&T, Option<&T>, &T) {
        match self {
            Self::Gelu { fc1, fc2 } => (fc1, None, fc2),
            Self::SwiGlu { gate_proj, up_proj, down_proj } => (gate_proj, Some(up_proj), down_proj),
        }
    }

    /// Its layers in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let (first, second, last) = self.layers();
        std::iter::once(first).chain(second).chain([last])
    }
}
