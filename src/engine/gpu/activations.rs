//! Every buffer that a forward pass writes, made once for a model and a batch size.

use crate::engine::EngineError;
use crate::gpu::{Gpu, Tensor};
use crate::kernels::combine_experts::mask_words;
use crate::kernels::combine_latents::Region;
use crate::kernels::packed_rows;
use crate::model::Config;
use crate::scheduler::Latent;

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
        self.batch * self.config.stream_tokens()
    }

    /// `H·d`
    fn attention(&self) -> usize {
        self.config.num_heads * self.config.head_dim
    }

    /// Numbers in a patch of this many channels.
    fn patch(&self, channels: usize) -> usize {
        channels * self.config.patch_size * self.config.patch_size
    }

    /// A feature map over whole pixels, its channels rounded up to quads.
    fn feature_map(&self, channels: usize) -> [usize; 4] {
        [channels.div_ceil(4), self.batch, self.config.plane(), 4]
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
        #[derive(Clone)]
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

            /// The same buffers for smaller extents.
            fn part(&self, $extents: &Extents, $($given: $given_type,)*) -> Self {
                Self { $($given,)* $($field: self.$field.part(&$shape),)+ }
            }

            fn shapes($extents: &Extents) -> Vec<(&'static str, Vec<usize>)> {
                vec![$(($label, $shape.to_vec())),+]
            }
        }
    };
}

buffers! {
    /// The working memory of an engine. `S = B·T`, where `T` counts tokens that carry the labels, too.
    struct Activations {
        /// Samples of a pass: `B`, or `2B` where a pass computes both branches.
        batch: usize,
        /// Samples of a latent: `B`.
        samples: usize,
        /// All latents: sample, trial, shifted, velocities, outputs (see [`Activations::region`]).
        latents: Tensor,
        /// Only for models with experts.
        moe: Option<MoeActivations>,
        /// Only where there is a detail head.
        detail: Option<DetailActivations>,
    }
    |of| {
        /// `[S, C·p²]`, columns rounded up to four: patches of the input.
        patches: "patches", [of.tokens(), of.patch(of.config.in_channels).next_multiple_of(4)];
        /// `[B, 2]`, u32: first row and number of the tokens of patches of each sample; empty where there are no others.
        patch_spans: "spans of patches", [of.config.context.map_or(0, |_| of.batch), 2];
        /// `[B, D]`: `SiLU(c)`, where `c` is time plus prompt plus labels.
        conditioning: "conditioning", [of.batch, of.config.hidden_size];
        /// `[B, 6D·L + 2D]`: shift, scale, gate of attention and of the FFN for each block; final shift, scale.
        modulation: "modulation", [of.batch, (6 * of.config.depth + 2) * of.config.hidden_size];
        /// `[S, D]`: the residual stream.
        x: "residual stream", [of.tokens(), of.config.hidden_size];
        /// `[S, D]`: modulated layer norm of `x`, input of attention, FFN and router.
        h: "modulated tokens", [of.tokens(), of.config.hidden_size];
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
    }
}

buffers! {
    /// Working memory of MoE blocks; all of them use the same, one after the other.
    struct MoeActivations {
        /// `[L_moe]` of `[E]`: thresholds of this run.
        thresholds: Vec<Tensor>,
    }
    |of| {
        /// `[S, D]`: hidden layer of the capacity predictor.
        predictor_hidden: "predictor hidden", [of.tokens(), of.config.hidden_size];
        /// `[S, E]`: weights of the experts, by default softmax of the gate.
        gate: "gate", [of.tokens(), of.config.num_experts];
        /// `[S, E]`: sigmoid of the capacity predictor.
        need: "need", [of.tokens(), of.config.num_experts];
        /// `[E]`, u32: tokens that each expert takes.
        counts: "counts", [of.config.num_experts];
        /// `[S, W]`, u32: the experts of each token, one bit for each in W words, where no trace keeps them.
        masks: "masks", [of.tokens(), mask_words(of.config.num_experts)];
        /// Where scores would go that nobody wants.
        nothing: "nothing", [0];
        /// `[S, E]`, u32: position of a token in an expert's list.
        positions: "positions", [of.tokens(), of.config.num_experts];
        /// `[E, S]`, u32: tokens of each expert.
        chosen: "chosen", [of.config.num_experts, of.tokens()];
        /// `[n, M]`, n ≤ E·S: hidden rows of the experts.
        expert_hidden: "expert hidden", [of.packed(of.config.expert_hidden), of.config.expert_hidden];
        /// `[n, D]`, n ≤ E·S: output rows of the experts.
        expert_output: "expert output", [of.packed(of.config.hidden_size), of.config.hidden_size];
        /// `[S, 8D]` or `[S, n·D]`: hidden layer of the shared expert; empty if there is none.
        shared_hidden: "shared hidden", [of.tokens(), of.config.shared_hidden];
    }
}

buffers! {
    /// Feature maps of the detail head; channels in quads.
    struct DetailActivations {}
    |of| {
        /// `[(2C + 1)/4, B, H·W, 4]`: predicted sample, noised sample and time, then what the head adds.
        pixels: "detail pixels", of.feature_map(of.config.detail_inputs());
        /// `[K/4, B, H·W, 4]`: after the first convolution.
        first: "detail, first", of.feature_map(of.config.detail_channels);
        /// `[K/4, B, H·W, 4]`: after the second.
        second: "detail, second", of.feature_map(of.config.detail_channels);
    }
}

impl Activations {
    /// Allocates everything for passes over this many samples.
    pub(super) fn new(gpu: &Gpu, config: &Config, samples: usize) -> Result<Self, EngineError> {
        let latents = allocate(gpu, samples, LATENTS, &[latents_len(config, samples)])?;
        Self::with_latents(gpu, config, samples, samples, latents)
    }

    /// As [`Activations::new`], for passes over both branches of the samples.
    pub(super) fn of_both(gpu: &Gpu, config: &Config, samples: usize) -> Result<Self, EngineError> {
        let latents = allocate(gpu, samples, LATENTS, &[latents_len(config, samples)])?;
        Self::with_latents(gpu, config, 2 * samples, samples, latents)
    }

    /// Memory of its own for passes over both branches of the same samples; the latents are shared.
    pub(super) fn doubled(&self, gpu: &Gpu, config: &Config) -> Result<Self, EngineError> {
        Self::with_latents(gpu, config, 2 * self.samples, self.samples, self.latents.clone())
    }

    /// The same memory for passes over one branch.
    pub(super) fn of_one(&self, gpu: &Gpu, config: &Config) -> Self {
        let batch = self.samples;
        let of = Extents { config, batch, binding_limit: gpu.binding_limit };
        let moe = self.moe.as_ref();
        let moe = moe.map(|moe| moe.part(&of, moe.thresholds.clone()));
        let detail = self.detail.as_ref().map(|detail| detail.part(&of));
        self.part(&of, batch, self.samples, self.latents.clone(), moe, detail)
    }

    fn with_latents(
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
            Some(MoeActivations::allocate(gpu, &of, thresholds)?)
        };
        let has_head = config.detail_channels > 0;
        let detail = has_head.then(|| DetailActivations::allocate(gpu, &of)).transpose()?;
        let made = Self::allocate(gpu, &of, batch, samples, latents, moe, detail)?;
        if config.context.is_some() {
            let span = |sample| [sample * config.stream_tokens(), config.tokens()];
            let spans: Vec<_> = (0..batch).flat_map(span).map(|n| n as u32).collect();
            made.patch_spans.write(gpu, &spans);
        }
        Ok(made)
    }

    /// Where a latent lies in `latents`.
    pub(super) fn region(&self, config: &Config, latent: Latent) -> Region {
        let (sample, output) = (config.sample_len(), config.output_len());
        match latent {
            // First, so that a snapshot is a prefix.
            Latent::Sample => Region { first: 0, stride: sample },
            Latent::Trial => Region { first: self.samples * sample, stride: sample },
            Latent::Shifted => Region { first: self.samples * 2 * sample, stride: sample },
            Latent::Velocity(n) => {
                assert!(usize::from(n) < Latent::VELOCITIES, "there is no velocity {n}");
                Region { first: self.samples * (3 + usize::from(n)) * sample, stride: sample }
            }
            // One after the other, so that a pass over both branches fills the first two.
            Latent::Output(n) => {
                assert!(usize::from(n) < Latent::OUTPUTS, "there is no output {n}");
                let first =
                    self.samples * ((3 + Latent::VELOCITIES) * sample + usize::from(n) * output);
                Region { first, stride: output }
            }
        }
    }
}

/// Every buffer with its label and shape, for passes over `batch` samples on a device with this binding limit; without
/// the latents.
pub(in crate::engine) fn sizes(
    config: &Config,
    batch: usize,
    binding_limit: u64,
) -> Vec<(&'static str, Vec<usize>)> {
    let of = Extents { config, batch, binding_limit };
    let mut sizes = Activations::shapes(&of);
    if config.num_experts > 0 {
        sizes.extend(config.moe_blocks().iter().map(|_| (THRESHOLDS, vec![config.num_experts])));
        sizes.extend(MoeActivations::shapes(&of));
    }
    if config.detail_channels > 0 {
        sizes.extend(DetailActivations::shapes(&of));
    }
    sizes
}

/// The buffer of all latents for this many samples.
pub(in crate::engine) fn latents(config: &Config, samples: usize) -> (&'static str, Vec<usize>) {
    (LATENTS, vec![latents_len(config, samples)])
}

/// Bytes of a buffer of this shape; no buffer is empty.
pub(in crate::engine) fn bytes(shape: &[usize]) -> u64 {
    4 * shape.iter().map(|&n| n as u64).product::<u64>().max(1)
}

const LATENTS: &str = "latents";
const THRESHOLDS: &str = "thresholds";

fn latents_len(config: &Config, samples: usize) -> usize {
    samples
        * ((3 + Latent::VELOCITIES) * config.sample_len() + Latent::OUTPUTS * config.output_len())
}

fn allocate(gpu: &Gpu, batch: usize, label: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
    let bytes = bytes(shape);
    if bytes > gpu.binding_limit {
        return Err(EngineError::TooLarge(format!(
            "a batch of {batch} needs a buffer of {bytes} bytes for {label}, and {} allows {} per binding; reduce the batch",
            gpu.info.name, gpu.binding_limit
        )));
    }
    Ok(Tensor::empty(gpu, label, shape))
}
