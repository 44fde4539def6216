//! Two runs of this session side by side, and the difference of their images.

use egui::TextureOptions;

use super::images::{Image, frame_image, image_at};
use super::now::Now;
use crate::palette;
use crate::session::{Controls, Record, Session};

/// What the difference is multiplied with before it is shown.
pub(super) const GAIN: f32 = 4.0;
/// Pixels along a side of the difference image, at most.
const LARGE: usize = 512;

/// A run, and what became of it without an expert, or with that expert alone in its block.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    /// With all experts.
    pub(super) a: &'a Record,
    /// Without the one, or with it alone, whichever was drawn last; `None` where neither was.
    pub(super) b: Option<&'a Record>,
    /// Whether the expert is alone in B.
    pub(super) solo: bool,
}

/// The same settings with all experts at work.
pub(super) fn unmuted(controls: &Controls) -> Controls {
    let mut controls = controls.clone();
    controls.sampling.muted = diffmoe::model::Muted::default();
    controls
}

/// The same settings without an expert, or with it alone in its block.
pub(super) fn muting(record: &Record, layer: usize, expert: usize, solo: bool) -> Option<Controls> {
    let block = *record.trace.blocks().get(layer)?;
    let mut controls = unmuted(&record.controls);
    if solo {
        controls.sampling.muted.solo(block, expert, record.trace.experts());
    } else {
        controls.sampling.muted.toggle(block, expert);
    }
    Some(controls)
}

/// The runs of this visit that belong to the run on screen and the chosen expert.
pub(super) fn pair<'a>(session: &'a Session, record: &'a Record, now: &Now) -> Option<Pair<'a>> {
    let base = unmuted(&record.controls);
    let of = |controls: &Controls| {
        let same = |other: &&Record| {
            other.controls == *controls && std::sync::Arc::ptr_eq(&other.config, &record.config)
        };
        let kept = session.history().iter().map(std::convert::AsRef::as_ref);
        kept.chain([record]).filter(|other| other.finished_steps() > 0).find(same)
    };
    let changed = |solo| {
        let controls = muting(record, now.layer, now.some_expert(), solo)?;
        of(&controls).filter(|b| b.is_complete())
    };
    let (without, alone) = (changed(false), changed(true));
    let b = without.into_iter().chain(alone).max_by_key(|b| b.id);
    let solo = b.zip(alone).is_some_and(|(b, alone)| b.id == alone.id);
    Some(Pair { a: of(&base)?, b, solo })
}

/// Mean change of an image, of 255.
fn change(a: &Image, b: &Image) -> f32 {
    let byte = |v: f32| (v * 127.5 + 127.5).clamp(0.0, 255.0);
    let sum: f32 = a.values.iter().zip(&b.values).map(|(a, b)| (byte(*a) - byte(*b)).abs()).sum();
    sum / a.values.len().max(1) as f32
}

/// Change of every image.
pub(super) fn changes(a: &Record, b: &Record) -> Vec<f32> {
    let last = |record: &Record| record.frames.len().saturating_sub(1);
    let one = |i| Some(change(&frame_image(a, last(a), i)?, &frame_image(b, last(b), i)?));
    (0..a.labels.len()).map_while(one).collect()
}

/// Where the images change: the ramp over the mean of the channels, times [`GAIN`].
fn difference(a: &Image, b: &Image) -> egui::ColorImage {
    let plane = a.size[0] * a.size[1];
    let pixel = |at: usize| {
        let sum: f32 =
            (0..3).map(|c| (a.values[c * plane + at] - b.values[c * plane + at]).abs()).sum();
        palette::ramp(sum / 6.0 * GAIN)
    };
    egui::ColorImage::new([a.size[1], a.size[0]], (0..plane).map(pixel).collect())
}

/// One image of a run at a step.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) record: &'a Record,
    pub(super) step: usize,
    pub(super) image: usize,
}

impl Side<'_> {
    /// The image on the stage.
    fn image(&self) -> Option<Image> {
        image_at(self.record, self.step, self.image)
    }

    /// The result.
    fn result(&self, image: usize) -> Option<Image> {
        frame_image(self.record, self.record.frames.len().saturating_sub(1), image)
    }
}

/// How far the images of two runs are apart: root of the mean square, in grey levels of 255. `None` without images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Apart {
    /// The image on screen at this step.
    pub(super) now: Option<f32>,
    /// The results of all images that both runs have.
    pub(super) all: Option<f32>,
}

impl Apart {
    /// Measures.
    pub(super) fn of(a: &Side<'_>, b: &Side<'_>) -> Self {
        if a.record.is_traced() || b.record.is_traced() {
            return Self::default();
        }
        let now = a.image().zip(b.image()).map(|(a, b)| mean_square(&a, &b).sqrt());
        let images = a.record.labels.len().min(b.record.labels.len());
        let squares: Option<Vec<f32>> =
            (0..images).map(|i| Some(mean_square(&a.result(i)?, &b.result(i)?))).collect();
        let all = squares
            .filter(|squares| !squares.is_empty())
            .map(|squares| (squares.iter().sum::<f32>() / squares.len() as f32).sqrt());
        Self { now, all }
    }
}

/// Mean square of what two images differ by, in grey levels; the second is brought to the size of the first.
fn mean_square(a: &Image, b: &Image) -> f32 {
    let grey = |v: f32| (v * 127.5 + 127.5).clamp(0.0, 255.0);
    let b = b.clone().scaled_to(a.size);
    let square = |(a, b): (&f32, &f32)| (grey(*a) - grey(*b)).powi(2);
    a.values.iter().zip(&b.values).map(square).sum::<f32>() / a.values.len().max(1) as f32
}

/// Where the images on the stage differ.
pub(super) fn difference_at(a: &Side<'_>, b: &Side<'_>) -> Option<egui::ColorImage> {
    if a.record.is_traced() || b.record.is_traced() {
        return None;
    }
    let image = a.image()?.thinned(LARGE);
    let other = b.image()?.scaled_to(image.size);
    Some(difference(&image, &other))
}

/// Textures of A, B and their difference for one image.
pub(super) fn textures(
    ctx: &egui::Context,
    a: &Record,
    b: &Record,
    image: usize,
) -> Vec<Option<egui::TextureHandle>> {
    let last = |record: &Record| record.frames.len().saturating_sub(1);
    let (Some(a), Some(b)) = (frame_image(a, last(a), image), frame_image(b, last(b), image))
    else {
        return Vec::new();
    };
    let b = b.scaled_to(a.size);
    let upload = |image| Some(ctx.load_texture("muted", image, TextureOptions::NEAREST));
    vec![upload(a.plain()), upload(b.plain()), upload(difference(&a, &b))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_roots_of_mean_squares_in_grey_levels() {
        let image = |values: &[f32]| Image { values: values.to_vec(), size: [1, 1] };
        let (a, b) = (image(&[0.0, 0.0, 0.0]), image(&[0.2, -0.2, 0.0]));
        // 25.5 grey levels in two of three channels.
        assert!((mean_square(&a, &b) - 2.0 * 25.5 * 25.5 / 3.0).abs() < 1e-2);
        let far = image(&[9.0, 0.0, 0.0]);
        assert!((mean_square(&a, &far) - 127.5 * 127.5 / 3.0).abs() < 1.0, "bytes saturate");
        let large = Image { values: [0.2, -0.2, 0.0].map(|v| [v; 4]).concat(), size: [2, 2] };
        assert!((mean_square(&a, &large) - mean_square(&a, &b)).abs() < 1e-3, "of other sizes");
    }

    #[test]
    fn changes_are_means_of_bytes() {
        let image = |values: &[f32]| Image { values: values.to_vec(), size: [1, 1] };
        let (a, b) = (image(&[0.0, 0.0, 0.0]), image(&[0.1, -0.1, 0.0]));
        assert!((change(&a, &b) - 2.0 * 12.75 / 3.0).abs() < 1e-3);
        assert!((change(&a, &a)).abs() < 1e-6);
        let nothing = difference(&a, &a).pixels[0];
        assert_eq!(nothing, palette::ramp(0.0));
        assert_eq!(difference(&a, &b).pixels[0], palette::ramp(0.2 / 6.0 * GAIN));
    }
}
