//! From latents to images: the decoders of `AutoencoderKL` (the Stable Diffusion autoencoders) and
//! `AutoencoderTiny` (TAESD), read from files with the tensor names of diffusers.
//!
//! A file becomes a [`plan`](self): a list of convolutions, norms and one attention layer over numbered
//! feature maps. [`CpuDecoder`] and [`GpuDecoder`] execute the same list, one image at a time and in
//! slices, so that a user interface can decode between two frames. Nothing is approximated: an image is
//! never split into tiles, because group norms and attention depend on all of it.

mod attention;
mod build;
mod config;
mod cpu;
mod cpu_layers;
mod gpu;
mod gpu_record;
mod gpu_weights;
mod memory;
mod plan;
mod preview;
mod principal;

pub use config::{DecoderFile, DecoderKind};
pub use cpu::{CpuDecoder, CpuDecoderModel};
pub use gpu::{GpuDecoder, GpuDecoderModel};
pub use preview::LatentPreview;

use crate::engine::{EngineError, Progress, SliceTime, Taps};

/// A decoder on a device, for latents of one size. It may be made on one thread and used on another.
pub trait Decoder: Send {
    /// The device, for display.
    fn device(&self) -> String;

    /// Channels, height and width of a latent.
    fn latent_shape(&self) -> [usize; 3];

    /// Channels, height and width of an image.
    fn image_shape(&self) -> [usize; 3];

    /// Takes latents `[B, C, h, w]` as a model samples them, for any B, and forgets the images before.
    ///
    /// # Panics
    /// When the values do not form whole latents: a bug of the caller.
    fn begin(&mut self, latents: &[f32]);

    /// Computes or submits at most `budget` units (a unit is about one kernel, or some rows of one layer).
    /// Never waits for the device.
    ///
    /// # Errors
    /// When the device is lost.
    fn advance(&mut self, budget: usize) -> Result<Progress, EngineError>;

    /// The computed or submitted fraction of the current image, 0 to 1 by the number of its layers; 0 between
    /// two images.
    fn fraction(&self) -> f32;

    /// Duration of the last finished slice on a GPU; `None` if [`Decoder::advance`] itself
    /// computes, or nothing has finished yet.
    fn slice_time(&self) -> Option<SliceTime> {
        None
    }

    /// The next finished image, `[3, height, width]` in about [-1, 1], in the order of the latents.
    /// Never waits.
    fn take(&mut self) -> Option<Vec<f32>>;

    /// Waits until submitted work is finished. Not for user interfaces.
    ///
    /// # Errors
    /// When the device is lost.
    fn wait(&mut self) -> Result<(), EngineError>;

    /// Decodes latents and waits for the images, `[B, 3, height, width]`. Not for user interfaces.
    ///
    /// # Errors
    /// When the device is lost.
    fn decode_now(&mut self, latents: &[f32]) -> Result<Vec<f32>, EngineError> {
        self.begin(latents);
        let mut images = Vec::new();
        loop {
            let progress = self.advance(usize::MAX)?;
            if progress != Progress::Working {
                self.wait()?;
            }
            while let Some(image) = self.take() {
                images.extend(image);
            }
            if progress == Progress::Done {
                return Ok(images);
            }
        }
    }

    /// Decodes one latent, given as the decoder's own numbers (no scaling factor applied), and keeps the
    /// output of every layer under the name of its PyTorch module, then `image`. Waits.
    ///
    /// # Errors
    /// When the device is lost.
    fn decode_with_taps(&mut self, latent: &[f32]) -> Result<Taps, EngineError>;
}
