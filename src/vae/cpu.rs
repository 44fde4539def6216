//! The decoder on the processor: carries out the plan, some rows of a layer at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::attention::{Attended, AttentionWeights};
use super::config::Numbers;
use super::cpu_layers::{NormWeights, Normalising, load_conv};
use super::plan::{Layer, Plan, ValueId};
use super::{Decoder, DecoderFile};
use crate::engine::{EngineError, Progress, Taps};
use crate::platform::yield_now;
use crate::simd::conv::{Activation, ConvWeights, Ending, Source, conv_rows};
use crate::simd::describe;

/// A decoder in memory, for images of any size.
pub struct CpuDecoderModel {
    plan: Plan,
    numbers: Numbers,
    /// For each step.
    weights: Vec<LayerWeights>,
}

enum LayerWeights {
    Conv(ConvWeights),
    Norm(NormWeights),
    Attention(Box<AttentionWeights>),
}

impl CpuDecoderModel {
    /// Decodes the file's tensors.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    #[cfg(feature = "blocking")]
    pub fn load(file: &DecoderFile) -> Result<Self, EngineError> {
        pollster::block_on(Self::load_async(file))
    }

    /// As [`CpuDecoderModel::load`], for callers that must not be held up.
    ///
    /// # Errors
    /// As [`CpuDecoderModel::load`].
    pub async fn load_async(file: &DecoderFile) -> Result<Self, EngineError> {
        let load = |layer: &Layer| -> Result<_, EngineError> {
            Ok(match layer {
                Layer::Conv(conv) => LayerWeights::Conv(load_conv(&file.tensors, conv)?),
                Layer::Norm(norm) => LayerWeights::Norm(NormWeights::load(&file.tensors, norm)?),
                Layer::Attention(layer) => {
                    LayerWeights::Attention(Box::new(AttentionWeights::load(&file.tensors, layer)?))
                }
            })
        };
        let mut weights = Vec::new();
        file.begin_loading();
        for step in &file.plan.steps {
            weights.push(load(&step.layer)?);
            file.loaded_layer();
            yield_now().await;
        }
        Ok(Self { plan: file.plan.clone(), numbers: file.numbers, weights })
    }

    /// The processor and how it computes, for display.
    pub fn device(&self) -> String {
        describe()
    }

    /// Bytes of feature maps that exist at once while a latent of `[height, width]` is decoded.
    pub fn activation_bytes(&self, size: [usize; 2]) -> u64 {
        self.plan.most_alive(size)
    }
}

/// A decoder on the processor, for latents of one size.
pub struct CpuDecoder {
    model: Arc<CpuDecoderModel>,
    /// Height and width of a latent.
    size: [usize; 2],
    /// Feature maps that are in use, `[height, width, C]`; the others are empty.
    values: Vec<Vec<f32>>,
    /// For each step, the feature maps that it is the last to read.
    last_uses: Vec<Vec<ValueId>>,
    /// Latents that wait, `[C, height, width]` each.
    waiting: VecDeque<Vec<f32>>,
    /// Step and row of the current image.
    place: Option<(usize, usize)>,
    attended: Attended,
    normalising: Normalising,
    images: VecDeque<Vec<f32>>,
}

/// Multiply-adds of a unit of work: a millisecond or two on a processor, about a frame in a browser.
const UNIT: u64 = 1 << 26;

impl CpuDecoder {
    /// A decoder for latents of `size` (height and width).
    ///
    /// # Panics
    /// When a latent has no pixel.
    pub fn new(model: Arc<CpuDecoderModel>, size: [usize; 2]) -> Self {
        assert!(size[0] > 0 && size[1] > 0, "a latent of {size:?}");
        Self {
            size,
            values: vec![Vec::new(); model.plan.values.len()],
            last_uses: model.plan.last_uses(),
            waiting: VecDeque::new(),
            place: None,
            attended: Attended::default(),
            normalising: Normalising::default(),
            images: VecDeque::new(),
            model,
        }
    }

    /// Puts a latent of the autoencoder, `[C, height, width]`, at the start of the plan.
    fn enter(&mut self, latent: &[f32]) {
        let pixels = self.size[0] * self.size[1];
        let first = self.model.numbers.enter(latent);
        self.values.iter_mut().for_each(Vec::clear);
        self.values[0] = interleave(&first, pixels);
        // The previous image may have been cancelled in the middle of a layer.
        self.attended = Attended::default();
        self.normalising = Normalising::default();
        self.place = Some((0, 0));
    }

    /// Computes the next unit.
    fn step(&mut self) {
        let Some((step, row)) = self.place else {
            if let Some(latent) = self.waiting.pop_front() {
                self.enter(&latent);
            }
            return;
        };
        if !self.compute(step, row) {
            return;
        }
        for &value in &self.last_uses[step] {
            self.values[value] = Vec::new();
        }
        self.place = Some((step + 1, 0));
        if step + 1 == self.model.plan.steps.len() {
            self.place = None;
            let output = self.model.plan.output_id();
            let values = std::mem::take(&mut self.values[output]);
            self.images.push_back(self.image(&values));
        }
    }

    fn image(&self, values: &[f32]) -> Vec<f32> {
        let mut image = planes(values, self.model.plan.output().channels);
        self.model.numbers.leave(&mut image);
        image
    }

    /// Computes some rows of a layer from `row` on; returns whether the layer is finished.
    fn compute(&mut self, step: usize, row: usize) -> bool {
        let model = self.model.clone();
        let layer = &model.plan.steps[step].layer;
        let (from, to) = layer.ends();
        let value = model.plan.values[to];
        let ([height, width], c) = (value.size(self.size), value.channels);
        // The output is taken out, so that the inputs can be borrowed at the same time.
        let mut out = std::mem::take(&mut self.values[to]);
        let rows;
        match (layer, &model.weights[step]) {
            (Layer::Norm(norm), LayerWeights::Norm(weights)) => {
                // Sums and rows cost some additions a number.
                let each = (16 * width * c) as u64;
                let at_once = ((UNIT / each) as usize).max(rayon::current_num_threads());
                let source = if from == to { &out } else { &self.values[from] };
                if self.normalising.sum(weights, norm.group, width, source, at_once) {
                    rows = at_once.min(height - row);
                    let part = row * width * c..(row + rows) * width * c;
                    if from != to {
                        out.resize(height * width * c, 0.0);
                        out[part.clone()].copy_from_slice(&self.values[from][part.clone()]);
                    }
                    self.normalising.apply(weights, norm, width, &mut out[part]);
                    if row + rows == height {
                        self.normalising = Normalising::default();
                    }
                } else {
                    rows = 0;
                }
            }
            (Layer::Conv(conv), LayerWeights::Conv(weights)) => {
                let source = model.plan.values[from];
                let each = (conv.kernel * conv.kernel * source.channels * c) as u64 * width as u64;
                rows = ((UNIT / each) as usize).max(rayon::current_num_threads()).min(height - row);
                out.resize(height * width * c, 0.0);
                let source = Source {
                    x: &self.values[from],
                    size: source.size(self.size),
                    channels: source.channels,
                    enlarge: conv.enlarge,
                };
                let part = &mut out[row * width * c..][..rows * width * c];
                let activation = if conv.relu { Activation::Relu } else { Activation::None };
                let ending = Ending { add: conv.add, activation };
                conv_rows(weights, &source, row, ending, part);
            }
            (Layer::Attention(_), LayerWeights::Attention(weights)) => {
                let least = AttentionWeights::rows_at_once();
                let at_once = |each: usize| ((UNIT / each as u64) as usize).max(least);
                let x = &self.values[from];
                if weights.prepare(&mut self.attended, x, at_once(3 * c * c)) {
                    rows = at_once(2 * height * width * c).div_ceil(width).min(height - row);
                    let part = &mut out[row * width * c..][..rows * width * c];
                    weights.add_rows(&self.attended, row * width, part);
                    if row + rows == height {
                        self.attended = Attended::default();
                    }
                } else {
                    rows = 0;
                }
            }
            _ => unreachable!("weights were loaded for the layers of the same plan"),
        }
        self.values[to] = out;
        self.place = Some((step, row + rows));
        rows > 0 && row + rows == height
    }

    fn is_idle(&self) -> bool {
        self.place.is_none() && self.waiting.is_empty()
    }
}

/// `[C, pixels]` as `[pixels, C]`.
fn interleave(planes: &[f32], pixels: usize) -> Vec<f32> {
    (0..pixels).flat_map(|p| planes.iter().skip(p).step_by(pixels).copied()).collect()
}

/// `[pixels, C]` as `[C, pixels]`.
fn planes(values: &[f32], channels: usize) -> Vec<f32> {
    (0..channels).flat_map(|c| values.iter().skip(c).step_by(channels).copied()).collect()
}

impl Decoder for CpuDecoder {
    fn device(&self) -> String {
        self.model.device()
    }

    fn latent_shape(&self) -> [usize; 3] {
        self.model.plan.latent_shape(self.size)
    }

    fn image_shape(&self) -> [usize; 3] {
        self.model.plan.image_shape(self.size)
    }

    fn begin(&mut self, latents: &[f32]) {
        let len = self.latent_shape().iter().product();
        assert!(latents.len().is_multiple_of(len), "{} numbers in latents of {len}", latents.len());
        self.place = None;
        self.images.clear();
        let latents = self.model.numbers.unscale(latents);
        self.waiting = latents.chunks_exact(len).map(<[f32]>::to_vec).collect();
    }

    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        // Inside the pool, handing work to the other threads is much cheaper than from outside.
        rayon::scope(|_| {
            for _ in 0..budget {
                if self.is_idle() {
                    break;
                }
                self.step();
            }
        });
        Ok(if self.is_idle() { Progress::Done } else { Progress::Working })
    }

    fn fraction(&self) -> f32 {
        let steps = self.model.plan.steps.len().max(1);
        self.place.map_or(0.0, |(step, _)| step as f32 / steps as f32)
    }

    fn take(&mut self) -> Option<Vec<f32>> {
        self.images.pop_front()
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn decode_with_taps(&mut self, latent: &[f32]) -> Result<Taps, EngineError> {
        let [channels, height, width] = self.image_shape();
        self.waiting.clear();
        self.images.clear();
        self.enter(latent);
        let mut taps = Taps::new();
        while let Some((step, _)) = self.place {
            let before = self.place;
            let tap = self.model.plan.steps[step].tap.clone();
            // A tapped value may be free once the step is finished, so it is looked at in between.
            let is_finished = self.compute(step, before.map_or(0, |(_, row)| row));
            if let (true, Some((name, id))) = (is_finished, tap) {
                let value = self.model.plan.values[id];
                let [height, width] = value.size(self.size);
                let values = planes(&self.values[id], value.channels);
                taps.push((name, vec![value.channels, height, width], values));
            }
            if is_finished {
                self.place = (step + 1 < self.model.plan.steps.len()).then_some((step + 1, 0));
            }
        }
        let image = self.image(&self.values[self.model.plan.output_id()]);
        taps.push(("image".into(), vec![channels, height, width], image));
        self.values.iter_mut().for_each(Vec::clear);
        Ok(taps)
    }
}
