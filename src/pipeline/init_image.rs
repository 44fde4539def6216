//! An image that a run starts from instead of noise alone, and the part of it that stays.

use std::sync::Arc;

use super::SettingsError;
use crate::engine::Keep;
use crate::model::Config;
use crate::pixels::RgbImage;
use crate::scheduler::{Level, SchedulerKind};

/// Strength that suits most images: the outline stays, what it shows changes.
const USUAL_STRENGTH: f32 = 0.6;

/// An image to start from. Every image of the run starts from it, each with noise of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct InitImage {
    /// `[C, height, width]` as the model samples it: pixels in [-1, 1], or latents.
    values: Arc<Vec<f32>>,
    /// `[height, width]`: 1 where the image is redrawn, 0 where it stays. `None` redraws all of it.
    mask: Option<Arc<Vec<f32>>>,
}

impl InitImage {
    /// A sample of the model, `[C, height, width]`: pixels in [-1, 1], or latents.
    pub fn of_sample(values: Vec<f32>) -> Self {
        Self { values: Arc::new(values), mask: None }
    }

    /// An image for a model that makes pixels: cut to the model's shape around its centre and scaled to its size.
    ///
    /// # Errors
    /// When the model makes latents: images become latents by an encoder, and decoder files are read for their decoders
    /// alone.
    pub fn of_pixels(image: &RgbImage, config: &Config) -> Result<Self, SettingsError> {
        if !config.makes_pixels() {
            return Err(SettingsError::InitLatents(config.name.clone()));
        }
        Ok(Self::of_sample(image.to_sample(config.input_size)))
    }

    /// With a mask, `[height, width]`: 1 where the image is redrawn, 0 where it stays.
    #[must_use]
    pub fn with_mask(self, mask: Vec<f32>) -> Self {
        Self { mask: Some(Arc::new(mask)), ..self }
    }

    /// With the brightness of an image as the mask: redrawn where it is white, kept where it is black. It is cut and scaled
    /// as [`InitImage::of_pixels`] does.
    #[must_use]
    pub fn with_mask_image(self, mask: &RgbImage, config: &Config) -> Self {
        self.with_mask(mask.to_mask(config.input_size))
    }

    /// `[C, height, width]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// `[height, width]`: 1 where the image is redrawn.
    pub fn mask(&self) -> Option<&[f32]> {
        self.mask.as_ref().map(|mask| &mask[..])
    }

    /// The strength if nothing is said: all of the way where a mask keeps a part, else 0.6 of it.
    pub fn usual_strength(&self) -> f32 {
        if self.mask.is_some() { 1.0 } else { USUAL_STRENGTH }
    }

    /// Checks sizes and values.
    pub(super) fn check(
        &self,
        config: &Config,
        scheduler: SchedulerKind,
    ) -> Result<(), SettingsError> {
        let [height, width] = config.input_size;
        let wrong =
            |what: &'static str, expected: String| Err(SettingsError::InitImage { what, expected });
        if self.values.len() != config.sample_len() || !self.values.iter().all(|v| v.is_finite()) {
            let channels = config.in_channels;
            return wrong("image", format!("{channels}×{height}×{width} finite numbers"));
        }
        let Some(mask) = &self.mask else { return Ok(()) };
        if mask.len() != config.plane() || !mask.iter().all(|m| (0.0..=1.0).contains(m)) {
            return wrong("mask", format!("{height}×{width} numbers from 0 to 1"));
        }
        if scheduler.is_adaptive() {
            return Err(SettingsError::MaskScheduler(scheduler.name()));
        }
        Ok(())
    }

    /// The image at a noise level, `[B, C, height, width]`, given the noise of the batch.
    pub(super) fn at(&self, level: Level, noise: &[f32]) -> Vec<f32> {
        let values = self.values.iter().cycle();
        noise.iter().zip(values).map(|(e, x)| level.mix(*x, *e)).collect()
    }

    /// What engines keep of it, given the noise of the batch; `None` without a mask.
    pub(super) fn keep(&self, noise: Vec<f32>) -> Option<Keep> {
        let mask = self.mask.as_ref()?;
        let channels = self.values.len() / mask.len();
        let batch = noise.len() / self.values.len();
        Some(Keep { image: self.values.repeat(batch), mask: mask.repeat(batch * channels), noise })
    }
}
