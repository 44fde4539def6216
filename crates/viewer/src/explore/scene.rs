//! What every view gets: the run, what is looked at, what was made of it; and what it may ask for in return.

use diffmoe::model::Objective;
use diffmoe::pipeline::Settings;
use diffmoe::scheduler::Branch;

use super::atlas::AtlasView;
use super::colours::Ink;
use super::data::differences::Change;
use super::data::lens::Lens;
use super::data::tally::Share;
use super::made::Made;
use super::measure::Measures;
use super::now::{Hover, Now};
use super::offer::Save;
use super::pair::Pair;
use crate::session::{Record, Selection, SurveyProgress};

/// What the views read.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Scene<'a> {
    pub(super) record: &'a Record,
    /// The run with all experts and the one without the chosen one, where there is the first.
    pub(super) pair: Option<Pair<'a>>,
    /// Run B, where this one is compared.
    pub(super) other: Option<Other<'a>>,
    /// What this run is in a comparison.
    pub(super) part: Part,
    /// Whether the model of the run is open.
    pub(super) can_draw: bool,
    /// Whether something is being drawn.
    pub(super) busy: bool,
    pub(super) made: &'a Made,
    pub(super) measures: &'a Measures,
    /// Labels × experts, while that tab is open and the model has an atlas.
    pub(super) atlas: Option<AtlasView<'a>>,
    /// Whether the atlas was measured with another file of the model's name.
    pub(super) other_atlas: bool,
    /// The atlas that can be measured here, or is.
    pub(super) survey: Surveying,
    pub(super) now: Now,
    /// What is under the pointer since the last frame.
    pub(super) hover: Hover,
    pub(super) ink: Ink,
    /// Whether the run goes on by itself, step by step.
    pub(super) playing: bool,
    /// How fast it does.
    pub(super) speed: f32,
}

/// What can be measured of the model in the background.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Surveying {
    /// Images of a survey, where the model has labels to compare.
    pub(super) images: Option<usize>,
    /// How far one is.
    pub(super) progress: Option<SurveyProgress>,
}

/// What a run is in a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The run on screen: A, or the only one.
    OnScreen,
    /// On screen, and kept as B for the runs that follow.
    KeptAsB,
    /// Run B beside the one on screen.
    Beside,
}

/// Run B, seen in the columns of the run that it is compared with.
#[derive(Clone, Copy)]
pub(super) struct Other<'a> {
    /// Its own scene, at the step whose noise level is nearest.
    pub(super) scene: &'a Scene<'a>,
    /// The step of B for each column, the one at the nearest noise level.
    pub(super) steps: &'a [usize],
    /// Whether both runs are of one model: only then expert 3 is the same expert in both.
    pub(super) same_model: bool,
}

impl<'a> Other<'a> {
    /// The place of a block among the layers of B.
    pub(super) fn layer(&self, block: usize) -> Option<usize> {
        self.scene.made.tally.blocks.iter().position(|other| *other == block)
    }

    /// The counts of a block of B in a column.
    pub(super) fn share(&self, column: usize, block: usize) -> Option<&'a Share> {
        self.scene.made.tally.share(*self.steps.get(column)?, self.layer(block)?)
    }

    /// C of B in a column.
    pub(super) fn capacity(&self, column: usize) -> Option<f32> {
        self.scene.made.tally.capacity(*self.steps.get(column)?)
    }
}

/// What the views say back.
#[derive(Default)]
pub(super) struct Touch {
    /// What is under the pointer now.
    pub(super) hover: Hover,
    /// Something that only the app can do.
    pub(super) wish: Option<Wish>,
    /// The change that is being put together for run B, in and out.
    pub(super) change: Change,
}

/// What a view asks the app for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wish {
    /// Begin or stop to go through the steps.
    Play,
    /// Go through the steps at the next speed.
    Faster,
    /// Draw again with the shifted thresholds.
    Redraw,
    /// Draw again without the chosen expert.
    Mute,
    /// Draw again with the chosen expert alone in its block.
    Solo,
    /// Make this run B, or let go of B.
    KeepAsB,
    /// Let run B be the one without an expert, or with it alone.
    ShowAsB(u64),
    /// Let A and B change places.
    Swap,
    /// Draw the run again with a change, as B.
    Compare,
    /// Measure the change without each expert, or stop.
    Measure,
    /// Write a file of a view.
    Save(Save),
    /// Begin to measure an atlas in the background, pause it, go on with it.
    Survey,
    /// Give that up.
    CancelSurvey,
    /// Draw a label of the atlas: its table, and its place there.
    DrawLabel(usize, usize),
}

impl<'a> Scene<'a> {
    /// The pass that is shown, with the shift.
    pub(super) fn lens(&self) -> Lens<'a> {
        Lens { trace: &self.record.trace, pass: self.now.pass, what_if: self.now.what_if }
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
        let Some(level) = self.level(step) else { return String::new() };
        let fine = steps > 10 || self.record.config.objective == Objective::Ddpm;
        if fine { format!("{level:.2}") } else { format!("{level:.1}") }
    }

    /// Noise level of a step; of steps that have not been yet only where it is known before.
    pub(super) fn level(&self, step: usize) -> Option<f32> {
        let ahead = || {
            let is_even = self.record.config.objective == Objective::Flow;
            is_even.then(|| 1.0 - step as f32 / self.record.steps().max(1) as f32)
        };
        self.made.noise.get(step).copied().or_else(ahead)
    }

    /// Columns of the plots over noise.
    pub(super) fn steps(&self) -> usize {
        (self.record.steps() as usize).max(self.made.noise.len()).max(1)
    }

    /// Whether there are passes of both kinds.
    pub(super) fn guided(&self) -> bool {
        self.record.trace.has(Branch::Unconditional)
    }

    /// Says that the step has no pass of the kind that is shown, where that is so.
    pub(super) fn missing(&self) -> Option<String> {
        let tally = &self.made.tally;
        if tally.is_empty() || tally.has(self.now.step) {
            return None;
        }
        let pass = match self.now.pass.branch {
            Branch::Conditional => "conditional",
            Branch::Unconditional => "unconditional",
        };
        let noise = self.noise(self.now.step);
        Some(format!("No {pass} pass at noise {noise}: outside the guidance interval"))
    }

    /// Whether experts choose by thresholds: not in a model without a capacity predictor.
    pub(super) fn has_thresholds(&self) -> bool {
        let layer = self.record.trace.forwards().first().and_then(|forward| forward.layers.first());
        let scores = layer.and_then(|layer| layer.scores.as_ref());
        // A trace file does not say which kind of model it is of, but its scores do.
        let has_needs = scores.is_none_or(|scores| !scores.need.is_empty());
        has_needs && Settings::routing_applies(&self.record.config)
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
