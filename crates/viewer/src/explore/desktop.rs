//! Two columns: where in the image on the left, when on the right.

use egui::{Align2, Rect, ScrollArea, Ui, pos2, vec2};

use super::paint::{card, chip, text, text_within};
use super::scene::{Part, Scene, Touch, Wish};
use super::{
    dense, experts, gallery, gamma, inside, labels, mute, numbers, place, save, stage, switch_in,
    tabs, time, versus, why,
};
use crate::session::{Card, Selection};

const GAP: f32 = 8.0;
/// Heights of the line of numbers and of the γ card.
const NUMBERS: f32 = 44.0;
const WHAT_IF: f32 = 92.0;
/// Below this height the page scrolls.
const LEAST: f32 = 640.0;

/// Width of a button that saves.
const SAVE: f32 = 44.0;

fn save_button(corner: egui::Pos2) -> Rect {
    Rect::from_min_size(corner, vec2(SAVE, 24.0))
}

/// Shows all cards in an area.
pub(super) fn show(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    if area.height() >= LEAST {
        return cards(ui, area, scene, selection, touch);
    }
    ScrollArea::vertical().id_salt("explore").show(ui, |ui| {
        let (_, rect) = ui.allocate_space(vec2(ui.available_width(), LEAST));
        cards(ui, rect, scene, selection, touch);
    });
}

fn cards(ui: &mut Ui, area: Rect, scene: &Scene<'_>, selection: &mut Selection, touch: &mut Touch) {
    if scene.record.trace.blocks().is_empty() {
        return dense::show(ui, area, scene, selection, touch);
    }
    numbers::show(ui, area.with_max_y(area.top() + NUMBERS), scene, true);
    let below = area.with_min_y(area.top() + NUMBERS + GAP);
    let left = below.with_max_x(below.left() + (area.width() * 0.391).clamp(400.0, 820.0));
    let right = below.with_min_x(left.right() + GAP);
    let side = ((left.width() - 24.0) * 0.547).min(below.height() * 0.42);
    let stage_card = left.with_max_y(left.top() + side * scene.aspect().min(1.0) + 47.0);
    // Models without thresholds have no question about them.
    let asks = scene.has_thresholds();
    let what = left.with_min_y(left.bottom() - if asks { WHAT_IF } else { -GAP });
    let tabs = Rect::from_min_max(
        pos2(left.left(), stage_card.bottom() + GAP),
        pos2(left.right(), what.top() - GAP),
    );
    stage_and_why(ui, stage_card, side, scene, selection, touch);
    tab_card(ui, tabs, scene, selection, touch);
    if asks {
        card(ui.painter(), what, scene.ink);
        gamma::show(ui, what.shrink2(vec2(12.0, 7.0)), scene, selection, touch);
    }
    time_card(ui, right, scene, selection, touch);
}

/// The image, and next to it why the selected patch is routed this way.
fn stage_and_why(
    ui: &mut Ui,
    rect: Rect,
    side: f32,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    card(ui.painter(), rect, scene.ink);
    let inner = rect.shrink2(vec2(12.0, 10.0));
    let choices = stage::overlays(scene);
    let width = [0.0, 80.0, 150.0, 220.0, 292.0][choices.len().min(4)];
    let switch = Rect::from_min_size(
        pos2(inner.right() - width - 4.0, inner.top() - 3.0),
        vec2(width, 26.0),
    );
    let title = format!("Noise {} · {}", scene.noise(scene.now.step), scene.name());
    let at = pos2(inner.left(), inner.top());
    let button = save_button(switch.left_top() - vec2(SAVE + 6.0, -1.0));
    save::menu(ui, button, "the image", &save::of_stage(rect), touch);
    let room = button.left() - inner.left() - 8.0;
    text_within(ui.painter(), at, &title, 15.5, scene.ink.look.text, room);
    switch_in(ui, switch, "overlay", &mut selection.overlay, &choices);
    let body = inner.with_min_y(inner.top() + 27.0);
    if let Some(other) = scene.other {
        stage::side_by_side(ui, body, scene, &other, selection, touch, false);
        return;
    }
    let image = Rect::from_min_size(body.min, vec2(side, body.height()));
    let image = stage::fit(image, scene.aspect());
    stage::show(ui, image, scene, selection, touch, false);
    let beside = Rect::from_min_max(pos2(body.left() + side + 14.0, body.top()), body.max);
    why::show(ui, beside.with_max_y(beside.bottom() - 18.0), scene, selection, touch);
    let legend = stage::legend(scene);
    let at = pos2(beside.left(), beside.bottom());
    text(ui.painter(), at, Align2::LEFT_BOTTOM, legend, 12.0, scene.ink.look.weak);
}

fn tab_card(
    ui: &mut Ui,
    rect: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    card(ui.painter(), rect, scene.ink);
    let inner = rect.shrink2(vec2(12.0, 8.0));
    let strip = Rect::from_min_size(inner.min - vec2(3.0, 2.0), vec2(inner.width() + 3.0, 26.0));
    let strip = strip.with_max_x(strip.right() - SAVE - 6.0);
    let end = tabs::strip(ui, strip, scene, &mut selection.card, true);
    let shown = tabs::shown(selection.card, scene, true);
    let button = save_button(inner.right_top() - vec2(SAVE, 1.0));
    save::menu(ui, button, "the card", &save::of_tabs(rect, scene, shown), touch);
    let remark = inner.right_top() + vec2(-SAVE - 8.0, 11.0);
    let look = scene.ink.look;
    let words = match shown {
        Card::Gallery | Card::Mute => {
            let at = remark - vec2(18.0, 0.0);
            chip(ui.painter(), at, scene.now.some_expert());
            let long = format!("block {}, expert", scene.block());
            let words = if at.x - end > 96.0 { long } else { format!("b{}", scene.block()) };
            text(ui.painter(), at - vec2(5.0, 0.0), Align2::RIGHT_CENTER, words, 12.0, look.weak);
            String::new()
        }
        Card::Place => place::remark(scene, remark.x - end > 190.0),
        Card::Labels if remark.x - end > 150.0 => labels::remark(scene),
        Card::Compare | Card::Labels => String::new(),
        _ => format!("block {}", scene.block()),
    };
    text(ui.painter(), remark, Align2::RIGHT_CENTER, words, 12.0, look.weak);
    let body = inner.with_min_y(inner.top() + 28.0);
    show_card(ui, body, shown, scene, selection, touch);
}

/// The contents of a card.
pub(super) fn show_card(
    ui: &mut Ui,
    area: Rect,
    shown: Card,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    match shown {
        Card::Experts | Card::Noise => experts::show(ui, area, scene, selection, touch),
        Card::Patch => why::show(ui, area, scene, selection, touch),
        Card::Compare => versus::show(ui, area, scene, touch),
        Card::Mute => mute::show(ui, area, scene, touch),
        Card::Gallery => gallery::show(ui, area, scene, selection),
        Card::Place => place::show(ui, area, scene, selection, touch),
        Card::Labels => labels::show(ui, area, scene, selection, touch, true),
    }
}

fn time_card(
    ui: &mut Ui,
    rect: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    card(ui.painter(), rect, scene.ink);
    let inner = rect.shrink2(vec2(12.0, 10.0));
    let look = scene.ink.look;
    let title =
        text(ui.painter(), inner.min, Align2::LEFT_TOP, "From noise to image", 15.5, look.text);
    let button =
        Rect::from_min_size(pos2(title.right() + 8.0, inner.top() - 2.0), vec2(54.0, 24.0));
    let words = if scene.playing { "Pause" } else { "Play" };
    let response = super::put(ui, button, super::centred(words).min_size(button.size()));
    if response.accessible_name(format!("{words} the steps")).clicked() {
        touch.wish = Some(Wish::Play);
    }
    let faster = Rect::from_min_size(button.right_top() + vec2(4.0, 0.0), vec2(34.0, 24.0));
    time::speed(ui, faster, scene, touch);
    let keep = Rect::from_min_size(faster.right_top() + vec2(8.0, 0.0), vec2(96.0, 24.0));
    let is_kept = scene.other.is_some() || scene.part == Part::KeptAsB;
    let words = if is_kept { "Let go of B" } else { "Keep as B" };
    let hint = "Run B is shown beside the runs that follow (B)";
    let response = super::put(ui, keep, super::centred(words).min_size(keep.size()));
    if response.on_hover_text(hint).clicked() {
        touch.wish = Some(Wish::KeepAsB);
    }
    let offer = scene.measures.offer(scene.record);
    if let Some(offer) = offer.filter(|_| scene.can_draw && scene.record.is_complete()) {
        let place = Rect::from_min_size(keep.right_top() + vec2(8.0, 0.0), vec2(150.0, 24.0));
        let button = super::centred(&offer).min_size(place.size());
        let hint = "Repeats the run without each expert in turn, and compares";
        if super::put(ui, place, button).on_hover_text(hint).clicked() {
            touch.wish = Some(Wish::Measure);
        }
    }
    let words = match scene.now.what_if.odds {
        0.0 => "one axis; drag to scrub".to_owned(),
        odds => format!("what if, first order: {odds:+} log-odds"),
    };
    let button = save_button(inner.right_top() - vec2(SAVE, 2.0));
    save::menu(ui, button, "the plots", &save::of_time(rect, scene), touch);
    let at = pos2(button.left() - 8.0, inner.top() + 10.0);
    text(ui.painter(), at, Align2::RIGHT_CENTER, words, 12.0, look.weak);
    let body = inner.with_min_y(inner.top() + 28.0);
    inside(ui, body, "time", |ui| time::show(ui, body, scene, selection, touch, true));
}
