//! Every buffer that a forward pass writes, made once for a model and a batch size.

use crate::engine::EngineError;
use crate::gpu::{Gpu, Tensor};
use crate::kernels::combine_latents::Region;
use crate::kernels::packed_rows;
use crate::model::Config;
use crate::scheduler::Latent;

/// Number of [`Latent::Output`]s.
const OUTPUTS: usize = 4;

/// Number of [`Latent::Velocity`]s.
const RATES: usize = 7;

/// What the shapes of buffers depend on.
struct Extents<'a> {
    config: &'a Config,
    /// Samples of a pass: `B`, or `2B` where a pass computes both branches.
    batch: usize,
    binding_limit: u64,
}

impl Extents<'_> {
    /// `S`
    fn tokens(&self) -> usize {
        self.batch * self.config.tokens()
    }

    /// `H·d`
    fn attention(&self) -> usize {
        self.config.num_heads * self.config.head_dim
    }

    /// Numbers in a patch of this many channels.
    fn patch(&self, channels: usize) -> usize {
        channels * self.config.patch_size * self.config.patch_size
    }

    /// Packed rows of the experts, of this many columns.
    fn packed(&self, columns: usize) -> usize {
        packed_rows(self.binding_limit, self.config.num_experts, self.tokens(), columns)
    }
}

/// A struct of buffers from a table of their labels and shapes, which are allocated with their sizes.
macro_rules! buffers {
    (
        $(#[$doc:meta])*
        struct $name:ident {
            $($(#[$given_doc:meta])* $given:ident: $given_type:ty,)*
        }
        |$extents:ident| {
            $($(#[$field_doc:meta])* $field:ident: $label:literal, $shape:expr;)+
        }
    ) => {
        $(#[$doc])*
        pub(super) struct $name {
            $($(#[$given_doc])* pub(super) $given: $given_type,)*
            $($(#[$field_doc])* pub(super) $field: Tensor,)+
        }

        impl $name {
            fn allocate(
                gpu: &Gpu,
                $extents: &Extents,
                $($given: $given_type,)*
            ) -> Result<Self, EngineError> {
                let make = |label: &str, shape: &[usize]| {
                    allocate(gpu, $extents.batch, label, shape)
                };
                Ok(Self { $($given,)* $($field: make($label, &$shape)?,)+ })
            }

            fn shapes($extents: &Extents) -> Vec<(&'static str, Vec<usize>)> {
                vec![$(($label, $shape.to_vec())),+]
            }
        }
    };
}

buffers! {
    /// The working memory of an engine. `S = B·T`.
    struct Activations {
        /// Samples of a pass: `B`, or `2B` where a pass computes both branches.
        batch: usize,
        /// Samples of a slot: `B`.
        samples: usize,
        /// All slots: latent, stage, rates, outputs (see [`Activations::region`]).
        latents: Tensor,
        /// Only for models with experts.
        moe: Option<MoeActivations>,
    }
    |of| {
        /// `[S, C·p²]`, columns rounded up to four: patches of the input.
        patches: "patches", [of.tokens(), of.patch(of.config.in_channels).next_multiple_of(4)];
        /// `[B, D]`: hidden layer of the time MLP.
        time_hidden: "time hidden", [of.batch, of.config.hidden_size];
        /// `[B, D]`: embedded time.
        time: "time", [of.batch, of.config.hidden_size];
        /// `[B, D]`: SiLU of time plus labels.
        condition: "condition", [of.batch, of.config.hidden_size];
        /// `[B, 6D·L + 2D]`: shift, scale, gate of attention and of the FFN for each block; final shift, scale.
        modulation: "modulation", [of.batch, (6 * of.config.depth + 2) * of.config.hidden_size];
        /// `[S, D]`: the residual stream.
        stream: "stream", [of.tokens(), of.config.hidden_size];
        /// `[S, D]`: the stream normalised and modulated, input of attention, FFN and router.
        normal: "normal", [of.tokens(), of.config.hidden_size];
        /// `[S, 3·H·d]`: queries, keys, values.
        qkv: "qkv", [of.tokens(), 3 * of.attention()];
        /// `[S, H·d]`: queries to a prompt; empty where the model reads no text.
        queries: "queries", [of.config.text.as_ref().map_or(0, |_| of.tokens()), of.attention()];
        /// `[S, H·d]`: weighted sums of values.
        attended: "attended", [of.tokens(), of.attention()];
        /// `[S, M]`: hidden layer of a dense FFN; empty where all blocks are MoE.
        hidden: "hidden", [
            if (0..of.config.depth).all(|i| of.config.is_moe(i)) { 0 } else { of.tokens() },
            of.config.ffn_hidden,
        ];
        /// `[S, p²·C_out]`: the output before it is an image.
        out: "out", [of.tokens(), of.patch(of.config.out_channels)];
    }
}

buffers! {
    /// Working memory of MoE blocks; all of them use the same, one after the other.
    struct MoeActivations {
        /// `[L_moe]` of `[E]`: thresholds of this run.
        thresholds: Vec<Tensor>,
        /// `[S, E]`, two f16 each: gates and predictor before softmax and sigmoid; empty unless they are recorded.
        logits: Tensor,
    }
    |of| {
        /// `[S, D]`: hidden layer of the capacity predictor.
        predictor: "predictor hidden", [of.tokens(), of.config.hidden_size];
        /// `[S, E]`: softmax over experts.
        gates: "gates", [of.tokens(), of.config.num_experts];
        /// `[S, E]`: predicted probability that an expert takes a token.
        capacities: "capacities", [of.tokens(), of.config.num_experts];
        /// `[E]`, u32: tokens that each expert takes.
        counts: "counts", [of.config.num_experts];
        /// `[S, E]`, u32: place of a token in an expert's list.
        slots: "slots", [of.tokens(), of.config.num_experts];
        /// `[E, S]`, u32: tokens of each expert.
        chosen: "chosen", [of.config.num_experts, of.tokens()];
        /// `[n, M]`, n ≤ E·S: hidden rows of the experts.
        hidden: "expert hidden", [of.packed(of.config.ffn_hidden), of.config.ffn_hidden];
        /// `[n, D]`, n ≤ E·S: output rows of the experts.
        output: "expert output", [of.packed(of.config.hidden_size), of.config.hidden_size];
        /// `[S, 8D]` or `[S, n·D]`: hidden layer of the shared expert; empty if there is none.
        shared: "shared hidden", [of.tokens(), of.config.shared_hidden];
    }
}

impl Activations {
    /// Allocates everything for a batch.
    pub(super) fn new(gpu: &Gpu, config: &Config, batch: usize) -> Result<Self, EngineError> {
        let latents = allocate(gpu, batch, LATENTS, &[latents_len(config, batch)])?;
        Self::with_slots(gpu, config, batch, batch, latents)
    }

    /// Working memory for passes over both branches of these samples; the slots are shared.
    pub(super) fn joint(&self, gpu: &Gpu, config: &Config) -> Result<Self, EngineError> {
        Self::with_slots(gpu, config, 2 * self.samples, self.samples, self.latents.clone())
    }

    fn with_slots(
        gpu: &Gpu,
        config: &Config,
        batch: usize,
        samples: usize,
        latents: Tensor,
    ) -> Result<Self, EngineError> {
        let of = Extents { config, batch, binding_limit: gpu.binding_limit };
        let moe = if config.num_experts == 0 {
            None
        } else {
            let blocks = config.moe_blocks().into_iter();
            let thresholds = |_| allocate(gpu, batch, THRESHOLDS, &[config.num_experts]);
            let thresholds = blocks.map(thresholds).collect::<Result<_, _>>()?;
            let logits = Tensor::empty(gpu, "logits", &[0]);
            Some(MoeActivations::allocate(gpu, &of, thresholds, logits)?)
        };
        Self::allocate(gpu, &of, batch, samples, latents, moe)
    }

    /// Where a slot lies in `latents`.
    pub(super) fn region(&self, config: &Config, slot: Latent) -> Region {
        let (sample, output) = (config.sample_len(), config.output_len());
        match slot {
            // First, so that a snapshot is a prefix.
            Latent::Sample => Region { first: 0, stride: sample },
            Latent::Trial => Region { first: self.samples * sample, stride: sample },
            Latent::Velocity(n) => {
                assert!(usize::from(n) < RATES, "there is no rate {n}");
                Region { first: self.samples * (2 + usize::from(n)) * sample, stride: sample }
            }
            // One after the other, so that a pass over both branches fills the first two.
            Latent::Output(n) => {
                assert!(usize::from(n) < OUTPUTS, "there is no output {n}");
                let first = self.samples * ((2 + RATES) * sample + usize::from(n) * output);
                Region { first, stride: output }
            }
        }
    }
}

impl MoeActivations {
    /// Allocates memory for the logits of a layer, or frees it. They are as large as the gates, which fit.
    pub(super) fn record(&mut self, gpu: &Gpu, is_wanted: bool) {
        let shape = if is_wanted { &self.gates.shape[..] } else { &[0] };
        self.logits = Tensor::empty(gpu, "logits", shape);
    }
}

/// Every buffer with its label and shape, for passes over `batch` samples on a device with this binding limit.
pub(in crate::engine) fn sizes(
    config: &Config,
    batch: usize,
    binding_limit: u64,
) -> Vec<(&'static str, Vec<usize>)> {
    let of = Extents { config, batch, binding_limit };
    let mut sizes = vec![(LATENTS, vec![latents_len(config, batch)])];
    sizes.extend(Activations::shapes(&of));
    if config.num_experts > 0 {
        sizes.extend(config.moe_blocks().iter().map(|_| (THRESHOLDS, vec![config.num_experts])));
        sizes.extend(MoeActivations::shapes(&of));
    }
    sizes
}

const LATENTS: &str = "latents";
const THRESHOLDS: &str = "thresholds";

fn latents_len(config: &Config, batch: usize) -> usize {
    batch * ((2 + RATES) * config.sample_len() + OUTPUTS * config.output_len())
}

fn allocate(gpu: &Gpu, batch: usize, label: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
    let bytes = 4 * shape.iter().map(|&n| n as u64).product::<u64>();
    if bytes > gpu.binding_limit {
        return Err(EngineError::TooLarge(format!(
            "a batch of {batch} needs a buffer of {bytes} bytes for {label}, and {} allows {} per binding; reduce the batch",
            gpu.info.name, gpu.binding_limit
        )));
    }
    Ok(Tensor::empty(gpu, label, shape))
}
