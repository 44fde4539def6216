//! Mute: the same seed again without one expert. A is the run as it was, B the run without the expert.

use egui::{Align2, Rect, Ui, pos2, vec2};

use super::colours::OTHER;
use super::paint::{self, WHOLE, chip, text, text_within};
use super::pair::{GAIN, unmuted};
use super::put;
use super::scene::{Scene, Touch, Wish};
use crate::App;
use crate::session::Record;

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

/// Shows A, B and their difference.
pub(super) fn show(ui: &mut Ui, area: Rect, scene: &Scene<'_>, touch: &mut Touch) {
    let look = scene.ink.look;
    let (expert, block) = (scene.now.some_expert(), scene.block());
    let pair = scene.pair;
    let done = pair.and_then(|pair| Some((pair.a, pair.b?)));
    let Some((a, b)) = done else {
        let words = "Repeats the run with the same seed without this expert, and shows what \
            changes.";
        text_within(ui.painter(), area.min + vec2(0.0, 4.0), words, 14.0, look.text, area.width());
        let busy = !scene.record.is_complete() || scene.busy;
        let button = Rect::from_min_size(area.min + vec2(0.0, 32.0), vec2(240.0, 34.0));
        let words = if busy {
            "Drawing …".to_owned()
        } else {
            format!("Mute expert {expert} of block {block} (X)")
        };
        let response = put(ui, button, super::centred(&words).min_size(button.size()));
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
}
