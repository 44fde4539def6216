//! The choice of the device that decodes latents: the same as for models.

use std::sync::Arc;

use super::check::System;
use super::place::{self, Load, Note, Place};
use super::{Backend, Decoding, LoadError};
use crate::engine::EngineError;
use crate::gpu::Gpu;
use crate::kernels::WeightPrecision;
use crate::kernels::probes::{Family, Finding, Kernels};
use crate::model::Config;
use crate::platform;
use crate::vae::{
    CpuDecoder, CpuDecoderModel, Decoder, DecoderFile, GpuDecoder, GpuDecoderModel, LatentPreview,
};

/// Pixels along a side of an image: a decoder of full size takes 8 GiB for this.
const MOST_SIDE: usize = 2048;

/// A decoder in errors.
const WHAT: &str = "this decoder";

/// Decoders are not compared with the processor, which would take seconds.
type Unchecked = fn(Arc<GpuDecoderModel>) -> std::future::Ready<Result<Finding, EngineError>>;

/// Cells along a side of the latent that a preview is fitted to.
const PREVIEW_SIDE: usize = 6;

/// A decoder and a model with different latents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{model} generates latents with {makes} channels, but {decoder} expects {takes}; use the \
        decoder of this model"
)]
pub struct DecoderMismatch {
    model: String,
    makes: usize,
    decoder: String,
    takes: usize,
}

/// Whether a decoder accepts the latents of a model.
///
/// # Errors
/// When their numbers of channels differ.
pub fn check_decoder(file: &DecoderFile, config: &Config) -> Result<(), DecoderMismatch> {
    let (makes, takes) = (config.in_channels, file.latent_channels());
    if makes == takes {
        return Ok(());
    }
    let (model, decoder) = (config.name.clone(), file.label().to_owned());
    Err(DecoderMismatch { model, makes, decoder, takes })
}

/// A decoder loaded onto a device; creates decoders for any size of latents. Copies share the weights.
#[derive(Clone)]
pub struct LoadedDecoder {
    place: Place<CpuDecoderModel, GpuDecoderModel>,
    note: Option<Note>,
    channels: usize,
    /// Pixels along a latent cell.
    factor: usize,
}

impl LoadedDecoder {
    /// Loads a decoder on the given backend, on a device of its own.
    ///
    /// # Errors
    /// When it does not fit, or a GPU was requested and there is none.
    pub async fn open_async(
        file: &DecoderFile,
        backend: Backend,
        precision: WeightPrecision,
    ) -> Result<Self, LoadError> {
        // Convolutions, and the products of attention.
        let families = vec![Family::Model, Family::Detail, Family::Decoder];
        let kernels = Kernels { families, precisions: vec![precision] };
        let load = Load {
            what: WHAT,
            kernels: &kernels,
            // Convolutions have no choice of tiles.
            products: &[],
            on_cpu: async || CpuDecoderModel::load_async(file).await,
            on_gpu: async |gpu: Arc<Gpu>| GpuDecoderModel::load_async(gpu, file, precision).await,
            check: None::<(String, Unchecked)>,
        };
        let (place, note) = place::load(&System { trusts: true }, backend, load).await?;
        Ok(Self { place, note, channels: file.latent_channels(), factor: file.factor() })
    }

    /// Loads a decoder on an existing device, such as the host's or that of a [`Pipeline`](super::Pipeline).
    ///
    /// # Errors
    /// When a tensor cannot be read, or the device cannot hold the decoder.
    pub async fn load_async(
        gpu: &Arc<Gpu>,
        file: &DecoderFile,
        precision: WeightPrecision,
    ) -> Result<Self, LoadError> {
        let load = async |gpu| GpuDecoderModel::load_async(gpu, file, precision).await;
        let place = Place::Gpu(place::load_on(gpu.clone(), WHAT, load).await?);
        Ok(Self { place, note: None, channels: file.latent_channels(), factor: file.factor() })
    }

    /// As [`LoadedDecoder::open_async`], on this thread.
    ///
    /// # Errors
    /// As [`LoadedDecoder::open_async`].
    #[cfg(feature = "blocking")]
    pub fn open(
        file: &DecoderFile,
        backend: Backend,
        precision: WeightPrecision,
    ) -> Result<Self, LoadError> {
        pollster::block_on(Self::open_async(file, backend, precision))
    }

    /// As [`LoadedDecoder::decoder_async`], on this thread.
    ///
    /// # Errors
    /// As [`LoadedDecoder::decoder_async`].
    #[cfg(feature = "blocking")]
    pub fn decoder(&self, size: [usize; 2]) -> Result<Box<dyn Decoder>, EngineError> {
        pollster::block_on(self.decoder_async(size))
    }

    /// A decoder for latents of `size` (height and width); decoders share the weights. A refusal leaves the device as
    /// it was.
    ///
    /// # Errors
    /// When the device has no memory for such images, or was lost.
    pub async fn decoder_async(&self, size: [usize; 2]) -> Result<Box<dyn Decoder>, EngineError> {
        self.check_size(size)?;
        match &self.place {
            Place::Cpu(model) => Ok(Box::new(CpuDecoder::new(model.clone(), size))),
            Place::Gpu(model) => {
                let lost = || {
                    model.gpu.poll();
                    model.gpu.failure().map_or(Ok(()), |error| Err(EngineError::from(error)))
                };
                lost()?;
                let make = async { GpuDecoder::new(model.clone(), size) };
                match model.gpu.error_scope(make).await {
                    Ok(decoder) => Ok(Box::new(decoder?)),
                    Err(error) => {
                        lost()?;
                        let needed = megabytes(self.activation_bytes(size).unwrap_or(0));
                        Err(EngineError::TooLarge(format!(
                            "decoding images of {} needs {needed} on {}, which does not fit: \
                             {error}; use a smaller decoder or the CPU",
                            self.extent(size),
                            model.gpu.info.name
                        )))
                    }
                }
            }
        }
    }

    /// Rejects images that are too large, before anything is allocated.
    fn check_size(&self, size: [usize; 2]) -> Result<(), EngineError> {
        let extent = self.extent(size);
        if size.iter().any(|n| n.saturating_mul(self.factor) > MOST_SIDE) {
            return Err(EngineError::Decoder(format!(
                "these latents decode to images of {extent}, which would need gigabytes; the \
                 limit is {MOST_SIDE} pixels per side"
            )));
        }
        // GPUs do not report free memory; for the CPU and software adapters it is known.
        let on_processor = self.gpu().is_none_or(|gpu| gpu.is_software());
        let free = platform::free_memory().filter(|_| on_processor);
        match (self.activation_bytes(size), free) {
            (Some(needed), Some(free)) => fits(needed, free, &extent),
            _ => Ok(()),
        }
    }

    /// Size of an image, for messages.
    fn extent(&self, [height, width]: [usize; 2]) -> String {
        let factor = self.factor;
        format!("{} × {}", width.saturating_mul(factor), height.saturating_mul(factor))
    }

    /// Bytes of feature maps for latents of `size` on its device; nothing where a device cannot hold them in
    /// buffers of any number.
    pub fn activation_bytes(&self, size: [usize; 2]) -> Option<u64> {
        match &self.place {
            Place::Cpu(model) => Some(model.activation_bytes(size)),
            Place::Gpu(model) => model.activation_bytes(size),
        }
    }

    /// Fits a preview to the decoder, with one small latent that it decodes.
    ///
    /// # Errors
    /// When the device is lost or out of memory.
    pub async fn fit_preview(&self) -> Result<LatentPreview, EngineError> {
        let shape = [self.channels, PREVIEW_SIDE, PREVIEW_SIDE];
        let decoder = self.decoder_async([PREVIEW_SIDE; 2]).await?;
        let latent = LatentPreview::calibration(shape);
        let image = Decoding::begin(decoder, latent.clone()).finish_async(|_, _| {}).await?;
        Ok(LatentPreview::fit(&latent, shape, &image, self.factor))
    }

    /// Description of the device.
    pub fn device(&self) -> String {
        match &self.place {
            Place::Cpu(model) => model.device(),
            Place::Gpu(model) => model.device(),
        }
    }

    /// The device, unless the CPU decodes.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match &self.place {
            Place::Cpu(_) => None,
            Place::Gpu(model) => Some(&model.gpu),
        }
    }

    /// A note on why this device was chosen, unless the user chose it.
    pub fn note(&self) -> Option<&str> {
        self.note.as_ref().map(|note| note.text.as_str())
    }
}

/// Rejects what exceeds free memory.
fn fits(needed: u64, free: u64, extent: &str) -> Result<(), EngineError> {
    if needed <= free {
        return Ok(());
    }
    Err(EngineError::TooLarge(format!(
        "decoding images of {extent} needs {} of memory, but {} are free; close other programs \
         or use a smaller decoder",
        megabytes(needed),
        megabytes(free)
    )))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(case: &str) -> DecoderFile {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        DecoderFile::open(&root.join(case).join("model.safetensors")).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_told_before_it_is_allocated() {
        let told = fits(3_000_000_000, 2_000_000_000, "512 × 512").unwrap_err().to_string();
        assert!(told.contains("3000 MB of memory, but 2000 MB are free"), "{told}");
        assert!(fits(5, 5, "").is_ok());
        let open = LoadedDecoder::open(&file("vae_tiny_mini"), Backend::Cpu, WeightPrecision::F16)
            .unwrap();
        let told = open.decoder([4096, 8]).err().unwrap().to_string();
        assert!(told.contains("the limit is 2048 pixels per side"), "{told}");
        assert!(open.decoder([usize::MAX, 1]).is_err());
    }

    #[test]
    fn memory_on_the_processor_is_that_of_the_maps_that_live_together() {
        let open =
            LoadedDecoder::open(&file("vae_kl_mini"), Backend::Cpu, WeightPrecision::F16).unwrap();
        let (small, large) =
            (open.activation_bytes([4, 4]).unwrap(), open.activation_bytes([8, 8]).unwrap());
        assert_eq!(large, 4 * small, "it grows with the area");
        // At least the image and what it is made of: 3 and 8 channels of 8 × 8 pixels.
        assert!(small >= 4 * (3 + 8) * 64, "{small}");
    }

    #[test]
    fn a_preview_fitted_in_the_background_is_the_one_fitted_at_once() {
        let file = file("vae_tiny_mini");
        let open = LoadedDecoder::open(&file, Backend::Cpu, WeightPrecision::F16).unwrap();
        let mut decoder = open.decoder([PREVIEW_SIDE; 2]).unwrap();
        let at_once = LatentPreview::of(decoder.as_mut()).unwrap();
        assert_eq!(pollster::block_on(open.fit_preview()).unwrap(), at_once);
    }

    #[test]
    fn a_decoding_goes_on_elsewhere_with_the_same_images() {
        let file = file("vae_kl_mini");
        let open = LoadedDecoder::open(&file, Backend::Cpu, WeightPrecision::F16).unwrap();
        let latents = LatentPreview::calibration([3 * 4, 4, 4]);
        let begin = || Decoding::begin(open.decoder([4, 4]).unwrap(), latents.clone());
        let mut heard = Vec::new();
        let whole = begin().finish(|fraction, done| heard.push((fraction, done))).unwrap();
        assert_eq!(whole.len(), 3 * 3 * 8 * 8);
        assert!(heard.is_sorted() && heard.last() == Some(&(1.0, 3)), "{heard:?}");
        let mut first = begin();
        while first.done() < 2 {
            first.advance(1).unwrap();
        }
        let half = first.into_state();
        assert_eq!(half.images.len(), 2 * 3 * 8 * 8);
        let rest = Decoding::resume(open.decoder([4, 4]).unwrap(), half);
        assert_eq!((rest.done(), rest.count()), (2, 3));
        assert_eq!(rest.finish(|_, _| {}).unwrap(), whole);
    }

    #[test]
    fn numbers_that_are_not_finite_are_no_images() {
        let open =
            LoadedDecoder::open(&file("vae_kl_mini"), Backend::Cpu, WeightPrecision::F16).unwrap();
        let broken = Decoding::begin(open.decoder([2, 2]).unwrap(), vec![f32::NAN; 16]);
        let told = broken.finish(|_, _| {}).unwrap_err().to_string();
        assert!(told.contains("not finite"), "{told}");
    }
}
