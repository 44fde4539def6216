//! What if the thresholds were other ones: a histogram of the margins of this layer, and a slider that moves the
//! thresholds of the run, of this block, or of one expert. What it shows is of first order; drawing again makes it
//! real.

use egui::{Align2, Rect, Role, Sense, Slider, Ui, UiBuilder, WidgetInfo, pos2, vec2};

use super::colours::OVER;
use super::data::lens::{Target, WhatIf};
use super::data::margins::{BAR, REACH, middle};
use super::paint::{self, signed, text};
use super::put;
use super::scene::{Scene, Touch, Wish};
use crate::App;
use crate::session::{MOST_SHIFT, NoteKind, Scope, Selection};

/// Shifts closer to zero than this are none.
const SNAP: f32 = 0.2;

/// Shows it in an area.
#[expect(clippy::too_many_lines, reason = "one drawing from top to bottom")]
pub(super) fn show(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    let look = scene.ink.look;
    let painter = ui.painter_at(area.expand(2.0));
    let title = text(&painter, area.min, Align2::LEFT_TOP, "What if γ", 14.0, look.text);
    let remark = pos2(title.right() + 8.0, area.top() + 2.0);
    let Some(histogram) = scene.made.histogram.as_ref() else {
        if let Some(words) = scene.missing() {
            let room = Rect::from_min_max(pos2(remark.x, area.top()), area.max);
            return paint::missing(ui, room, Some(words));
        }
        let layer = scene.lens().layer(scene.now.step, scene.now.layer);
        if layer.is_some_and(|layer| layer.has_needs()) {
            let words = "under the rule \"pool\" thresholds decide how many tokens an expert takes, and gates which";
            let room = Rect::from_min_max(pos2(remark.x, area.top()), area.max);
            return paint::missing(ui, room, Some(words.to_owned()));
        }
        let words = if scene.can_draw {
            "needs the router's scores: generate again while Explore is open"
        } else {
            "needs the router's scores, which this run did not record"
        };
        text(&painter, remark, Align2::LEFT_TOP, words, 12.0, look.weak);
        let button = Rect::from_min_size(area.min + vec2(0.0, 26.0), vec2(190.0, 26.0));
        if scene.can_draw
            && put(ui, button, super::centred("Repeat with scores").min_size(button.size()))
                .clicked()
        {
            touch.wish = Some(Wish::Redraw);
        }
        return;
    };
    let moves = scope_switch(ui, area, title.right(), scene, selection);
    let remark = pos2(moves.right() + 8.0, remark.y);
    let words = if selection.shift == 0.0 {
        format!("{} decisions by margin", grouped(histogram.decisions))
    } else {
        let c = |tally: &super::data::tally::Tally| tally.mean_capacity().unwrap_or(0.0);
        format!("first order: C {:.2} to {:.2}", c(&scene.made.plain), c(&scene.made.tally))
    };
    let wide = area.width() > 400.0;
    if wide && selection.shift == 0.0 {
        text(&painter, remark, Align2::LEFT_TOP, &words, 12.0, look.weak);
    } else if wide {
        let odds = format!("{} log-odds", signed(selection.shift));
        text(&painter, remark, Align2::LEFT_TOP, odds, 12.0, look.text);
    }
    let place = Rect::from_min_size(remark, vec2(150.0, 16.0));
    let label = ui.interact(place, ui.scope_id().with("first order"), Sense::hover());
    label.widget_info(|| WidgetInfo::labeled(Role::Label, true, format!("What if γ: {words}")));
    if selection.shift != 0.0 && scene.can_draw {
        let button = Rect::from_min_max(
            pos2(area.right() - 72.0, area.top() - 2.0),
            pos2(area.right(), area.top() + 18.0),
        );
        let response = put(ui, button, super::centred("Redraw").min_size(button.size()));
        let hint = "Repeats the run with these thresholds, so that later layers and steps react to \
            the change. The previous run becomes B";
        if response.on_hover_text(hint).clicked() {
            touch.wish = Some(Wish::Redraw);
        }
    }
    let rail = area.bottom() - 26.0;
    let plot = Rect::from_min_max(
        pos2(area.left() + 8.0, area.top() + 20.0),
        pos2(area.right() - 8.0, rail),
    );
    let x = |odds: f32| plot.left() + (odds + REACH) / (2.0 * REACH) * plot.width();
    let most = histogram.bars.iter().copied().max().unwrap_or(0).max(1) as f32;
    // In a block whose thresholds stay, the threshold is at 0.
    let meets = match scene.now.what_if.of {
        Target::All => true,
        Target::Layer(layer) | Target::Expert(layer, _) => layer == scene.now.layer,
    };
    let shift_here = if meets { selection.shift } else { 0.0 };
    for (bar, &count) in histogram.bars.iter().enumerate().filter(|(_, count)| **count > 0) {
        let odds = middle(bar);
        let half = BAR / 2.0 / (2.0 * REACH) * plot.width();
        let high = (count as f32 / most).sqrt() * plot.height();
        let rect = Rect::from_min_max(
            pos2((x(odds) - half + 0.5).max(plot.left() - 4.0), plot.bottom() - high),
            pos2(x(odds) + half - 0.5, plot.bottom()),
        );
        let taken = odds > shift_here;
        painter.rect_filled(rect, 0.0, if taken { OVER } else { scene.ink.not_taken() });
    }
    let track = Rect::from_min_max(pos2(area.left(), rail - 9.0), pos2(area.right(), rail + 11.0));
    slider(ui, track, selection);
    let foot = area.bottom() - 7.0;
    let label = |at: f32, align, words: &str| {
        text(&painter, pos2(at, foot), align, words, 12.0, look.weak);
    };
    if !wide {
        label(area.left(), Align2::LEFT_CENTER, "−12, more");
        label(area.center().x, Align2::CENTER_CENTER, &words);
        label(area.right(), Align2::RIGHT_CENTER, "less, +12");
        return;
    }
    let shift = match selection.shift {
        0.0 => "shift of the threshold, log-odds",
        _ => words.as_str(),
    };
    label(area.left(), Align2::LEFT_CENTER, "−12, more compute");
    label(area.center().x, Align2::CENTER_CENTER, shift);
    label(area.right(), Align2::RIGHT_CENTER, "less compute, +12");
}

/// Which thresholds the slider moves; returns where the switch lies.
fn scope_switch(
    ui: &mut Ui,
    area: Rect,
    left: f32,
    scene: &Scene<'_>,
    selection: &mut Selection,
) -> Rect {
    // What is chosen, not what is pointed at.
    let blocks = &scene.made.tally.blocks;
    let chosen = blocks.get(selection.layer).or(blocks.last());
    let block = format!("Block {}", chosen.copied().unwrap_or(0));
    let expert = format!("Expert {}", selection.expert.unwrap_or(0));
    let hint = "Which thresholds the slider moves";
    let choices = [
        (Scope::All, "All", hint),
        (Scope::Block, block.as_str(), hint),
        (Scope::Expert, expert.as_str(), "The threshold of the chosen expert in the chosen block"),
    ];
    let size = vec2(if area.width() > 400.0 { 230.0 } else { 212.0 }, 22.0);
    let rect = Rect::from_min_size(pos2(left + 8.0, area.top() - 3.0), size);
    super::switch_in(ui, rect, "scope", &mut selection.scope, &choices);
    rect
}

fn slider(ui: &mut Ui, track: Rect, selection: &mut Selection) {
    let builder = UiBuilder::new().max_rect(track).id_salt("gamma");
    ui.scope_builder(builder, |ui| {
        ui.spacing_mut().slider_width = track.width();
        ui.spacing_mut().interact_size.y = track.height();
        ui.spacing_mut().slider_rail_height = 4.0;
        ui.visuals_mut().slider_trailing_fill = false;
        let slider = Slider::new(&mut selection.shift, -MOST_SHIFT..=MOST_SHIFT);
        let response = ui.add(slider.show_value(false).step_by(0.125));
        let response = response.accessible_name("Shift of the thresholds in log-odds");
        if response.double_clicked() || selection.shift.abs() < SNAP {
            selection.shift = 0.0;
        }
    });
}

impl App {
    /// Draws the run on screen again, with its scores, and with the thresholds of a question. The run as it was becomes
    /// B, unless there is one.
    pub(super) fn redraw(&mut self, what_if: WhatIf) {
        let Some(record) = self.session.record() else { return };
        if !super::is_open(&self.session, record) {
            return self.session.note(NoteKind::Error, super::NOT_OPEN);
        }
        let WhatIf { odds, of } = what_if;
        let mut controls = record.controls.clone();
        let (layer, expert) = match of {
            Target::All => (None, None),
            Target::Layer(layer) => (Some(layer), None),
            Target::Expert(layer, expert) => (Some(layer), Some(expert)),
        };
        match layer.and_then(|layer| record.trace.blocks().get(layer).copied()) {
            Some(block) => controls.sampling.shifts.add(block, expert, odds),
            None => controls.sampling.routing.log_odds += odds,
        }
        if odds != 0.0 && !self.explore.compare.is_set() {
            self.explore.compare.keep(record.id);
        }
        self.session.controls = controls;
        self.explore.selection.shift = 0.0;
        self.session.generate();
    }
}

/// A number with commas between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(
            [7, 999, 1000, 2048, 1_234_567].map(grouped),
            ["7", "999", "1,000", "2,048", "1,234,567"]
        );
    }
}
