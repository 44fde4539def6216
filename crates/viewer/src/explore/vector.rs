//! The plots over noise as vector files: C, the river of a block, the map of the run.

use std::ops::Range;

use egui::{Color32, Pos2, Rect, Vec2, pos2, vec2};

use super::axis::Axis;
use super::curve::lines;
use super::data::tally::{Tally, stretches};
use super::river::edges;
use super::svg::{Anchor, Svg};
use crate::palette;

/// Room around a plot for its words, and its own size.
const LEFT: f32 = 64.0;
const RIGHT: f32 = 120.0;
const TOP: f32 = 34.0;
const BOTTOM: f32 = 40.0;
const PLOT: Vec2 = vec2(560.0, 220.0);
/// Height of a row of the map.
const ROW: f32 = 14.0;

const INK: Color32 = Color32::from_rgb(0x1A, 0x1D, 0x26);
const WEAK: Color32 = Color32::from_rgb(0x5B, 0x63, 0x75);
const GROUND: Color32 = Color32::from_rgb(0xF1, 0xF3, 0xF7);
const FIRST: Color32 = Color32::from_rgb(0x2B, 0x63, 0xD9);

/// What all plots need.
pub(super) struct Plot<'a> {
    /// Noise level of each step.
    pub(super) noise: &'a [f32],
    /// Model and seed, for the heading.
    pub(super) name: &'a str,
}

impl Plot<'_> {
    /// A page with a plot of this height, its heading, and the noise levels below it.
    fn page(&self, height: f32, heading: &str) -> (Svg, Rect, Axis) {
        let size = vec2(LEFT + PLOT.x + RIGHT, TOP + height + BOTTOM);
        let mut svg = Svg::new(size);
        let rect = Rect::from_min_size(pos2(LEFT, TOP), vec2(PLOT.x, height));
        svg.area(rect, GROUND);
        svg.text(pos2(LEFT, TOP / 2.0), Anchor::Start, &format!("{heading} · {}", self.name), INK);
        let axis = Axis::new(rect.left(), rect.right(), self.noise.len());
        for step in axis.spread(44.0) {
            let at = pos2(axis.middle(step), rect.bottom() + 14.0);
            svg.text(at, Anchor::Middle, &format!("{:.2}", self.noise[step]), WEAK);
        }
        let at = pos2(rect.center().x, rect.bottom() + 30.0);
        svg.text(at, Anchor::Middle, "noise level at which the step begins", WEAK);
        (svg, rect, axis)
    }

    /// C of both kinds of passes.
    pub(super) fn curve(&self, shown: (&str, &Tally), other: Option<(&str, &Tally)>) -> Vec<u8> {
        let (mut svg, rect, axis) = self.page(PLOT.y, "Compute C, experts for each patch");
        let values = |(name, tally): (_, &Tally)| (name, tally.capacities());
        let curves: Vec<(&str, Vec<Option<f32>>)> =
            [Some(shown), other].into_iter().flatten().map(values).collect();
        let all = curves.iter().flat_map(|(_, values)| values.iter().flatten()).copied();
        let most = all.fold(1.0_f32, f32::max) * 1.1;
        let y = |value: f32| rect.bottom() - value / most * rect.height();
        // The compute of a dense model has longer dashes.
        let marks =
            [(0.0, 1.0), (0.5, 1.0), (1.0, 3.0), (1.5, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 1.0)];
        for (mark, dash) in marks.into_iter().filter(|(mark, _)| *mark <= most) {
            let ends = [pos2(rect.left(), y(mark)), pos2(rect.right(), y(mark))];
            svg.line(&ends, 0.6, WEAK, dash);
            svg.text(pos2(LEFT - 8.0, y(mark)), Anchor::End, &mark.to_string(), WEAK);
        }
        for (i, (name, values)) in curves.iter().enumerate() {
            let (colour, dash) = if i == 0 { (FIRST, 0.0) } else { (WEAK, 5.0) };
            for line in lines(values, axis, y) {
                svg.line(&line, 2.0, colour, dash);
            }
            if let Some(end) = values.iter().flatten().next_back() {
                svg.text(pos2(rect.right() + 8.0, y(*end)), Anchor::Start, name, colour);
            }
        }
        svg.finish("Compute C over noise")
    }

    /// The bands of one layer; their heights add up to C.
    pub(super) fn river(&self, tally: &Tally, layer: usize) -> Vec<u8> {
        let block = tally.blocks.get(layer).copied().unwrap_or(0);
        let (mut svg, rect, axis) =
            self.page(PLOT.y, &format!("Block {block}: experts for each patch"));
        let edges = edges(tally, layer);
        let steps = tally.steps.len();
        let most = edges.last().into_iter().flatten().copied().fold(1.0_f32, f32::max) * 1.1;
        let y = |value: f32| rect.bottom() - value / most * rect.height();
        // Level over half a column at both ends.
        let line = |edge: &[f32], over: &Range<usize>| -> Vec<Pos2> {
            let inner = over.clone().map(|step| pos2(axis.middle(step), y(edge[step])));
            let first = pos2(axis.x(over.start), y(edge[over.start]));
            let last = pos2(axis.x(over.end), y(edge[over.end - 1]));
            std::iter::once(first).chain(inner).chain([last]).collect()
        };
        let stretches = stretches((0..steps).map(|step| tally.has(step)));
        for e in 0..tally.experts {
            for over in &stretches {
                let mut around = line(&edges[e + 1], over);
                around.extend(line(&edges[e], over).into_iter().rev());
                svg.shape(&around, palette::expert(e));
                svg.pattern(&around, e);
            }
            let height = |step: usize| edges[e + 1][step] - edges[e][step];
            let widest = (0..steps).max_by(|a, b| height(*a).total_cmp(&height(*b)));
            if let Some(step) = widest.filter(|step| height(*step) / most * rect.height() > 12.0) {
                let middle = y(f32::midpoint(edges[e + 1][step], edges[e][step]));
                let colour = palette::text_on(palette::expert(e));
                svg.text(pos2(axis.middle(step), middle), Anchor::Middle, &e.to_string(), colour);
            }
        }
        let ends = [pos2(rect.left(), y(1.0)), pos2(rect.right(), y(1.0))];
        svg.line(&ends, 0.8, WEAK, 3.0);
        svg.text(pos2(LEFT - 8.0, y(1.0)), Anchor::End, "1", WEAK);
        svg.finish(&format!("Experts of block {block} over noise"))
    }

    /// A row for each expert of each layer, a cell for each step: its load over a fair share, `colour` of it.
    pub(super) fn map(&self, tally: &Tally, colour: impl Fn(f32) -> Color32) -> Vec<u8> {
        let layers = tally.blocks.len();
        let height = layers as f32 * (tally.experts as f32 * ROW + 6.0);
        let (mut svg, rect, axis) = self.page(height, "Load of each expert over its fair share");
        for (layer, block) in tally.blocks.iter().enumerate() {
            let top = rect.top() + layer as f32 * (tally.experts as f32 * ROW + 6.0);
            svg.text(pos2(8.0, top + ROW / 2.0), Anchor::Start, &format!("b{block}"), INK);
            for e in 0..tally.experts {
                let y = top + e as f32 * ROW;
                svg.text(pos2(LEFT - 8.0, y + ROW / 2.0), Anchor::End, &e.to_string(), WEAK);
                for step in 0..tally.steps.len() {
                    let load = tally.share(step, layer).and_then(|share| share.load(e));
                    let Some(load) = load else { continue };
                    let cell = Rect::from_x_y_ranges(axis.span(step), y..=y + ROW - 1.0);
                    svg.area(cell, colour(load));
                    if axis.column() > 34.0 {
                        let words = format!("{load:.1}");
                        svg.text(
                            cell.center(),
                            Anchor::Middle,
                            &words,
                            palette::text_on(colour(load)),
                        );
                    }
                }
            }
        }
        svg.finish("Load of each expert over its fair share, by block and noise")
    }
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;

    use super::super::data::lens::Lens;
    use super::super::data::tests::{gapped, run};
    use super::*;

    #[test]
    fn files_hold_a_shape_for_everything_that_is_counted() {
        let trace = run(&[&[&[0b011, 0b001, 0, 0]], &[&[0b100, 0b110, 0b100, 0]]], 3);
        let tally = Tally::of(&Lens::new(&trace, Branch::Conditional, 0.0));
        let plot = Plot { noise: &[1.0, 0.5], name: "tiny <7>" };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let curve = text(plot.curve(("with label", &tally), Some(("without", &tally))));
        // C is 0.75 and 1: the scale ends at 1.1.
        let y = |c: f32| TOP + PLOT.y - c / 1.1 * PLOT.y;
        let first = format!("{:.2},{:.2} {:.2},{:.2}", LEFT + 140.0, y(0.75), LEFT + 420.0, y(1.0));
        assert_eq!(curve.matches(&first).count(), 2, "{curve}");
        assert!(curve.contains("tiny &lt;7&gt;") && curve.contains(">with label<"));
        let river = text(plot.river(&tally, 0));
        assert_eq!(river.matches("<polygon").count(), 3, "a band for each expert");
        let map =
            text(plot.map(&tally, |load| if load > 1.0 { Color32::RED } else { Color32::BLUE }));
        // Step 0: loads 2, 1, 0; step 1: 0, 0.75, 2.25.
        assert_eq!((map.matches("#ff0000").count(), map.matches("#0000ff").count()), (2, 4));
        assert!(map.contains(">2.2<") || map.contains(">2.3<"), "{map}");
    }

    #[test]
    fn bands_beyond_eight_have_patterns() {
        let trace = run(&[&[&[u64::MAX, 0, 1, 2]], &[&[3, 0, 0, 0]]], 64);
        let tally = Tally::of(&Lens::new(&trace, Branch::Conditional, 0.0));
        let river = Plot { noise: &[1.0, 0.5], name: "x" }.river(&tally, 0);
        let river = String::from_utf8(river).unwrap();
        assert_eq!(river.matches("fill=\"url(#p").count(), 56);
        let defined = river.matches("<pattern ").count();
        assert!((4..=8).contains(&defined), "four patterns, dark or light: {defined}");
    }

    #[test]
    fn steps_without_a_pass_are_left_blank() {
        let trace = gapped();
        let tally = Tally::of(&Lens::new(&trace, Branch::Unconditional, 0.0));
        let plot = Plot { noise: &[1.0, 0.8, 0.6, 0.4, 0.2, 0.1], name: "tiny" };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let river = text(plot.river(&tally, 0));
        assert_eq!(river.matches("<polygon").count(), 2 * 3, "step 1, and steps 3 and 4");
        let map = text(plot.map(&tally, |_| Color32::RED));
        assert_eq!(map.matches("#ff0000").count(), 3 * 3);
        let plain = text(plot.curve(("without", &tally), None));
        let lines = |svg: &str| svg.matches("<polyline").count();
        let whole = Tally::of(&Lens::new(&trace, Branch::Conditional, 0.0));
        assert_eq!(lines(&plain), lines(&text(plot.curve(("with", &whole), None))) + 1);
    }
}
