//! The image decoder of a generator: previews while its model samples, images at the end.

use std::cell::{Cell, RefCell};

use wasm_bindgen::prelude::*;

use super::objects::error;
use super::slices::{Listener, slices};
use diffmoe::engine::EngineError;
use diffmoe::kernels::WeightPrecision;
use diffmoe::pipeline::{Backend, Decoding, DecodingState, LoadedDecoder};
use diffmoe::vae::{DecoderFile, LatentPreview};

/// A decoder on a device.
pub(super) struct Decoder {
    pub(super) file: DecoderFile,
    backend: Backend,
    open: RefCell<LoadedDecoder>,
    preview: LatentPreview,
    /// Counts the devices that it has been on.
    generation: Cell<u32>,
}

impl Decoder {
    /// Puts a decoder on a device and fits its preview.
    pub(super) async fn open(file: DecoderFile, backend: Backend) -> Result<Self, JsValue> {
        let open = LoadedDecoder::open_async(&file, backend, WeightPrecision::F16).await;
        let open = open.map_err(error)?;
        let preview = open.fit_preview().await.map_err(error)?;
        Ok(Self { file, backend, open: RefCell::new(open), preview, generation: Cell::new(0) })
    }

    /// A preview of latents `[B, C, h, w]`, `size` being (h, w): `[B, 3, h, w]`.
    pub(super) fn preview(&self, latents: &[f32], size: [usize; 2]) -> Vec<f32> {
        self.preview.images(latents, size[0] * size[1])
    }

    /// Images of latents `[B, C, h, w]`, `size` being (h, w); continues on a new device if one is lost.
    pub(super) async fn decode(
        &self,
        latents: Vec<f32>,
        size: [usize; 2],
        listener: &Listener,
    ) -> Result<Vec<f32>, JsValue> {
        let mut so_far = DecodingState { latents, images: Vec::new() };
        let mut losses = 0;
        loop {
            let generation = self.generation.get();
            let open = self.open.borrow().clone();
            let lost = match open.decoder_async(size).await {
                Ok(decoder) => {
                    let mut decoding = Decoding::resume(decoder, so_far);
                    let advance = |budget: usize| {
                        let progress = decoding.advance(budget);
                        listener.decoded(decoding.fraction())?;
                        Ok(progress)
                    };
                    match slices(listener, advance).await? {
                        Ok(()) => return decoding.images().map_err(error),
                        Err(failure) => {
                            so_far = decoding.into_state();
                            failure
                        }
                    }
                }
                Err(failure) => failure,
            };
            losses = lost_again(losses, lost)?;
            self.reopen(generation).await?;
        }
    }

    /// Opens the decoder on a device younger than `generation`.
    async fn reopen(&self, generation: u32) -> Result<(), JsValue> {
        if self.generation.get() == generation {
            let open =
                LoadedDecoder::open_async(&self.file, self.backend, WeightPrecision::F16).await;
            *self.open.borrow_mut() = open.map_err(error)?;
            self.generation.set(generation + 1);
        }
        Ok(())
    }
}

/// How often work is taken up again on a new device before we believe that the devices are not at fault.
const RECOVERIES: u32 = 3;

/// Counts the loss of a device.
///
/// # Errors
/// When there were too many, or the failure is of another kind.
pub(super) fn lost_again(losses: u32, failure: EngineError) -> Result<u32, JsValue> {
    match failure {
        failure if failure.needs_new_device() && losses < RECOVERIES => Ok(losses + 1),
        other => Err(error(other)),
    }
}
