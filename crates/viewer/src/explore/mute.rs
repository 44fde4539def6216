//! Mute: the same seed again without one expert. A is the run as it was, B the run without the expert.

use egui::{Align2, Rect, TextureOptions, Ui, pos2, vec2};

use super::colours::OTHER;
use super::images::Image;
use super::made::image_of;
use super::now::Now;
use super::paint::{self, WHOLE, chip, text, text_within};
use super::scene::{Scene, Touch, Wish};
use crate::App;
use crate::palette;
use crate::session::{Controls, Record, Session};

/// What the difference is multiplied with before it is shown.
const GAIN: f32 = 4.0;

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

impl App {
    /// Draws the run on screen again without an expert; the run stays on screen.
    pub(super) fn mute(&mut self, layer: usize, expert: usize) {
        let Some(record) = self.session.record() else { return };
        let Some(&block) = record.trace.blocks().get(layer) else { return };
        let mut controls = unmuted(&record.controls);
        controls.muted.toggle(block, expert);
        self.explore.selection.card = crate::session::Card::Mute;
        self.explore.selection.expert = Some(expert);
        let drawn = self.session.history().iter().any(|record| record.controls == controls);
        if drawn || !record.is_complete() {
            return;
        }
        if !super::is_open(&self.session, record) {
            return self.session.note(crate::session::NoteKind::Error, super::NOT_OPEN);
        }
        self.draw_beside(controls);
    }
}

/// Mean change of a picture, of 255.
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

/// Where the pictures change: the ramp over the mean of the channels, times [`GAIN`].
fn difference(a: &Image, b: &Image) -> egui::ColorImage {
    let plane = a.size[0] * a.size[1];
    let pixel = |at: usize| {
        let sum: f32 =
            (0..3).map(|c| (a.values[c * plane + at] - b.values[c * plane + at]).abs()).sum();
        palette::ramp(sum / 6.0 * GAIN)
    };
    egui::ColorImage::new([a.size[1], a.size[0]], (0..plane).map(pixel).collect())
}

/// Shows A, B and their difference.
pub(super) fn show(ui: &mut Ui, area: Rect, scene: &Scene<'_>, touch: &mut Touch) {
    let look = scene.ink.look;
    let (expert, block) = (scene.now.some_expert(), scene.block());
    let pair = scene.pair;
    let done = pair.and_then(|pair| Some((pair.a, pair.b?)));
    let Some((a, b)) = done else {
        let words = "Draws the same seed again without this expert, and shows what changes.";
        text_within(ui.painter(), area.min + vec2(0.0, 4.0), words, 14.0, look.text, area.width());
        let busy = !scene.record.is_complete() || scene.busy;
        let button = Rect::from_min_size(area.min + vec2(0.0, 32.0), vec2(240.0, 34.0));
        let words = if busy {
            "Drawing …".to_owned()
        } else {
            format!("Mute expert {expert} of block {block} (X)")
        };
        let response =
            super::gamma::put(ui, button, super::centred(&words).min_size(button.size()));
        if response.clicked() && !busy {
            touch.wish = Some(Wish::Mute);
        }
        return;
    };
    let side =
        ((area.width() - 36.0) / 3.0).min((area.height() - 64.0) / scene.aspect()).min(160.0);
    let size = vec2(side, side * scene.aspect());
    let painter = ui.painter_at(area);
    let names =
        ["A, all experts".to_owned(), "B, without".to_owned(), format!("|A − B|, ×{GAIN:.0}")];
    for (i, (name, texture)) in names.into_iter().zip(scene.made.muted.iter()).enumerate() {
        let at = area.min + vec2(i as f32 * (side + 18.0), 0.0);
        let words = text(&painter, at, Align2::LEFT_TOP, name, 12.0, look.weak);
        if i == 1 {
            chip(&painter, pos2(words.right() + 5.0, words.center().y), expert);
        }
        if let Some(texture) = texture {
            paint::picture(
                &painter,
                Rect::from_min_size(at + vec2(0.0, 19.0), size),
                texture,
                WHOLE,
            );
        }
    }
    let changes = scene.made.changes.as_slice();
    let mean = changes.iter().sum::<f32>() / changes.len().max(1) as f32;
    let mut at = area.min + vec2(0.0, size.y + 38.0);
    let words = format!("Block {block}, expert ");
    let words = text(&painter, at, Align2::LEFT_CENTER, words, 14.0, look.text);
    let chip = chip(&painter, pos2(words.right(), at.y), expert);
    let words = text(
        &painter,
        chip.right_center(),
        Align2::LEFT_CENTER,
        ": the pictures change by ",
        14.0,
        look.text,
    );
    let value = text(
        &painter,
        words.right_center(),
        Align2::LEFT_CENTER,
        format!("{mean:.1}"),
        14.0,
        OTHER,
    );
    let c = |record: &Record| record.trace.capacity().unwrap_or(0.0);
    let difference = c(b) - c(a);
    let sign = if difference < 0.0 { "−" } else { "+" };
    let c = format!("C {sign}{:.2}.", difference.abs());
    let at_end = value.right_center();
    if area.width() > 400.0 {
        let rest = format!(" of 255; {c}");
        text(&painter, at_end, Align2::LEFT_CENTER, rest, 14.0, look.text);
    } else {
        text(&painter, at_end, Align2::LEFT_CENTER, " of 255.", 14.0, look.text);
        at.y += 20.0;
        text(&painter, at, Align2::LEFT_CENTER, c, 14.0, look.text);
    }
    at.y += 20.0;
    let list: Vec<String> = a
        .labels
        .iter()
        .zip(changes)
        .map(|(label, change)| format!("{label} {change:.1}"))
        .collect();
    text_within(&painter, at - vec2(0.0, 8.0), &list.join(" · "), 12.0, look.weak, area.width());
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
