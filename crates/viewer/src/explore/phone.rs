//! One column, for thumbs: numbers, the image, a river that is the slider's track, and cards below it.

use egui::{
    Align2, Color32, Pos2, Rect, Role, ScrollArea, Sense, Stroke, Ui, WidgetInfo, pos2, vec2,
};

use super::axis::Axis;
use super::desktop::show_card;
use super::paint::{card, chip, text};
use super::scene::{Scene, Touch, Wish};
use super::{
    dense, gamma, inside, labels, numbers, river, save, stage, switch_in, tabs, time, why,
};
use crate::icons::Icon;
use crate::session::{Card, Selection};

/// The column is no wider than this.
const WIDEST: f32 = 620.0;
/// Width of the button that saves.
const SAVE: f32 = 46.0;

/// Shows the column in an area.
pub(super) fn show(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    let side = ((area.width() - WIDEST) / 2.0).max(0.0);
    let area = area.shrink2(vec2(side, 0.0));
    if scene.record.trace.blocks().is_empty() {
        return dense::show(ui, area, scene, selection, touch);
    }
    let mut y = area.top();
    let mut next = |height: f32| {
        let rect = Rect::from_min_max(pos2(area.left(), y), pos2(area.right(), y + height));
        y += height + 6.0;
        rect
    };
    numbers::show(ui, next(44.0), scene, false);
    let most = (area.height() * 0.355).max(160.0);
    let width = (area.width()).min(most / scene.aspect().max(1e-3));
    // Two images beside each other are half as wide.
    let images = if scene.other.is_some() { (area.width() - 8.0) / 2.0 } else { width };
    let caption = if scene.other.is_some() { 18.0 } else { 0.0 };
    let row = next(images.min(width) * scene.aspect() + caption);
    let image = Rect::from_center_size(row.center(), vec2(width, row.height()));
    let finger = match scene.other {
        None => stage::show(ui, image, scene, selection, touch, true),
        Some(other) => stage::side_by_side(ui, row, scene, &other, selection, touch, true),
    };
    let choices = stage::overlays(scene);
    let row = next(38.0);
    let button = row.with_min_x(row.right() - SAVE);
    let room = row.with_max_x(button.left() - 6.0);
    let wide = 74.0 * choices.len() as f32;
    let switch = Rect::from_center_size(room.center(), vec2(wide.min(room.width()), 38.0));
    switch_in(ui, switch, "overlay", &mut selection.overlay, &choices);
    rail(ui, next(80.0), scene, selection, touch);
    let strip = next(42.0);
    tabs::ground(ui, strip);
    tabs::strip(ui, strip.shrink2(vec2(2.0, 0.0)), scene, &mut selection.card, false);
    let shown = tabs::shown(selection.card, scene, false);
    let rest = Rect::from_min_max(pos2(area.left(), y), area.max);
    save::menu(ui, button, "this view", &save::of_phone(area, rest, scene, shown), touch);
    card(ui.painter(), rest, scene.ink);
    let body = rest.shrink2(vec2(10.0, 8.0));
    inside(ui, body, "phone card", |ui| {
        ScrollArea::vertical().id_salt("card").show(ui, |ui| {
            contents(ui, body, shown, scene, selection, touch);
        });
    });
    if let Some(finger) = finger {
        loupe(ui, area, finger, scene);
    }
}

/// A card: first which block, then what it shows, as high as it needs to be.
fn contents(
    ui: &mut Ui,
    body: Rect,
    shown: Card,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    let (layers, experts) = (scene.made.tally.blocks.len(), scene.made.tally.experts);
    let height = match shown {
        Card::Noise => 430.0 + 20.0 * layers as f32 + 4.0 * experts as f32,
        Card::Patch => 40.0 + 20.0 * experts.min(16) as f32 + 20.0 + 108.0,
        Card::Mute => 280.0,
        Card::Compare => 260.0,
        Card::Labels => labels::height(scene),
        Card::Gallery => 300.0,
        // Two rows fit what is there.
        Card::Experts | Card::Place if experts <= 8 => (body.height() - 46.0).max(160.0),
        Card::Experts | Card::Place => 100.0 * experts.div_ceil(4) as f32,
    };
    let tall = (height + 46.0).max(body.height());
    let (_, rect) = ui.allocate_space(vec2(body.width(), tall));
    let blocks = rect.with_max_y(rect.top() + 38.0);
    block_switch(ui, blocks, scene, selection);
    let rest = rect.with_min_y(blocks.bottom() + 8.0);
    match shown {
        Card::Noise => {
            let evaluations = scene.record.trace.evaluations();
            let passes = if scene.guided() || evaluations > 1 { 38.0 } else { 0.0 };
            let row = rest.with_max_y(rest.top() + 34.0);
            let (left, right) = row.split_left_right_at_fraction(0.6);
            match (scene.guided(), evaluations > 1) {
                (true, true) => {
                    pass_switch(ui, left.with_max_x(left.right() - 4.0), selection);
                    evaluation_switch(ui, right, evaluations, selection);
                }
                (true, false) => pass_switch(ui, row, selection),
                (false, true) => evaluation_switch(ui, row, evaluations, selection),
                (false, false) => {}
            }
            time::show(ui, rest.with_min_y(rest.top() + passes), scene, selection, touch, false);
        }
        Card::Patch => {
            let asks = scene.has_thresholds();
            let above = rest.with_max_y(rest.bottom() - if asks { 108.0 } else { 0.0 });
            why::show(ui, above, scene, selection, touch);
            if asks {
                let below = rest.with_min_y(rest.bottom() - 96.0);
                gamma::show(ui, below, scene, selection, touch);
            }
        }
        Card::Experts => {
            let fitting = rest.with_max_y(rest.top() + height.max(rest.height()));
            show_card(ui, fitting, shown, scene, selection, touch);
        }
        Card::Labels => labels::show(ui, rest, scene, selection, touch, false),
        _ => show_card(ui, rest, shown, scene, selection, touch),
    }
}

/// The blocks that route; where there are many, only those around the chosen one.
fn block_switch(ui: &mut Ui, rect: Rect, scene: &Scene<'_>, selection: &mut Selection) {
    let blocks = &scene.made.tally.blocks;
    let fit = ((rect.width() / 62.0) as usize).max(1);
    let mut layer = scene.now.layer;
    let first = layer.saturating_sub(fit / 2).min(blocks.len().saturating_sub(fit));
    let names: Vec<(usize, String)> =
        (first..blocks.len()).take(fit).map(|l| (l, format!("Block {}", blocks[l]))).collect();
    let choices: Vec<(usize, &str, &str)> =
        names.iter().map(|(l, name)| (*l, name.as_str(), "This block's experts")).collect();
    switch_in(ui, rect, "block", &mut layer, &choices);
    if layer != scene.now.layer {
        selection.layer = layer;
    }
}

/// The evaluations of a step, by their number.
pub(super) fn evaluation_switch(ui: &mut Ui, rect: Rect, count: usize, selection: &mut Selection) {
    let hint = "The scheduler evaluates the model several times in a step: Heun at its start and at its end";
    let names = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th"];
    let choices: Vec<(usize, &str, &str)> =
        names.iter().enumerate().take(count).map(|(i, name)| (i, *name, hint)).collect();
    switch_in(ui, rect, "evaluation", &mut selection.evaluation, &choices);
}

fn pass_switch(ui: &mut Ui, rect: Rect, selection: &mut Selection) {
    use diffmoe::scheduler::Branch;
    let hint = "Guidance runs the model twice, conditional and unconditional, and each pass is routed separately";
    let choices = [(Branch::Conditional, "Cond.", hint), (Branch::Unconditional, "Uncond.", hint)];
    switch_in(ui, rect, "pass", &mut selection.pass, &choices);
}

/// The way through the steps: the river of the chosen block is the track, a thumb drags the handle.
fn rail(ui: &mut Ui, rect: Rect, scene: &Scene<'_>, selection: &mut Selection, touch: &mut Touch) {
    let look = scene.ink.look;
    let play = Rect::from_min_size(rect.min, vec2(40.0, 42.0));
    let faster = Rect::from_min_size(rect.min + vec2(0.0, 45.0), vec2(40.0, 34.0));
    time::speed(ui, faster, scene, touch);
    let response = ui.interact(play, ui.scope_id().with("play"), Sense::click());
    let name = if scene.playing { "Pause the steps" } else { "Play the steps" };
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, name));
    ui.painter().rect_filled(play, 7.0, look.control);
    let icon = if scene.playing { Icon::Pause } else { Icon::Play };
    icon.paint(ui.painter(), play.shrink(12.0), look.text);
    if response.clicked() {
        touch.wish = Some(Wish::Play);
    }
    let track = Rect::from_min_max(
        pos2(rect.left() + 48.0, rect.top()),
        pos2(rect.right(), rect.top() + 56.0),
    );
    let axis = Axis::new(track.left(), track.right(), scene.steps());
    let response = ui.interact(
        track.expand2(vec2(0.0, 8.0)),
        ui.scope_id().with("rail"),
        Sense::click_and_drag(),
    );
    let value = f64::from(scene.now.step as u32 + 1);
    response.widget_info(|| {
        let name = format!("Step {} of {}", scene.now.step + 1, scene.steps());
        WidgetInfo::slider(true, value, name)
    });
    let pressed = response.is_pointer_button_down_on() || response.clicked();
    if let Some(pos) = response.interact_pointer_pos().filter(|_| pressed) {
        selection.step = Some(axis.nearest(pos.x));
    }
    let painter = ui.painter();
    painter.rect_filled(track, 0.0, look.well);
    let most = scene.made.tally.most().max(1.2);
    river::bands(painter, track, axis, scene, scene.now.layer, track.height() / most, None);
    let x = axis.middle(scene.now.step);
    painter.vline(x, track.y_range(), Stroke::new(3.0, scene.ink.ring));
    painter.circle(pos2(x, track.bottom()), 11.0, look.card, Stroke::new(2.0, look.text));
    let foot = rect.top() + 74.0;
    text(painter, pos2(track.left(), foot), Align2::LEFT_CENTER, "noise", 12.0, look.weak);
    text(painter, pos2(track.right(), foot), Align2::RIGHT_CENTER, "image", 12.0, look.weak);
    let words = format!("noise {}, block {}", scene.noise(scene.now.step), scene.block());
    let at = pos2(x.clamp(track.left() + 90.0, track.right() - 100.0), foot);
    text(painter, at, Align2::CENTER_CENTER, words, 12.0, look.text);
}

/// Above the finger: the patch enlarged, and who takes it in each block.
fn loupe(ui: &Ui, area: Rect, finger: Pos2, scene: &Scene<'_>) {
    let Some((row, column)) = scene.patch_place() else { return };
    let look = scene.ink.look;
    let layers = scene.made.story.len();
    let size = vec2(270.0, 116.0_f32.max(34.0 + 22.0 * layers.min(8) as f32 + 8.0));
    let left =
        (finger.x - size.x / 2.0).clamp(area.left(), (area.right() - size.x).max(area.left()));
    let top = (finger.y - size.y - 56.0).max(area.top() - 40.0);
    let rect = Rect::from_min_size(pos2(left, top), size);
    let layer = egui::LayerId::new(egui::Order::Foreground, egui::Id::unique("loupe"));
    let painter = ui.ctx().layer_painter(layer);
    let shade =
        egui::Shadow { offset: [0, 6], blur: 20, spread: 0, color: Color32::from_black_alpha(140) };
    painter.add(shade.as_shape(rect, 12.0));
    card(&painter, rect, scene.ink);
    let cut = Rect::from_min_size(rect.min + vec2(9.0, 9.0), vec2(96.0, 96.0));
    stage::loupe(&painter, cut, scene);
    let mut at = pos2(cut.right() + 12.0, rect.top() + 20.0);
    let words = format!("row {row}, column {column}");
    text(&painter, at, Align2::LEFT_CENTER, words, 14.0, look.text);
    for (layer, steps) in scene.made.story.iter().enumerate().take(8) {
        at.y += 22.0;
        let Some(block) = scene.made.tally.blocks.get(layer) else { continue };
        let words = format!("block {block}");
        let mut x = text(&painter, at, Align2::LEFT_CENTER, words, 12.0, look.weak).right() + 5.0;
        let experts = steps.get(scene.now.step).and_then(Option::as_ref);
        let nobody = match experts {
            None => "no such pass",
            Some(experts) if experts.is_empty() => "no expert",
            Some(_) => "",
        };
        text(&painter, pos2(x, at.y), Align2::LEFT_CENTER, nobody, 13.0, look.weak);
        let experts = experts.map_or(&[][..], Vec::as_slice);
        for &(expert, gate) in experts.iter().take(2) {
            x = chip(&painter, pos2(x, at.y), expert).right() + 3.0;
            if let Some(gate) = gate {
                let words = format!("{gate:.2}");
                x = text(&painter, pos2(x, at.y), Align2::LEFT_CENTER, words, 13.0, look.text)
                    .right();
            }
            x += 5.0;
        }
    }
}
