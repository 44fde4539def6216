//! Settings that cannot work, with what they should be.

use crate::model::{MutedError, ShiftsError};
use crate::scheduler::{CycleSpinError, GuidanceIntervalError, OptionError};

/// A setting that cannot work, with what it should be.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum SettingsError {
    /// No or too many steps.
    #[error("steps must be 1–{most}, got {given}")]
    Steps {
        /// The given value.
        given: u32,
        /// Most steps of this scheduler for this model.
        most: u32,
    },
    /// Not a number, or far out of range.
    #[error("guidance must be 0–100 (1 switches it off), got {0}")]
    Guidance(f32),
    /// Bounds that are not in order, or not from 0 to 1.
    #[error(transparent)]
    GuidanceInterval(#[from] GuidanceIntervalError),
    /// A share of another noise that is none.
    #[error("variation strength must be 0 (the seed's noise) to 1 (the other one's), got {0}")]
    Variation(f32),
    /// A share of another label that is none.
    #[error("mix strength must be 0 (the labels alone) to 1 (the other ones alone), got {0}")]
    Mix(f32),
    /// A share of no label.
    #[error("mix strength needs a label to blend with")]
    MixLabel,
    /// A share of the way that is none.
    #[error("strength must be above 0 (the image as it is) and at most 1 (noise alone), got {0}")]
    Strength(f32),
    /// Numbers of an image to start from, or of its mask, that do not suit the model.
    #[error("the {what} to start from must be {expected}")]
    InitImage {
        /// Image or mask.
        what: &'static str,
        /// What the model needs.
        expected: String,
    },
    /// Pixels for a model of latents.
    #[error(
        "{0} generates latents, which only an image encoder could make of an image, and there is none: start from \
         latents that `diffmoe sample --latents` wrote, or use a model that generates pixels"
    )]
    InitLatents(String),
    /// Not a form of cycle spinning.
    #[error(transparent)]
    CycleSpin(#[from] CycleSpinError),
    /// Cycle spinning where predictions cannot be averaged.
    #[error(
        "{0} supports no cycle spinning: choose another scheduler of a flow model, or switch it off"
    )]
    SpinScheduler(&'static str),
    /// More shifts than pixels.
    #[error(
        "cycle spinning with {count} shifts needs patches of at least {count} pixels; this model's have {patch}"
    )]
    SpinPatch {
        /// Shifts.
        count: u32,
        /// Pixels of a patch's side.
        patch: usize,
    },
    /// A mask where steps are not known beforehand.
    #[error("{0} chooses its own steps and supports no mask: choose another scheduler")]
    MaskScheduler(&'static str),
    /// A threshold that is not a probability.
    #[error("gamma must be 0–1, a threshold for a probability, got {0}")]
    Gamma(f32),
    /// A shift that is not a number.
    #[error("threshold shift must be -1–1, got {0}")]
    Shift(f32),
    /// No images.
    #[error("the number of images must be at least 1, got 0")]
    Images,
    /// A row that the table does not have.
    #[error("{table} {row} does not exist: the model has {count}, numbered from 0")]
    Label {
        /// Which table.
        table: String,
        /// The row.
        row: u32,
        /// Rows without the null row.
        count: u32,
    },
    /// A name that the table does not have.
    #[error("unknown {table} {name:?}")]
    LabelName {
        /// Which table.
        table: String,
        /// The given value.
        name: String,
    },
    /// A label for a table that the model does not have.
    #[error("the model has no labels for {table:?}; it has {expected}")]
    Table {
        /// The given value.
        table: String,
        /// The tables of the model.
        expected: String,
    },
    /// Label lists that do not belong together.
    #[error("each image needs one label per table and, for text-conditioned models, a prompt")]
    Count,
    /// Prompts for a model without a text encoder.
    #[error("this model does not take prompts: choose its classes instead")]
    NoText,
    /// A scheduler for the other kind of model.
    #[error("{scheduler} does not support {models} models: choose {suitable}")]
    Scheduler {
        /// What was chosen.
        scheduler: &'static str,
        /// Kind of the model.
        models: &'static str,
        /// What can be chosen.
        suitable: String,
    },
    /// An option that has no effect on this kind of model.
    #[error("{0} has no effect on this model: remove it")]
    UnusedOption(&'static str),
    /// A value that an option of the scheduler cannot have.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Thresholds moved too far.
    #[error("threshold shift must be -24–24 log-odds, got {0}")]
    LogOdds(f32),
    /// A muted expert that the model does not have.
    #[error(transparent)]
    Muted(#[from] MutedError),
    /// A single threshold that cannot move so.
    #[error(transparent)]
    Shifts(#[from] ShiftsError),
}
