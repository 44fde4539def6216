//! A model that routes nothing: a sentence, the image, the film, and the comparison with another run.

use egui::{Rect, Ui, pos2, vec2};

use super::axis::Axis;
use super::paint::card;
use super::scene::{Scene, Touch};
use super::{film, inside, save, stage, time, versus};
use crate::session::Selection;

/// The largest side of an image alone.
const LARGEST: f32 = 320.0;
const GAP: f32 = 14.0;

/// Shows it in an area.
pub(super) fn show(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    card(ui.painter(), area, scene.ink);
    let inner = area.shrink(GAP);
    let wide = inner.width() > 700.0;
    let [high, head] = if wide { [24.0, 34.0] } else { [38.0, 84.0] };
    let button = Rect::from_min_size(inner.right_top() - vec2(62.0, 4.0), vec2(62.0, high));
    save::menu(ui, button, "this view", &save::of_images(area), touch);
    let words = "This model has no experts: every patch gets the same compute, so there is no \
        routing to explore.";
    let room = Rect::from_min_size(inner.min, vec2(inner.width() - 70.0, head));
    inside(ui, room, "no experts", |ui| {
        let words = egui::RichText::new(words).size(15.5).color(scene.ink.look.text);
        ui.add(egui::Label::new(words).wrap());
    });
    let body = inner.with_min_y(inner.top() + head);
    let axis = Axis::new(0.0, inner.width(), scene.steps());
    let frame = film::height(axis, scene.aspect());
    let rows = if scene.other.is_some() { 2.0 * frame } else { frame };
    let below = body.with_min_y(body.bottom() - rows - 34.0);
    let above = body.with_max_y(below.top() - GAP);
    let (images, beside) = if wide {
        let (left, right) = above.split_left_right_at_fraction(0.56);
        (left, right.with_min_x(right.left() + GAP))
    } else {
        let (top, bottom) = above.split_top_bottom_at_fraction(0.46);
        (top, bottom.with_min_y(bottom.top() + GAP))
    };
    if let Some(other) = scene.other {
        stage::side_by_side(ui, images, scene, &other, selection, touch, false);
    } else {
        let room = vec2(images.width().min(LARGEST), images.height().min(LARGEST));
        let image = stage::fit(Rect::from_min_size(images.min, room), scene.aspect());
        stage::show(ui, image, scene, selection, touch, false);
    }
    versus::show(ui, beside, scene, touch);
    let film = Rect::from_min_max(pos2(inner.left(), below.top()), inner.max);
    time::show(ui, film, scene, selection, touch, wide);
}
