//! Everything over noise, on one axis with one cursor: the film, C, the rivers, the map of the run, the story of the
//! chosen patch. Dragging goes through the steps.

use egui::{Align2, Pos2, Rect, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, pos2, vec2};

use super::axis::Axis;
use super::now::Hover;
use super::paint::text;
use super::scene::{Scene, Touch};
use super::{curve, film, river, run_map, story};
use crate::session::Selection;

/// Room for names on the left and values on the right.
const GUTTERS: [f32; 2] = [86.0, 90.0];
const NARROW_GUTTERS: [f32; 2] = [38.0, 4.0];

/// Heights of the parts, from top to bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Heights {
    pub(super) film: f32,
    pub(super) noise: f32,
    pub(super) curve: f32,
    /// The river of the chosen layer, and of each other.
    pub(super) river: [f32; 2],
    pub(super) legend: f32,
    /// A row of the map in the chosen layer, and in each other.
    pub(super) row: [f32; 2],
    /// A layer of the patch story.
    pub(super) story: f32,
}

/// Gaps below the curve, between rivers and map, and below the map.
const GAPS: f32 = 7.0 + 4.0 + 8.0;
/// Below each layer of the map.
pub(super) const LAYER_GAP: f32 = 3.0;

impl Heights {
    /// Shares a height between the parts; `frame` is the height of a picture of the film.
    pub(super) fn share(height: f32, frame: f32, layers: usize, experts: usize) -> Self {
        let (layers, experts) = (layers.max(1) as f32, experts.max(1) as f32);
        let others = layers - 1.0;
        let (noise, curve, legend) = (18.0, 72.0, 18.0);
        let story = (if layers > 3.0 { 13.0_f32 } else { 16.0 }).min(96.0 / layers);
        let used = frame + 3.0 + noise + curve + legend + story * layers + GAPS;
        let rest = (height - used - LAYER_GAP * layers).max(60.0);
        // Rivers get 170 of 410 points, and the map the others.
        let rivers = rest * 0.42;
        let first =
            if others == 0.0 { rivers } else { (rivers * 0.59).max(rivers - 36.0 * others) };
        let other = if others == 0.0 { 0.0 } else { (rivers - first) / others };
        let map = rest - rivers;
        let share = if others == 0.0 { 1.0 } else { 0.55 };
        let row = (map * share / experts).min(if height > 900.0 { 22.0 } else { 15.0 });
        let small =
            if others == 0.0 { 0.0 } else { ((map - row * experts) / (others * experts)).min(row) };
        Self { film: frame, noise, curve, river: [first, other], legend, row: [row, small], story }
    }

    /// Height of a layer of the map.
    pub(super) fn map_layer(&self, chosen: bool, experts: usize) -> f32 {
        self.row[usize::from(!chosen)] * experts as f32 + LAYER_GAP
    }

    #[cfg(test)]
    fn total(&self, layers: usize, experts: usize) -> f32 {
        let others = (layers - 1) as f32;
        let map = self.map_layer(true, experts) + others * self.map_layer(false, experts);
        let rivers = self.river[0] + others * self.river[1];
        self.film
            + 3.0
            + self.noise
            + self.curve
            + rivers
            + self.legend
            + map
            + GAPS
            + self.story * layers as f32
    }
}

/// What lies at a place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hit {
    pub(super) hover: Hover,
    /// What is there, in words.
    pub(super) words: String,
}

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

/// The name of a part, left of the axis, with lines of less weight below it.
pub(super) fn title(
    painter: &egui::Painter,
    at: Pos2,
    scene: &Scene<'_>,
    words: &str,
    rest: &[&str],
    strong: bool,
) {
    let look = scene.ink.look;
    let colour = if strong { look.text } else { look.weak };
    text(painter, at, Align2::LEFT_TOP, words, 12.0, colour);
    for (i, line) in rest.iter().enumerate() {
        let at = at + vec2(0.0, 15.0 + 14.0 * i as f32);
        text(painter, at, Align2::LEFT_TOP, line, 12.0, look.weak);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_the_height_they_share() {
        for (layers, experts) in [(1, 2), (3, 8), (4, 8), (2, 32), (12, 16), (14, 8)] {
            for height in [640.0, 900.0, 1800.0] {
                let heights = Heights::share(height, 54.0, layers, experts);
                let total = heights.total(layers, experts);
                assert!(total <= height + 0.5, "{layers} {experts} {height}: {total}");
                assert!(heights.river[0] >= 30.0 && heights.row[0] >= 1.5, "{heights:?}");
            }
        }
        let mock = Heights::share(640.0, 54.0, 3, 8);
        assert!((mock.row[0] - 15.0).abs() < 0.5 && mock.row[1] > 5.0, "{mock:?}");
    }
}
