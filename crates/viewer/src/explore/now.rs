//! What is looked at right now: the selection, with what the pointer previews over it, inside the bounds of the run.

use diffmoe::scheduler::Branch;
use diffmoe::trace::Trace;

use super::data::lens::{Pass, Target, WhatIf};
use crate::session::{Overlay, Scope, Selection};

/// What the pointer is over. It wins over what is selected, and goes when the pointer goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hover {
    pub(super) image: Option<usize>,
    pub(super) step: Option<usize>,
    pub(super) layer: Option<usize>,
    pub(super) expert: Option<usize>,
    pub(super) patch: Option<usize>,
}

impl Hover {
    /// Puts what is pointed at into the selection.
    pub(super) fn lock(self, selection: &mut Selection) {
        selection.image = self.image.unwrap_or(selection.image);
        selection.layer = self.layer.unwrap_or(selection.layer);
        selection.step = self.step.or(selection.step);
        selection.expert = self.expert.or(selection.expert);
        selection.patch = self.patch.or(selection.patch);
    }
}

/// What the views show: every index exists.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Now {
    pub(super) image: usize,
    pub(super) step: usize,
    pub(super) layer: usize,
    pub(super) pass: Pass,
    pub(super) expert: Option<usize>,
    pub(super) patch: Option<usize>,
    pub(super) overlay: Overlay,
    pub(super) what_if: WhatIf,
    /// Whether the chosen expert is only pointed at.
    pub(super) points_at_expert: bool,
}

impl Now {
    /// Resolves a selection against a trace that has at least one step.
    pub(super) fn of(trace: &Trace, images: usize, selection: &Selection, hover: Hover) -> Self {
        let last = |count: usize| count.saturating_sub(1);
        let (steps, layers) = (trace.steps() as usize, trace.blocks().len());
        let step = hover.step.or(selection.step).unwrap_or(usize::MAX);
        let guided = trace.has(Branch::Unconditional);
        let branch = if guided { selection.pass } else { Branch::Conditional };
        // A shift follows what is chosen, not what is pointed at.
        let layer = selection.layer.min(last(layers));
        let of = match selection.scope {
            Scope::All => Target::All,
            Scope::Block => Target::Layer(layer),
            Scope::Expert => {
                let expert = selection.expert.filter(|&e| e < trace.experts());
                Target::Expert(layer, expert.unwrap_or(0))
            }
        };
        Self {
            image: hover.image.unwrap_or(selection.image).min(last(images)),
            step: step.min(last(steps)),
            layer: hover.layer.unwrap_or(selection.layer).min(last(layers)),
            pass: Pass { branch, evaluation: selection.evaluation },
            expert: hover.expert.or(selection.expert).filter(|&e| e < trace.experts()),
            patch: hover.patch.or(selection.patch).filter(|&patch| patch < trace.tokens()),
            overlay: selection.overlay,
            what_if: WhatIf { odds: if can_shift(trace) { selection.shift } else { 0.0 }, of },
            points_at_expert: hover.expert.is_some(),
        }
    }

    /// The expert whose margins, patches or muting are shown.
    pub(super) fn some_expert(&self) -> usize {
        self.expert.unwrap_or(0)
    }
}

/// Whether the run recorded thresholds that can be moved: models of token choice and expert choice have none.
fn can_shift(trace: &Trace) -> bool {
    let layer = trace.forwards().first().and_then(|forward| forward.layers.first());
    let scores = layer.and_then(|layer| layer.scores.as_ref());
    scores.is_some_and(|scores| !scores.thresholds.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explore::data::tests::scored;
    use crate::views::tests::trace;

    #[test]
    fn hovering_wins_and_nothing_leaves_the_run() {
        let trace = trace();
        let selection = Selection {
            image: 7,
            layer: 0,
            expert: Some(2),
            patch: Some(99),
            step: Some(0),
            ..Selection::default()
        };
        let now = Now::of(&trace, 2, &selection, Hover::default());
        assert_eq!((now.image, now.step, now.layer), (1, 0, 0));
        assert_eq!((now.expert, now.patch), (Some(2), None), "there are four patches");
        let hover = Hover { step: Some(1), layer: Some(9), patch: Some(3), ..Hover::default() };
        let now = Now::of(&trace, 2, &selection, hover);
        assert_eq!((now.step, now.layer, now.patch), (1, 1, Some(3)));
        let mut locked = selection;
        hover.lock(&mut locked);
        assert_eq!((locked.step, locked.patch, locked.expert), (Some(1), Some(3), Some(2)));
        let expert = Selection { scope: Scope::Expert, shift: 1.0, ..selection };
        let hover = Hover { layer: Some(1), ..Hover::default() };
        let now = Now::of(&scored(), 2, &expert, hover);
        assert_eq!(now.what_if, WhatIf { odds: 1.0, of: Target::Expert(0, 2) }, "what is chosen");
        let now = Now::of(&trace, 2, &expert, hover);
        assert!(now.what_if.odds.abs() < 1e-6, "there are no thresholds to move");
        let fresh = Now::of(&trace, 2, &Selection::default(), Hover::default());
        assert_eq!((fresh.step, fresh.layer), (1, 1), "the last step, the last layer");
    }
}
