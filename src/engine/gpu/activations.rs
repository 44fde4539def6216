//! Every buffer that a forward pass writes, made once for a model and a batch size.

use std::collections::BTreeMap;

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

/// The working memory of an engine. `S = B·T`.
pub(super) struct Activations {
    /// Samples of a pass: `B`, or `2B` where a pass computes both branches.
    pub(super) batch: usize,
    /// Samples of a slot: `B`.
    pub(super) samples: usize,
    /// All slots: latent, stage, rates, outputs (see [`Activations::region`]).
    pub(super) latents: Tensor,
    /// `[S, C·p²]`, columns rounded up to four: patches of the input.
    pub(super) patches: Tensor,
    /// `[B, D]`: hidden layer of the time MLP.
    pub(super) time_hidden: Tensor,
    /// `[B, D]`: embedded time.
    pub(super) time: Tensor,
    /// `[B, D]`: SiLU of time plus labels.
    pub(super) condition: Tensor,
    /// `[B, 6D·L + 2D]`: shift, scale, gate of attention and of the FFN for each block; final shift, scale.
    pub(super) modulation: Tensor,
    /// `[S, D]`: the residual stream.
    pub(super) stream: Tensor,
    /// `[S, D]`: the stream normalised and modulated, input of attention, FFN and router.
    pub(super) normal: Tensor,
    /// `[S, 3·H·d]`: queries, keys, values.
    pub(super) qkv: Tensor,
    /// `[S, H·d]`: queries to a prompt; empty where the model reads no text.
    pub(super) queries: Tensor,
    /// `[S, H·d]`: what attention gathered.
    pub(super) attended: Tensor,
    /// `[S, M]`: hidden layer of a dense FFN; empty where all blocks are MoE.
    pub(super) hidden: Tensor,
    /// `[S, p²·C_out]`: the output before it is a picture.
    pub(super) out: Tensor,
    /// Only where there are experts.
    pub(super) moe: Option<MoeActivations>,
}

/// Working memory of MoE blocks; all of them use the same, one after the other.
pub(super) struct MoeActivations {
    /// `[S, D]`: hidden layer of the capacity predictor.
    pub(super) predictor: Tensor,
    /// `[S, E]`: softmax over experts.
    pub(super) gates: Tensor,
    /// `[S, E]`: predicted probability that an expert takes a token.
    pub(super) capacities: Tensor,
    /// `[L_moe]` of `[E]`: thresholds of this run.
    pub(super) thresholds: Vec<Tensor>,
    /// `[E]`, u32: tokens that each expert takes.
    pub(super) counts: Tensor,
    /// `[S, E]`, u32: place of a token in an expert's list.
    pub(super) slots: Tensor,
    /// `[E, S]`, u32: tokens of each expert.
    pub(super) chosen: Tensor,
    /// `[n, M]`, n ≤ E·S: hidden rows of the experts.
    pub(super) hidden: Tensor,
    /// `[n, D]`, n ≤ E·S: output rows of the experts.
    pub(super) output: Tensor,
    /// `[S, 8D]` or `[S, n·D]`: hidden layer of the shared expert; empty where there is none.
    pub(super) shared: Tensor,
}

impl Activations {
    /// Allocates everything for a batch.
    pub(super) fn new(gpu: &Gpu, config: &Config, batch: usize) -> Result<Self, EngineError> {
        let latents = allocate(gpu, batch, "latents", &[latents_len(config, batch)])?;
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
        let sizes = sizes(config, batch, gpu.binding_limit);
        let make = |label: &str| allocate(gpu, batch, label, &sizes[label]);
        Ok(Self {
            batch,
            samples,
            latents,
            patches: make("patches")?,
            time_hidden: make("time hidden")?,
            time: make("time")?,
            condition: make("condition")?,
            modulation: make("modulation")?,
            stream: make("stream")?,
            normal: make("normal")?,
            qkv: make("qkv")?,
            queries: make("queries")?,
            attended: make("attended")?,
            hidden: make("hidden")?,
            out: make("out")?,
            moe: match config.num_experts {
                0 => None,
                _ => Some(MoeActivations::new(gpu, config, batch)?),
            },
        })
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
    fn new(gpu: &Gpu, config: &Config, batch: usize) -> Result<Self, EngineError> {
        let sizes = sizes(config, batch, gpu.binding_limit);
        let make = |label: &str| allocate(gpu, batch, label, &sizes[label]);
        let thresholds = config.moe_blocks().into_iter();
        Ok(Self {
            predictor: make("predictor hidden")?,
            gates: make("gates")?,
            capacities: make("capacities")?,
            thresholds: thresholds.map(|_| make("thresholds")).collect::<Result<_, _>>()?,
            counts: make("counts")?,
            slots: make("slots")?,
            chosen: make("chosen")?,
            hidden: make("expert hidden")?,
            output: make("expert output")?,
            shared: make("shared hidden")?,
        })
    }
}

/// Shape of every buffer by name, for passes over `batch` samples on a device with this binding limit.
pub(in crate::engine) fn sizes(
    config: &Config,
    batch: usize,
    binding_limit: u64,
) -> BTreeMap<&'static str, Vec<usize>> {
    let s = batch * config.tokens();
    let (d, e, m) = (config.hidden_size, config.num_experts, config.ffn_hidden);
    let attention = config.num_heads * config.head_dim;
    let patch = config.patch_size * config.patch_size;
    let has_dense = (0..config.depth).any(|i| !config.is_moe(i));
    let mut sizes = BTreeMap::from([
        ("latents", vec![latents_len(config, batch)]),
        ("patches", vec![s, (config.in_channels * patch).next_multiple_of(4)]),
        ("time hidden", vec![batch, d]),
        ("time", vec![batch, d]),
        ("condition", vec![batch, d]),
        ("modulation", vec![batch, 6 * d * config.depth + 2 * d]),
        ("stream", vec![s, d]),
        ("normal", vec![s, d]),
        ("qkv", vec![s, 3 * attention]),
        ("queries", vec![if config.text.is_some() { s } else { 0 }, attention]),
        ("attended", vec![s, attention]),
        ("hidden", vec![if has_dense { s } else { 0 }, m]),
        ("out", vec![s, patch * config.out_channels]),
    ]);
    if e > 0 {
        sizes.extend([
            ("predictor hidden", vec![s, d]),
            ("gates", vec![s, e]),
            ("capacities", vec![s, e]),
            ("thresholds", vec![e]),
            ("counts", vec![e]),
            ("slots", vec![s, e]),
            ("chosen", vec![e, s]),
            ("expert hidden", vec![packed_rows(binding_limit, e, s, m), m]),
            ("expert output", vec![packed_rows(binding_limit, e, s, d), d]),
            ("shared hidden", vec![s, config.shared_hidden]),
        ]);
    }
    sizes
}

fn latents_len(config: &Config, batch: usize) -> usize {
    batch * ((2 + RATES) * config.sample_len() + OUTPUTS * config.output_len())
}

fn allocate(gpu: &Gpu, batch: usize, label: &str, shape: &[usize]) -> Result<Tensor, EngineError> {
    let bytes = 4 * shape.iter().map(|&n| n as u64).product::<u64>();
    if bytes > gpu.binding_limit {
        return Err(EngineError::TooLarge(format!(
            "a batch of {batch} needs {bytes} bytes for \"{label}\" and {} binds {} at once; draw fewer pictures at once",
            gpu.info.name, gpu.binding_limit
        )));
    }
    Ok(Tensor::empty(gpu, label, shape))
}
