//! The story of the chosen patch: who took it in each layer at each step, strongest first, sized by its gate. With a run
//! B of the same model each cell has two halves, as in the map: A on the left, B on the right.

use egui::{Align2, Painter, Pos2, Rect, pos2, vec2};

use super::axis::Axis;
use super::data::story::Takers;
use super::now::Hover;
use super::paint::{hatch, text};
use super::pattern::mark;
use super::plot::{Hit, title};
use super::scene::{Other, Scene};
use crate::palette;

/// Experts of one cell that have room.
fn room(cell: Rect) -> usize {
    ((cell.width() / 17.0) as usize).clamp(1, 3)
}

/// Where those of A lie in a cell, and those of B.
fn halves(cell: Rect, scene: &Scene<'_>) -> (Rect, Option<Rect>) {
    if other(scene).is_none() {
        return (cell, None);
    }
    let (left, right) = cell.split_left_right_at_x(cell.center().x);
    (left.with_max_x(left.right() - 0.5), Some(right.with_min_x(right.left() + 0.5)))
}

/// Run B, where its experts are those of A.
fn other<'a>(scene: &Scene<'a>) -> Option<Other<'a>> {
    scene.other.filter(|other| other.same_model)
}

/// Who takes the patch of B in a layer and a column.
fn of_b<'a>(scene: &Scene<'a>, layer: usize, column: usize) -> Option<&'a Takers> {
    let other = other(scene)?;
    other.scene.made.story.get(layer)?.get(*other.steps.get(column)?)?.as_ref()
}

/// Where the dot of expert `place` of `count` lies.
fn dot(cell: Rect, place: usize, count: usize) -> Pos2 {
    let apart = (cell.width() / count.max(1) as f32).min(17.0);
    cell.center() + vec2((place as f32 - (count as f32 - 1.0) / 2.0) * apart, 0.0)
}

/// Radius of a dot; without gates all are equal.
fn radius(gate: Option<f32>, row: f32) -> f32 {
    gate.map_or(6.0, |gate| 3.2 + 4.3 * gate).min(row / 2.0 - 0.5)
}

/// Shows it, `row` points a layer.
pub(super) fn show(
    painter: &Painter,
    rect: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    row: f32,
    wide: bool,
) {
    let look = scene.ink.look;
    let left = axis.left - 86.0;
    let Some((patch_row, column)) = scene.patch_place() else {
        if wide {
            title(painter, pos2(left, rect.top()), scene, "Patch story", &[], true);
            let words = "point at a patch of the image to follow it; click to pin it";
            text(painter, pos2(axis.left, rect.top()), Align2::LEFT_TOP, words, 12.0, look.weak);
        }
        return;
    };
    if wide {
        title(painter, pos2(left, rect.top()), scene, "Patch story", &[], true);
        if rect.height() >= 30.0 {
            let words = format!("r{patch_row}, c{column}");
            text(painter, pos2(left, rect.top() + 15.0), Align2::LEFT_TOP, words, 12.0, look.weak);
        }
    }
    for (layer, steps) in scene.made.story.iter().enumerate() {
        let y = rect.top() + layer as f32 * row;
        if let Some(block) = scene.made.tally.blocks.get(layer).filter(|_| row >= 10.0) {
            let at = pos2(axis.left - 5.0, y + row / 2.0);
            text(painter, at, Align2::RIGHT_CENTER, format!("b{block}"), 12.0, look.weak);
        }
        for (step, experts) in steps.iter().enumerate() {
            let cell = Rect::from_x_y_ranges(axis.span(step), y..=y + row).shrink(0.5);
            let (left, right) = halves(cell, scene);
            if let Some(experts) = experts {
                takers(painter, left, scene, experts, row);
            }
            if let Some((right, experts)) = right.zip(of_b(scene, layer, step)) {
                takers(painter, right, scene, experts, row);
            }
        }
    }
}

/// Who takes the patch in one layer at one step.
fn takers(painter: &Painter, cell: Rect, scene: &Scene<'_>, experts: &Takers, row: f32) {
    let Some(first) = experts.first() else {
        if let Some(texture) = &scene.made.hatch {
            hatch(painter, cell, texture.id(), scene.ink);
        }
        return;
    };
    painter.rect_filled(cell, 0.0, scene.ink.look.well);
    if cell.width() < 8.0 {
        painter.rect_filled(cell, 0.0, palette::expert(first.0));
        if let Some(patterns) = &scene.made.patterns {
            patterns.over(painter, cell, first.0);
        }
        return;
    }
    let shown = experts.len().min(room(cell));
    for (place, &(expert, gate)) in experts.iter().take(shown).enumerate() {
        let radius = radius(gate, row).min(cell.width() / 2.0 - 0.5);
        let at = dot(cell, place, shown);
        if radius > 5.4 {
            let colour = palette::expert(expert);
            painter.circle_filled(at, radius, colour);
            let ink = palette::text_on(colour);
            text(painter, at, Align2::CENTER_CENTER, expert, 11.0, ink);
        } else {
            mark(painter, at, radius, expert);
        }
    }
}

/// The dot at a place.
pub(super) fn hit(rect: Rect, axis: Axis, scene: &Scene<'_>, row: f32, pos: Pos2) -> Option<Hit> {
    scene.now.patch?;
    if !rect.y_range().contains(pos.y) {
        return None;
    }
    let layer = ((pos.y - rect.top()) / row) as usize;
    let step = axis.step_at(pos.x)?;
    let experts = scene.made.story.get(layer)?.get(step)?.as_ref();
    let beside = of_b(scene, layer, step);
    experts.or(beside)?;
    let y = rect.top() + layer as f32 * row;
    let (left, right) = halves(Rect::from_x_y_ranges(axis.span(step), y..=y + row), scene);
    let (cell, pointed) = match right.filter(|right| pos.x >= right.left()) {
        Some(right) => (right, beside),
        None => (left, experts),
    };
    let pointed = pointed.map_or(&[][..], Vec::as_slice);
    let shown = pointed.len().min(room(cell));
    let nearest = (0..shown).min_by(|a, b| {
        let away = |place: usize| (dot(cell, place, shown) - pos).length();
        away(*a).total_cmp(&away(*b))
    });
    let hover = Hover {
        step: Some(step),
        layer: Some(layer),
        expert: nearest.map(|place| pointed[place].0),
        ..Hover::default()
    };
    let block = scene.made.tally.blocks.get(layer)?;
    let one = |&(expert, gate): &(usize, Option<f32>)| match gate {
        Some(gate) => format!("{expert} (gate {gate:.2})"),
        None => expert.to_string(),
    };
    let list = |experts: Option<&Takers>| match experts {
        None => "no such pass".to_owned(),
        Some(experts) if experts.is_empty() => "no expert".to_owned(),
        Some(experts) => experts.iter().map(one).collect::<Vec<_>>().join(", "),
    };
    let of_b = if right.is_some() { format!("\nB: {}", list(beside)) } else { String::new() };
    let words = format!("block {block}, noise {}: {}{of_b}", scene.noise(step), list(experts));
    Some(Hit { hover, words })
}
