//! What every view gets: the run, what is looked at, what was made of it; and what it may ask for in return.

use diffmoe::scheduler::Branch;

use super::colours::Ink;
use super::data::lens::Lens;
use super::made::Made;
use super::measure::Measures;
use super::now::{Hover, Now};
use super::offer::Save;
use super::pair::Pair;
use crate::session::{Record, Selection};

/// What the views read.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) record: &'a Record,
    /// The run with all experts and the one without the chosen one, where there is the first.
    pub(super) pair: Option<Pair<'a>>,
    /// Whether the model of the run is open.
    pub(super) can_draw: bool,
    /// Whether something is being drawn.
    pub(super) busy: bool,
    pub(super) made: &'a Made,
    pub(super) measures: &'a Measures,
    pub(super) now: Now,
    /// What is under the pointer since the last frame.
    pub(super) hover: Hover,
    pub(super) ink: Ink,
    /// Whether the run goes on by itself, step by step.
    pub(super) playing: bool,
}

/// What the views say back.
#[derive(Default)]
pub(super) struct Touch {
    /// What is under the pointer now.
    pub(super) hover: Hover,
    /// Something that only the app can do.
    pub(super) wish: Option<Wish>,
}

/// What a view asks the app for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wish {
    /// Begin or stop to go through the steps.
    Play,
    /// Draw again with the shifted thresholds.
    Redraw,
    /// Draw again without the chosen expert.
    Mute,
    /// Measure the change without each expert, or stop.
    Measure,
    /// Write a file of a view.
    Save(Save),
}

impl<'a> Scene<'a> {
    /// The pass that is shown, with the shift.
    pub(super) fn lens(&self) -> Lens<'a> {
        Lens { trace: &self.record.trace, branch: self.now.pass, shift: self.now.shift }
    }

    /// Block index of the layer that is shown.
    pub(super) fn block(&self) -> usize {
        self.made.tally.blocks.get(self.now.layer).copied().unwrap_or(0)
    }

    /// Rows and columns of patches.
    pub(super) fn grid(&self) -> [usize; 2] {
        self.record.trace.grid()
    }

    /// Noise level of a step, for people.
    pub(super) fn noise(&self, step: usize) -> String {
        let steps = self.record.steps().max(1);
        let level = self.made.noise.get(step).copied();
        let level = level.unwrap_or(1.0 - step as f32 / steps as f32);
        if steps <= 10 { format!("{level:.1}") } else { format!("{level:.2}") }
    }

    /// Columns of the plots over noise.
    pub(super) fn steps(&self) -> usize {
        (self.record.steps() as usize).max(self.made.noise.len()).max(1)
    }

    /// Whether there are passes of both kinds.
    pub(super) fn guided(&self) -> bool {
        self.record.trace.has(Branch::Unconditional)
    }

    /// Height over width of an image.
    pub(super) fn aspect(&self) -> f32 {
        let [height, width] = self.record.config.input_size;
        height as f32 / width.max(1) as f32
    }

    /// Name of the image that is shown.
    pub(super) fn name(&self) -> &'a str {
        self.record.labels.get(self.now.image).map_or("", String::as_str)
    }

    /// Row and column of the patch that is chosen, from 1.
    pub(super) fn patch_place(&self) -> Option<(usize, usize)> {
        let columns = self.grid()[1].max(1);
        self.now.patch.map(|patch| (patch / columns + 1, patch % columns + 1))
    }
}

/// Chooses an expert, or none where it was chosen already.
pub(super) fn toggle_expert(selection: &mut Selection, expert: usize) {
    selection.expert = if selection.expert == Some(expert) { None } else { Some(expert) };
}
