//! How far all decisions of a layer lie from their thresholds.

use super::lens::Layer;

/// Half the width of the axis, in log-odds.
pub(crate) const REACH: f32 = 12.0;
/// Width of a bar, in log-odds.
pub(crate) const BAR: f32 = 0.25;
/// Bars from one end to the other.
pub(crate) const BARS: usize = 97;

/// A histogram of the margins of a layer, in log-odds. The shift is left out: it is a place on the axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Histogram {
    /// Decisions whose margin is nearest to the bar's middle.
    pub(crate) bars: Vec<u32>,
    /// Decisions in all: tokens × experts.
    pub(crate) decisions: usize,
}

/// The middle of a bar, in log-odds.
pub(crate) fn middle(bar: usize) -> f32 {
    bar as f32 * BAR - REACH
}

/// One decision of so many may disagree with its margin: scores are rounded to f16.
const ROUNDED: usize = 50;

/// Counts the margins of all tokens and experts; `None` without scores, and where the experts did not choose by their
/// thresholds (the rule `pool`). What lies beyond the ends of the axis counts among the decisions alone. Of one expert
/// alone where it is named.
pub(crate) fn histogram(layer: &Layer<'_>, of: Option<usize>) -> Option<Histogram> {
    if !layer.has_needs() {
        return None;
    }
    let mut bars = vec![0_u32; BARS];
    let (mut otherwise, mut decisions) = (0, 0);
    for token in 0..layer.pool() {
        for expert in (0..layer.experts()).filter(|expert| of.is_none_or(|of| of == *expert)) {
            decisions += 1;
            let margin = layer.margin(token, expert)?;
            otherwise += usize::from((margin > 0.0) != layer.chose(token, expert));
            let bar = ((margin + REACH) / BAR).round();
            if (0.0..BARS as f32).contains(&bar) {
                bars[bar as usize] += 1;
            }
        }
    }
    let is_by_margin = otherwise <= decisions / ROUNDED;
    let patches = layer.patches_of_token();
    for bar in &mut bars {
        *bar /= patches;
    }
    is_by_margin.then_some(Histogram { bars, decisions: decisions / patches as usize })
}

#[cfg(test)]
mod tests {
    use diffmoe::scheduler::Branch;
    use diffmoe::trace::At;

    use super::super::lens::Lens;
    use super::super::tests::{scored, trace};
    use super::*;

    #[test]
    fn every_margin_falls_into_the_bar_next_to_it() {
        let trace = scored();
        let lens = Lens::new(&trace, Branch::Conditional, 3.0);
        let found = histogram(&lens.layer(0, 1).unwrap(), None).unwrap();
        let at = At { step: 0, layer: 1, branch: Branch::Conditional };
        let mut bars = vec![0; BARS];
        for token in 0..8 {
            for e in 0..3 {
                let margin = trace.margin(at, token, e).unwrap();
                let nearest = (0..BARS).min_by(|a, b| {
                    (middle(*a) - margin).abs().total_cmp(&(middle(*b) - margin).abs())
                });
                bars[nearest.unwrap()] += 1;
            }
        }
        assert_eq!(found, Histogram { bars, decisions: 24 }, "the shift changes nothing");
        let ones: Vec<Histogram> =
            (0..3).filter_map(|e| histogram(&lens.layer(0, 1).unwrap(), Some(e))).collect();
        let sum = |bar: usize| ones.iter().map(|one| one.bars[bar]).sum::<u32>();
        assert!((0..BARS).all(|bar| sum(bar) == found.bars[bar]), "the experts together");
        assert!(ones.iter().all(|one| one.decisions == 8));
        assert_eq!((middle(0), middle(48), middle(96)), (-12.0, 0.0, 12.0));
    }

    #[test]
    fn experts_that_do_not_choose_by_thresholds_have_no_histogram() {
        let mut forward = scored().forwards()[0].clone();
        for mask in &mut forward.layers[0].masks {
            *mask = !*mask & 0b111;
        }
        let mut other = diffmoe::trace::Trace::new(&crate::views::tests::config(), Vec::new());
        other.extend(vec![forward]);
        let lens = Lens::new(&other, Branch::Conditional, 0.0);
        assert_eq!(histogram(&lens.layer(0, 0).unwrap(), None), None);
        assert!(
            histogram(&lens.layer(0, 1).unwrap(), None).is_some(),
            "the other layer is as it was"
        );
    }

    #[test]
    fn masks_alone_have_no_margins() {
        let trace = trace();
        let lens = Lens::new(&trace, Branch::Conditional, 0.0);
        assert_eq!(histogram(&lens.layer(0, 0).unwrap(), None), None);
    }
}
