//! Mute: the same seed again without one expert. A is the run as it was, B the run without the expert.

use egui::{Align2, Rect, Ui, pos2, vec2};

use super::colours::OTHER;
use super::paint::{self, WHOLE, chip, text, text_within};
use super::pair::{GAIN, muting};
use super::put;
use super::scene::{Scene, Touch, Wish};
use crate::App;
use crate::session::{Card, NoteKind, Record};

impl App {
    /// Draws the run on screen again without an expert, or with it alone in its block; the run stays on screen.
    pub(super) fn mute(&mut self, layer: usize, expert: usize, solo: bool) {
        let Some(record) = self.session.record() else { return };
        let Some(controls) = muting(record, layer, expert, solo) else { return };
        self.explore.selection.card = Card::Mute;
        self.explore.selection.expert = Some(expert);
        let drawn = self.session.history().iter().any(|record| record.controls == controls);
        if drawn || !record.is_complete() {
            return;
        }
        if !super::is_open(&self.session, record) {
            return self.session.note(NoteKind::Error, super::NOT_OPEN);
        }
        self.draw_beside(controls);
    }
}

/// Shows A, B and their difference.
pub(super) fn show(ui: &mut Ui, area: Rect, scene: &Scene<'_>, touch: &mut Touch) {
    let look = scene.ink.look;
    let (expert, block) = (scene.now.some_expert(), scene.block());
    let pair = scene.pair;
    let done = pair.and_then(|pair| Some((pair.a, pair.b?)));
    let Some((a, b)) = done else {
        let words = "Draws the same seed again without this expert, or with it alone in its block, and shows what changes.";
        let room = Rect::from_min_size(area.min, vec2(area.width(), 44.0));
        super::inside(ui, room, "offer", |ui| {
            ui.add(egui::Label::new(egui::RichText::new(words).size(14.0)).wrap());
        });
        let row = Rect::from_min_size(area.min + vec2(0.0, 52.0), vec2(area.width(), 34.0));
        let [left, right] = halves(row);
        offer(ui, left, scene, touch, false);
        offer(ui, right, scene, touch, true);
        return;
    };
    let solo = pair.is_some_and(|pair| pair.solo);
    let side =
        ((area.width() - 36.0) / 3.0).min((area.height() - 92.0) / scene.aspect()).min(160.0);
    let size = vec2(side, side * scene.aspect());
    let painter = ui.painter_at(area);
    let b_name = if solo { "B, only" } else { "B, without" };
    let names = ["A, all experts".to_owned(), b_name.to_owned(), format!("|A − B|, ×{GAIN:.0}")];
    for (i, (name, texture)) in names.into_iter().zip(scene.made.muted.iter()).enumerate() {
        let at = area.min + vec2(i as f32 * (side + 18.0), 0.0);
        let words = text(&painter, at, Align2::LEFT_TOP, name, 12.0, look.weak);
        if i == 1 {
            chip(&painter, pos2(words.right() + 5.0, words.center().y), expert);
        }
        if let Some(texture) = texture {
            paint::image(&painter, Rect::from_min_size(at + vec2(0.0, 19.0), size), texture, WHOLE);
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
        ": the images change by ",
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
    let row = Rect::from_min_size(pos2(area.left(), at.y + 12.0), vec2(area.width(), 28.0));
    show_as_b(ui, row, scene, touch, b, solo);
}

/// A button that draws the run without the expert, or with it alone.
fn offer(ui: &mut Ui, place: Rect, scene: &Scene<'_>, touch: &mut Touch, solo: bool) {
    let busy = !scene.record.is_complete() || scene.busy;
    let (expert, block) = (scene.now.some_expert(), scene.block());
    let words = match (busy, solo) {
        (true, _) => "Drawing …".to_owned(),
        (_, true) => format!("Solo expert {expert}: mute the others"),
        (_, false) => format!("Mute expert {expert} of block {block} (X)"),
    };
    let button = super::centred(&words).truncate().min_size(place.size());
    if put(ui, place, button).clicked() && !busy {
        touch.wish = Some(if solo { Wish::Solo } else { Wish::Mute });
    }
}

/// Two places beside each other.
fn halves(row: Rect) -> [Rect; 2] {
    let size = vec2((row.width().min(480.0) - 8.0) / 2.0, row.height());
    let first = Rect::from_min_size(row.min, size);
    [first, first.translate(vec2(size.x + 8.0, 0.0))]
}

/// Lets the views show B beside A, and offers the other question.
fn show_as_b(ui: &mut Ui, row: Rect, scene: &Scene<'_>, touch: &mut Touch, b: &Record, solo: bool) {
    let [left, right] = halves(row);
    let is_shown = scene.other.is_some_and(|other| other.scene.record.id == b.id);
    let words = if is_shown { "Let go of B" } else { "Show as B in all views" };
    if put(ui, left, super::centred(words).truncate().min_size(left.size())).clicked() {
        touch.wish = Some(if is_shown { Wish::KeepAsB } else { Wish::ShowAsB(b.id) });
    }
    offer(ui, right, scene, touch, !solo);
}
