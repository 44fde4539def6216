//! Why experts take or skip the selected patch: need, threshold and gate of every expert. Without a patch, how many
//! tokens each expert takes.

use egui::{Align2, Painter, Rect, Role, Sense, Stroke, Ui, WidgetInfo, pos2, vec2};

use super::colours::Ink;
use super::data::lens::Layer;
use super::paint::{self, chip_in, text};
use super::scene::{Scene, Touch, toggle_expert};
use crate::palette;
use crate::session::Selection;
use crate::views::token_map;

/// Height of a row, at most and at least.
const ROW: [f32; 2] = [21.0, 14.0];
/// Room for what stands below the rows.
const FOOT: f32 = 18.0;

/// One row: an expert in a rectangle.
fn rows(area: Rect, experts: usize) -> Vec<Rect> {
    let fit = ((area.height() - FOOT) / ROW[1]).floor().max(1.0) as usize;
    let columns = experts.div_ceil(fit).max(1);
    let down = experts.div_ceil(columns).max(1);
    let height = ((area.height() - FOOT) / down as f32).min(ROW[0]);
    let width = area.width() / columns as f32;
    let place = |e: usize| {
        let corner = vec2((e / down) as f32 * width, (e % down) as f32 * height);
        Rect::from_min_size(area.min + corner, vec2(width, height))
    };
    (0..experts).map(place).collect()
}

/// Shows it in an area, heading included.
pub(super) fn show(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    let Some(layer) = scene.lens().layer(scene.now.step, scene.now.layer) else {
        return paint::missing(ui, area, scene.missing());
    };
    let look = scene.ink.look;
    let body = area.with_min_y(area.top() + 40.0);
    let rows = rows(body, layer.experts());
    let (title, remark) = heading(scene, &layer);
    let painter = ui.painter_at(area.expand(2.0));
    text(&painter, area.min, Align2::LEFT_TOP, title, 14.0, look.text);
    text(&painter, area.min + vec2(0.0, 18.0), Align2::LEFT_TOP, remark, 12.0, look.weak);
    for (expert, &row) in rows.iter().enumerate() {
        let id = ui.scope_id().with(("why", expert));
        let response = ui.interact(row, id, Sense::click());
        let label = described(scene, &layer, expert);
        response.widget_info(|| {
            WidgetInfo::selected(Role::Button, true, scene.now.expert == Some(expert), &label)
        });
        if response.hovered() {
            touch.hover.expert = Some(expert);
        }
        if response.clicked() {
            toggle_expert(selection, expert);
        }
        if scene.now.expert == Some(expert) {
            painter.rect_filled(row, 3.0, look.chosen.gamma_multiply(0.5));
        }
        let chip = Rect::from_min_size(
            pos2(row.left() + 2.0, row.center().y - row.height().min(18.0) / 2.0 + 1.0),
            vec2(17.0, row.height().min(18.0) - 2.0),
        );
        chip_in(&painter, chip, expert, 4.0);
        match scene.now.patch {
            Some(patch) => decision(&painter, row, scene, &layer, patch, expert),
            None => load(&painter, row, scene, &layer, expert),
        }
    }
    foot(&painter, body, &rows, scene, &layer);
}

fn heading(scene: &Scene<'_>, layer: &Layer<'_>) -> (String, String) {
    let block = scene.block();
    let Some(((row, column), patch)) = scene.patch_place().zip(scene.now.patch) else {
        let remark = format!("of {}; point at a patch to see why", layer.tokens());
        return (format!("Block {block}: tokens of each expert"), remark);
    };
    let token = scene.now.image * scene.record.trace.tokens() + patch;
    let remark = match layer.mask(token).count_ones() {
        0 if layer.has_needs() => "skipped: no need reaches its threshold".to_owned(),
        0 => "skipped: no expert takes it".to_owned(),
        1 => "one expert takes it".to_owned(),
        n => format!("{n} experts take it"),
    };
    let remark = of_b(scene).map_or(remark.clone(), |who| format!("{remark}; B: {who}"));
    (format!("Patch row {row}, column {column}, block {block}"), remark)
}

/// Who takes the patch in run B.
fn of_b(scene: &Scene<'_>) -> Option<String> {
    let b = scene.other?.scene;
    let layer = b.lens().layer(b.now.step, b.now.layer)?;
    let is_there = scene.now.image < b.record.labels.len();
    let token = b.now.image * b.record.trace.tokens() + b.now.patch.filter(|_| is_there)?;
    Some(token_map::sentence(layer.mask(token)))
}

/// One row in words, for screen readers.
fn described(scene: &Scene<'_>, layer: &Layer<'_>, expert: usize) -> String {
    let Some(patch) = scene.now.patch else {
        let share = scene.made.tally.share(scene.now.step, scene.now.layer);
        let tokens = share.and_then(|share| share.tokens.get(expert)).copied().unwrap_or(0);
        return format!("Expert {expert}: {tokens} tokens");
    };
    let token = scene.now.image * scene.record.trace.tokens() + patch;
    let verb = if layer.takes(token, expert) { "takes the patch" } else { "does not take it" };
    let need = layer.need(token, expert).zip(layer.threshold(expert));
    let need = need.map(|(need, threshold)| {
        format!(", need {:.2}, threshold {:.2}", sigmoid(need), sigmoid(threshold))
    });
    format!("Expert {expert} {verb}{}", need.unwrap_or_default())
}

/// Need and threshold as a bar with a tick, and the gate.
fn decision(
    painter: &Painter,
    row: Rect,
    scene: &Scene<'_>,
    layer: &Layer<'_>,
    patch: usize,
    expert: usize,
) {
    let look = scene.ink.look;
    let token = scene.now.image * scene.record.trace.tokens() + patch;
    let takes = layer.takes(token, expert);
    let gates = layer.gates(token);
    let wide = row.width() > 110.0;
    let end = row.right() - if wide && gates.is_some() { 42.0 } else { 6.0 };
    let bar = Rect::from_min_max(
        pos2(row.left() + 24.0, row.center().y - (row.height() * 0.24).min(5.0)),
        pos2(end, row.center().y + (row.height() * 0.24).min(5.0)),
    );
    painter.rect_filled(bar, 0.0, look.well);
    let colour = if takes { palette::expert(expert) } else { scene.ink.hatch };
    let taken = f32::from(u8::from(takes));
    let share = layer.need(token, expert).map_or(taken, sigmoid);
    let filled = bar.with_max_x(bar.left() + (share * bar.width()).max(1.0));
    painter.rect_filled(filled, 0.0, colour);
    if let Some(threshold) = layer.threshold(expert) {
        let x = bar.left() + sigmoid(threshold) * bar.width();
        let tick = bar.y_range().expand(3.0);
        painter.vline(x, tick, Stroke::new(1.5, look.text));
    }
    if let Some(gate) = gates.and_then(|gates| gates.get(expert).copied()).filter(|_| wide) {
        let words = if gate < 0.005 { "0".to_owned() } else { format!("{gate:.2}") };
        let ink = if takes { look.text } else { look.weak };
        text(painter, row.right_center() - vec2(4.0, 0.0), Align2::RIGHT_CENTER, words, 12.0, ink);
    }
}

/// Tokens of an expert against a fair share.
fn load(painter: &Painter, row: Rect, scene: &Scene<'_>, layer: &Layer<'_>, expert: usize) {
    let look = scene.ink.look;
    let Some(share) = scene.made.tally.share(scene.now.step, scene.now.layer) else { return };
    let tokens = share.tokens.get(expert).copied().unwrap_or(0);
    let start = pos2(row.left() + 24.0, row.center().y);
    if tokens == 0 {
        text(painter, start, Align2::LEFT_CENTER, "idle", 12.0, look.weak);
        return;
    }
    let length = tokens as f32 * scale(share.tokens.iter().max().copied(), layer, row);
    let half = vec2(0.0, (row.height() * 0.24).min(5.0));
    let bar = Rect::from_min_max(start - half, start + half + vec2(length, 0.0));
    painter.rect_filled(bar, 0.0, palette::expert(expert));
    let at = bar.right_center() + vec2(5.0, 0.0);
    text(painter, at, Align2::LEFT_CENTER, tokens, 12.0, look.text);
}

/// Points a token.
fn scale(most: Option<u32>, layer: &Layer<'_>, row: Rect) -> f32 {
    let fair = layer.tokens() as f32 / layer.experts() as f32;
    (row.width() - 24.0 - 34.0).max(8.0) / (most.unwrap_or(0) as f32).max(fair * 1.25)
}

fn foot(painter: &Painter, body: Rect, rows: &[Rect], scene: &Scene<'_>, layer: &Layer<'_>) {
    let Ink { look, .. } = scene.ink;
    let Some(bottom) = rows.iter().map(Rect::bottom).reduce(f32::max) else { return };
    let y = bottom + 3.0;
    if scene.now.patch.is_some() {
        let left =
            if layer.has_needs() { "need; tick: threshold" } else { "full: takes the patch" };
        text(painter, pos2(body.left() + 24.0, y), Align2::LEFT_TOP, left, 12.0, look.weak);
        if layer.gates(0).is_some() && rows[0].width() > 110.0 {
            text(painter, pos2(body.right() - 4.0, y), Align2::RIGHT_TOP, "gate", 12.0, look.weak);
        }
        return;
    }
    let Some(share) = scene.made.tally.share(scene.now.step, scene.now.layer) else { return };
    // One expert's share where every token had one expert.
    let fair = layer.tokens() as f32 / layer.experts() as f32;
    for row in rows.iter().filter(|row| (row.top() - rows[0].top()).abs() < 0.5) {
        let x = row.left() + 24.0 + fair * scale(share.tokens.iter().max().copied(), layer, *row);
        let line = [pos2(x, rows[0].top()), pos2(x, bottom)];
        painter.extend(egui::Shape::dashed_line(&line, Stroke::new(1.0, look.weak), 3.0, 3.0));
        let words = format!("fair {fair:.0}");
        text(painter, pos2(x, y), Align2::CENTER_TOP, words, 12.0, look.weak);
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_experts_have_a_row_of_readable_height() {
        let area = Rect::from_min_size(pos2(5.0, 5.0), vec2(196.0, 216.0));
        for experts in [2, 8, 16, 32] {
            let rows = rows(area, experts);
            assert_eq!(rows.len(), experts);
            for row in &rows {
                assert!(row.height() >= ROW[1] - 0.01 && area.contains_rect(*row), "{row:?}");
            }
        }
    }
}
