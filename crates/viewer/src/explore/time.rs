//! Everything over noise, on one axis with one cursor: the film, C, the rivers, the map of the run, the story of the
//! chosen patch. Dragging goes through the steps.

use egui::{Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2};

use super::axis::Axis;
use super::now::Hover;
use super::plot::{Heights, Hit};
use super::scene::{Scene, Touch, Wish};
use super::{curve, film, river, run_map, story};
use crate::session::Selection;

/// Room for names on the left and values on the right.
const GUTTERS: [f32; 2] = [86.0, 90.0];
const NARROW_GUTTERS: [f32; 2] = [38.0, 4.0];

/// Shows all of it in an area.
pub(super) fn show(
    ui: &mut Ui,
    area: Rect,
    scene: &Scene<'_>,
    selection: &mut Selection,
    touch: &mut Touch,
    wide: bool,
) {
    let [left, right] = if wide { GUTTERS } else { NARROW_GUTTERS };
    let axis = Axis::new(area.left() + left, area.right() - right, scene.steps());
    let (layers, experts) = (scene.made.tally.blocks.len(), scene.made.tally.experts);
    let frame = film::height(axis, scene.aspect());
    // Below the images of A lie those of B.
    let frame = if scene.other.is_some() { 2.0 * frame.min(42.0) + 3.0 } else { frame };
    let heights = Heights::share(area.height(), frame, layers, experts);
    let id = ui.scope_id().with("over noise");
    let response = ui.interact(area, id, Sense::click_and_drag());
    let mut y = area.top();
    let mut next = |height: f32| {
        let rect = Rect::from_min_max(pos2(axis.left, y), pos2(axis.right, y + height));
        y += height;
        rect
    };
    let film_rect = next(heights.film + 3.0);
    let noise_rect = next(heights.noise);
    let painter = ui.painter_at(area.expand(3.0));
    film::show(&painter, film_rect, noise_rect, axis, scene, wide);
    let mut hit = None;
    let pos = response.hover_pos().or_else(|| response.interact_pointer_pos());
    let mut look = |found: Option<Hit>| hit = hit.take().or(found);
    let mut bottom = noise_rect.bottom();
    if layers > 0 {
        curve::show(&painter, next(heights.curve), axis, scene, wide);
        next(7.0);
        for layer in 0..layers {
            let chosen = layer == scene.now.layer;
            let rect = next(heights.river[usize::from(!chosen)]);
            river::show(&painter, rect, axis, scene, layer, wide);
            look(pos.and_then(|pos| river::hit(rect, axis, scene, layer, pos)));
        }
        next(4.0);
        let legend = next(heights.legend);
        let rows: f32 = (0..layers).map(|l| heights.map_layer(l == scene.now.layer, experts)).sum();
        let map = next(rows);
        run_map::show(&painter, legend, map, axis, scene, &heights, wide);
        look(pos.and_then(|pos| run_map::hit(map, axis, scene, &heights, pos)));
        next(8.0);
        let story = next(heights.story * layers as f32);
        story::show(&painter, story, axis, scene, heights.story, wide);
        look(pos.and_then(|pos| story::hit(story, axis, scene, heights.story, pos)));
        bottom = if scene.now.patch.is_some() { story.bottom() } else { map.bottom() + 8.0 };
    }
    cursor(&painter, axis, scene, [film_rect.top() - 2.0, bottom + 2.0]);
    let name = described(scene);
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, &name));
    point(ui, &response, axis, area, hit, selection, touch);
}

/// A button that changes how fast playing goes.
pub(super) fn speed(ui: &mut Ui, place: Rect, scene: &Scene<'_>, touch: &mut Touch) {
    let words = if scene.speed < 1.0 { "×½".to_owned() } else { format!("×{}", scene.speed) };
    let button = super::centred(&words).wrap_mode(egui::TextWrapMode::Extend);
    let response = super::put(ui, place, button.min_size(place.size()));
    let response = response.on_hover_text("Speed of playing");
    if response.accessible_name(format!("Speed of playing: {words}")).clicked() {
        touch.wish = Some(Wish::Faster);
    }
}

/// Pointing previews, clicking chooses, dragging goes through the steps.
fn point(
    ui: &Ui,
    response: &egui::Response,
    axis: Axis,
    area: Rect,
    hit: Option<Hit>,
    selection: &mut Selection,
    touch: &mut Touch,
) {
    if response.dragged()
        && let Some(pos) = response.interact_pointer_pos()
    {
        selection.step = Some(axis.nearest(pos.x));
        return;
    }
    let Some(pos) = response.hover_pos().filter(|pos| area.contains(*pos)) else { return };
    let beside = Hover { step: axis.step_at(pos.x), ..Hover::default() };
    let hit = hit.unwrap_or(Hit { hover: beside, words: String::new() });
    touch.hover = hit.hover;
    if response.clicked() {
        hit.hover.lock(selection);
    }
    let dragging = ui.input(|input| input.pointer.any_down());
    if !hit.words.is_empty() && !dragging {
        response.clone().on_hover_text_at_pointer(hit.words);
    }
}

/// A frame around the column that is looked at, through all parts.
fn cursor(painter: &egui::Painter, axis: Axis, scene: &Scene<'_>, [top, bottom]: [f32; 2]) {
    let span = axis.span(scene.now.step);
    let rect = Rect::from_x_y_ranges(span, top..=bottom);
    let accent = scene.ink.look.accent;
    painter.rect_filled(rect, 3.0, accent.gamma_multiply(0.08));
    let pen = Stroke::new(1.0, accent.gamma_multiply(0.75));
    painter.rect_stroke(rect, 3.0, pen, StrokeKind::Middle);
}

/// The plots in words: the step, C, and where it comes from.
fn described(scene: &Scene<'_>) -> String {
    let step = scene.now.step;
    let noise = scene.noise(step);
    let place = format!("Over noise: step {} of {}, noise {noise}", step + 1, scene.steps());
    match scene.made.tally.capacity(step) {
        Some(c) => format!("{place}, C {c:.2}"),
        None => place,
    }
}
