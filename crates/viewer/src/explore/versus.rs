//! The card that compares: where the images of A and B differ and by how much, and what B is to be.

use egui::{Align2, ComboBox, Rect, Role, Sense, Ui, WidgetInfo, pos2, vec2};

use super::colours::OTHER;
use super::data::differences::{Difference, Setting, differences};
use super::paint::{self, WHOLE, signed_fine, text, text_within};
use super::pair::GAIN;
use super::scene::{Other, Part, Scene, Touch, Wish};
use super::{inside, put};

/// Height of a row of controls.
const ROW: f32 = 28.0;

/// Shows it in an area.
pub(super) fn show(ui: &mut Ui, area: Rect, scene: &Scene<'_>, touch: &mut Touch) {
    let rest = if let Some(other) = scene.other {
        let most = if area.width() > 400.0 { 190.0 } else { 150.0 };
        let high = (area.height() - 2.0 * ROW - 14.0).clamp(90.0, most);
        let above = area.with_max_y(area.top() + high);
        numbers(ui, above, scene, &other);
        let corner = pos2(area.left(), above.bottom() + 6.0);
        let row = Rect::from_min_size(corner, vec2(area.width(), ROW));
        keep(ui, row, scene, touch);
        area.with_min_y(row.bottom() + 8.0)
    } else {
        let words = if scene.part == Part::KeptAsB {
            "This run is B. Draw another one, with any settings or another model, or choose an earlier one in Draw: it is shown beside this one."
        } else {
            "Two runs side by side, step by step. Keep this run as B (B) and draw another one, or draw this one again with one change."
        };
        let room = Rect::from_min_size(area.min, vec2(area.width(), 54.0));
        inside(ui, room, "offer", |ui| {
            ui.add(egui::Label::new(egui::RichText::new(words).size(14.0)).wrap());
        });
        let row = Rect::from_min_size(area.min + vec2(0.0, 62.0), vec2(area.width(), ROW));
        keep(ui, row, scene, touch);
        area.with_min_y(row.bottom() + 14.0)
    };
    if scene.can_draw {
        change(ui, rest.with_max_y(rest.top() + ROW), scene, touch);
    }
}

/// Where the images differ, and numbers beside that.
fn numbers(ui: &mut Ui, area: Rect, scene: &Scene<'_>, other: &Other<'_>) {
    let look = scene.ink.look;
    let made = other.scene.made;
    let painter = ui.painter_at(area);
    let mut left = area.left();
    if let Some(texture) = made.difference.as_ref() {
        let high = area.height() - 18.0;
        let width = (high / scene.aspect().max(1e-3)).min(area.width() * 0.36);
        let place = Rect::from_min_size(area.min, vec2(width, width * scene.aspect()));
        paint::image(&painter, place, texture, WHOLE);
        let below = pos2(place.left(), place.bottom() + 3.0);
        let words = format!("|A − B|, ×{GAIN:.0}");
        text(&painter, below, Align2::LEFT_TOP, words, 12.0, look.weak);
        left = place.right() + 14.0;
    }
    let mut lines: Vec<(String, String)> = Vec::new();
    let grey = |rms: Option<f32>| rms.map_or("–".to_owned(), |rms| format!("{rms:.1}"));
    if made.apart.all.is_some() {
        let name = "RMS of this image, of 255".to_owned();
        lines.push((name, grey(made.apart.now)));
        lines.push(("RMS of all results, of 255".to_owned(), grey(made.apart.all)));
    }
    let now = (scene.made.tally.capacity(scene.now.step), other.capacity(scene.now.step));
    if let (Some(a), Some(b)) = now {
        lines.push(("C at this step, A − B".to_owned(), signed_fine(a - b)));
    }
    let run = (scene.record.trace.capacity(), other.scene.record.trace.capacity());
    if let (Some(a), Some(b)) = run {
        lines.push(("C of the run, A − B".to_owned(), signed_fine(a - b)));
    }
    let spoken: Vec<String> =
        lines.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let place = ui.interact(area, ui.scope_id().with("versus"), Sense::hover());
    place.widget_info(|| WidgetInfo::labeled(Role::Label, true, spoken.join("; ")));
    let mut y = area.top();
    for (name, value) in &lines {
        text(&painter, pos2(left, y), Align2::LEFT_TOP, name, 12.0, look.weak);
        let at = pos2((left + 220.0).min(area.right() - 2.0), y - 1.0);
        text(&painter, at, Align2::RIGHT_TOP, value, 14.0, look.text);
        y += 19.0;
    }
    y += 5.0;
    let room = area.right() - left;
    for line in listed(scene, other) {
        if y + 14.0 > area.bottom() {
            break;
        }
        text_within(&painter, pos2(left, y), &line, 12.0, OTHER, room);
        y += 16.0;
    }
}

/// What B has other than A, a line each.
fn listed(scene: &Scene<'_>, other: &Other<'_>) -> Vec<String> {
    let found = differences(scene.record, other.scene.record);
    if found.is_empty() {
        return vec!["no setting differs".to_owned()];
    }
    let line = |Difference { name, a, b }: &Difference| format!("B: {name} {b} (A: {a})");
    let mut lines: Vec<String> = found.iter().map(line).collect();
    if scene.now.image >= other.scene.record.labels.len() {
        lines.insert(0, format!("B has no image {}", scene.now.image + 1));
    }
    lines
}

/// Keeps this run as B, lets go of B, lets both change places.
fn keep(ui: &mut Ui, row: Rect, scene: &Scene<'_>, touch: &mut Touch) {
    let size = vec2((row.width().min(480.0) - 8.0) / 2.0, row.height());
    let first = Rect::from_min_size(row.min, size);
    let words = if scene.other.is_some() || scene.part == Part::KeptAsB {
        "Let go of B (B)"
    } else {
        "Keep this run as B (B)"
    };
    if put(ui, first, super::centred(words).truncate().min_size(size)).clicked() {
        touch.wish = Some(Wish::KeepAsB);
    }
    if scene.other.is_some() {
        let second = first.translate(vec2(size.x + 8.0, 0.0));
        if put(ui, second, super::centred("Swap A and B").truncate().min_size(size)).clicked() {
            touch.wish = Some(Wish::Swap);
        }
    }
}

/// The change with which this run is drawn again as B: a setting, its value, a button.
fn change(ui: &mut Ui, row: Rect, scene: &Scene<'_>, touch: &mut Touch) {
    let config = &scene.record.config;
    let all = Setting::all(config);
    if !all.contains(&touch.change.setting) {
        touch.change.setting = all[0];
    }
    let width = ((row.width().min(480.0) - 16.0) / 3.0).floor();
    let cell = |i: usize| {
        let left = row.left() + i as f32 * (width + 8.0);
        Rect::from_min_size(pos2(left, row.top()), vec2(width, row.height()))
    };
    let combo = |ui: &mut Ui, i: usize, name: &str, chosen: &str, pick: &mut dyn FnMut(&mut Ui)| {
        inside(ui, cell(i), name, |ui| {
            ui.spacing_mut().interact_size.y = row.height();
            let combo = ComboBox::from_id_salt(name).selected_text(chosen).width(width).truncate();
            combo.show_ui(ui, |ui| pick(ui)).response.accessible_name(format!("{name}: {chosen}"));
        });
    };
    let before = touch.change.setting;
    let chosen = before.name(config);
    combo(ui, 0, "Compare with", &chosen, &mut |ui| {
        for setting in &all {
            let setting_name = setting.name(config);
            ui.selectable_value(&mut touch.change.setting, *setting, setting_name);
        }
    });
    if touch.change.setting != before {
        touch.change.value = 0;
    }
    let values = touch.change.setting.values(scene.record);
    touch.change.value = touch.change.value.min(values.len().saturating_sub(1));
    let chosen = values.get(touch.change.value).map_or("none", |(name, _)| name.as_str());
    combo(ui, 1, "Value", chosen, &mut |ui| {
        for (i, (name, _)) in values.iter().enumerate() {
            ui.selectable_value(&mut touch.change.value, i, name);
        }
    });
    let busy = scene.busy || !scene.record.is_complete();
    let words = if busy { "Drawing …" } else { "Draw as B" };
    let button = super::centred(words).truncate().min_size(cell(2).size());
    let hint = "Draws the same run with this change in the background";
    if put(ui, cell(2), button).on_hover_text(hint).clicked() && !busy {
        touch.wish = Some(Wish::Compare);
    }
}
