//! C over noise: solid for the pass that is shown, dashed for the other, dotted for the run before a shift.

use egui::{Align2, Color32, Painter, Pos2, Rect, Shape, Stroke, pos2};

use diffmoe::scheduler::Branch;

use super::axis::Axis;
use super::colours::OTHER;
use super::data::tally::{Tally, stretches};
use super::paint::{text, text_over};
use super::plot::title;
use super::scene::Scene;

/// Names of the evaluations of a step.
const EVALUATIONS: [&str; 4] = ["1st evaluation", "2nd evaluation", "3rd evaluation", "later one"];

/// Values to heights.
struct Scale {
    rect: Rect,
    least: f32,
    most: f32,
}

impl Scale {
    /// From the least to the most of some values, with room for labels.
    fn new(rect: Rect, values: impl Iterator<Item = f32>) -> Self {
        let (least, most) = values.fold((1.0_f32, 1.0_f32), |(a, b), v| (a.min(v), b.max(v)));
        let range = (most - least).max(0.02);
        Self { rect, least: (least - 0.2 * range).max(0.0), most: most + 0.34 * range }
    }

    fn y(&self, value: f32) -> f32 {
        let share = (value - self.least) / (self.most - self.least);
        self.rect.bottom() - share * self.rect.height()
    }
}

/// A curve through its values, interrupted where there is none. A value alone is a short line.
pub(super) fn lines(values: &[Option<f32>], axis: Axis, y: impl Fn(f32) -> f32) -> Vec<Vec<Pos2>> {
    let point = |step: usize| Some(pos2(axis.middle(step), y(values[step]?)));
    let stretch = |steps: std::ops::Range<usize>| {
        let line: Vec<Pos2> = steps.filter_map(point).collect();
        match line[..] {
            [alone] => {
                let half = egui::vec2(axis.column() * 0.3, 0.0);
                vec![alone - half, alone + half]
            }
            _ => line,
        }
    };
    stretches(values.iter().map(Option::is_some)).into_iter().map(stretch).collect()
}

/// C of B by column, and its name: of run B, or else of the run without the chosen expert.
fn b_curve(scene: &Scene<'_>) -> (Vec<Option<f32>>, String) {
    if let Some(other) = scene.other {
        let columns = (0..scene.steps()).map(|column| other.capacity(column));
        return (columns.collect(), "B".to_owned());
    }
    let solo = scene.pair.is_some_and(|pair| pair.solo);
    let verb = if solo { "only" } else { "no" };
    let name = format!("B, {verb} {}", scene.now.some_expert());
    (scene.made.without.clone(), name)
}

/// Shows the curves.
pub(super) fn show(painter: &Painter, rect: Rect, axis: Axis, scene: &Scene<'_>, wide: bool) {
    let look = scene.ink.look;
    let (tally, other, plain) = (&*scene.made.tally, &*scene.made.other, &*scene.made.plain);
    let both = [tally, other, plain];
    let values = both.iter().flat_map(|tally| tally.capacities()).flatten();
    let (without, _) = b_curve(scene);
    let scale = Scale::new(rect, values.chain(without.iter().flatten().copied()));
    painter.rect_filled(rect, 0.0, look.well);
    let one = [pos2(rect.left(), scale.y(1.0)), pos2(rect.right(), scale.y(1.0))];
    painter.extend(Shape::dashed_line(
        &one,
        Stroke::new(1.0, look.weak.gamma_multiply(0.8)),
        2.0,
        4.0,
    ));
    let through = |values: &[Option<f32>]| lines(values, axis, |c| scale.y(c));
    if scene.guided() {
        for line in through(&other.capacities()) {
            painter.extend(Shape::dashed_line(&line, Stroke::new(1.5, look.weak), 5.0, 4.0));
        }
    }
    if scene.now.what_if.odds != 0.0 {
        for line in through(&plain.capacities()) {
            painter.extend(Shape::dashed_line(&line, Stroke::new(1.5, look.accent), 1.5, 3.0));
        }
    }
    for line in through(&without) {
        painter.line(line, Stroke::new(2.0, OTHER));
    }
    for line in through(&tally.capacities()) {
        painter.line(line, Stroke::new(2.5, look.accent));
    }
    if let Some(c) = tally.capacity(scene.now.step) {
        let dot = pos2(axis.middle(scene.now.step), scale.y(c));
        painter.circle(dot, 4.5, look.accent, Stroke::new(1.5, look.page));
    }
    values_on_line(painter, rect, axis, &scale, scene);
    if wide {
        names(painter, rect, &scale, scene);
        let left = axis.left - 86.0;
        let mut rest = vec!["experts for", "each patch"];
        if scene.record.trace.evaluations() > 1 {
            rest.push(EVALUATIONS[scene.now.pass.evaluation.min(3)]);
        }
        title(painter, pos2(left, rect.top() + 4.0), scene, "Compute C", &rest, true);
    } else {
        text(painter, pos2(axis.left - 38.0, rect.top()), Align2::LEFT_TOP, "C", 12.0, look.text);
    }
    let at = pos2(axis.left - 5.0, scale.y(1.0));
    text(painter, at, Align2::RIGHT_CENTER, "1", 12.0, look.weak);
}

/// C at the first step, the last, and the one that is looked at.
fn values_on_line(painter: &Painter, rect: Rect, axis: Axis, scale: &Scale, scene: &Scene<'_>) {
    let Some([first, last]) = scene.made.tally.ends() else { return };
    let now = scene.now.step;
    let mut steps = vec![first];
    steps.extend((now > first && now < last).then_some(now));
    steps.extend((last > first).then_some(last));
    let mut free = f32::NEG_INFINITY;
    for step in steps {
        let Some(c) = scene.made.tally.capacity(step) else { continue };
        let dot = pos2(axis.middle(step), scale.y(c));
        let below = scene.made.other.capacity(step).is_some_and(|other| other > c + 0.005);
        let away = if below && step == last { 12.0 } else { -12.0 };
        let x = dot.x.clamp(rect.left() + 16.0, rect.right() - 16.0);
        let y = (dot.y + away).clamp(rect.top() + 7.0, rect.bottom() - 7.0);
        if x - 15.0 < free {
            continue;
        }
        free = x + 15.0;
        let veil = scene.ink.look.well.gamma_multiply(0.8);
        text_over(painter, pos2(x, y), format!("{c:.2}"), 12.0, scene.ink.look.text, veil);
    }
}

/// Names of the curves at their right ends, kept apart.
fn names(painter: &Painter, rect: Rect, scale: &Scale, scene: &Scene<'_>) {
    let look = scene.ink.look;
    let (first, second) = match scene.now.pass.branch {
        Branch::Conditional => ("conditional", "unconditional"),
        Branch::Unconditional => ("unconditional", "conditional"),
    };
    let end = |tally: &Tally| Some(scale.y(tally.capacity(tally.ends()?[1])?));
    let mut list: Vec<(f32, &str, Color32)> = Vec::new();
    list.extend(end(&scene.made.tally).map(|y| (y, first, look.accent)));
    list.extend(end(&scene.made.other).filter(|_| scene.guided()).map(|y| (y, second, look.weak)));
    let (without, name) = b_curve(scene);
    let without = without.iter().rev().find_map(|c| *c).map(|c| scale.y(c));
    list.extend(without.map(|y| (y, name.as_str(), OTHER)));
    list.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = rect.top() + 7.0;
    let count = list.len();
    for (i, (y, words, colour)) in list.into_iter().enumerate() {
        let room = rect.bottom() - 7.0 - 14.0 * (count - 1 - i) as f32;
        let y = y.max(free).min(room);
        free = y + 14.0;
        let at = pos2(rect.right() + 6.0, y);
        text(painter, at, Align2::LEFT_CENTER, words, 12.0, colour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_hold_their_values_and_one() {
        let rect = Rect::from_min_size(pos2(0.0, 10.0), egui::vec2(100.0, 72.0));
        for values in [vec![0.5, 1.8], vec![2.0, 2.0], vec![0.1], vec![]] {
            let scale = Scale::new(rect, values.iter().copied());
            for value in values.iter().copied().chain([1.0]) {
                assert!(rect.y_range().contains(scale.y(value)), "{value}");
            }
            assert!(scale.y(1.1) < scale.y(1.0));
        }
    }

    #[test]
    fn a_gap_is_a_gap() {
        let axis = Axis::new(0.0, 60.0, 6);
        let values = [None, Some(0.75), None, Some(0.5), Some(0.25), None];
        let lines = lines(&values, axis, |c| 100.0 * c);
        let [alone, pair] = &lines[..] else { panic!("two lines: {lines:?}") };
        assert_eq!(alone[..], [pos2(12.0, 75.0), pos2(18.0, 75.0)]);
        assert_eq!(pair[..], [pos2(35.0, 50.0), pos2(45.0, 25.0)]);
        assert_eq!(super::lines(&[], axis, |c| c), [] as [Vec<Pos2>; 0]);
    }
}
