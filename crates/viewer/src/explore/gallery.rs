//! The patches that an expert works on, cut out of the images of this run with their surroundings.

use egui::{Align2, Color32, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};

use super::images::place_on_sheet;
use super::paint::{self, signed, text, text_within};
use super::scene::Scene;
use super::stage::{crop, patch_rect};
use crate::palette;
use crate::session::Selection;
use crate::widgets::counted;

const GAP: f32 = 7.0;
/// Room below each crop for its name.
const NAME: f32 = 19.0;

/// Where the crops lie.
fn cells(area: Rect, aspect: f32, most: usize) -> Vec<Rect> {
    let columns = ((area.width() + GAP) / 79.0).floor().max(1.0) as usize;
    let width = ((area.width() + GAP) / columns as f32 - GAP).min(72.0);
    let size = vec2(width, width * aspect);
    let rows = ((area.height() - 18.0) / (size.y + NAME + GAP)).floor().max(1.0) as usize;
    let place = |i: usize| {
        let at = vec2(
            (i % columns) as f32 * (width + GAP),
            (i / columns) as f32 * (size.y + NAME + GAP),
        );
        Rect::from_min_size(area.min + at, size)
    };
    (0..most.min(rows * columns)).map(place).collect()
}

/// Shows them in an area; a click goes to the image and the patch.
pub(super) fn show(ui: &mut Ui, area: Rect, scene: &Scene<'_>, selection: &mut Selection) {
    if let Some(words) = scene.missing() {
        return paint::missing(ui, area, Some(words));
    }
    let look = scene.ink.look;
    let (expert, block) = (scene.now.some_expert(), scene.block());
    let picks = &*scene.made.gallery;
    if picks.is_empty() {
        let words = format!(
            "Idle: expert {expert} of block {block} takes no patch of this run at this step."
        );
        text(ui.painter(), area.min + vec2(0.0, 10.0), Align2::LEFT_TOP, words, 12.0, look.weak);
        return;
    }
    let grid = scene.grid();
    let [rows, columns] = grid;
    // A crop of 3×3 patches.
    let aspect = scene.aspect() * columns as f32 / rows.max(1) as f32;
    let images = scene.record.labels.len();
    for (i, (pick, cell)) in picks.iter().zip(cells(area, aspect, picks.len())).enumerate() {
        let whole = cell.with_max_y(cell.bottom() + NAME);
        let response = ui.interact(whole, ui.scope_id().with(("pick", i)), Sense::click());
        let name = scene.record.labels.get(pick.image).map_or("", String::as_str);
        let place = (pick.patch / columns + 1, pick.patch % columns + 1);
        let spoken = format!("{name}, row {}, column {}", place.0, place.1);
        response.widget_info(|| WidgetInfo::labeled(Role::Button, true, &spoken));
        if response.clicked() {
            selection.image = pick.image;
            selection.patch = Some(pick.patch);
        }
        let painter = ui.painter();
        if let Some(texture) = scene.made.results.as_ref() {
            let sheet = place_on_sheet(pick.image, images, images);
            let window = crop(grid, pick.patch, 1);
            let inside = |p: egui::Pos2| sheet.min + p.to_vec2() * sheet.size();
            let uv = Rect::from_min_max(inside(window.min), inside(window.max));
            paint::image(painter, cell, texture, uv);
            let patch = patch_rect(paint::WHOLE, grid, pick.patch);
            let at = |p: egui::Pos2| cell.min + (p - window.min) / window.size() * cell.size();
            let frame = Rect::from_min_max(at(patch.min), at(patch.max));
            let dark = Stroke::new(4.0, Color32::from_black_alpha(190));
            painter.rect_stroke(frame, 0.0, dark, StrokeKind::Middle);
            let pen = Stroke::new(2.0, palette::expert(expert));
            painter.rect_stroke(frame, 0.0, pen, StrokeKind::Middle);
        }
        let below = pos2(cell.left(), cell.bottom() + 3.0);
        text_within(painter, below, name, 12.0, look.weak, cell.width());
        if let Some(margin) = pick.margin {
            response
                .on_hover_text(format!("{spoken}\n{} log-odds over its threshold", signed(margin)));
        } else {
            response.on_hover_text(spoken);
        }
    }
    let how = if picks.first().is_some_and(|pick| pick.margin.is_some()) {
        "needs most"
    } else {
        "takes with the fewest other experts"
    };
    let images = counted(images, "image");
    let words = format!("The patches that expert {expert} {how}, among {images} of this run.");
    let at = area.left_bottom() - vec2(0.0, 1.0);
    text(ui.painter(), at, Align2::LEFT_BOTTOM, words, 12.0, look.weak);
}
