//! The frame of labels × experts: columns and rows, the experts' numbers above, the shuffled baseline below.

use egui::{Align2, Rect, Role, Sense, Ui, Vec2, WidgetInfo, pos2, vec2};

use super::atlas::AtlasView;
use super::paint::{hatch, percent, signed, text, text_within};
use super::scene::{Scene, Touch, toggle_expert};
use crate::session::Selection;

/// Room for the experts' numbers.
pub(super) const HEAD: f32 = 18.0;
/// Room for what shuffling gives, and the legend.
pub(super) const FOOT: f32 = 36.0;
pub(super) const GAP: f32 = 14.0;
/// Room for C.
pub(super) const CAPACITY: f32 = 32.0;
/// Height of a row for pointers and for thumbs.
const ROW: f32 = 18.0;
/// Height of a row where all fit without scrolling.
const LEAST: f32 = 16.5;
pub(super) const THUMB_ROW: f32 = 28.0;
/// Sizes of the columns of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Columns {
    pub(super) count: usize,
    pub(super) width: f32,
    pub(super) row: f32,
    /// Width of a name with its image.
    pub(super) name: f32,
    /// Width of the square of an expert.
    pub(super) cell: f32,
}

impl Columns {
    pub(super) fn of(room: Vec2, labels: usize, experts: usize, wide: bool) -> Self {
        let fits = labels as f32 * LEAST <= room.y;
        let count = if wide && !fits && experts <= 12 { 2 } else { 1 };
        let width = (room.x - GAP * (count as f32 - 1.0)) / count as f32;
        let row = match (wide, fits) {
            (false, _) => THUMB_ROW,
            (true, true) => (room.y / labels.max(1) as f32).clamp(LEAST, 26.0),
            (true, false) => ROW,
        };
        let name = (width * 0.37).min(150.0);
        let cell = ((width - name - CAPACITY) / experts.max(1) as f32).min(36.0);
        Self { count, width, row, name, cell }
    }

    pub(super) fn rows(&self, labels: usize) -> usize {
        labels.div_ceil(self.count)
    }

    /// Column and line of a rank: with two columns the last rank stands on top of the second.
    pub(super) fn place(&self, rank: usize, labels: usize) -> (usize, usize) {
        let rows = self.rows(labels);
        if rank < rows { (0, rank) } else { (1, labels - 1 - rank) }
    }
}

/// The sort key, the experts' numbers and C; a click on a number sorts by that expert.
pub(super) fn heads(
    ui: &mut Ui,
    body: Rect,
    columns: &Columns,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    let look = scene.ink.look;
    let experts = scene.record.trace.experts();
    let by = selection.expert;
    let ends = match by {
        Some(e) => [format!("expert {e}, most"), format!("expert {e}, least")],
        None => ["most compute".to_owned(), "least compute".to_owned()],
    };
    for (column, end) in ends.iter().enumerate().take(columns.count) {
        let left = body.left() + column as f32 * (columns.width + GAP);
        let y = body.top() + HEAD / 2.0 - 1.0;
        let at = pos2(left, y - 8.0);
        text_within(ui.painter(), at, end, 12.0, look.weak, columns.name - 4.0);
        for expert in 0..experts {
            let x = left + columns.name + expert as f32 * columns.cell;
            let rect = Rect::from_min_size(pos2(x, body.top()), vec2(columns.cell, HEAD));
            let id = ui.scope_id().with(("label expert", column, expert));
            let response = ui.interact(rect, id, Sense::click());
            let chosen = scene.now.expert == Some(expert);
            let name = format!("Sort labels by expert {expert}");
            response.widget_info(|| WidgetInfo::selected(Role::Button, true, chosen, &name));
            if response.hovered() {
                touch.hover.expert = Some(expert);
            }
            if response.clicked() {
                toggle_expert(selection, expert);
            }
            let margin = scene.atlas.and_then(|view| margin_words(&view, scene, expert));
            if let Some(words) = margin {
                response.on_hover_text(words);
            }
            if columns.cell >= 10.0 || chosen {
                let colour = if chosen { look.text } else { look.weak };
                let at = rect.center() - vec2(0.0, 1.0);
                text(ui.painter(), at, Align2::CENTER_CENTER, expert, 12.0, colour);
            }
        }
        let x = left + columns.name + experts as f32 * columns.cell;
        let rect = Rect::from_min_size(pos2(x, body.top()), vec2(CAPACITY, HEAD));
        let id = ui.scope_id().with(("label C", column));
        let response = ui.interact(rect, id, Sense::click());
        response.widget_info(|| {
            WidgetInfo::selected(Role::Button, true, by.is_none(), "Sort labels by C")
        });
        if response.clicked() {
            selection.expert = None;
        }
        let colour = if by.is_none() { look.text } else { look.weak };
        let at = pos2(rect.right() - 2.0, y);
        text(ui.painter(), at, Align2::RIGHT_CENTER, "C", 12.0, colour);
    }
}

/// How far an expert's decisions lie from its threshold, where the atlas says so.
fn margin_words(view: &AtlasView<'_>, scene: &Scene<'_>, expert: usize) -> Option<String> {
    let layer = view.atlas.blocks.iter().position(|block| *block == scene.block())?;
    let (mean, percentiles) = view.atlas.margin(view.band, layer, expert)?;
    let [low, _, median, _, high] = percentiles.map(signed);
    Some(format!(
        "Expert {expert} at noise {}: need − threshold in log-odds\nmedian {median}, mean {}, 5th to 95th percentile {low} to {high}",
        view.levels(),
        signed(mean)
    ))
}

/// The shuffled baseline and the legend.
pub(super) fn footer(ui: &mut Ui, area: Rect, view: &AtlasView<'_>, scene: &Scene<'_>, wide: bool) {
    let look = scene.ink.look;
    let painter = ui.painter();
    let (source, expected) = if scene.other_atlas {
        (format!("from another {} file", view.atlas.model), "")
    } else {
        (format!("noise {}", view.levels()), " (5 % expected)")
    };
    // Beside the legend there is room for one thing more, and a switch.
    let before = if wide { format!("{source}: ") } else { String::new() };
    let first = match view.heat.mean {
        Some((mean, shuffled)) => format!(
            "{before}mean |log₂ lift| {mean:.2}, shuffled {shuffled:.2}; {} beyond chance{expected}",
            percent(view.heat.beyond)
        ),
        None => format!("{before}every expert is idle"),
    };
    let line = ui.interact(
        area.with_max_y(area.top() + 16.0),
        ui.scope_id().with("chance"),
        Sense::hover(),
    );
    line.widget_info(|| WidgetInfo::labeled(Role::Label, true, &first));
    text_within(painter, area.min, &first, 12.0, look.text, area.width());
    let y = area.top() + 24.0;
    let mut x = area.left();
    for (kind, words) in [(0, "beyond chance"), (1, "within chance"), (2, "idle")] {
        let square = Rect::from_min_size(pos2(x, y - 5.0), vec2(10.0, 10.0));
        let colour = scene.ink.diverging(1.0);
        match (kind, &scene.made.hatch) {
            (0, _) => _ = painter.rect_filled(square, 0.0, colour),
            (1, _) => {
                painter.rect_filled(square, 0.0, scene.ink.diverging(0.0));
                painter.rect_filled(square.shrink(3.0), 0.0, colour);
            }
            (_, Some(texture)) => hatch(painter, square, texture.id(), scene.ink),
            _ => {}
        }
        let at = pos2(x + 14.0, y);
        x = text(painter, at, Align2::LEFT_CENTER, words, 12.0, look.weak).right() + 12.0;
    }
    let images = format!("{} images", view.atlas.images);
    let images = if wide { images } else { format!("{source}, {images}") };
    let at = if wide { pos2(x, y) } else { pos2(area.left(), y + 16.0) };
    let words = text(painter, at, Align2::LEFT_CENTER, images, 12.0, look.weak);
    tables(ui, words, area, view);
}

/// Selects the table where there are several. Kept in egui's memory; links do not have it.
fn tables(ui: &mut Ui, after: Rect, area: Rect, view: &AtlasView<'_>) {
    if view.atlas.tables.len() < 2 {
        return;
    }
    let width = (62.0 * view.atlas.tables.len() as f32).min(area.right() - after.right() - 8.0);
    let rect = Rect::from_min_max(
        pos2(area.right() - width, after.center().y - 11.0),
        pos2(area.right(), after.center().y + 11.0),
    );
    let names = view.atlas.tables.iter().map(|table| table.name.as_str()).enumerate();
    let choices: Vec<_> = names.map(|(i, name)| (i, name, "Labels of this table")).collect();
    let mut table = view.table;
    super::switch_in(ui, rect, "table", &mut table, &choices);
    if table != view.table {
        ui.ctx().data_mut(|data| data.insert_temp(table_id(), table));
    }
}

/// Where egui keeps the table that is shown.
pub(super) fn table_id() -> egui::Id {
    egui::Id::unique("table of the atlas")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_and_show_both_ends_on_top() {
        for (room, labels, experts, wide) in [
            (vec2(458.0, 190.0), 48, 8, true),
            (vec2(458.0, 190.0), 10, 8, true),
            (vec2(458.0, 190.0), 1000, 32, true),
            (vec2(346.0, 300.0), 48, 8, false),
            (vec2(346.0, 300.0), 5, 32, false),
        ] {
            let columns = Columns::of(room, labels, experts, wide);
            let used = columns.name + columns.cell * experts as f32 + CAPACITY;
            assert!(used <= columns.width + 0.1 && columns.cell > 2.0, "{columns:?}");
            let all = columns.width * columns.count as f32 + GAP * (columns.count - 1) as f32;
            assert!(all <= room.x + 0.1);
            let places: std::collections::BTreeSet<_> =
                (0..labels).map(|rank| columns.place(rank, labels)).collect();
            assert_eq!(places.len(), labels, "every rank has a place of its own");
            assert!(
                places.iter().all(|(c, line)| *c < columns.count && *line < columns.rows(labels))
            );
        }
        let two = Columns::of(vec2(458.0, 190.0), 5, 8, true);
        assert_eq!(two.count, 1);
        let two = Columns::of(vec2(458.0, 190.0), 21, 8, true);
        assert_eq!((two.count, two.place(0, 21), two.place(20, 21)), (2, (0, 0), (1, 0)));
        assert_eq!((two.place(10, 21), two.place(11, 21)), ((0, 10), (1, 9)));
    }
}
