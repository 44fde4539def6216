//! How much the images change without each expert: a bar at the right end of its row of the map.

use egui::{Align2, Painter, Pos2, Rect, pos2};

use super::axis::Axis;
use super::colours::OTHER;
use super::now::Hover;
use super::paint::text;
use super::plot::Hit;
use super::scene::Scene;

/// Where the bar of a row begins, and how far the longest reaches.
const BAR: [f32; 2] = [6.0, 54.0];

/// Shows the change without an expert at the right end of its row.
pub(super) fn show(
    painter: &Painter,
    axis: Axis,
    scene: &Scene<'_>,
    row: Rect,
    (layer, expert): (usize, usize),
) {
    let Some(change) = scene.measures.change(scene.record.id, layer, expert) else { return };
    let most = scene.measures.most(scene.record.id).max(1e-3);
    let look = scene.ink.look;
    let chosen = layer == scene.now.layer;
    let picked = chosen && scene.now.expert == Some(expert);
    let left = axis.right + BAR[0];
    let length = (change / most * BAR[1]).max(1.0);
    let inset = row.height() * 0.18;
    let rect = Rect::from_min_max(
        pos2(left, row.top() + inset),
        pos2(left + length, row.bottom() - inset),
    );
    painter.rect_filled(rect, 0.0, if picked { OTHER } else { look.weak });
    if chosen && row.height() >= 11.0 {
        let at = pos2(rect.right() + 4.0, row.center().y);
        let colour = if picked { look.text } else { look.weak };
        text(painter, at, Align2::LEFT_CENTER, format!("{change:.1}"), 12.0, colour);
    }
}

/// The bar at a place right of the map.
pub(super) fn hit(
    axis: Axis,
    scene: &Scene<'_>,
    pos: Pos2,
    layer: usize,
    expert: usize,
) -> Option<Hit> {
    if pos.x < axis.right + BAR[0] {
        return None;
    }
    let change = scene.measures.change(scene.record.id, layer, expert)?;
    let block = scene.made.tally.blocks.get(layer)?;
    let hover = Hover { layer: Some(layer), expert: Some(expert), ..Hover::default() };
    let words =
        format!("without block {block}, expert {expert} the images change by {change:.1} of 255");
    Some(Hit { hover, words })
}
