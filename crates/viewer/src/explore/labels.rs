//! Who specialises? Labels × experts at the noise level on screen, from the atlas of the model.
//!
//! A full square is a lift above the 95th percentile with shuffled labels; a small square is not. Rows are sorted by the
//! selected expert, or by C: with two columns, the highest start on the left and the lowest on the right.

use egui::{Align2, Painter, Rect, Role, ScrollArea, Sense, Ui, WidgetInfo, pos2, vec2};

use super::atlas::AtlasView;
use super::data::labels::Row;
use super::labels_frame::{CAPACITY, Columns, FOOT, GAP, HEAD, THUMB_ROW, footer, heads};
use super::paint::{self, hatch, text, text_within};
use super::scene::{Scene, Touch, Wish, toggle_expert};
use super::survey;
use crate::session::Selection;

/// log₂ at the ends of the scale.
const MOST: f32 = 2.0;

/// Height that all rows need in one column.
pub(super) fn height(scene: &Scene<'_>) -> f32 {
    let Some(view) = scene.atlas else { return survey::HEIGHT };
    let rows = view.heat.rows.len();
    HEAD + THUMB_ROW * rows as f32 + FOOT + 30.0
}

/// What the heading says beside the tabs.
pub(super) fn remark(scene: &Scene<'_>) -> String {
    scene.atlas.map_or_else(String::new, |view| format!("noise {}, ÷4 to ×4", view.levels()))
}

/// Shows the table in an area.
pub(super) fn show(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
    wide: bool,
) {
    let Some(view) = scene.atlas else { return survey::show(ui, area, scene, touch) };
    let experts = view.atlas.experts;
    let foot = if wide { FOOT } else { FOOT + 16.0 };
    let body = area.with_max_y(area.bottom() - foot);
    let rows = Rect::from_min_max(body.min + vec2(0.0, HEAD), body.max);
    // The bar of the scroll area lies over the right end.
    let room = vec2(rows.width() - 10.0, rows.height());
    let columns = Columns::of(room, view.heat.rows.len(), experts, wide);
    heads(ui, body, &columns, scene, selection, touch);
    if wide {
        super::inside(ui, rows, "labels", |ui| {
            ScrollArea::vertical().id_salt("labels").auto_shrink(false).show(ui, |ui| {
                let lines = columns.rows(view.heat.rows.len()) as f32;
                let (_, rect) = ui.allocate_space(vec2(room.x, lines * columns.row));
                table(ui, rect, &columns, &view, scene, selection, touch);
            });
        });
    } else {
        table(ui, rows, &columns, &view, scene, selection, touch);
    }
    footer(ui, area.with_min_y(body.bottom() + 4.0), &view, scene, wide);
}

/// All rows. A click on a name draws its label, a click on a square selects its expert.
fn table(
    ui: &mut Ui,
    area: Rect,
    columns: &Columns,
    view: &AtlasView<'_>,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    let rows = &view.heat.rows;
    let line = |rank: usize| {
        let (column, line) = columns.place(rank, rows.len());
        let at = vec2(column as f32 * (columns.width + GAP), line as f32 * columns.row);
        Rect::from_min_size(area.min + at, vec2(columns.width, columns.row))
    };
    let grid = ui.interact(area, ui.scope_id().with("label cells"), Sense::click());
    let what = format!("{} labels by {} experts", rows.len(), view.atlas.experts);
    grid.widget_info(|| WidgetInfo::labeled(Role::Image, true, &what));
    let mut words = None;
    for (rank, row) in rows.iter().enumerate() {
        let rect = line(rank);
        if !ui.is_rect_visible(rect) {
            continue;
        }
        name(ui, rect.with_max_x(rect.left() + columns.name), row, view, scene, touch);
        let left = rect.left() + columns.name;
        let squares = rect.with_min_x(left).with_max_x(left + columns.cell * row.log2.len() as f32);
        paint_row(ui.painter(), squares, columns.cell, row, view, scene);
        let at = pos2(squares.right() + CAPACITY - 2.0, rect.center().y);
        let capacity = format!("{:.2}", row.capacity);
        text(ui.painter(), at, Align2::RIGHT_CENTER, capacity, 12.0, scene.ink.look.weak);
        let pointer = grid.hover_pos().filter(|pos| squares.contains(*pos));
        if let Some(pos) = pointer {
            let expert = ((pos.x - left) / columns.cell.max(0.1)) as usize;
            let expert = expert.min(row.log2.len().saturating_sub(1));
            touch.hover.expert = Some(expert);
            words = Some(cell_words(row, expert, view, scene));
            if grid.clicked() {
                toggle_expert(selection, expert);
            }
        }
    }
    if let Some(words) = words {
        grid.on_hover_text_at_pointer(words);
    }
}

/// The row of the image on screen.
fn is_shown(row: &Row, view: &AtlasView<'_>, scene: &Scene<'_>) -> bool {
    let table = &view.atlas.tables[view.table];
    let place = scene.record.config.labels.iter().position(|known| known.name == table.name);
    let rows = place.and_then(|place| scene.record.settings.labels.get(place));
    rows.and_then(|rows| rows.get(scene.now.image)) == table.rows.get(row.label) && rows.is_some()
}

/// A label's image and name: a button that draws it.
fn name(
    ui: &mut Ui,
    rect: Rect,
    row: &Row,
    view: &AtlasView<'_>,
    scene: &Scene<'_>,
    touch: &mut Touch,
) {
    let look = scene.ink.look;
    let table = &view.atlas.tables[view.table];
    let label = table.labels[row.label].as_str();
    let id = ui.scope_id().with(("label", view.table, row.label));
    let response = ui.interact(rect, id, Sense::click());
    let spoken = format!("Draw {label}: C {:.2}", row.capacity);
    response.widget_info(|| WidgetInfo::labeled(Role::Button, scene.can_draw, &spoken));
    let painter = ui.painter();
    let lit = response.hovered() || response.has_focus();
    if lit {
        painter.rect_filled(rect, 3.0, look.control);
    }
    let mut left = rect.left() + 1.0;
    if let Some((texture, uv)) = view.image(row.label) {
        let side = (rect.height() - 1.0).min(24.0);
        let at = pos2(left, rect.center().y - side / 2.0);
        paint::image(painter, Rect::from_min_size(at, vec2(side, side)), texture, uv);
        left += side + 4.0;
    }
    let colour = if is_shown(row, view, scene) { look.accent } else { look.text };
    let at = pos2(left, rect.center().y - 8.0);
    text_within(painter, at, label, 12.0, colour, rect.right() - left - 4.0);
    if response.clicked() && scene.can_draw {
        touch.wish = Some(Wish::DrawLabel(view.table, row.label));
    }
    let capacity = view.atlas.capacity(table, row.label, None).unwrap_or(0.0);
    let images = table.images[row.label];
    let error = table.spread[row.label] / (images.max(1) as f32).sqrt();
    response.on_hover_ui(|ui| {
        ui.label(format!(
            "{label}: C {:.2} at noise {}, {capacity:.2} ± {error:.2} over all levels, {images} images{}",
            row.capacity,
            view.levels(),
            if scene.can_draw { "\nclick: draw it" } else { "" }
        ));
    });
}

/// The squares of a label.
fn paint_row(
    painter: &Painter,
    squares: Rect,
    cell: f32,
    row: &Row,
    view: &AtlasView<'_>,
    scene: &Scene<'_>,
) {
    for (expert, &log2) in row.log2.iter().enumerate() {
        let left = squares.left() + expert as f32 * cell;
        let gap = if cell >= 6.0 { 1.5 } else { 0.0 };
        let square = Rect::from_min_max(
            pos2(left, squares.top() + 0.5),
            pos2(left + cell - gap, squares.bottom() - 1.0),
        );
        if view.heat.idle.get(expert).copied().unwrap_or(true) {
            if let Some(texture) = &scene.made.hatch {
                hatch(painter, square, texture.id(), scene.ink);
            }
            continue;
        }
        let colour = scene.ink.diverging(log2 / MOST);
        if row.beyond[expert] {
            painter.rect_filled(square, 0.0, colour);
        } else {
            painter.rect_filled(square, 0.0, scene.ink.diverging(0.0));
            let inner = Rect::from_center_size(square.center(), square.size() * 0.42);
            painter.rect_filled(inner, 0.0, colour);
        }
    }
}

fn cell_words(row: &Row, expert: usize, view: &AtlasView<'_>, scene: &Scene<'_>) -> String {
    let table = &view.atlas.tables[view.table];
    let name = format!("{}, block {}, expert {expert}", table.labels[row.label], scene.block());
    if view.heat.idle.get(expert).copied().unwrap_or(true) {
        return format!("{name}\nidle at this noise level");
    }
    let log2 = row.log2[expert];
    let times = log2.exp2();
    let verdict = if row.beyond[expert] { "above" } else { "not above" };
    format!(
        "{name}\n×{times:.2} its usual share of the work\n{verdict} the 95th percentile with shuffled labels"
    )
}
