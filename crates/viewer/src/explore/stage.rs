//! The image of one step with the routing of one layer over it, patch by patch.

use egui::{Align2, Color32, Painter, Pos2, Rect, Sense, Shape, Stroke, StrokeKind, Ui, vec2};
use egui::{Role, WidgetInfo};

use super::colours::OTHER;
use super::data::differences::differences;
use super::paint::{self, Hatched, WHOLE, chip_in, hatch, ring, text, text_over, text_within};
use super::pattern::Patterned;
use super::scene::{Other, Part, Scene, Touch};
use crate::palette;
use crate::session::{Overlay, Selection};
use crate::views::token_map;

/// Patches narrower than this have no digit, and than that no second corner.
const DIGIT: f32 = 22.0;
const CORNER: f32 = 14.0;

/// The overlays available for this run.
pub(super) fn overlays(scene: &Scene<'_>) -> Vec<(Overlay, &'static str, &'static str)> {
    let mut choices = vec![(Overlay::Image, "Image", "The model's prediction of the final image")];
    if scene.made.tally.is_empty() {
        return choices;
    }
    choices.push((Overlay::Who, "Who", "The strongest expert of each patch in this block"));
    choices.push((Overlay::HowMany, "How many", "Number of experts over all blocks"));
    // Where a step has no such pass, what was chosen stays chosen.
    let stays = scene.missing().is_some() && scene.now.overlay == Overlay::Margin;
    if scene.made.histogram.is_some() || stays {
        let hint = "Distance of each patch from the threshold of the selected expert, in \
            log-odds";
        choices.push((Overlay::Margin, "Margin", hint));
    }
    choices
}

/// Where patch `patch` lies on an image in `rect`.
pub(super) fn patch_rect(rect: Rect, grid: [usize; 2], patch: usize) -> Rect {
    let [rows, columns] = grid.map(|n| n.max(1));
    let size = rect.size() / vec2(columns as f32, rows as f32);
    let at = vec2((patch % columns) as f32, (patch / columns) as f32);
    Rect::from_min_size(rect.min + at * size, size)
}

/// The patch at a place on an image in `rect`.
pub(super) fn patch_at(rect: Rect, grid: [usize; 2], pos: Pos2) -> Option<usize> {
    if !rect.contains(pos) {
        return None;
    }
    let share = (pos - rect.min) / rect.size();
    let place = |share: f32, of: usize| ((share * of as f32) as usize).min(of.saturating_sub(1));
    Some(place(share.y, grid[0]) * grid[1] + place(share.x, grid[1]))
}

/// As large as it can be with the image's proportions, at the top left of an area.
pub(super) fn fit(area: Rect, aspect: f32) -> Rect {
    let width = area.width().min(area.height() / aspect.max(1e-3));
    Rect::from_min_size(area.min, vec2(width, width * aspect))
}

/// Shows the image in `rect`. Hovering previews a patch, a click pins or releases it.
pub(super) fn show(
    ui: &mut Ui,
    rect: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
    held: bool,
) -> Option<Pos2> {
    let sense = if held { Sense::click_and_drag() } else { Sense::click() };
    let response = ui.interact(rect, ui.scope_id().with("explore stage"), sense);
    let name = described(scene);
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, &name));
    paint(ui.painter(), rect, scene);
    let grid = scene.grid();
    let at = |pos: Option<Pos2>| pos.and_then(|pos| patch_at(rect, grid, pos));
    if held {
        // A finger previews while it is down and keeps the patch when it goes.
        let down = response.is_pointer_button_down_on();
        let pos = response.interact_pointer_pos();
        if let Some(patch) = at(pos).filter(|_| down) {
            touch.hover.patch = Some(patch);
            selection.patch = Some(patch);
            return pos;
        }
        return None;
    }
    if let Some(patch) = at(response.hover_pos()) {
        touch.hover.patch = Some(patch);
        if response.clicked() {
            let locked = selection.patch == Some(patch);
            selection.patch = if locked { None } else { Some(patch) };
            if locked {
                touch.hover.patch = None;
            }
        }
    }
    None
}

/// Shows the image of run B beside that of A; the patch is chosen on either, where both have the same patches.
pub(super) fn show_b(
    ui: &mut Ui,
    rect: Rect,
    scene: &Scene<'_>,
    other: &Other<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
    held: bool,
) {
    if scene.now.image >= other.scene.record.labels.len() {
        let ink = scene.ink;
        if let Some(texture) = &scene.made.hatch {
            hatch(ui.painter(), rect, texture.id(), ink);
        }
        let words = format!("B has no image {}", scene.now.image + 1);
        let veil = ink.look.well;
        return text_over(ui.painter(), rect.center(), words, 12.0, ink.look.text, veil);
    }
    let same = scene.grid() == other.scene.grid();
    let (mut alone, mut ignored) = (*selection, Touch::default());
    super::inside(ui, rect, "run B", |ui| {
        let (selection, touch) = if same { (selection, touch) } else { (&mut alone, &mut ignored) };
        show(ui, rect, other.scene, selection, touch, held);
    });
}

/// The images of A and B, with what each run is below them; returns where a finger is held on A.
pub(super) fn side_by_side(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    other: &Other<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
    held: bool,
) -> Option<Pos2> {
    let gap = if held { 8.0 } else { 14.0 };
    let size = vec2((area.width() - gap) / 2.0, area.height() - 19.0);
    let left = fit(Rect::from_min_size(area.min, size), scene.aspect());
    let place = Rect::from_min_size(area.min + vec2(size.x + gap, 0.0), size);
    let right = fit(place, other.scene.aspect());
    let finger = show(ui, left, scene, selection, touch, held);
    show_b(ui, right, scene, other, selection, touch, held);
    let [a, b] = captions(scene, other);
    let y = left.bottom().max(right.bottom()) + 4.0;
    let look = scene.ink.look;
    text_within(ui.painter(), egui::pos2(left.left(), y), &a, 12.0, look.text, size.x);
    text_within(ui.painter(), egui::pos2(right.left(), y), &b, 12.0, OTHER, size.x);
    finger
}

/// What A and B are, in a few words each: the first setting that they differ in.
fn captions(scene: &Scene<'_>, other: &Other<'_>) -> [String; 2] {
    let found = differences(scene.record, other.scene.record);
    let Some(first) = found.first() else {
        return ["A".to_owned(), "B, the same settings".to_owned()];
    };
    let more =
        if found.len() > 1 { format!(" and {} more", found.len() - 1) } else { String::new() };
    let noise = other.scene.noise(other.scene.now.step);
    let at = if noise == scene.noise(scene.now.step) {
        String::new()
    } else {
        format!(", noise {noise}")
    };
    [format!("A: {} {}", first.name, first.a), format!("B: {} {}{more}{at}", first.name, first.b)]
}

/// Description of the image and the selection on it.
fn described(scene: &Scene<'_>) -> String {
    let noise = scene.noise(scene.now.step);
    let run = if scene.part == Part::Beside { "B, image" } else { "Image" };
    let mut name = format!("{run} at noise {noise}: {}", scene.name());
    let grid = scene.record.trace.grid_at(scene.now.step as u32);
    if grid != scene.grid() {
        name = format!("{name}, in {} by {} tokens", grid[0], grid[1]);
    }
    if let (Some((row, column)), Some(patch)) = (scene.patch_place(), scene.now.patch)
        && let Some(layer) = scene.lens().layer(scene.now.step, scene.now.layer)
    {
        let token = scene.now.image * scene.record.trace.tokens() + patch;
        let who = token_map::sentence(layer.mask(token));
        let block = scene.block();
        name = format!("{name}. Row {row}, column {column}: {who} in block {block}");
    }
    name
}

fn paint(painter: &Painter, rect: Rect, scene: &Scene<'_>) {
    let is_plain = scene.made.tally.is_empty() || scene.missing().is_some();
    let overlay = if is_plain { Overlay::Image } else { scene.now.overlay };
    let texture = match overlay {
        Overlay::Image => scene.made.plain_image.as_ref(),
        _ => scene.made.stage.as_ref(),
    };
    match texture {
        Some(texture) => paint::image(painter, rect, texture, WHOLE),
        None => {
            painter.rect_filled(rect, 4.0, scene.ink.look.well);
        }
    }
    let grid = scene.grid();
    match overlay {
        Overlay::Image => {}
        Overlay::Who => who(painter, rect, scene, grid),
        Overlay::HowMany => how_many(painter, rect, scene, grid),
        Overlay::Margin => margins(painter, rect, scene, grid),
    }
    if overlay != Overlay::Image {
        lattice(painter, rect, scene.record.trace.grid_at(scene.now.step as u32));
    }
    if let Some(patch) = scene.now.patch {
        ring(painter, patch_rect(rect, grid, patch), 2.0);
    }
}

/// Lines between patches, where patches are wide enough.
fn lattice(painter: &Painter, rect: Rect, [rows, columns]: [usize; 2]) {
    let size = rect.size() / vec2(columns as f32, rows as f32);
    if size.min_elem() < 8.0 {
        return;
    }
    let pen = Stroke::new(1.0, Color32::from_rgba_unmultiplied(11, 13, 17, 110));
    for column in 0..=columns {
        painter.vline(rect.left() + column as f32 * size.x, rect.y_range(), pen);
    }
    for row in 0..=rows {
        painter.hline(rect.x_range(), rect.top() + row as f32 * size.y, pen);
    }
}

fn who(painter: &Painter, rect: Rect, scene: &Scene<'_>, grid: [usize; 2]) {
    let (ink, now) = (scene.ink, &scene.now);
    let dimmed = now.expert.filter(|_| now.points_at_expert);
    let mut nobody = Hatched::new(scene.made.hatch.as_ref(), ink);
    let mut patterned: Vec<Option<Patterned>> = Vec::new();
    if let Some(patterns) = &scene.made.patterns {
        patterned.extend((0..scene.made.tally.experts).map(|expert| patterns.shape(expert)));
    }
    let mut pattern = |expert: usize, add: &dyn Fn(&mut Patterned)| {
        if let Some(Some(shape)) = patterned.get_mut(expert) {
            add(shape);
        }
    };
    let cell = |patch: usize| patch_rect(rect, grid, patch);
    let of_tokens = scene.record.trace.grid_at(scene.now.step as u32);
    // Colours first: patterns, numbers and hatching lie over them.
    for (patch, taken) in scene.made.who.iter().enumerate() {
        let cell = cell(patch);
        let Some(first) = taken.first.map(usize::from) else {
            nobody.add(cell);
            continue;
        };
        if cell.width() < DIGIT {
            pattern(first, &|shape| shape.add_rect(cell));
        }
        let second = taken.second.map(usize::from);
        let has_corner = cell.width() >= CORNER && is_last_of_token(grid, of_tokens, patch);
        if let Some(second) = second.filter(|_| has_corner) {
            let side = cell.size().min_elem() / 2.0;
            let corner = [cell.max, cell.max - vec2(0.0, side), cell.max - vec2(side, 0.0)];
            let colour = palette::expert(second);
            painter.add(Shape::convex_polygon(corner.to_vec(), colour, Stroke::NONE));
            pattern(second, &|shape| shape.add_triangle(corner));
        }
    }
    patterned.into_iter().flatten().for_each(|shape| shape.paint(painter));
    nobody.paint(painter);
    for (patch, taken) in scene.made.who.iter().enumerate() {
        let (Some(first), cell) = (taken.first, cell(patch)) else { continue };
        if cell.width() >= DIGIT {
            let side = if cell.width() > 33.0 { 15.0 } else { 13.0 };
            let chip = Rect::from_min_size(cell.min, vec2(side, side));
            chip_in(painter, chip, usize::from(first), 0.0);
        }
        let takes = |e: usize| {
            scene.made.taken.get(e).and_then(|map| map.get(patch)).copied().unwrap_or(false)
        };
        if dimmed.is_some_and(|expert| !takes(expert)) {
            painter.rect_filled(cell, 0.0, ink.look.well.gamma_multiply(0.7));
        }
    }
}

/// Whether a patch is in the lower right corner of its token; `tokens` are rows and columns of tokens.
fn is_last_of_token(grid: [usize; 2], tokens: [usize; 2], patch: usize) -> bool {
    let place = [patch / grid[1], patch % grid[1]];
    (0..2).all(|side| (place[side] + 1).is_multiple_of((grid[side] / tokens[side].max(1)).max(1)))
}

fn how_many(painter: &Painter, rect: Rect, scene: &Scene<'_>, grid: [usize; 2]) {
    let mut nobody = Hatched::new(scene.made.hatch.as_ref(), scene.ink);
    let counts = || scene.made.many.iter().enumerate();
    for (patch, _) in counts().filter(|(_, count)| **count == 0) {
        nobody.add(patch_rect(rect, grid, patch));
    }
    nobody.paint(painter);
    if rect.width() / (grid[1].max(1) as f32) < DIGIT {
        return;
    }
    for (patch, count) in counts() {
        let cell = patch_rect(rect, grid, patch);
        let chip = Rect::from_min_size(cell.min, vec2(14.0, 13.0));
        painter.rect_filled(chip, 0.0, Color32::from_black_alpha(176));
        let colour = Color32::from_gray(0xEA);
        text(painter, chip.center(), Align2::CENTER_CENTER, count, 12.0, colour);
    }
}

fn margins(painter: &Painter, rect: Rect, scene: &Scene<'_>, grid: [usize; 2]) {
    let Some(margins) = scene.made.margins.as_ref() else { return };
    for (patch, &margin) in margins.iter().enumerate() {
        let cell = patch_rect(rect, grid, patch);
        if cell.width() < DIGIT || margin.abs() >= 5.0 {
            continue;
        }
        let colour =
            if margin > 0.0 { super::colours::OVER } else { Color32::from_rgb(0xB9, 0xCB, 0xFF) };
        let veil = Color32::from_rgba_unmultiplied(11, 13, 17, 200);
        text_over(painter, cell.center(), paint::signed(margin), 12.0, colour, veil);
    }
}

/// The image without routing, enlarged around the selected patch.
pub(super) fn loupe(painter: &Painter, rect: Rect, scene: &Scene<'_>) {
    let (Some(texture), Some(patch)) = (scene.made.plain_image.as_ref(), scene.now.patch) else {
        return;
    };
    let grid = scene.grid();
    let window = crop(grid, patch, 1);
    paint::image(painter, rect, texture, window);
    let cell = patch_rect(WHOLE, grid, patch);
    let at = |p: Pos2| rect.min + (p - window.min) / window.size() * rect.size();
    let shown = Rect::from_min_max(at(cell.min), at(cell.max));
    painter.rect_stroke(shown, 0.0, Stroke::new(2.0, Color32::WHITE), StrokeKind::Middle);
}

/// The part of an image around a patch, `reach` patches to each side, shifted to stay inside.
pub(super) fn crop(grid: [usize; 2], patch: usize, reach: usize) -> Rect {
    let [rows, columns] = grid.map(|n| n.max(1));
    let across = (2 * reach + 1).min(columns);
    let down = (2 * reach + 1).min(rows);
    let left = (patch % columns).saturating_sub(reach).min(columns - across);
    let top = (patch / columns).saturating_sub(reach).min(rows - down);
    let unit = vec2(1.0 / columns as f32, 1.0 / rows as f32);
    let corner = vec2(left as f32, top as f32) * unit;
    Rect::from_min_size(corner.to_pos2(), vec2(across as f32, down as f32) * unit)
}

/// What the stage shows, in a few words.
pub(super) fn legend(scene: &Scene<'_>) -> String {
    match scene.now.overlay {
        _ if scene.missing().is_some() => "without routing".to_owned(),
        Overlay::Who => "corner: second; hatched: no expert".to_owned(),
        Overlay::HowMany => "number: experts over all blocks".to_owned(),
        Overlay::Margin => {
            format!("expert {}: distance to its threshold", scene.now.some_expert())
        }
        Overlay::Image if super::data::film::is_expected(scene.record) => {
            "the model's prediction of the image".to_owned()
        }
        Overlay::Image => "the sample after this step".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use egui::pos2;

    use super::*;

    #[test]
    fn the_corner_of_a_token_is_in_its_last_patch() {
        let last = |tokens| -> Vec<usize> {
            (0..16).filter(|&patch| is_last_of_token([4, 4], tokens, patch)).collect()
        };
        assert_eq!(last([2, 2]), [5, 7, 13, 15]);
        assert_eq!(last([4, 4]).len(), 16);
    }

    #[test]
    fn patches_are_found_where_they_are_painted() {
        let rect = Rect::from_min_size(pos2(10.0, 20.0), vec2(300.0, 100.0));
        let grid = [2, 6];
        for patch in 0..12 {
            let cell = patch_rect(rect, grid, patch);
            assert_eq!(patch_at(rect, grid, cell.center()), Some(patch));
        }
        assert_eq!(patch_at(rect, grid, pos2(9.0, 30.0)), None);
        assert_eq!(fit(rect, 0.5).size(), vec2(200.0, 100.0));
        assert_eq!(fit(rect, 0.1).size(), vec2(300.0, 30.0));
    }

    #[test]
    fn crops_stay_inside_the_image() {
        let window = crop([4, 8], 0, 1);
        assert_eq!((window.min, window.size()), (pos2(0.0, 0.0), vec2(0.375, 0.75)));
        let window = crop([4, 8], 4 * 8 - 1, 1);
        assert!((window.max - pos2(1.0, 1.0)).length() < 1e-6);
        let window = crop([1, 2], 1, 1);
        assert_eq!((window.min, window.max), (pos2(0.0, 0.0), pos2(1.0, 1.0)));
    }
}
