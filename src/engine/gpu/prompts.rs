//! Computed once per prompt of a run, before its first step: the states of the text encoder, and from them the keys
//! and values of every block's cross-attention.
//!
//! ```text
//! x = tokens + positions                                  [P·L, D_t]   P prompts
//! for each layer:
//!     x += Attention(LN(x))                within a prompt, padding unseen
//!     x += FFN(LN(x))
//! states = LN(x)
//! memory of block i = kv_linear(states)                   [P·L, 2·H·d]
//! pooled of a sample = text_pool(states of its first token)     [B, D]
//! ```

use super::weights::{OnGpu, Weights};
use crate::engine::{EngineError, RunPrompts};
use crate::gpu::{Gpu, Tape, Tensor};
use crate::kernels::{Attention, EmbedTokens, Epilogue, Linear, Modulate};
use crate::model::{Config, TextConfig, TextEncoder, TextLayer};

/// Memory for some prompts, and the recorded work that fills it.
pub(super) struct Prompts {
    /// `P`
    capacity: usize,
    /// `L`
    length: usize,
    /// `[P·L]`, u32: the prompts.
    ids: Tensor,
    /// `[P, 2]`, u32: first row and number of tokens of each prompt.
    spans: Tensor,
    /// `[P·L, D_t]`: the encoder's output.
    pub(super) states: Tensor,
    /// For each block `[P·L, 2·H·d]`: keys, then values.
    pub(super) memory: Vec<Tensor>,
    encoder: Tape,
}

/// Which prompt each sample of a pass sees.
pub(super) struct PromptView {
    /// `[B, 2]`, u32: first row and number of its tokens in [`Prompts::memory`].
    pub(super) spans: Tensor,
    /// `[B]`, u32: the first rows alone.
    starts: Tensor,
    /// `[B, D]`: what the prompt adds to the conditioning.
    pub(super) pooled: Tensor,
    pool: Tape,
}

/// Buffers of the encoder, `[P·L, …]`.
struct Working {
    x: Tensor,
    h: Tensor,
    qkv: Tensor,
    attended: Tensor,
    hidden: Tensor,
}

impl Prompts {
    /// Memory for `capacity` prompts.
    pub(super) fn new(
        gpu: &Gpu,
        weights: &Weights,
        config: &Config,
        capacity: usize,
    ) -> Result<Self, EngineError> {
        let text = config.text.as_ref().expect("only a model with a text section reads prompts");
        let encoder = weights.tree.text_encoder.as_ref().zip(weights.no_modulation.as_ref());
        let w = encoder.expect("a model with a text section has an encoder");
        let attention = config.num_heads * config.head_dim;
        let make = |label: &str| {
            let [rows, columns] = shape(text, attention, capacity, label);
            allocate(gpu, capacity, label, rows, columns)
        };
        let cross = weights.tree.blocks.iter().filter_map(|block| block.cross_attn.as_ref());
        let memory: Result<Vec<_>, _> = cross.clone().map(|_| make("keys and values")).collect();
        let working = Working {
            x: make("text stream")?,
            h: make("text normalised")?,
            qkv: make("text qkv")?,
            attended: make("text attended")?,
            hidden: make("text hidden")?,
        };
        let mut prompts = Self {
            capacity,
            length: text.max_length,
            ids: Tensor::empty(gpu, "token ids", &[capacity * text.max_length]),
            spans: Tensor::empty(gpu, "text spans", &[capacity, 2]),
            states: make("text states")?,
            memory: memory?,
            encoder: Tape::default(),
        };
        let mut tape = Tape::default();
        prompts.record(gpu, w, text, &working, &mut tape);
        for (cross, memory) in cross.zip(&prompts.memory) {
            let linear = Linear::new(&prompts.states, &cross.kv_linear, memory);
            linear.record(gpu, &mut tape, "keys and values");
        }
        prompts.encoder = tape;
        Ok(prompts)
    }

    /// The encoder, from ids to states; its norms take the modulation `plain`, which changes nothing.
    fn record(
        &self,
        gpu: &Gpu,
        (w, plain): (&TextEncoder<OnGpu>, &Tensor),
        text: &TextConfig,
        a: &Working,
        t: &mut Tape,
    ) {
        let embed = EmbedTokens {
            ids: &self.ids,
            table: &w.token_embedding,
            positions: &w.position_embedding,
            y: &a.x,
        };
        t.push(gpu, "text encoder", &embed);
        for layer in &w.layers {
            self.layer(gpu, (plain, layer), text.num_heads, a, t);
        }
        t.push(gpu, "text encoder", &norm(plain, &a.x, &self.states));
    }

    fn layer(
        &self,
        gpu: &Gpu,
        (plain, layer): (&Tensor, &TextLayer<OnGpu>),
        heads: usize,
        a: &Working,
        t: &mut Tape,
    ) {
        let scope = "text encoder";
        t.push(gpu, scope, &norm(plain, &a.x, &a.h));
        Linear::new(&a.h, &layer.attn.qkv, &a.qkv).record(gpu, t, scope);
        let attention = Attention::to_itself(&a.qkv, self.capacity, heads, &a.attended);
        t.push(gpu, scope, &attention.within(&self.spans));
        let back = |x, weights| Linear::new(x, weights, &a.x).ending(Epilogue::Add);
        back(&a.attended, &layer.attn.proj).record(gpu, t, scope);

        t.push(gpu, scope, &norm(plain, &a.x, &a.h));
        let (first, up, down) = layer.mlp.layers();
        Linear::new(&a.h, first, &a.hidden).gelu_or_swiglu(up).record(gpu, t, scope);
        back(&a.hidden, down).record(gpu, t, scope);
    }

    /// Whether this many prompts fit.
    pub(super) fn holds(&self, prompts: usize) -> bool {
        prompts <= self.capacity
    }

    /// Encodes the prompts of a run: one submission, not waited for.
    pub(super) fn encode(&self, gpu: &Gpu, run: &RunPrompts) {
        // The unused capacity repeats the first prompt and is never read.
        let prompts =
            || (0..self.capacity).map(|i| run.distinct.get(i).unwrap_or(&run.distinct[0]));
        let ids: Vec<u32> = prompts().flat_map(|tokens| tokens.ids.iter().copied()).collect();
        let spans: Vec<u32> = prompts()
            .enumerate()
            .flat_map(|(i, t)| [(i * self.length) as u32, t.count as u32])
            .collect();
        self.ids.write(gpu, &ids);
        self.spans.write(gpu, &spans);
        self.encoder.run(gpu);
    }
}

impl PromptView {
    /// For passes over `batch` samples of a model of width `d`.
    pub(super) fn new(gpu: &Gpu, w: &TextEncoder<OnGpu>, prompts: &Prompts, batch: usize) -> Self {
        let [width, d] = [prompts.states.shape[1], w.text_pool.rows()];
        let make = |label: &str, shape: &[usize]| Tensor::empty(gpu, label, shape);
        let (starts, first) = (make("prompts", &[batch]), make("first tokens", &[batch, width]));
        let pooled = make("pooled text", &[batch, d]);
        let mut pool = Tape::default();
        let nothing = Tensor::upload(gpu, "no positions", &[1, width], &vec![0.0_f32; width]);
        let pick =
            EmbedTokens { ids: &starts, table: &prompts.states, positions: &nothing, y: &first };
        pool.push(gpu, "text pool", &pick);
        Linear::new(&first, &w.text_pool, &pooled).record(gpu, &mut pool, "text pool");
        Self { spans: make("prompt spans", &[batch, 2]), starts, pooled, pool }
    }

    /// Sets the prompt of each sample; after [`Prompts::encode`].
    pub(super) fn prepare(
        &self,
        gpu: &Gpu,
        prompts: &Prompts,
        run: &RunPrompts,
        of_samples: &[usize],
    ) {
        let start = |&i: &usize| (i * prompts.length) as u32;
        let span = |i: &usize| [start(i), run.distinct[*i].count as u32];
        self.starts.write(gpu, &of_samples.iter().map(start).collect::<Vec<_>>());
        self.spans.write(gpu, &of_samples.iter().flat_map(span).collect::<Vec<_>>());
        self.pool.run(gpu);
    }
}

/// A layer norm without shift and scale.
fn norm<'a>(plain: &'a Tensor, x: &'a Tensor, y: &'a Tensor) -> Modulate<'a> {
    Modulate {
        x,
        norm: crate::model::NormForm::Layer,
        modulation: plain,
        shift: 0,
        scale: x.shape[1],
        y,
    }
}

/// Shape of a buffer of the encoder for `capacity` prompts, by its label; `attention` is `H·d`.
fn shape(text: &TextConfig, attention: usize, capacity: usize, label: &str) -> [usize; 2] {
    let width = text.hidden_size;
    let columns = match label {
        "keys and values" => 2 * attention,
        "text qkv" => 3 * width,
        "text hidden" => text.ffn_hidden,
        _ => width,
    };
    [capacity * text.max_length, columns]
}

/// Every buffer that prompts take, with its shape: the worst case, in which all of `batch` samples have different
/// prompts. `kinds` are the samples of each kind of pass that reads them. Nothing where the model reads no text.
pub(in crate::engine) fn sizes(
    config: &Config,
    batch: usize,
    kinds: impl Iterator<Item = usize>,
) -> Vec<(&'static str, Vec<usize>)> {
    let Some(text) = &config.text else { return Vec::new() };
    // The prompt that guidance leads away from is one more.
    let capacity = batch + 1;
    let attention = config.num_heads * config.head_dim;
    let encoder = [
        "text stream",
        "text normalised",
        "text qkv",
        "text attended",
        "text hidden",
        "text states",
    ];
    let of_blocks = std::iter::repeat_n("keys and values", config.depth);
    let large = encoder.into_iter().chain(of_blocks);
    let large = large.map(|label| (label, shape(text, attention, capacity, label).to_vec()));
    let ids = [("token ids", vec![capacity, text.max_length]), ("text spans", vec![capacity, 2])];
    let view = kinds.flat_map(|samples| {
        [
            ("prompt spans", vec![samples, 2]),
            ("prompts", vec![samples]),
            ("first tokens", vec![samples, text.hidden_size]),
            ("pooled text", vec![samples, config.hidden_size]),
            ("no positions", vec![1, text.hidden_size]),
        ]
    });
    large.chain(ids).chain(view).collect()
}

fn allocate(
    gpu: &Gpu,
    capacity: usize,
    label: &str,
    rows: usize,
    columns: usize,
) -> Result<Tensor, EngineError> {
    let bytes = 4 * rows as u64 * columns as u64;
    if bytes > gpu.binding_limit {
        return Err(EngineError::TooLarge(format!(
            "{capacity} different prompts need {bytes} bytes for \"{label}\", and {} allows {} \
                per binding; use fewer prompts in a batch",
            gpu.info.name, gpu.binding_limit
        )));
    }
    Ok(Tensor::empty(gpu, label, &[rows, columns]))
}
