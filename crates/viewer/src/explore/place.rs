//! Where each expert works, whatever the image: shares over all images of the run around this step.

use egui::{Align2, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};

use super::experts::cells;
use super::images::place_on_sheet;
use super::made::ACROSS;
use super::paint::{self, chip, percent, text};
use super::scene::{Scene, Touch, toggle_expert};
use super::stage::patch_rect;
use crate::session::Selection;
use crate::widgets::counted;

/// What the heading says beside the tabs.
pub(super) fn remark(scene: &Scene<'_>, wide: bool) -> String {
    let Some(place) = scene.made.place.as_ref() else { return String::new() };
    match place.explained.filter(|_| wide) {
        Some(share) => format!("place explains {} in block {}", percent(share), scene.block()),
        None => format!("block {}", scene.block()),
    }
}

/// Shows the shares in an area.
pub(super) fn show(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    let Some(place) = scene.made.place.as_ref() else {
        return paint::missing(ui, area, scene.missing());
    };
    let (look, grid) = (scene.ink.look, scene.grid());
    let body = area.with_max_y(area.bottom() - 18.0);
    let aspect = grid[0] as f32 / grid[1].max(1) as f32;
    for (expert, cell) in cells(body, place.shares.len(), aspect).into_iter().enumerate() {
        let shares = &place.shares[expert];
        let most = shares.iter().copied().fold(0.0, f32::max);
        let whole = cell.with_min_y(cell.top() - 20.0);
        let response = ui.interact(whole, ui.scope_id().with(("place", expert)), Sense::click());
        let name =
            format!("Expert {expert} takes a patch in up to {} of the images", percent(most));
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
        if let Some(texture) = scene.made.places.as_ref() {
            let uv = place_on_sheet(expert, place.shares.len(), ACROSS);
            paint::image(painter, cell, texture, uv);
        }
        if let Some(patch) = scene.now.patch {
            let pen = Stroke::new(1.5, egui::Color32::WHITE);
            painter.rect_stroke(patch_rect(cell, grid, patch), 0.0, pen, StrokeKind::Middle);
        }
        if scene.now.expert == Some(expert) {
            let pen = Stroke::new(1.5, look.text);
            painter.rect_stroke(cell.expand(2.0), 3.0, pen, StrokeKind::Middle);
        }
        let line = pos2(cell.left(), cell.top() - 11.0);
        chip(painter, line, expert);
        if cell.width() >= 80.0 {
            let up_to = if cell.width() >= 100.0 { "up to " } else { "" };
            let words = format!("{up_to}{}", percent(most));
            text(painter, pos2(cell.right(), line.y), Align2::RIGHT_CENTER, words, 12.0, look.weak);
        }
    }
    let images = scene.record.labels.len();
    let words = format!(
        "Share of {} × {} around noise {}.",
        counted(images, "image"),
        counted(place.samples / images.max(1), "step"),
        scene.noise(scene.now.step)
    );
    let at = area.left_bottom() - vec2(0.0, 1.0);
    text(ui.painter(), at, Align2::LEFT_BOTTOM, words, 12.0, look.weak);
}
