//! All experts of the layer at once: the image lit where each of them works.

use egui::{Align2, Painter, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};

use super::images::place_on_sheet;
use super::made::ACROSS;
use super::paint::{self, chip, hatch_over, text, times};
use super::scene::{Scene, Touch, toggle_expert};
use super::stage::patch_rect;
use crate::palette;
use crate::session::Selection;

/// Room for the line above each image.
const LINE: f32 = 20.0;
const GAP: f32 = 6.0;

/// Where each of `count` images lies, as large as they can be; the line above it is left out.
pub(super) fn cells(area: Rect, count: usize, aspect: f32) -> Vec<Rect> {
    let best = (1..=count.max(1)).map(|columns| {
        let rows = count.div_ceil(columns) as f32;
        let wide = (area.width() - GAP * (columns as f32 - 1.0)) / columns as f32;
        let high = (area.height() - (LINE + GAP) * rows + GAP) / rows;
        (columns, wide.min(high / aspect.max(1e-3)).floor())
    });
    // Full rows look better than slightly larger images.
    let merit = |(columns, width): &(usize, f32)| {
        if count.is_multiple_of(*columns) { *width } else { width * 0.88 }
    };
    let (columns, width) = best.max_by(|a, b| merit(a).total_cmp(&merit(b))).unwrap_or((1, 8.0));
    let size = vec2(width.max(4.0), (width * aspect).max(4.0));
    let between = if columns > 1 {
        ((area.width() - columns as f32 * size.x) / (columns as f32 - 1.0)).min(size.x * 0.35)
    } else {
        0.0
    };
    let place = |i: usize| {
        let x = (i % columns) as f32 * (size.x + between);
        let y = (i / columns) as f32 * (size.y + LINE + GAP) + LINE;
        Rect::from_min_size(area.min + vec2(x, y), size)
    };
    (0..count).map(place).collect()
}

/// Shows them in an area.
pub(super) fn show(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    if let Some(words) = scene.missing() {
        return paint::missing(ui, area, Some(words));
    }
    let experts = scene.record.trace.experts();
    let look = scene.ink.look;
    let share = scene.made.tally.share(scene.now.step, scene.now.layer);
    let trace = &scene.record.trace;
    let patches_of_token = trace.patches_of_token(scene.now.step as u32);
    let tokens = trace.tokens() / patches_of_token;
    for (expert, cell) in cells(area, experts, scene.aspect()).into_iter().enumerate() {
        let Some(taken) = scene.made.taken.get(expert) else { continue };
        let count = taken.iter().filter(|taken| **taken).count() / patches_of_token;
        let whole = cell.with_min_y(cell.top() - LINE);
        let response = ui.interact(whole, ui.scope_id().with(("map", expert)), Sense::click());
        let name = format!("Expert {expert}: {count} of {tokens} patches");
        response.widget_info(|| {
            WidgetInfo::selected(Role::Button, true, scene.now.expert == Some(expert), &name)
        });
        if response.hovered() {
            touch.hover.expert = Some(expert);
        }
        if response.clicked() {
            toggle_expert(selection, expert);
        }
        let painter = ui.painter();
        if let Some(texture) = scene.made.thumbs.as_ref() {
            let uv = place_on_sheet(expert, experts, ACROSS);
            paint::image(painter, cell, texture, uv);
        }
        if count == 0
            && let Some(texture) = &scene.made.hatch
        {
            hatch_over(painter, cell, texture.id(), scene.ink.hatch.gamma_multiply(0.7));
        }
        outline(painter, cell, scene.grid(), taken, expert);
        if let Some(patch) = scene.now.patch {
            let pen = Stroke::new(1.5, scene.ink.ring);
            let patch = patch_rect(cell, scene.grid(), patch);
            painter.rect_stroke(patch, 0.0, pen, StrokeKind::Middle);
        }
        if scene.now.expert == Some(expert) {
            let pen = Stroke::new(1.5, look.text);
            painter.rect_stroke(cell.expand(2.0), 3.0, pen, StrokeKind::Middle);
        }
        let line = pos2(cell.left(), cell.top() - LINE / 2.0 - 1.0);
        chip(painter, line, expert);
        if cell.width() >= 44.0 {
            let words = match count {
                0 => "none".to_owned(),
                // The load stands at the right end of the line.
                n if cell.width() >= 90.0 && tokens < 100 => format!("{n} of {tokens}"),
                n => n.to_string(),
            };
            text(painter, line + vec2(23.0, 0.0), Align2::LEFT_CENTER, words, 12.0, look.text);
        }
        let load = share.and_then(|share| share.load(expert)).filter(|load| *load > 0.0);
        if let Some(load) = load.filter(|_| cell.width() >= 90.0) {
            let at = pos2(cell.right(), line.y);
            text(painter, at, Align2::RIGHT_CENTER, times(load), 12.0, look.weak);
        }
    }
}

/// A line around what an expert takes.
fn outline(painter: &Painter, rect: Rect, grid: [usize; 2], taken: &[bool], expert: usize) {
    let [rows, columns] = grid;
    if rect.width() / (columns as f32) < 5.0 {
        return;
    }
    let pen = Stroke::new(2.0, palette::expert(expert));
    let has = |row: usize, column: usize| {
        row < rows
            && column < columns
            && taken.get(row * columns + column).copied().unwrap_or(false)
    };
    for patch in (0..taken.len()).filter(|patch| taken[*patch]) {
        let (row, column) = (patch / columns, patch % columns);
        let cell = patch_rect(rect, grid, patch);
        if !has(row, column.wrapping_sub(1)) {
            painter.vline(cell.left() + 1.0, cell.y_range(), pen);
        }
        if !has(row, column + 1) {
            painter.vline(cell.right() - 1.0, cell.y_range(), pen);
        }
        if !has(row.wrapping_sub(1), column) {
            painter.hline(cell.x_range(), cell.top() + 1.0, pen);
        }
        if !has(row + 1, column) {
            painter.hline(cell.x_range(), cell.bottom() - 1.0, pen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_all_experts_fit_without_overlapping() {
        let area = Rect::from_min_size(pos2(3.0, 4.0), vec2(466.0, 240.0));
        for (count, aspect) in [(1, 1.0), (8, 1.0), (16, 1.0), (32, 1.0), (8, 0.33), (5, 3.0)] {
            let cells = cells(area, count, aspect);
            assert_eq!(cells.len(), count);
            for (i, a) in cells.iter().enumerate() {
                let whole = a.with_min_y(a.top() - LINE);
                assert!(area.expand(0.5).contains_rect(whole), "{count} {aspect} {a:?}");
                assert!(a.width() >= 30.0 || aspect > 1.0, "{count} {aspect} {a:?}");
                for b in &cells[..i] {
                    assert!(!a.shrink(0.1).intersects(b.shrink(0.1)));
                }
            }
        }
    }
}
