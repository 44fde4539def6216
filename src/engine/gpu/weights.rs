//! A checkpoint's tensors on the device, in the order in which the forward pass meets them.
//!
//! Tensors are decoded, packed and uploaded one at a time, so that loading needs little host memory
//! beyond the largest of them. Large matrices have the precision that [`Precisions`] says, by default that of the file.
//! What is small, or decides on routing by its last bits (router, capacity predictor, thresholds), stays f32, and so do
//! all biases.

use super::Precisions;
use super::text_weights::{CrossWeights, TextWeights};
use crate::checkpoint::{Checkpoint, CheckpointError, StoredRows};
use crate::engine::EngineError;
use crate::gpu::{Gpu, Tensor};
use crate::kernels::{ExpertBank, Matrix, WeightPrecision};
use crate::model::{Config, FfnForm, Kind, TensorSpec};
use crate::platform::yield_now;

/// All weights of a model.
#[derive(Debug)]
pub(super) struct Weights {
    /// Patch embedding, `[D, C·p²]`.
    pub(super) patch: Matrix,
    /// Fixed position table, `[T, D]`.
    pub(super) positions: Tensor,
    /// Time MLP, `[D, 256]` and `[D, D]`.
    pub(super) time: [Matrix; 2],
    /// All label tables one below the other, `[rows, D]`.
    pub(super) labels: Tensor,
    /// First row of each table in `labels`.
    pub(super) label_rows: Vec<u32>,
    /// Only where the model reads text.
    pub(super) text: Option<TextWeights>,
    /// adaLN of all blocks and of the final layer, `[6D·L + 2D, D]`: one product gives every shift, scale
    /// and gate of a forward pass.
    pub(super) modulation: Matrix,
    /// Transformer blocks.
    pub(super) blocks: Vec<Block>,
    /// Final projection, `[p²·C_out, D]`.
    pub(super) last: Matrix,
}

/// One transformer block, without its adaLN.
#[derive(Debug)]
pub(super) struct Block {
    /// `[3·H·d, D]`
    pub(super) qkv: Matrix,
    /// `[4, d]`, f32: weight and bias of the norms of queries and keys, where there are such norms.
    pub(super) qk_norm: Option<Tensor>,
    /// `[D, H·d]`
    pub(super) projection: Matrix,
    /// Attention to a prompt, where the model reads text.
    pub(super) cross: Option<CrossWeights>,
    /// What follows attention.
    pub(super) ffn: Ffn,
}

/// The second half of a block.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are a few dozen, made once")]
pub(super) enum Ffn {
    /// One network for all tokens.
    Dense(Mlp),
    /// Experts that pick their tokens.
    Moe(Moe),
}

/// A feed-forward network of width `M`.
#[derive(Debug)]
pub(super) struct Mlp {
    /// `fc1` or `gate_proj`, `[M, D]`.
    pub(super) first: Matrix,
    /// `up_proj`, `[M, D]`: `SwiGLU` only.
    pub(super) up: Option<Matrix>,
    /// `fc2` or `down_proj`, `[D, M]`.
    pub(super) down: Matrix,
}

/// The router and experts of one block.
#[derive(Debug)]
pub(super) struct Moe {
    /// `[E, D]`, f32.
    pub(super) gate: Tensor,
    /// Only `DiffMoE` predicts capacities.
    pub(super) predictor: Option<Predictor>,
    /// `fc1` or `gate_proj` of all experts, `[E, M, D]`.
    pub(super) first: ExpertBank,
    /// `up_proj`, `[E, M, D]`: `SwiGLU` only.
    pub(super) up: Option<ExpertBank>,
    /// `fc2` or `down_proj`, `[E, D, M]`.
    pub(super) down: ExpertBank,
    /// The expert that sees every token.
    pub(super) shared: Option<Mlp>,
}

/// The capacity predictor and the thresholds that its output is compared with.
#[derive(Debug)]
pub(super) struct Predictor {
    /// `[D, D]`, f32.
    pub(super) hidden: Matrix,
    /// `[E, D]`, f32.
    pub(super) weight: Tensor,
    /// `[E]`
    pub(super) bias: Tensor,
    /// The checkpoint's thresholds, one for each expert.
    pub(super) thresholds: Vec<f32>,
}

impl Weights {
    /// Uploads a checkpoint, block by block, so that a page lives meanwhile.
    pub(super) async fn load(
        gpu: &Gpu,
        checkpoint: &Checkpoint,
        precisions: &Precisions,
    ) -> Result<Self, EngineError> {
        let config = checkpoint.config();
        check_sizes(gpu, config, precisions)?;
        let mut loader = Loader { gpu, checkpoint, precisions, unflushed: 0 };
        let weights = loader.weights(config).await?;
        loader.flush();
        // Memory that ran out is reported behind our back.
        match gpu.failure() {
            None => Ok(weights),
            Some(error) => Err(EngineError::TooLarge(format!(
                "{} cannot hold this model: {error}",
                gpu.info.name
            ))),
        }
    }

    /// The checkpoint's thresholds of a block; only MoE blocks of `DiffMoE` have them.
    pub(super) fn thresholds(&self, block: usize) -> Option<&[f32]> {
        match &self.blocks[block].ffn {
            Ffn::Moe(moe) => moe.predictor.as_ref().map(|p| &*p.thresholds),
            Ffn::Dense(_) => None,
        }
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        let mlp =
            |m: &Mlp| m.first.bytes() + m.up.as_ref().map_or(0, Matrix::bytes) + m.down.bytes();
        let block = |b: &Block| {
            let ffn = match &b.ffn {
                Ffn::Dense(m) => mlp(m),
                Ffn::Moe(moe) => {
                    let up = moe.up.as_ref().map_or(0, ExpertBank::bytes);
                    let predictor =
                        |p: &Predictor| p.hidden.bytes() + p.weight.bytes() + p.bias.bytes();
                    let router = moe.gate.bytes() + moe.predictor.as_ref().map_or(0, predictor);
                    let shared = moe.shared.as_ref().map_or(0, mlp);
                    moe.first.bytes() + up + moe.down.bytes() + router + shared
                }
            };
            let cross = b.cross.as_ref().map_or(0, CrossWeights::bytes);
            let norms = b.qk_norm.as_ref().map_or(0, Tensor::bytes);
            b.qkv.bytes() + norms + b.projection.bytes() + cross + ffn
        };
        let embeddings = self.patch.bytes() + self.positions.bytes() + self.labels.bytes();
        let time = self.time.iter().map(Matrix::bytes).sum::<u64>();
        let blocks = self.blocks.iter().map(block).sum::<u64>();
        let text = self.text.as_ref().map_or(0, TextWeights::bytes);
        embeddings + time + text + self.modulation.bytes() + blocks + self.last.bytes()
    }
}

/// Refuses what no splitting can make fit: the smallest pieces that a binding must hold whole.
fn check_sizes(gpu: &Gpu, config: &Config, precisions: &Precisions) -> Result<(), EngineError> {
    let (d, m) = (config.hidden_size, config.ffn_hidden);
    let label_rows: usize = config.labels.iter().map(|t| t.null as usize + 1).sum();
    let tensors = config.tensors();
    let experts = tensors.iter().filter(|t| t.name.contains(".mlp.experts."));
    let expert = experts.map(|t| device_bytes(t, precisions) as usize).max().unwrap_or(0);
    let pieces = [
        ("one expert's matrix", expert),
        ("the label tables", 4 * label_rows * d),
        ("the position table", 4 * config.tokens() * d),
        ("the vocabulary", config.text.as_ref().map_or(0, |t| 4 * t.vocab_size * t.hidden_size)),
        ("a row of weights", 4 * m.max(d).max(config.shared_hidden)),
    ];
    for (what, bytes) in pieces {
        if bytes as u64 > gpu.binding_limit {
            return Err(EngineError::TooLarge(format!(
                "{what} takes {bytes} bytes and {} binds {} at once",
                gpu.info.name, gpu.binding_limit
            )));
        }
    }
    Ok(())
}

/// Reads tensors by name and puts them on the device.
pub(super) struct Loader<'a> {
    pub(super) gpu: &'a Gpu,
    checkpoint: &'a Checkpoint,
    precisions: &'a Precisions,
    /// Bytes that wait in host memory for the device to fetch them.
    unflushed: usize,
}

pub(super) type Loaded<T> = Result<T, CheckpointError>;

impl<'a> Loader<'a> {
    async fn weights(&mut self, config: &Config) -> Loaded<Weights> {
        let (d, patch) = (config.hidden_size, config.patch_size);
        let mut blocks = Vec::with_capacity(config.depth);
        for i in 0..config.depth {
            blocks.push(self.block(config, i)?);
            yield_now().await;
        }
        let (labels, label_rows) = self.labels(config)?;
        Ok(Weights {
            patch: self.linear("x_embedder.proj", config.in_channels * patch * patch)?,
            positions: self.table("pos_embed", &[config.tokens(), d])?,
            time: [self.linear("t_embedder.mlp.0", 256)?, self.linear("t_embedder.mlp.2", d)?],
            labels,
            label_rows,
            text: config.text.as_ref().map(|text| self.text(text)).transpose()?,
            modulation: self.modulation(config)?,
            blocks,
            last: self.linear("final_layer.linear", d)?,
        })
    }

    fn block(&mut self, config: &Config, i: usize) -> Loaded<Block> {
        let d = config.hidden_size;
        let name = format!("blocks.{i}");
        let mlp = format!("{name}.mlp");
        Ok(Block {
            qkv: self.linear(&format!("{name}.attn.qkv"), d)?,
            qk_norm: if config.qk_norm { Some(self.qk_norm(config, &name)?) } else { None },
            projection: self
                .linear(&format!("{name}.attn.proj"), config.num_heads * config.head_dim)?,
            cross: match &config.text {
                None => None,
                Some(text) => Some(self.cross(config, text, &name)?),
            },
            ffn: if config.is_moe(i) {
                Ffn::Moe(self.moe(config, &mlp)?)
            } else {
                Ffn::Dense(self.mlp(&mlp, config.ffn_form, d, config.ffn_hidden)?)
            },
        })
    }

    fn qk_norm(&mut self, config: &Config, block: &str) -> Loaded<Tensor> {
        let mut values = Vec::new();
        for part in ["q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias"] {
            values.extend(self.read(&format!("{block}.attn.{part}"))?);
        }
        let label = format!("{block}.attn.qk_norm");
        Ok(Tensor::upload(self.gpu, label, &[4, config.head_dim], &values))
    }

    fn moe(&mut self, config: &Config, name: &str) -> Loaded<Moe> {
        let (d, e, m) = (config.hidden_size, config.num_experts, config.ffn_hidden);
        let gate = match config.kind {
            Kind::Tc => format!("{name}.gate.weight"),
            _ => format!("{name}.gate_weight"),
        };
        let [first, up, down] = match config.ffn_form {
            FfnForm::Gelu => ["fc1", "", "fc2"],
            FfnForm::SwiGlu => ["gate_proj", "up_proj", "down_proj"],
        };
        let predictor = if config.kind == Kind::DiffMoe {
            let capacity = format!("{name}.capacity_predictor");
            Some(Predictor {
                hidden: self.linear(&format!("{capacity}.0"), d)?,
                weight: self.table(&format!("{capacity}.2.weight"), &[e, d])?,
                bias: self.table(&format!("{capacity}.2.bias"), &[e])?,
                thresholds: self.checkpoint.read(&format!("{name}.expert_threshold"))?,
            })
        } else {
            None
        };
        Ok(Moe {
            gate: self.table(&gate, &[e, d])?,
            predictor,
            first: self.bank(name, first, [e, m, d], config.ffn_form)?,
            up: match config.ffn_form {
                FfnForm::Gelu => None,
                FfnForm::SwiGlu => Some(self.bank(name, up, [e, m, d], config.ffn_form)?),
            },
            down: self.bank(name, down, [e, d, m], config.ffn_form)?,
            shared: match config.shared_hidden {
                0 => None,
                width => {
                    let name = format!("{name}.shared_experts");
                    Some(self.mlp(&name, config.shared_form, d, width)?)
                }
            },
        })
    }

    fn mlp(&mut self, name: &str, form: FfnForm, d: usize, m: usize) -> Loaded<Mlp> {
        let mut linear = |layer, k| self.linear(&format!("{name}.{layer}"), k);
        Ok(match form {
            FfnForm::Gelu => Mlp { first: linear("fc1", d)?, up: None, down: linear("fc2", m)? },
            FfnForm::SwiGlu => Mlp {
                first: linear("gate_proj", d)?,
                up: Some(linear("up_proj", d)?),
                down: linear("down_proj", m)?,
            },
        })
    }

    /// One layer of all experts.
    fn bank(
        &mut self,
        name: &str,
        layer: &str,
        shape: [usize; 3],
        form: FfnForm,
    ) -> Loaded<ExpertBank> {
        let has_bias = form == FfnForm::Gelu;
        let label = format!("{name}.experts.{layer}");
        let precision = self.precision(&format!("{name}.experts.0.{layer}.weight"))?;
        let bank = ExpertBank::new(self.gpu, &label, shape, has_bias, precision);
        for e in 0..shape[0] {
            let expert = format!("{name}.experts.{e}.{layer}");
            let rows = self.rows(&format!("{expert}.weight"))?;
            bank.write(self.gpu, e, &rows);
            if has_bias {
                bank.write_bias(self.gpu, e, &self.checkpoint.read(&format!("{expert}.bias"))?);
            }
        }
        Ok(bank)
    }

    /// The adaLN layers of all blocks and of the final layer, one below the other, each in its own precision.
    fn modulation(&mut self, config: &Config) -> Loaded<Matrix> {
        let (d, depth) = (config.hidden_size, config.depth);
        let layers = (0..depth).map(|i| (format!("blocks.{i}"), 6 * d));
        let layers: Vec<_> = layers
            .chain([("final_layer".to_owned(), 2 * d)])
            .map(|(layer, rows)| (format!("{layer}.adaLN_modulation.1"), rows))
            .collect();
        let kind = |(name, rows): &(String, usize)| -> Loaded<_> {
            Ok((*rows, self.precision(&format!("{name}.weight"))?))
        };
        let kinds = layers.iter().map(kind).collect::<Loaded<Vec<_>>>()?;
        let matrix = Matrix::stacked(self.gpu, "adaLN_modulation", &kinds, d);
        for (i, (name, _)) in layers.iter().enumerate() {
            self.fill(&matrix, 6 * d * i, name)?;
        }
        Ok(matrix)
    }

    /// A linear layer of `k` inputs, with its bias where it has one.
    pub(super) fn linear(&mut self, name: &str, k: usize) -> Loaded<Matrix> {
        let weight = format!("{name}.weight");
        let rows = self.checkpoint.shape(&weight)?[0];
        let matrix = Matrix::new(self.gpu, name, rows, k, self.precision(&weight)?);
        self.fill(&matrix, 0, name)?;
        Ok(matrix)
    }

    /// The precision of a tensor on the device.
    fn precision(&self, name: &str) -> Loaded<WeightPrecision> {
        let shape = self.checkpoint.shape(name)?.to_vec();
        Ok(self.precisions.of(&TensorSpec { name: name.to_owned(), shape }))
    }

    /// Writes a layer's weight and bias into a matrix, from row `first` on.
    fn fill(&mut self, matrix: &Matrix, first: usize, name: &str) -> Loaded<()> {
        let rows = self.rows(&format!("{name}.weight"))?;
        matrix.write_rows(self.gpu, first, &rows);
        let bias = format!("{name}.bias");
        if self.checkpoint.shape(&bias).is_ok() {
            matrix.write_bias(self.gpu, first, &self.checkpoint.read(&bias)?);
        }
        Ok(())
    }

    /// A tensor in f32.
    pub(super) fn table(&mut self, name: &str, shape: &[usize]) -> Loaded<Tensor> {
        let values = self.read(name)?;
        Ok(Tensor::upload(self.gpu, name, shape, &values))
    }

    fn labels(&mut self, config: &Config) -> Loaded<(Tensor, Vec<u32>)> {
        let mut first_rows = Vec::new();
        let mut rows = 0;
        for table in &config.labels {
            first_rows.push(rows);
            rows += table.null + 1;
        }
        let d = config.hidden_size;
        let labels = Tensor::empty(self.gpu, "labels", &[rows as usize, d]);
        for (table, &first) in config.labels.iter().zip(&first_rows) {
            let values = self.read(&table.tensor)?;
            labels.write_at(self.gpu, first as usize * d, &values);
        }
        Ok((labels, first_rows))
    }

    /// Decodes a tensor that is about to be uploaded.
    fn read(&mut self, name: &str) -> Loaded<Vec<f32>> {
        self.rows(name).map(StoredRows::decode)
    }

    /// The rows of a tensor that is about to be uploaded; sends what was read before on its way.
    fn rows(&mut self, name: &str) -> Loaded<StoredRows<'a>> {
        // More than this would double the memory of a model while it loads.
        const AT_ONCE: usize = 64 << 20;
        if self.unflushed > AT_ONCE {
            self.flush();
        }
        let rows = self.checkpoint.rows(name)?;
        self.unflushed += rows.bytes();
        Ok(rows)
    }

    /// Lets the device fetch what was uploaded and frees it here.
    fn flush(&mut self) {
        // A failure is kept by the device and looked at when loading ends.
        let _ = self.gpu.flush();
        self.unflushed = 0;
    }
}

/// Bytes of a tensor on a graphics device.
pub(crate) fn device_bytes(tensor: &TensorSpec, precisions: &Precisions) -> u64 {
    let name = tensor.name.as_str();
    // Thresholds come with a pass, and the trainer's own number stays in the file.
    if name.ends_with(".expert_threshold") || name.ends_with(".ema_decay") {
        return 0;
    }
    let is_layer = name.ends_with(".weight") && tensor.shape.len() > 1;
    if !is_layer {
        return 4 * tensor.elements();
    }
    let columns: usize = tensor.shape.iter().skip(1).product();
    4 * (tensor.shape[0] * precisions.of(tensor).row_words(columns.next_multiple_of(4))) as u64
}
