//! A river for each layer: one band an expert, its height the tokens that it takes, the height of all of them C.
//! Layers are never summed: expert 0 of one block has nothing to do with expert 0 of another.

use egui::{Align2, Painter, Pos2, Rect, Shape, Stroke, StrokeKind, pos2};

use super::axis::Axis;
use super::data::tally::Tally;
use super::now::Hover;
use super::paint::{band, text};
use super::plot::{Hit, title};
use super::scene::Scene;
use crate::palette;

/// Left free below a river.
const GAP: f32 = 4.0;

/// Bands of one layer, `[E + 1][steps]`: the lower edge of each expert's band, and the top of all, in experts per
/// token.
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
fn scale(rect: Rect, scene: &Scene<'_>) -> f32 {
    (rect.height() - GAP) / scene.made.tally.most().max(1.3)
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
    let bed = rect.with_max_y(rect.bottom() - GAP);
    painter.rect_filled(bed, 0.0, look.well);
    bands(painter, bed, axis, scene, layer, scale(rect, scene));
    if chosen {
        let pen = Stroke::new(1.0, look.accent.gamma_multiply(0.6));
        painter.rect_stroke(bed.expand(0.5), 0.0, pen, StrokeKind::Middle);
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
    if let (Some(first), Some(last)) = (c(0), c(tally.steps.len().saturating_sub(1))) {
        let colour = if chosen { look.text } else { look.weak };
        let words = format!("{first:.2} to {last:.2}");
        text(painter, pos2(axis.right + 6.0, top), Align2::LEFT_TOP, words, 12.0, colour);
    }
}

/// The bands alone, `scale` points a unit of C, standing on the bottom of `bed`.
pub(super) fn bands(
    painter: &Painter,
    bed: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    layer: usize,
    scale: f32,
) {
    let tally = &*scene.made.tally;
    let steps = tally.steps.len();
    if steps == 0 {
        return;
    }
    let edges = edges(tally, layer);
    // Bands reach from edge to edge, level over half a column at both ends.
    let mut x: Vec<f32> = vec![axis.left];
    x.extend((0..steps).map(|step| axis.middle(step)));
    x.push(axis.x(steps));
    let y = |edge: &[f32]| -> Vec<f32> {
        let ends = [edge[0], edge[steps - 1]];
        let all = ends[..1].iter().chain(edge).chain(&ends[1..]);
        all.map(|c| bed.bottom() - c * scale).collect()
    };
    let lines: Vec<Vec<f32>> = edges.iter().map(|edge| y(edge)).collect();
    let (look, chosen) = (scene.ink.look, layer == scene.now.layer);
    let pointed = scene.hover.expert;
    for e in 0..tally.experts {
        let away = pointed.is_some_and(|expert| !(chosen && expert == e));
        let colour = palette::expert(e).gamma_multiply(if away { 0.4 } else { 1.0 });
        painter.add(band(&x, &lines[e], &lines[e + 1], colour));
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
    digits(painter, bed, axis, &edges, scale);
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
    let bed = rect.with_max_y(rect.bottom() - GAP);
    let tally = &*scene.made.tally;
    if !bed.y_range().contains(pos.y) {
        return None;
    }
    let Some(step) = axis.step_at(pos.x) else {
        // The name and the values beside the river choose its layer.
        let hover = Hover { layer: Some(layer), ..Hover::default() };
        return Some(Hit { hover, words: String::new() });
    };
    let share = tally.share(step, layer)?;
    let at = (bed.bottom() - pos.y) / scale(rect, scene) * share.pool as f32;
    let mut sum = 0;
    let expert = share.tokens.iter().position(|tokens| {
        sum += tokens;
        at < sum as f32
    });
    let hover = Hover { step: Some(step), layer: Some(layer), expert, ..Hover::default() };
    let block = tally.blocks.get(layer)?;
    let words = expert.map_or_else(String::new, |e| {
        format!("block {block}, expert {e}: {} of {} tokens", share.tokens[e], share.pool)
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
        let tally = Tally::of(&Lens { trace: &trace, branch: Branch::Conditional, shift: 0.0 });
        let edges = edges(&tally, 0);
        assert_eq!(edges, [vec![0.0, 0.0], vec![0.5, 0.0], vec![0.75, 0.25], vec![0.75, 1.0]]);
        for (step, top) in edges[3].iter().enumerate() {
            let c = tally.share(step, 0).unwrap().capacity();
            assert!((top - c).abs() < 1e-6);
        }
    }
}
