//! Latents on their way to pictures: the one loop that every caller of a decoder goes through, in slices between
//! two frames or to the end. Nothing that is finished is lost with a device.

use crate::engine::{EngineError, Progress, SliceTime};
use crate::platform::yield_now;
use crate::vae::Decoder;

/// Units that are handed out before a caller that waits hears how far it is.
const BUDGET: usize = 32;

/// A decoder at work on some latents.
pub struct Decoding {
    decoder: Box<dyn Decoder>,
    /// `[B, C, h, w]`
    latents: Vec<f32>,
    /// Those that are finished, `[n, 3, height, width]`.
    pictures: Vec<f32>,
    count: usize,
    done: usize,
}

/// What was finished when a device was lost.
#[derive(Clone, Debug, Default)]
pub struct Undecoded {
    /// All latents, `[B, C, h, w]`.
    pub latents: Vec<f32>,
    /// Pictures of the first of them, `[n, 3, height, width]`.
    pub pictures: Vec<f32>,
}

impl Decoding {
    /// Begins with latents `[B, C, h, w]` as a model samples them, of the decoder's size.
    ///
    /// # Panics
    /// When they are no whole number of latents.
    pub fn begin(decoder: Box<dyn Decoder>, latents: Vec<f32>) -> Self {
        Self::resume(decoder, Undecoded { latents, pictures: Vec::new() })
    }

    /// Goes on after the pictures that another decoder has finished.
    ///
    /// # Panics
    /// When latents or pictures are no whole number, or there are more pictures than latents.
    pub fn resume(mut decoder: Box<dyn Decoder>, so_far: Undecoded) -> Self {
        let Undecoded { latents, pictures } = so_far;
        let len = decoder.latent_shape().iter().product::<usize>();
        let picture = decoder.picture_shape().iter().product::<usize>();
        assert!(pictures.len().is_multiple_of(picture), "whole pictures");
        let done = pictures.len() / picture;
        decoder.begin(&latents[done * len..]);
        Self { decoder, count: latents.len() / len, latents, pictures, done }
    }

    /// Does at most about `budget` units of work, and takes in what is finished. Never waits.
    ///
    /// # Errors
    /// When the device is lost; [`Decoding::unfinished`] has what was finished.
    pub fn advance(&mut self, budget: usize) -> Result<Progress, EngineError> {
        let progress = self.decoder.advance(budget)?;
        while let Some(picture) = self.decoder.take() {
            self.pictures.extend(picture);
            self.done += 1;
        }
        Ok(match progress {
            _ if self.done == self.count => Progress::Done,
            // All is handed out, and not all is back.
            Progress::Done => Progress::Busy,
            progress => progress,
        })
    }

    /// Decodes to the end: a thread waits for the device, a page lives on meanwhile. `on_progress` hears
    /// [`Decoding::fraction`] and the number of finished pictures.
    ///
    /// # Errors
    /// As [`Decoding::advance`] and [`Decoding::pictures`].
    pub async fn finish(
        mut self,
        mut on_progress: impl FnMut(f32, usize),
    ) -> Result<Vec<f32>, EngineError> {
        loop {
            match self.advance(BUDGET)? {
                Progress::Done => break,
                Progress::Working => {}
                Progress::Busy => self.decoder.wait()?,
            }
            on_progress(self.fraction(), self.done);
            yield_now().await;
        }
        on_progress(1.0, self.done);
        self.pictures()
    }

    /// How much is done, 0 to 1.
    pub fn fraction(&self) -> f32 {
        if self.done == self.count {
            return 1.0;
        }
        (self.done as f32 + self.decoder.fraction()) / self.count as f32
    }

    /// Number of finished pictures.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Number of pictures in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// As [`Decoder::slice_time`].
    pub fn slice_time(&self) -> Option<SliceTime> {
        self.decoder.slice_time()
    }

    /// What another decoder needs to go on.
    pub fn unfinished(self) -> Undecoded {
        Undecoded { latents: self.latents, pictures: self.pictures }
    }

    /// The finished pictures, `[n, 3, height, width]` in about [-1, 1].
    ///
    /// # Errors
    /// When there is a number among them that is not finite.
    pub fn pictures(self) -> Result<Vec<f32>, EngineError> {
        if self.pictures.iter().any(|v| !v.is_finite()) {
            return Err(EngineError::Unsupported(
                "the decoder produced numbers that are not finite; check that the latents belong to this decoder"
                    .into(),
            ));
        }
        Ok(self.pictures)
    }
}
