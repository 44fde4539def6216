//! The decoder on wgpu: the plan is recorded once for an image's size and replayed for each image,
//! whole or in slices. Nothing is read back but the finished image.

use std::collections::VecDeque;
use std::sync::Arc;

use super::config::Numbers;
use super::gpu_record::Recorder;
use super::gpu_weights::{self, LayerWeights};
use super::memory::{Piece, Slabs};
use super::plan::{Plan, ValueId};
use super::{Decoder, DecoderFile};
use crate::engine::{EngineError, Progress, SliceTime, Taps};
use crate::gpu::{Gpu, GpuError, InFlight, Readback, Tape, Tensor, Timing};
use crate::kernels::WeightPrecision;
use crate::kernels::planes::{from_quads, to_quads};

/// Dispatches per submission: drivers abort work that takes seconds.
const MAX_DISPATCHES: usize = 32;

/// A decoder on a device, for images of any size.
pub struct GpuDecoderModel {
    /// The device.
    pub gpu: Arc<Gpu>,
    plan: Plan,
    numbers: Numbers,
    weights: Vec<LayerWeights>,
    precision: WeightPrecision,
}

impl GpuDecoderModel {
    /// Uploads the file's tensors.
    ///
    /// # Errors
    /// When a tensor cannot be read, or the device cannot hold the decoder.
    #[cfg(feature = "blocking")]
    pub fn load(
        gpu: Arc<Gpu>,
        file: &DecoderFile,
        precision: WeightPrecision,
    ) -> Result<Self, EngineError> {
        pollster::block_on(Self::load_async(gpu, file, precision))
    }

    /// As [`GpuDecoderModel::load`], for callers that must not be held up.
    ///
    /// # Errors
    /// As [`GpuDecoderModel::load`].
    pub async fn load_async(
        gpu: Arc<Gpu>,
        file: &DecoderFile,
        precision: WeightPrecision,
    ) -> Result<Self, EngineError> {
        let weights = gpu_weights::load(&gpu, file, precision).await?;
        Ok(Self { gpu, plan: file.plan.clone(), numbers: file.numbers, weights, precision })
    }

    /// The device and how it computes, for display.
    pub fn device(&self) -> String {
        format!("{}, {} weights", self.gpu.describe(), self.precision)
    }

    /// Bytes of the feature maps for a latent of `[height, width]`; nothing where not even four of their channels
    /// fit a binding of this device.
    pub fn activation_bytes(&self, size: [usize; 2]) -> Option<u64> {
        let limit = (self.gpu.binding_limit / 4) as usize;
        Slabs::plan(&self.plan, size, limit).map(|slabs| slabs.bytes())
    }

    /// Bytes of the weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(LayerWeights::bytes).sum()
    }
}

/// A decoder on a device, for latents of one size.
pub struct GpuDecoder {
    model: Arc<GpuDecoderModel>,
    /// Height and width of a latent.
    size: [usize; 2],
    layout: Slabs,
    slabs: Vec<Tensor>,
    /// Scopes are the names of layers.
    tape: Tape<Arc<str>>,
    /// Dispatches of the steps up to each.
    ends: Vec<usize>,
    /// Latents that wait, `[C, height, width]` each.
    waiting: VecDeque<Vec<f32>>,
    /// Submitted dispatches of the current image.
    done: Option<usize>,
    in_flight: InFlight,
    images: VecDeque<Readback>,
}

impl GpuDecoder {
    /// Allocates working memory for latents of `size` (height and width) and records the layers.
    ///
    /// # Errors
    /// When the working memory does not fit the device.
    ///
    /// # Panics
    /// When a latent has no pixel.
    pub fn new(model: Arc<GpuDecoderModel>, size: [usize; 2]) -> Result<Self, EngineError> {
        assert!(size[0] > 0 && size[1] > 0, "a latent of {size:?}");
        let (gpu, plan) = (&*model.gpu, &model.plan);
        let [height, width] = plan.output().size(size);
        let too_large = |reason: String| {
            EngineError::TooLarge(format!(
                "an image of {width} × {height} cannot be decoded on {}: {reason}; decode smaller images",
                gpu.info.name
            ))
        };
        let limit = (gpu.binding_limit / 4) as usize;
        let layout = Slabs::plan(plan, size, limit).ok_or_else(|| {
            too_large(format!(
                "four of its channels exceed the limit of {} bytes per binding",
                gpu.binding_limit
            ))
        })?;
        let make = |i| Tensor::empty(gpu, format!("feature maps {i}"), &[layout.len]);
        let slabs: Vec<_> = (0..layout.count).map(make).collect();
        let recorder =
            Recorder { gpu, plan, weights: &model.weights, size, layout: &layout, slabs: &slabs };
        let (tape, ends) = recorder.record()?;
        if let Some(error) = gpu.failure() {
            return Err(too_large(error.to_string()));
        }
        Ok(Self {
            size,
            layout,
            slabs,
            tape,
            ends,
            waiting: VecDeque::new(),
            done: None,
            in_flight: InFlight::default(),
            images: VecDeque::new(),
            model,
        })
    }

    /// Bytes of the feature maps on the device.
    pub fn activation_bytes(&self) -> u64 {
        self.layout.bytes()
    }

    /// Dispatches of one image.
    pub fn dispatches(&self) -> usize {
        self.tape.len()
    }

    /// Decodes whatever lies in the buffers with the device's clock read around each dispatch. Waits; `None`
    /// if the device has no timestamps.
    ///
    /// # Errors
    /// When the device is lost.
    pub fn time(&self) -> Result<Option<Vec<Timing<Arc<str>>>>, EngineError> {
        Ok(self.tape.time(&self.model.gpu)?)
    }

    fn pieces(&self, value: ValueId) -> Vec<Piece> {
        self.layout.pieces(&self.model.plan, value, self.size)
    }

    /// Uploads a latent of the autoencoder, in order with the work before it.
    fn enter(&mut self, latent: &[f32]) {
        let pixels = self.size[0] * self.size[1];
        let quads = to_quads(&self.model.numbers.enter(latent), pixels);
        for piece in self.pieces(0) {
            let part = &quads[4 * piece.quads.0 * pixels..4 * piece.quads.1 * pixels];
            self.slabs[piece.slab].write_at(&self.model.gpu, 0, part);
        }
        self.done = Some(0);
    }

    /// A copy of a feature map to the host, after the work in `encoder`.
    fn copy_out(&self, encoder: &mut wgpu::CommandEncoder, value: ValueId) -> Readback {
        let pixels = self.model.plan.values[value].pixels(self.size);
        let pieces = self.pieces(value);
        let ranges: Vec<_> = pieces
            .iter()
            .map(|p| (&self.slabs[p.slab], 0..4 * (p.quads.1 - p.quads.0) * pixels))
            .collect();
        Readback::schedule_ranges(&self.model.gpu, encoder, &ranges)
    }

    /// A feature map that has arrived, `[C, pixels]`.
    fn unpack(&self, readback: Readback, value: ValueId) -> Result<Vec<f32>, GpuError> {
        let quads: Vec<f32> =
            readback.take()?.iter().flat_map(|part| bytemuck::pod_collect_to_vec(part)).collect();
        let value = self.model.plan.values[value];
        Ok(from_quads(&quads, value.channels, value.pixels(self.size)))
    }

    fn image(&self, readback: Readback) -> Result<Vec<f32>, GpuError> {
        let mut image = self.unpack(readback, self.model.plan.output_id())?;
        self.model.numbers.leave(&mut image);
        Ok(image)
    }

    /// Submits some dispatches of the current image; at its end, a copy of the image.
    fn submit(&mut self, done: usize, budget: usize) {
        let gpu = self.model.gpu.clone();
        let end = self.tape.len().min(done.saturating_add(budget.clamp(1, MAX_DISPATCHES)));
        let mut encoder = gpu.encoder();
        self.tape.encode(&mut encoder, done..end);
        self.done = Some(end);
        if end == self.tape.len() {
            let readback = self.copy_out(&mut encoder, self.model.plan.output_id());
            self.images.push_back(readback);
            self.done = None;
        }
        self.in_flight.submit(&gpu, encoder.finish());
    }
}

impl Decoder for GpuDecoder {
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
        self.done = None;
        self.images.clear();
        let latents = self.model.numbers.unscale(latents);
        self.waiting = latents.chunks_exact(len).map(<[f32]>::to_vec).collect();
    }

    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        self.model.gpu.poll();
        if let Some(error) = self.model.gpu.failure() {
            return Err(error.into());
        }
        let _watch = self.model.gpu.watch();
        if self.done.is_none() && self.waiting.is_empty() {
            return Ok(Progress::Done);
        }
        if self.in_flight.is_full() {
            return Ok(Progress::Busy);
        }
        if self.done.is_none()
            && let Some(latent) = self.waiting.pop_front()
        {
            self.enter(&latent);
        }
        self.submit(self.done.unwrap_or(0), budget);
        let is_last = self.done.is_none() && self.waiting.is_empty();
        Ok(if is_last { Progress::Done } else { Progress::Working })
    }

    fn fraction(&self) -> f32 {
        self.done.map_or(0.0, |done| done as f32 / self.tape.len().max(1) as f32)
    }

    fn slice_time(&self) -> Option<SliceTime> {
        let last = self.in_flight.last()?;
        Some(SliceTime { slice: last.number, ms: last.ms, exact: last.prompt })
    }

    fn take(&mut self) -> Option<Vec<f32>> {
        self.model.gpu.poll();
        if !self.images.front()?.is_ready() {
            return None;
        }
        let readback = self.images.pop_front()?;
        match self.image(readback) {
            Ok(image) => Some(image),
            Err(error) => {
                // The next `advance` or `wait` reports it.
                self.model.gpu.report(error);
                None
            }
        }
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        Ok(self.model.gpu.wait()?)
    }

    fn decode_with_taps(&mut self, latent: &[f32]) -> Result<Taps, EngineError> {
        self.begin(&[]);
        self.enter(latent);
        let model = self.model.clone();
        let mut taps = Taps::new();
        let mut done = 0;
        let ends = self.ends.clone();
        for (step, end) in model.plan.steps.iter().zip(ends) {
            let mut encoder = model.gpu.encoder();
            self.tape.encode(&mut encoder, done..end);
            done = end;
            let wanted = step.tap.as_ref().map(|(_, value)| *value);
            let readback = wanted.map(|value| self.copy_out(&mut encoder, value));
            model.gpu.queue.submit([encoder.finish()]);
            self.wait()?;
            if let (Some((name, value)), Some(readback)) = (&step.tap, readback) {
                let shape = model.plan.values[*value];
                let [height, width] = shape.size(self.size);
                let values = self.unpack(readback, *value)?;
                taps.push((name.clone(), vec![shape.channels, height, width], values));
            }
        }
        self.done = None;
        let mut encoder = model.gpu.encoder();
        let readback = self.copy_out(&mut encoder, model.plan.output_id());
        model.gpu.queue.submit([encoder.finish()]);
        self.wait()?;
        taps.push(("image".into(), self.image_shape().to_vec(), self.image(readback)?));
        Ok(taps)
    }
}
