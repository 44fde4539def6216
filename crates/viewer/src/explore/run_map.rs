//! The map of the run: a row for each expert of each layer, a column for each step, coloured by the expert's load
//! over a fair share.

use egui::{Align2, Color32, Painter, Pos2, Rect, Stroke, StrokeKind, pos2, vec2};

use super::axis::Axis;
use super::bars;
use super::colours::OTHER;
use super::data::tally::Share;
use super::now::Hover;
use super::paint::{chip_in, hatch, text, times};
use super::plot::{Heights, Hit, LAYER_GAP, title};
use super::scene::Scene;
use crate::palette;

/// The ends of the colour scale: a third and three times a fair share.
const END: f32 = 3.0;
/// Rows lower than this, and columns narrower than that, have no digits.
const DIGITS: [f32; 2] = [11.0, 26.0];

/// A load as -1 to 1.
pub(super) fn value(load: f32) -> f32 {
    if load <= 0.0 { -1.0 } else { load.log2() / END.log2() }
}

/// Where each layer of the map begins, and the height of its rows.
fn layers(map: Rect, scene: &Scene<'_>, heights: &Heights) -> Vec<(f32, f32)> {
    let experts = scene.made.tally.experts;
    let mut y = map.top();
    let layer = |layer: usize| {
        let chosen = layer == scene.now.layer;
        let place = (y, heights.row[usize::from(!chosen)]);
        y += heights.map_layer(chosen, experts);
        place
    };
    (0..scene.made.tally.blocks.len()).map(layer).collect()
}

/// Shows the map with its legend.
pub(super) fn show(
    painter: &Painter,
    legend: Rect,
    map: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    heights: &Heights,
    wide: bool,
) {
    show_legend(painter, legend, axis, scene, wide);
    let look = scene.ink.look;
    let tally = &*scene.made.tally;
    for (layer, (top, row)) in layers(map, scene, heights).into_iter().enumerate() {
        let chosen = layer == scene.now.layer;
        let high = row * tally.experts as f32;
        if wide && (high >= 12.0 || chosen) {
            let block = format!("Block {}", tally.blocks[layer]);
            let at = pos2(
                axis.left - 86.0,
                top + if chosen { 0.0 } else { (high / 2.0 - 8.0).max(0.0) },
            );
            title(painter, at, scene, &block, &[], chosen);
        }
        for e in 0..tally.experts {
            let y = top + e as f32 * row;
            let key = Rect::from_min_size(
                pos2(axis.left - 24.0, y + 0.5),
                vec2(19.0, (row - 1.0).max(1.0)),
            );
            if chosen {
                chip_in(painter, key, e, 3.0);
            } else {
                painter.rect_filled(key, 1.0, palette::expert(e));
            }
            // A low row has no room for the number.
            if let Some(patterns) = scene.made.patterns.as_ref().filter(|_| !chosen || row < 10.0) {
                patterns.over(painter, key, e);
            }
            if wide {
                let row = Rect::from_x_y_ranges(axis.left..=axis.right, y..=y + row);
                bars::show(painter, axis, scene, row, (layer, e));
            }
            for step in 0..tally.steps.len() {
                let cell = Rect::from_x_y_ranges(axis.span(step), y..=y + row);
                let Some(share) = tally.share(step, layer) else { continue };
                let of_b = of_b(scene, step, tally.blocks[layer]);
                let (left, right) = cell.split_left_right_at_x(cell.center().x);
                let place = if of_b.is_some() { left.with_max_x(left.right() - 0.5) } else { cell };
                paint_cell(painter, place, scene, share, e, chosen);
                if let Some(share) = of_b {
                    let place = right.with_max_x(right.right() - 1.0);
                    paint_cell(painter, place, scene, share, e, chosen);
                }
            }
        }
    }
    if let (Some(expert), Some(&(top, row))) =
        (scene.now.expert, layers(map, scene, heights).get(scene.now.layer))
    {
        let y = top + expert as f32 * row;
        let cell = Rect::from_x_y_ranges(axis.span(scene.now.step), y..=y + row);
        painter.rect_stroke(cell, 0.0, Stroke::new(2.0, scene.ink.ring), StrokeKind::Middle);
    }
    if tally.steps.len() < axis.steps {
        // Steps that have not been yet.
        let rest = Rect::from_x_y_ranges(axis.x(tally.steps.len())..=axis.right, map.y_range());
        let at = rest.center();
        if rest.width() > 80.0 {
            text(painter, at, Align2::CENTER_CENTER, "still to come", 12.0, look.weak);
        }
    }
}

/// The counts of run B in a cell, where its experts are the same.
fn of_b<'a>(scene: &Scene<'a>, step: usize, block: usize) -> Option<&'a Share> {
    let other = scene.other.filter(|other| other.same_model)?;
    other.share(step, block)
}

fn paint_cell(
    painter: &Painter,
    cell: Rect,
    scene: &Scene<'_>,
    share: &Share,
    expert: usize,
    chosen: bool,
) {
    let shrink = vec2(
        if cell.width() > 6.0 { 0.5 } else { 0.0 },
        if cell.height() > 4.0 { 0.5 } else { 0.0 },
    );
    let inner = cell.shrink2(shrink);
    let load = share.load(expert).filter(|load| *load > 0.0);
    let Some(load) = load else {
        if let Some(texture) = &scene.made.hatch {
            hatch(painter, inner, texture.id(), scene.ink);
        }
        return;
    };
    let value = value(load);
    painter.rect_filled(inner, 0.0, scene.ink.diverging(value));
    let fits = cell.height() >= DIGITS[0] && cell.width() >= DIGITS[1];
    if chosen && fits && !(0.5..1.5).contains(&load) {
        let colour = if value.abs() > 0.5 || !scene.ink.is_dark() {
            Color32::from_rgb(0x0B, 0x0D, 0x11)
        } else {
            scene.ink.look.text
        };
        let words = format!("{load:.1}");
        text(painter, cell.center(), Align2::CENTER_CENTER, words, 12.0, colour);
    }
}

fn show_legend(painter: &Painter, rect: Rect, axis: Axis, scene: &Scene<'_>, wide: bool) {
    let look = scene.ink.look;
    let y = rect.center().y - 1.0;
    if wide {
        let at = pos2(axis.left - 86.0, y);
        text(painter, at, Align2::LEFT_CENTER, "Load ÷ fair", 12.0, look.text);
    }
    text(painter, pos2(axis.left, y), Align2::LEFT_CENTER, "÷3", 12.0, look.weak);
    for k in 0..13 {
        let corner = pos2(axis.left + 19.0 + 6.0 * k as f32, y - 5.0);
        let colour = scene.ink.diverging((k as f32 - 6.0) / 6.0);
        painter.rect_filled(Rect::from_min_size(corner, vec2(6.0, 10.0)), 0.0, colour);
    }
    text(painter, pos2(axis.left + 101.0, y), Align2::LEFT_CENTER, "×3", 12.0, look.weak);
    let sample = Rect::from_min_size(pos2(axis.left + 132.0, y - 5.0), vec2(16.0, 10.0));
    if let Some(texture) = &scene.made.hatch {
        hatch(painter, sample, texture.id(), scene.ink);
    }
    text(painter, pos2(axis.left + 153.0, y), Align2::LEFT_CENTER, "idle", 12.0, look.weak);
    if let Some(other) = scene.other {
        let words =
            if other.same_model { "left half A, right half B" } else { "A; B is another model" };
        text(painter, pos2(axis.left + 190.0, y), Align2::LEFT_CENTER, words, 12.0, OTHER);
    }
    if wide && scene.measures.any(scene.record.id) {
        let words = "change of the images, of 255,";
        let at = pos2(axis.right - 4.0, y);
        if axis.right - axis.left > 380.0 && scene.other.is_none() {
            text(painter, at, Align2::RIGHT_CENTER, words, 12.0, look.weak);
        }
        let at = pos2(axis.right + 6.0, y);
        text(painter, at, Align2::LEFT_CENTER, "when muted", 12.0, look.text);
    }
}

/// The cell at a place.
pub(super) fn hit(
    map: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    heights: &Heights,
    pos: Pos2,
) -> Option<Hit> {
    let tally = &*scene.made.tally;
    let places = layers(map, scene, heights);
    let (layer, (top, row)) = places.into_iter().enumerate().find(|(_, (top, row))| {
        let high = row * tally.experts as f32 + LAYER_GAP;
        (*top..*top + high).contains(&pos.y)
    })?;
    let expert = ((pos.y - top) / row.max(0.1)) as usize;
    let expert = (expert < tally.experts).then_some(expert);
    if let Some(bar) = expert.and_then(|e| bars::hit(axis, scene, pos, layer, e)) {
        return Some(bar);
    }
    let step = axis.step_at(pos.x).filter(|step| *step < tally.steps.len());
    let hover = Hover { step, layer: Some(layer), expert, ..Hover::default() };
    let (block, Some(expert)) = (tally.blocks.get(layer)?, expert) else {
        return Some(Hit { hover, words: String::new() });
    };
    let Some(step) = step else {
        return Some(Hit { hover, words: format!("block {block}, expert {expert}") });
    };
    let share = tally.share(step, layer)?;
    let load = share.load(expert).filter(|load| *load > 0.0);
    let load = load.map_or("idle".to_owned(), |load| format!("{} its fair share", times(load)));
    let of_b = of_b(scene, step, *block).map_or_else(String::new, |share| {
        format!("\nB: {} of {} tokens", share.tokens[expert], share.pool)
    });
    let words = format!(
        "block {block}, expert {expert}, noise {}\n{} of {} tokens, {load}{of_b}",
        scene.noise(step),
        share.tokens[expert],
        share.pool
    );
    Some(Hit { hover, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_at_a_third_and_at_three_times() {
        assert!((value(3.0) - 1.0).abs() < 1e-6 && (value(1.0 / 3.0) + 1.0).abs() < 1e-6);
        assert!(value(1.0).abs() < 1e-6);
        assert!((value(0.0) + 1.0).abs() < 1e-6);
    }
}
