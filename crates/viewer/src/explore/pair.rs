//! Two runs of this session side by side, and the difference of their images.

use egui::TextureOptions;

use super::images::{Image, image_of};
use super::now::Now;
use crate::palette;
use crate::session::{Controls, Record, Session};

/// What the difference is multiplied with before it is shown.
pub(super) const GAIN: f32 = 4.0;

/// Two runs that differ in one muted expert.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    /// With all experts.
    pub(super) a: &'a Record,
    /// Without the one; `None` where it was not drawn yet.
    pub(super) b: Option<&'a Record>,
}

/// The same settings with all experts at work.
pub(super) fn unmuted(controls: &Controls) -> Controls {
    Controls { muted: diffmoe::model::Muted::default(), ..controls.clone() }
}

/// The runs of this visit that belong to the run on screen and the chosen expert.
pub(super) fn pair<'a>(session: &'a Session, record: &'a Record, now: &Now) -> Option<Pair<'a>> {
    let block = *record.trace.blocks().get(now.layer)?;
    let base = unmuted(&record.controls);
    let mut without = base.clone();
    without.muted.toggle(block, now.some_expert());
    let of = |controls: &Controls| {
        let same = |other: &&Record| {
            other.controls == *controls && std::sync::Arc::ptr_eq(&other.config, &record.config)
        };
        let kept = session.history().iter().map(std::convert::AsRef::as_ref);
        kept.chain([record]).filter(|other| other.finished_steps() > 0).find(same)
    };
    Some(Pair { a: of(&base)?, b: of(&without).filter(|b| b.is_complete()) })
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
    let one = |i| Some(change(&image_of(a, last(a), i)?, &image_of(b, last(b), i)?));
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

/// Textures of A, B and their difference for one image.
pub(super) fn textures(
    ctx: &egui::Context,
    a: &Record,
    b: &Record,
    image: usize,
) -> Vec<Option<egui::TextureHandle>> {
    let last = |record: &Record| record.frames.len().saturating_sub(1);
    let (Some(a), Some(b)) = (image_of(a, last(a), image), image_of(b, last(b), image)) else {
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
