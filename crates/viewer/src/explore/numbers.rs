//! The line of numbers of the step, and one sentence about the run.

use egui::{Align2, Rect, Role, Sense, Ui, UiBuilder, WidgetInfo, pos2, vec2};

use super::colours::OTHER;
use super::data::sentence::{Piece, sentence};
use super::data::tally::Numbers;
use super::paint::{CHIP, chip, chip_in, percent, text, text_within, times};
use super::scene::Scene;

/// Shows them in an area; a narrow one has no sentence.
pub(super) fn show(ui: &mut Ui, area: Rect, scene: &Scene<'_>, wide: bool) {
    let look = scene.ink.look;
    let Some(numbers) = scene.made.tally.numbers(scene.now.step) else {
        return without_pass(ui, area, scene, wide);
    };
    let names = if wide {
        [
            "C, experts per patch",
            "patches skipped by all",
            "evenness (1 = all equal)",
            "largest ÷ fair share",
        ]
    } else {
        ["experts per patch", "skipped", "evenness", "largest share"]
    };
    let values = values(&numbers);
    let beside = scene.other.and_then(|other| {
        let step = *other.steps.get(scene.now.step)?;
        Some(self::values(&other.scene.made.tally.numbers(step)?))
    });
    let spoken: Vec<String> =
        names.iter().zip(&values).map(|(name, value)| format!("{name}: {value}")).collect();
    let response = ui.interact(area, ui.scope_id().with("numbers"), Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, spoken.join("; ")));
    let painter = ui.painter_at(area);
    let gap = if wide { 22.0 } else { 0.0 };
    let mut x = area.left() + 4.0;
    let columns =
        [0.0, 0.28, 0.51, 0.75].map(|share| area.left() + 4.0 + share * (area.width() - 8.0));
    for (i, (name, value)) in names.iter().zip(&values).enumerate() {
        let top =
            text(&painter, pos2(x, area.top() + 1.0), Align2::LEFT_TOP, value, 21.0, look.text);
        let below =
            text(&painter, pos2(x, area.top() + 27.0), Align2::LEFT_TOP, name, 12.0, look.weak);
        let mut end = top.right().max(below.right());
        if let Some(value) = beside.as_ref().map(|beside| &beside[i]).filter(|_| wide) {
            let from = if i == 3 { top.right() + 50.0 } else { top.right() + 7.0 };
            let at = pos2(from, top.center().y + 1.0);
            let words = format!("B {value}");
            end = end.max(text(&painter, at, Align2::LEFT_CENTER, words, 13.0, OTHER).right());
        }
        if let Some((_, layer, expert)) = numbers.largest.filter(|_| wide && i == 3) {
            let rect = chip(&painter, pos2(top.right() + 7.0, top.center().y + 1.0), expert);
            let block = scene.made.tally.blocks.get(layer).copied().unwrap_or(0);
            let at = rect.right_center() + vec2(5.0, 0.0);
            end = end.max(
                text(&painter, at, Align2::LEFT_CENTER, format!("b{block}"), 13.0, look.weak)
                    .right(),
            );
        }
        x = if wide { end + gap } else { columns[(i + 1).min(3)] };
    }
    if !wide {
        return;
    }
    let idle = numbers.idle.to_string();
    let top = text(&painter, pos2(x, area.top() + 1.0), Align2::LEFT_TOP, idle, 21.0, look.text);
    let of = format!("of {}", numbers.of);
    text(
        &painter,
        pos2(top.right() + 8.0, top.center().y + 1.0),
        Align2::LEFT_CENTER,
        of,
        13.0,
        look.weak,
    );
    let at = pos2(x, area.top() + 27.0);
    let below = text(&painter, at, Align2::LEFT_TOP, "idle experts", 12.0, look.weak);
    let left = below.right().max(top.right() + 50.0) + 22.0;
    let bar = Rect::from_min_max(pos2(left, area.top()), pos2(left + 3.0, area.bottom()));
    painter.rect_filled(bar, 0.0, look.accent);
    let room = Rect::from_min_max(pos2(left + 15.0, area.top()), area.max);
    say(ui, room, scene);
}

/// Instead of numbers: the step has no such pass.
fn without_pass(ui: &mut Ui, area: Rect, scene: &Scene<'_>, wide: bool) {
    let Some(words) = scene.missing() else { return };
    let response = ui.interact(area, ui.scope_id().with("numbers"), Sense::hover());
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, &words));
    let room = if wide { area.width() * 0.45 } else { area.width() - 8.0 };
    let at = pos2(area.left() + 4.0, area.top() + 13.0);
    text_within(ui.painter(), at, &words, 14.0, scene.ink.look.text, room);
    if wide {
        say(ui, area.with_min_x(at.x + room + 15.0), scene);
    }
}

/// The numbers as they are written.
fn values(numbers: &Numbers) -> [String; 4] {
    [
        format!("{:.2}", numbers.capacity),
        percent(numbers.skipped),
        format!("{:.2}", numbers.evenness),
        numbers.largest.map(|(load, ..)| times(load)).unwrap_or_default(),
    ]
}

/// The sentence, with chips among its words.
fn say(ui: &mut Ui, room: Rect, scene: &Scene<'_>) {
    if room.width() < 160.0 {
        return;
    }
    ui.scope_builder(UiBuilder::new().max_rect(room).id_salt("sentence"), |ui| {
        ui.shrink_clip_rect(room.expand2(vec2(0.0, 4.0)));
        ui.spacing_mut().item_spacing = vec2(0.0, 1.0);
        ui.spacing_mut().interact_size.y = 18.0;
        ui.horizontal_wrapped(|ui| {
            for piece in sentence(&scene.made.tally, scene.now.layer) {
                match piece {
                    Piece::Words(words) => {
                        ui.label(egui::RichText::new(words).size(14.0));
                    }
                    Piece::Expert(expert) => {
                        let (rect, _) = ui.allocate_exact_size(CHIP, Sense::hover());
                        chip_in(ui.painter(), rect, expert, 4.0);
                    }
                }
            }
        });
    });
}
