//! The model's prediction of the image, step by step, and the noise level of each step.

use egui::{Align2, Painter, Rect, pos2, vec2};

use super::axis::Axis;
use super::colours::OTHER;
use super::data::film::{frames_of_film, is_expected};
use super::images::place_on_sheet;
use super::paint::{image, text};
use super::plot::title;
use super::scene::Scene;

/// Height of an image at most, and how little of a column is left beside it.
const MOST: f32 = 54.0;
const BESIDE: f32 = 3.0;

/// Height of the images: as wide as the columns, or as those that share one image.
pub(super) fn height(axis: Axis, aspect: f32) -> f32 {
    let frames = frames_of_film(axis.steps).len().max(1);
    let room = (axis.right - axis.left) / frames as f32 - BESIDE;
    (room.max(14.0) * aspect).min(MOST)
}

/// Shows the images, those of B below those of A, and the levels below them.
pub(super) fn show(
    painter: &Painter,
    rect: Rect,
    noise: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    wide: bool,
) {
    let look = scene.ink.look;
    let is_traced = scene.record.is_traced();
    if is_traced && wide {
        let words = "a trace file has no images";
        let at = pos2(axis.left, rect.center().y);
        text(painter, at, Align2::LEFT_CENTER, words, 12.0, look.weak);
    }
    match scene.other {
        None => row(painter, rect, axis, scene, None, wide),
        Some(other) => {
            let half = rect.height() / 2.0;
            let (above, below) = rect.split_top_bottom_at_y(rect.top() + half);
            row(painter, above, axis, scene, None, wide);
            row(painter, below, axis, other.scene, Some(other.steps), wide);
            for (row, name, colour) in [(above, "A", look.text), (below, "B", OTHER)] {
                let at = pos2(axis.left - 5.0, row.center().y - BESIDE / 2.0);
                text(painter, at, Align2::RIGHT_CENTER, name, 12.0, colour);
            }
        }
    }
    if wide && !is_traced {
        let at = pos2(axis.right + 14.0, noise.center().y);
        text(painter, at, Align2::LEFT_CENTER, "result", 12.0, look.weak);
    }
    for step in axis.spread(if scene.steps() <= 10 { 20.0 } else { 32.0 }) {
        let colour = if step == scene.now.step { look.text } else { look.weak };
        let at = pos2(axis.middle(step), noise.center().y);
        text(painter, at, Align2::CENTER_CENTER, scene.noise(step), 12.0, colour);
    }
    if wide {
        let left = axis.left - 86.0;
        let words: [&str; 2] = if is_expected(scene.record) && scene.record.latents.is_none() {
            ["Prediction", "of the image"]
        } else {
            ["Sample", "after the step"]
        };
        // The names of the rows stand where the second line ends.
        let trace = &scene.record.trace;
        let [coarse, fine] = [trace.grid_at(0), trace.grid()];
        let grids = format!("{}×{}, {}×{}", coarse[0], coarse[1], fine[0], fine[1]);
        let lines = [words[1], &grids];
        let rest: &[&str] = match scene.other {
            Some(_) => &[],
            None if coarse == fine => &lines[..1],
            None => &lines,
        };
        title(painter, pos2(left, rect.top() + 8.0), scene, words[0], rest, true);
        let at = pos2(left, noise.center().y);
        text(painter, at, Align2::LEFT_CENTER, "noise level", 12.0, look.weak);
    }
}

/// The images of one run; of run B those of the steps that belong to the columns.
fn row(
    painter: &Painter,
    rect: Rect,
    axis: Axis,
    scene: &Scene<'_>,
    columns: Option<&[usize]>,
    wide: bool,
) {
    let Some(texture) = scene.made.film.as_ref() else { return };
    let high = rect.height() - BESIDE;
    let size = vec2(high / scene.aspect().max(1e-3), high);
    let frames = frames_of_film(scene.record.steps() as usize);
    let arrived = scene.made.noise.len();
    let cells = frames.len() + 1;
    let mut free = f32::NEG_INFINITY;
    for column in frames_of_film(axis.steps) {
        let cell = Rect::from_center_size(pos2(axis.middle(column), rect.top() + high / 2.0), size);
        if cell.left() < free - 0.5 {
            continue;
        }
        free = cell.right();
        let step = columns.map_or(Some(column), |columns| columns.get(column).copied());
        // The nearest image of the film.
        let place = step
            .filter(|step| *step < arrived)
            .and_then(|step| (0..frames.len()).min_by_key(|place| frames[*place].abs_diff(step)));
        match place {
            Some(place) => image(painter, cell, texture, place_on_sheet(place, cells, cells)),
            None => {
                painter.rect_filled(cell, 2.0, scene.ink.look.well);
            }
        }
    }
    if wide {
        let width = size.x.min(74.0);
        let at = pos2(axis.right + 14.0, rect.top());
        let cell = Rect::from_min_size(at, vec2(width, width * scene.aspect()));
        image(painter, cell, texture, place_on_sheet(cells - 1, cells, cells));
    }
}
