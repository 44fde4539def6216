//! Every buffer that a forward pass writes, made once for a model and a batch size.

use super::{Config, EngineError, Slot};
use crate::gpu::{Gpu, Tensor};
use crate::kernels::combine_latents::Region;
use crate::kernels::packed_rows;

/// Number of [`Slot::Output`]s.
pub(super) const OUTPUTS: usize = 4;

/// The working memory of an engine. `S = B·T`.
pub(super) struct Activations {
    /// `B`
    pub(super) batch: usize,
    /// All slots: latent, stage, outputs (see [`Activations::region`]).
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
        let s = batch * config.tokens();
        let (d, m) = (config.hidden_size, config.ffn_hidden);
        let attention = config.num_heads * config.head_dim;
        let patch = config.patch_size * config.patch_size;
        let has_dense = (0..config.depth).any(|i| !config.is_moe(i));
        let make = |label: &str, shape: &[usize]| allocate(gpu, batch, label, shape);
        Ok(Self {
            batch,
            latents: make("latents", &[latents_len(config, batch)])?,
            patches: make("patches", &[s, (config.in_channels * patch).next_multiple_of(4)])?,
            time_hidden: make("time hidden", &[batch, d])?,
            time: make("time", &[batch, d])?,
            condition: make("condition", &[batch, d])?,
            modulation: make("modulation", &[batch, 6 * d * config.depth + 2 * d])?,
            stream: make("stream", &[s, d])?,
            normal: make("normal", &[s, d])?,
            qkv: make("qkv", &[s, 3 * attention])?,
            attended: make("attended", &[s, attention])?,
            hidden: make("hidden", &[if has_dense { s } else { 0 }, m])?,
            out: make("out", &[s, patch * config.out_channels])?,
            moe: match config.num_experts {
                0 => None,
                _ => Some(MoeActivations::new(gpu, config, batch)?),
            },
        })
    }

    /// Where a slot lies in `latents`.
    pub(super) fn region(&self, config: &Config, slot: Slot) -> Region {
        let (sample, output) = (config.sample_len(), config.output_len());
        match slot {
            // First, so that a snapshot is a prefix.
            Slot::Latent => Region { first: 0, stride: sample },
            Slot::Stage => Region { first: self.batch * sample, stride: sample },
            Slot::Output(n) => {
                assert!(usize::from(n) < OUTPUTS, "there is no output {n}");
                let first = self.batch * (2 * sample + usize::from(n) * output);
                Region { first, stride: output }
            }
        }
    }
}

impl MoeActivations {
    fn new(gpu: &Gpu, config: &Config, batch: usize) -> Result<Self, EngineError> {
        let s = batch * config.tokens();
        let (d, e, m) = (config.hidden_size, config.num_experts, config.ffn_hidden);
        let make = |label: &str, shape: &[usize]| allocate(gpu, batch, label, shape);
        let thresholds = config.moe_blocks().into_iter();
        Ok(Self {
            predictor: make("predictor hidden", &[s, d])?,
            gates: make("gates", &[s, e])?,
            capacities: make("capacities", &[s, e])?,
            thresholds: thresholds.map(|_| make("thresholds", &[e])).collect::<Result<_, _>>()?,
            counts: make("counts", &[e])?,
            slots: make("slots", &[s, e])?,
            chosen: make("chosen", &[e, s])?,
            hidden: make("expert hidden", &[packed_rows(gpu, e, s, m), m])?,
            output: make("expert output", &[packed_rows(gpu, e, s, d), d])?,
            shared: make("shared hidden", &[s, config.shared_hidden])?,
        })
    }
}

fn latents_len(config: &Config, batch: usize) -> usize {
    batch * (2 * config.sample_len() + OUTPUTS * config.output_len())
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
