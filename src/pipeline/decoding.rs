//! Decoding latents to images: the one loop used by every caller of a decoder, in slices between
//! two frames or to the end. Nothing that is finished is lost with a device.

use super::sliced::{self, Sliced};
use crate::engine::{EngineError, Progress, SliceTime};
use crate::vae::Decoder;

/// Units submitted between two progress reports to a blocking caller.
const BUDGET: usize = 32;

/// Latents being decoded.
pub struct Decoding {
    decoder: Box<dyn Decoder>,
    /// `[B, C, h, w]`
    latents: Vec<f32>,
    /// Finished images, `[n, 3, height, width]`.
    images: Vec<f32>,
    count: usize,
    done: usize,
}

/// State of a decoding, from which another decoder can continue.
#[derive(Clone, Debug, Default)]
pub struct DecodingState {
    /// All latents, `[B, C, h, w]`.
    pub latents: Vec<f32>,
    /// Images of the first of them, `[n, 3, height, width]`.
    pub images: Vec<f32>,
}

impl Decoding {
    /// Begins with latents `[B, C, h, w]` as a model samples them, of the decoder's size.
    ///
    /// # Panics
    /// When the values do not form whole latents.
    pub fn begin(decoder: Box<dyn Decoder>, latents: Vec<f32>) -> Self {
        Self::resume(decoder, DecodingState { latents, images: Vec::new() })
    }

    /// Continues after the images that another decoder has finished.
    ///
    /// # Panics
    /// When the values do not form whole latents or images, or there are more images than latents.
    pub fn resume(mut decoder: Box<dyn Decoder>, so_far: DecodingState) -> Self {
        let DecodingState { latents, images } = so_far;
        let len = decoder.latent_shape().iter().product::<usize>();
        let image = decoder.image_shape().iter().product::<usize>();
        assert!(images.len().is_multiple_of(image), "whole images");
        let done = images.len() / image;
        decoder.begin(&latents[done * len..]);
        Self { decoder, count: latents.len() / len, latents, images, done }
    }

    /// Does at most about `budget` units of work and collects finished results. Never waits.
    ///
    /// # Errors
    /// When the device is lost; [`Decoding::into_state`] has what was finished.
    pub fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        let progress = self.decoder.advance(budget)?;
        while let Some(image) = self.decoder.take() {
            self.images.extend(image);
            self.done += 1;
        }
        Ok(match progress {
            _ if self.done == self.count => Progress::Done,
            // Everything is submitted, but not everything has arrived.
            Progress::Done => Progress::Busy,
            progress => progress,
        })
    }

    /// Decodes to the end; blocks a thread, but not a page. `on_progress` gets
    /// [`Decoding::fraction`] and the number of finished images.
    ///
    /// # Errors
    /// As [`Decoding::advance`] and [`Decoding::images`].
    pub async fn finish_async(
        mut self,
        mut on_progress: impl FnMut(f32, usize),
    ) -> Result<Vec<f32>, EngineError> {
        sliced::finish(&mut self, BUDGET, |work| on_progress(work.fraction(), work.done)).await?;
        on_progress(1.0, self.done);
        self.images()
    }

    /// As [`Decoding::finish_async`], on this thread.
    ///
    /// # Errors
    /// As [`Decoding::advance`] and [`Decoding::images`].
    #[cfg(feature = "blocking")]
    pub fn finish(self, on_progress: impl FnMut(f32, usize)) -> Result<Vec<f32>, EngineError> {
        pollster::block_on(self.finish_async(on_progress))
    }

    /// How much is done, 0 to 1.
    pub fn fraction(&self) -> f32 {
        if self.done == self.count {
            return 1.0;
        }
        (self.done as f32 + self.decoder.fraction()) / self.count as f32
    }

    /// Number of finished images.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Number of images in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What another decoder needs to go on.
    pub fn into_state(self) -> DecodingState {
        DecodingState { latents: self.latents, images: self.images }
    }

    /// The finished images, `[n, 3, height, width]` in about [-1, 1].
    ///
    /// # Errors
    /// When there is a number among them that is not finite.
    pub fn images(self) -> Result<Vec<f32>, EngineError> {
        if self.images.iter().any(|v| !v.is_finite()) {
            return Err(EngineError::Decoder(
                "the decoder produced values that are not finite; check that the latents \
                    belong to this decoder"
                    .into(),
            ));
        }
        Ok(self.images)
    }
}

impl Sliced for Decoding {
    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        Decoding::advance(self, budget)
    }

    fn fraction(&self) -> f32 {
        Decoding::fraction(self)
    }

    fn slice_time(&self) -> Option<SliceTime> {
        self.decoder.slice_time()
    }

    fn wait(&mut self) -> Result<(), EngineError> {
        self.decoder.wait()
    }
}
