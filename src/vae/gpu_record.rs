//! A decoder's plan as a tape: which kernels a layer becomes, over the slabs that its feature maps lie in.

use std::sync::Arc;

use super::gpu_weights::{AttentionWeights, LayerWeights};
use super::memory::{Piece, Slabs};
use super::plan::{Attention, Conv, Layer, Norm, Plan, ValueId};
use crate::engine::EngineError;
use crate::gpu::{Gpu, Tape, Tensor};
use crate::kernels::conv2d::{Activation, output_chunks};
use crate::kernels::group_stats::CHUNK;
use crate::kernels::pixel_rows::Way;
use crate::kernels::{
    Conv2d, ConvWeights, GroupFold, GroupNorm, GroupStats, Linear, Matrix, PixelRows, Softmax,
};

/// Multiply-adds of one dispatch, about: some hundredths of a second on a small GPU.
const DISPATCH: u64 = 1 << 31;

/// Scores of attention that exist at a time.
const SCORES: usize = 1 << 22;

/// What recording needs.
pub(super) struct Recorder<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) plan: &'a Plan,
    pub(super) weights: &'a [LayerWeights],
    /// Height and width of a latent.
    pub(super) size: [usize; 2],
    pub(super) layout: &'a Slabs,
    pub(super) slabs: &'a [Tensor],
}

impl Recorder<'_> {
    /// The tape, and the number of its dispatches up to each step.
    pub(super) fn record(&self) -> Result<(Tape<Arc<str>>, Vec<usize>), EngineError> {
        let mut tape = Tape::default();
        let mut ends = Vec::new();
        for (step, weights) in self.plan.steps.iter().zip(self.weights) {
            match (&step.layer, weights) {
                (Layer::Conv(layer), LayerWeights::Conv(weights)) => {
                    self.conv(&mut tape, layer, weights);
                }
                (Layer::Norm(layer), LayerWeights::Norm(weights)) => {
                    self.norm(&mut tape, layer, weights);
                }
                (Layer::Attention(layer), LayerWeights::Attention(weights)) => {
                    self.attention(&mut tape, layer, weights)?;
                }
                _ => unreachable!("weights were loaded for the layers of the same plan"),
            }
            ends.push(tape.len());
        }
        Ok((tape, ends))
    }

    fn pieces(&self, value: ValueId) -> Vec<Piece> {
        self.layout.pieces(self.plan, value, self.size)
    }

    fn pixels(&self, value: ValueId) -> usize {
        self.plan.values[value].pixels(self.size)
    }

    /// Every piece of the output gathers from every piece of the input.
    fn conv(&self, tape: &mut Tape<Arc<str>>, layer: &Conv, weights: &ConvWeights) {
        let scope: Arc<str> = layer.name.as_str().into();
        let inputs = self.pieces(layer.from);
        let widest = inputs.iter().map(|p| p.quads.1 - p.quads.0).max().unwrap_or(1);
        let pixels = self.pixels(layer.to);
        for to in self.pieces(layer.to) {
            let all = to.quads.0..to.quads.1;
            for outputs in output_chunks(weights, widest, pixels, all, DISPATCH) {
                for (i, from) in inputs.iter().enumerate() {
                    let call = Conv2d {
                        x: &self.slabs[from.slab],
                        weights,
                        y: &self.slabs[to.slab],
                        images: 1,
                        size: self.plan.values[layer.to].size(self.size),
                        enlarge: layer.enlarge,
                        inputs: from.quads,
                        outputs,
                        y_first: outputs.0 - to.quads.0,
                        bias: i == 0,
                        add: layer.add || i > 0,
                        activation: if layer.relu && i + 1 == inputs.len() {
                            Activation::Relu
                        } else {
                            Activation::None
                        },
                    };
                    tape.push(self.gpu, scope.clone(), &call);
                }
            }
        }
    }

    fn norm(&self, tape: &mut Tape<Arc<str>>, layer: &Norm, weights: &Tensor) {
        let (gpu, pixels) = (self.gpu, self.pixels(layer.from));
        let scope = || Arc::from(layer.name.as_str());
        let total = weights.shape[1].div_ceil(4);
        let partial =
            Tensor::empty(gpu, "group statistics", &[pixels.div_ceil(CHUNK), total, 2, 4]);
        let table = Tensor::empty(gpu, "group norm", &[3, 4 * total]);
        let (partial, table) = (&partial, &table);
        let (from, to) = (self.pieces(layer.from), self.pieces(layer.to));
        for piece in &from {
            let (first_quad, quads) = (piece.quads.0, piece.quads.1 - piece.quads.0);
            let x = &self.slabs[piece.slab];
            tape.push(gpu, scope(), &GroupStats { x, pixels, quads, first_quad, partial });
        }
        let (group, eps) = (layer.group, super::cpu_layers::EPS);
        let fold = GroupFold { partial, weights, pixels, group, eps, table };
        tape.push(gpu, scope(), &fold);
        for (from, to) in from.iter().zip(&to) {
            let (first_quad, quads) = (to.quads.0, to.quads.1 - to.quads.0);
            let x = (layer.from != layer.to).then(|| &self.slabs[from.slab]);
            let (silu, y) = (layer.silu, &self.slabs[to.slab]);
            let call = GroupNorm { x, table, pixels, quads, first_quad, silu, y };
            tape.push(gpu, scope(), &call);
        }
    }

    /// With rows as pixels: K = X·Wkᵀ and Vᵀ = Wv·Xᵀ once, then for blocks of queries
    /// softmax((X·Wqᵀ)·Kᵀ)·V·Woᵀ. Tokens are padded to a multiple of four with rows of zeros, whose
    /// weights the softmax makes zero.
    fn attention(
        &self,
        tape: &mut Tape<Arc<str>>,
        layer: &Attention,
        w: &AttentionWeights,
    ) -> Result<(), EngineError> {
        let gpu = self.gpu;
        let module = layer.names[0].rsplit_once('.').map_or("attention", |(module, _)| module);
        let scope = &Arc::from(module);
        let (c, tokens) = (w.key.rows(), self.pixels(layer.from));
        let padded = tokens.next_multiple_of(4);
        let at_once = SCORES.min((gpu.binding_limit / 4) as usize);
        let queries = (at_once / padded).clamp(1, padded);
        let largest = 4 * (padded * c) as u64;
        if largest > gpu.binding_limit {
            return Err(EngineError::TooLarge(format!(
                "attention over {tokens} pixels needs a buffer of {largest} bytes, and {} \
                 allows {} per binding; decode smaller images",
                gpu.info.name, gpu.binding_limit
            )));
        }
        let make = |label: &str, shape: [usize; 2]| Tensor::empty(gpu, label, &shape);
        let (x, keys) = (make("tokens", [padded, c]), make("keys", [padded, c]));
        let values = make("values, transposed", [c, padded]);
        self.tokens(tape, scope, layer.from, 0, &x);
        Linear::new(&x, &w.key, &keys).record(gpu, tape, scope.clone());
        Linear::new(&w.value, &Matrix::of_tensor(gpu, &x), &values).record(
            gpu,
            tape,
            scope.clone(),
        );
        let keys = Matrix::of_tensor(gpu, &keys);
        let values = Matrix::of_tensor(gpu, &values);
        let block = make("tokens of a block", [queries, c]);
        let (q, mixed) = (make("queries", [queries, c]), make("mixed values", [queries, c]));
        let scores = make("scores", [queries, padded]);
        for first_pixel in (0..tokens).step_by(queries) {
            self.tokens(tape, scope, layer.from, first_pixel, &block);
            Linear::new(&block, &w.query, &q).record(gpu, tape, scope.clone());
            Linear::new(&q, &keys, &scores).record(gpu, tape, scope.clone());
            let scale = 1.0 / (c as f32).sqrt();
            tape.push(gpu, scope.clone(), &Softmax { x: &scores, columns: tokens, scale });
            Linear::new(&scores, &values, &mixed).record(gpu, tape, scope.clone());
            Linear::new(&mixed, &w.out, &q).record(gpu, tape, scope.clone());
            for piece in self.pieces(layer.to) {
                let (first_quad, quads) = (piece.quads.0, piece.quads.1 - piece.quads.0);
                let call = PixelRows {
                    rows: &q,
                    image: &self.slabs[piece.slab],
                    way: Way::AddToPixels,
                    quads,
                    first_quad,
                    pixels: tokens,
                    first_pixel,
                };
                tape.push(gpu, scope.clone(), &call);
            }
        }
        Ok(())
    }

    /// Pixels of a feature map from `first_pixel` on as the rows of `y`.
    fn tokens(
        &self,
        tape: &mut Tape<Arc<str>>,
        scope: &Arc<str>,
        from: ValueId,
        first_pixel: usize,
        y: &Tensor,
    ) {
        let pixels = self.pixels(from);
        for piece in self.pieces(from) {
            let (first_quad, quads) = (piece.quads.0, piece.quads.1 - piece.quads.0);
            let (rows, image, way) = (y, &self.slabs[piece.slab], Way::ToRows);
            let call = PixelRows { rows, image, way, quads, first_quad, pixels, first_pixel };
            tape.push(self.gpu, scope.clone(), &call);
        }
    }
}
