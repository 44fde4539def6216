//! A river for each layer: one band an expert, its height the tokens that it takes, the height of all of them C.
//! Layers are never summed: expert 0 of one block has nothing to do with expert 0 of another.

use std::ops::Range;

use egui::{Align2, Painter, Pos2, Rect, Shape, Stroke, StrokeKind, pos2, vec2};

use super::axis::Axis;
use super::colours::OTHER;
use super::curve::lines;
use super::data::tally::{Tally, stretches};
use super::now::Hover;
use super::paint::{band, text, text_over};
use super::plot::{Hit, title};
use super::scene::{Other, Scene};
use crate::palette;

/// Left free below a river.
const GAP: f32 = 4.0;

/// Bands of one layer, `[E + 1][steps]`: the lower edge of each expert's band, and the top of all, in experts per
/// token. 0 where the step has no such pass.
pub(super) fn edges(tally: &Tally, layer: usize) -> Vec<Vec<f32>> {
    let mut edges = vec![vec![0.0; tally.steps.len()]; tally.experts + 1];
    #[expect(clippy::needless_range_loop, reason = "a step is a column of all rows")]
    for step in 0..tally.steps.len() {
        let Some(share) = tally.share(step, layer) else { continue };
        let mut sum = 0;
        for (e, tokens) in share.tokens.iter().enumerate() {
            sum += tokens;
            edges[e + 1][step] = sum as f32 / share.pool.max(1) as f32;
        }
    }
    edges
}

/// Points a unit of C.
fn scale(height: f32, scene: &Scene<'_>) -> f32 {
    let other = scene.other.map_or(0.0, |other| other.scene.made.tally.most());
    height / scene.made.tally.most().max(other).max(1.3)
}

/// Where the river of A lies, and that of B: below it in the chosen layer, nowhere in the others.
fn beds(rect: Rect, scene: &Scene<'_>, layer: usize) -> (Rect, Option<Rect>) {
    let bed = rect.with_max_y(rect.bottom() - GAP);
    let both = layer == scene.now.layer && of_b(scene, layer).is_some();
    if !both {
        return (bed, None);
    }
    let middle = bed.center().y;
    (bed.with_max_y(middle - 1.0), Some(bed.with_min_y(middle + 1.0)))
}

/// Run B, and the place of this block among its layers.
fn of_b<'a>(scene: &Scene<'a>, layer: usize) -> Option<(Other<'a>, usize)> {
    let other = scene.other?;
    let layer = other.layer(*scene.made.tally.blocks.get(layer)?)?;
    Some((other, layer))
}

/// Shows the river of a layer.
pub(super) fn show(
    painter: &Painter,
    rect: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    layer: usize,
    wide: bool,
) {
    let look = scene.ink.look;
    let chosen = layer == scene.now.layer;
    let (bed, below) = beds(rect, scene, layer);
    painter.rect_filled(bed, 0.0, look.well);
    let unit = scale(bed.height(), scene);
    bands(painter, bed, axis, scene, layer, unit, None);
    if let Some((other, of)) = of_b(scene, layer) {
        match below {
            Some(below) => {
                painter.rect_filled(below, 0.0, look.well);
                bands(painter, below, axis, other.scene, of, unit, Some(other.steps));
                for (bed, name, colour) in [(bed, "A", look.text), (below, "B", OTHER)] {
                    let at = bed.left_top() + vec2(8.0, 8.0);
                    let veil = look.well.gamma_multiply(0.8);
                    text_over(painter, at, name, 12.0, colour, veil);
                }
            }
            // Where there is no room for both, C of B is a line over the river of A.
            None => line_of_b(painter, bed, axis, scene, layer, unit),
        }
    }
    if chosen {
        let pen = Stroke::new(1.0, look.accent.gamma_multiply(0.6));
        painter.rect_stroke(bed.expand(0.5), 0.0, pen, StrokeKind::Middle);
        if let Some(below) = below {
            let pen = Stroke::new(1.0, OTHER.gamma_multiply(0.6));
            painter.rect_stroke(below.expand(0.5), 0.0, pen, StrokeKind::Middle);
        }
    }
    let Some(block) = scene.made.tally.blocks.get(layer) else { return };
    let top = rect.top() + if bed.height() < 22.0 { bed.height() / 2.0 - 8.0 } else { 4.0 };
    if !wide {
        let at = pos2(axis.left - 38.0, top);
        let colour = if chosen { look.text } else { look.weak };
        text(painter, at, Align2::LEFT_TOP, format!("b{block}"), 12.0, colour);
        return;
    }
    if bed.height() < 11.0 && !chosen {
        return;
    }
    let rest: &[&str] = if chosen && bed.height() > 66.0 {
        &["one band an", "expert, height", "= compute"]
    } else {
        &[]
    };
    title(painter, pos2(axis.left - 86.0, top), scene, &format!("Block {block}"), rest, chosen);
    let tally = &scene.made.tally;
    let c = |step: usize| tally.share(step, layer).map(super::data::tally::Share::capacity);
    if let Some([first, last]) = course((0..tally.steps.len()).filter_map(c)) {
        let colour = if chosen { look.text } else { look.weak };
        let words = format!("{first:.2} to {last:.2}");
        text(painter, pos2(axis.right + 6.0, top), Align2::LEFT_TOP, words, 12.0, colour);
    }
    if let (Some(below), Some(other)) = (below, scene.other) {
        let c = |column: usize| Some(other.share(column, *block)?.capacity());
        if let Some([first, last]) = course((0..axis.steps).filter_map(c)) {
            let at = pos2(axis.right + 6.0, below.top() + 4.0);
            let words = format!("{first:.2} to {last:.2}");
            text(painter, at, Align2::LEFT_TOP, words, 12.0, OTHER);
        }
    }
}

/// The first and the last of some values.
fn course(mut values: impl Iterator<Item = f32>) -> Option<[f32; 2]> {
    let first = values.next()?;
    Some([first, values.last().unwrap_or(first)])
}

/// C of a block of run B as a line.
fn line_of_b(painter: &Painter, bed: Rect, axis: Axis, scene: &Scene<'_>, layer: usize, unit: f32) {
    let (Some(other), Some(&block)) = (scene.other, scene.made.tally.blocks.get(layer)) else {
        return;
    };
    let of = |column: usize| Some(other.share(column, block)?.capacity());
    let values: Vec<Option<f32>> = (0..axis.steps).map(of).collect();
    for line in lines(&values, axis, |c| bed.bottom() - c * unit) {
        painter.line(line, Stroke::new(1.5, OTHER));
    }
}

/// The bands alone, `scale` points a unit of C, standing on the bottom of `bed`; of run B those of the steps that belong
/// to the columns. Where a step has no such pass there is a gap.
pub(super) fn bands(
    painter: &Painter,
    bed: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    layer: usize,
    scale: f32,
    columns: Option<&[usize]>,
) {
    let tally = &*scene.made.tally;
    let mut edges = edges(tally, layer);
    if let Some(columns) = columns {
        for edge in &mut edges {
            *edge = columns.iter().filter_map(|step| edge.get(*step).copied()).collect();
        }
    }
    let has = |column: usize| {
        let step = columns.map_or(Some(column), |columns| columns.get(column).copied());
        step.is_some_and(|step| tally.has(step))
    };
    for stretch in stretches((0..edges[0].len()).map(has)) {
        stretch_of_bands(painter, bed, axis, scene, (layer, scale), (&edges, stretch));
    }
    digits(painter, bed, axis, &edges, scale);
}

/// The bands over some columns. They reach from edge to edge, level over half a column at both ends.
fn stretch_of_bands(
    painter: &Painter,
    bed: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    (layer, scale): (usize, f32),
    (edges, columns): (&[Vec<f32>], Range<usize>),
) {
    let mut x: Vec<f32> = vec![axis.x(columns.start)];
    x.extend(columns.clone().map(|column| axis.middle(column)));
    x.push(axis.x(columns.end));
    let y = |edge: &[f32]| -> Vec<f32> {
        let edge = &edge[columns.clone()];
        let all = edge[..1].iter().chain(edge).chain(&edge[edge.len() - 1..]);
        all.map(|c| bed.bottom() - c * scale).collect()
    };
    let lines: Vec<Vec<f32>> = edges.iter().map(|edge| y(edge)).collect();
    let (look, chosen) = (scene.ink.look, layer == scene.now.layer);
    let pointed = scene.hover.expert;
    for e in 0..scene.made.tally.experts {
        let away = pointed.is_some_and(|expert| !(chosen && expert == e));
        let colour = palette::expert(e).gamma_multiply(if away { 0.4 } else { 1.0 });
        painter.add(band(&x, &lines[e], &lines[e + 1], colour));
        let patterns = scene.made.patterns.as_ref().filter(|_| !away);
        if let Some(mut shape) = patterns.and_then(|patterns| patterns.shape(e)) {
            shape.add_band(&x, &lines[e], &lines[e + 1]);
            shape.paint(painter);
        }
    }
    let path =
        |line: &[f32]| -> Vec<Pos2> { x.iter().zip(line).map(|(&x, &y)| pos2(x, y)).collect() };
    for line in &lines[1..] {
        let pen = Stroke::new(if chosen { 1.0 } else { 0.6 }, look.well);
        painter.add(Shape::line(path(line), pen));
    }
    if let Some(e) = scene.now.expert.filter(|_| chosen) {
        let mut around = path(&lines[e + 1]);
        around.extend(path(&lines[e]).into_iter().rev());
        painter.add(Shape::closed_line(around, Stroke::new(1.5, scene.ink.ring)));
    }
}

/// The number of each expert where its band is highest, if it fits.
fn digits(painter: &Painter, bed: Rect, axis: Axis, edges: &[Vec<f32>], scale: f32) {
    for e in 0..edges.len() - 1 {
        let height = |step: usize| edges[e + 1][step] - edges[e][step];
        let widest = (0..edges[e].len()).max_by(|a, b| height(*a).total_cmp(&height(*b)));
        let Some(step) = widest.filter(|step| height(*step) * scale >= 10.5) else { continue };
        let middle = f32::midpoint(edges[e + 1][step], edges[e][step]);
        let at = pos2(
            axis.middle(step).clamp(axis.left + 7.0, axis.right - 7.0),
            bed.bottom() - middle * scale,
        );
        let colour = palette::text_on(palette::expert(e));
        text(painter, at, Align2::CENTER_CENTER, e, 12.0, colour);
    }
}

/// The band at a place.
pub(super) fn hit(
    rect: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    layer: usize,
    pos: Pos2,
) -> Option<Hit> {
    let (bed, below) = beds(rect, scene, layer);
    let whole = rect.with_max_y(rect.bottom() - GAP);
    let tally = &*scene.made.tally;
    if !whole.y_range().contains(pos.y) {
        return None;
    }
    let is_b = below.is_some_and(|below| pos.y >= below.top());
    let block = *tally.blocks.get(layer)?;
    let Some(step) = axis.step_at(pos.x) else {
        // The name and the values beside the river choose its layer.
        let hover = Hover { layer: Some(layer), ..Hover::default() };
        return Some(Hit { hover, words: String::new() });
    };
    let (share, bottom) = match (is_b, scene.other, below) {
        (true, Some(other), Some(below)) => (other.share(step, block)?, below.bottom()),
        _ => (tally.share(step, layer)?, bed.bottom()),
    };
    let at = (bottom - pos.y) / scale(bed.height(), scene) * share.pool as f32;
    let mut sum = 0;
    let expert = share.tokens.iter().position(|tokens| {
        sum += tokens;
        at < sum as f32
    });
    let hover = Hover { step: Some(step), layer: Some(layer), expert, ..Hover::default() };
    let run = if is_b { "B: " } else { "" };
    let words = expert.map_or_else(String::new, |e| {
        format!("{run}block {block}, expert {e}: {} of {} tokens", share.tokens[e], share.pool)
    });
    Some(Hit { hover, words })
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;

    use super::super::data::lens::Lens;
    use super::super::data::tests::run;
    use super::*;

    #[test]
    fn bands_stack_up_to_c() {
        let trace = run(&[&[&[0b011, 0b001, 0, 0]], &[&[0b100, 0b110, 0b100, 0]]], 3);
        let tally = Tally::of(&Lens::new(&trace, Branch::Conditional, 0.0));
        let edges = edges(&tally, 0);
        assert_eq!(edges, [vec![0.0, 0.0], vec![0.5, 0.0], vec![0.75, 0.25], vec![0.75, 1.0]]);
        for (step, top) in edges[3].iter().enumerate() {
            let c = tally.share(step, 0).unwrap().capacity();
            assert!((top - c).abs() < 1e-6);
        }
    }
}
