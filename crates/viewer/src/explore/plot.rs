//! What the plots over noise have in common: how they share the height, their titles, what lies under the pointer.

use egui::{Align2, Painter, Pos2, vec2};

use super::now::Hover;
use super::paint::text;
use super::scene::Scene;

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
    /// Shares a height between the parts; `frame` is the height of an image of the film.
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

/// The name of a part, left of the axis, with lines of less weight below it.
pub(super) fn title(
    painter: &Painter,
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
