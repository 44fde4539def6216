//! Images from the samples of a run. Pixels are images already; latents are decoded or shown as a preview, either
//! fitted to the open decoder or, without a decoder, made from their principal components.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Record;
use diffmoe::vae::LatentPreview;

/// What an image on the screen is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendering {
    /// The model's own pixels.
    Pixels,
    /// Latents without a decoder: their first three principal components as red, green and blue.
    Latents,
    /// Latents through the linear map that was fitted to the decoder.
    Preview,
    /// What the decoder made of the latents.
    Decoded,
}

/// Images to be shown or written, `[B, 3, h, w]` in about [-1, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Images<'r> {
    /// All of them, one after the other.
    pub samples: Cow<'r, [f32]>,
    /// Height and width.
    pub size: [usize; 2],
    /// What they are.
    pub rendering: Rendering,
}

/// Changes whenever the images of a frame do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The frame.
    pub frame: usize,
    rendering: Rendering,
    /// The decoder, or without one the frame whose components are the axes.
    by: u64,
}

/// The decoder that belongs to the images of a run.
#[derive(Clone, Debug)]
pub struct UsedDecoder {
    /// What a link calls it.
    pub link: String,
    /// Pixels along a latent cell.
    pub factor: usize,
    pub(super) preview: Arc<LatentPreview>,
    /// Counts the decoders of a session.
    pub(super) serial: u64,
}

/// Additional data of a run whose samples are latents.
#[derive(Clone, Debug, Default)]
pub struct LatentImages {
    /// Nothing as long as there was none.
    pub decoder: Option<UsedDecoder>,
    /// Whether the last frame is not decoded automatically: it was cancelled or failed.
    pub(super) declined: bool,
    /// By frame, `[B, 3, h, w]`.
    decoded: BTreeMap<usize, Vec<f32>>,
}

impl LatentImages {
    /// Before anything is decoded.
    pub(super) fn new(decoder: Option<UsedDecoder>) -> Self {
        Self { decoder, ..Self::default() }
    }

    /// Replaces the decoder and discards the images of the previous one.
    pub(super) fn use_decoder(&mut self, decoder: UsedDecoder) {
        *self = Self::new(Some(decoder));
    }

    /// Stores the decoded images of a frame.
    pub(super) fn keep(&mut self, decoder: &UsedDecoder, frame: usize, images: Vec<f32>) {
        if self.decoder.as_ref().is_none_or(|before| before.serial != decoder.serial) {
            self.use_decoder(decoder.clone());
        }
        self.decoded.insert(frame, images);
    }

    /// Discards the decoded images.
    pub(super) fn clear(&mut self) {
        self.decoded.clear();
    }

    /// Whether a frame is decoded.
    pub fn is_decoded(&self, frame: usize) -> bool {
        self.decoded.contains_key(&frame)
    }

    /// Bytes of the decoded images.
    pub(super) fn bytes(&self) -> usize {
        self.decoded.values().map(|images| 4 * images.len()).sum()
    }
}

impl Record {
    /// The images after `frame` steps; none where there is no such frame.
    pub fn images(&self, frame: usize) -> Option<Images<'_>> {
        let samples = self.frames.get(frame).filter(|samples| !samples.is_empty())?;
        let (size, cells) = (self.config.input_size, self.config.plane());
        let rendering = self.rendering(frame);
        let Some(latents) = &self.latents else {
            return Some(Images { samples: samples.into(), size, rendering });
        };
        if let (Some(decoder), Some(images)) = (&latents.decoder, latents.decoded.get(&frame)) {
            return Some(Images {
                samples: images.into(),
                size: size.map(|side| side * decoder.factor),
                rendering,
            });
        }
        let images = match &latents.decoder {
            Some(decoder) => decoder.preview.images(samples, cells),
            None => self.axes().images(samples, cells),
        };
        Some(Images { samples: images.into(), size, rendering })
    }

    /// What the images of a frame are.
    pub fn rendering(&self, frame: usize) -> Rendering {
        match &self.latents {
            None => Rendering::Pixels,
            Some(latents) if latents.is_decoded(frame) => Rendering::Decoded,
            Some(LatentImages { decoder: Some(_), .. }) => Rendering::Preview,
            Some(_) => Rendering::Latents,
        }
    }

    /// What the images of a frame depend on.
    pub fn version(&self, frame: usize) -> Version {
        let rendering = self.rendering(frame);
        let decoder = self.latents.as_ref().and_then(|latents| latents.decoder.as_ref());
        let by = match rendering {
            Rendering::Pixels => 0,
            Rendering::Latents => self.frames.len() as u64,
            Rendering::Preview | Rendering::Decoded => decoder.map_or(0, |decoder| decoder.serial),
        };
        Version { frame, rendering, by }
    }

    /// The principal components of the newest frame, which has the least noise: one set of axes for all frames.
    fn axes(&self) -> LatentPreview {
        let newest = self.frames.last().map_or(&[][..], Vec::as_slice);
        LatentPreview::principal(newest, self.config.in_channels, self.config.plane())
    }
}
