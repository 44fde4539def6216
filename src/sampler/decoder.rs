//! Choosing what decodes latents to pictures: the same choice as for models.

use std::sync::Arc;

use super::backend::{Choice, choose, instead};
use super::{Backend, BackendError};
use crate::kernels::WeightPrecision;
use crate::model::EngineError;
use crate::vae::{CpuDecoder, CpuDecoderModel, Decoder, DecoderFile, GpuDecoder, GpuDecoderModel};

/// A decoder on the device that was chosen for it; makes decoders for any size of latents.
pub struct OpenDecoder {
    place: Place,
    note: Option<String>,
}

enum Place {
    Cpu(Arc<CpuDecoderModel>),
    Gpu(Arc<GpuDecoderModel>),
}

impl OpenDecoder {
    /// Opens a decoder, waiting for the device. Not for user interfaces.
    ///
    /// # Errors
    /// When it does not fit, or a GPU was asked for and there is none.
    pub fn open(
        file: &DecoderFile,
        backend: Backend,
        precision: WeightPrecision,
    ) -> Result<Self, BackendError> {
        pollster::block_on(Self::request(file, backend, precision))
    }

    /// As [`OpenDecoder::open`], for callers that must not wait.
    ///
    /// # Errors
    /// As [`OpenDecoder::open`].
    pub async fn request(
        file: &DecoderFile,
        backend: Backend,
        precision: WeightPrecision,
    ) -> Result<Self, BackendError> {
        let on_cpu = |note: Option<String>| -> Result<Self, BackendError> {
            Ok(Self { place: Place::Cpu(Arc::new(CpuDecoderModel::load(file)?)), note })
        };
        let gpu = match choose(backend).await? {
            Choice::Cpu { note } => return on_cpu(note),
            Choice::Gpu(gpu) => gpu,
        };
        match GpuDecoderModel::load(Arc::new(gpu), file, precision) {
            Ok(model) => Ok(Self { place: Place::Gpu(Arc::new(model)), note: None }),
            Err(error) if backend == Backend::Auto => on_cpu(Some(instead(&error))),
            Err(error) => Err(error.into()),
        }
    }

    /// A decoder for latents of `size` (height and width); decoders share the weights.
    ///
    /// # Errors
    /// When the device has no room for such pictures.
    pub fn decoder(&self, size: [usize; 2]) -> Result<Box<dyn Decoder>, EngineError> {
        Ok(match &self.place {
            Place::Cpu(model) => Box::new(CpuDecoder::new(model.clone(), size)),
            Place::Gpu(model) => Box::new(GpuDecoder::new(model.clone(), size)?),
        })
    }

    /// Why the decoder is where it is, in a sentence, when the user did not choose the place.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}
