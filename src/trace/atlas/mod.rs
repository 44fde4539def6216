//! The atlas of a model: how much each expert works on each label, by layer and noise level, counted over many images.
//!
//! A survey draws images of chosen labels ([`Plan`]), keeps a few counts of each ([`ImageCounts`]), and adds them up. With
//! every table of counts comes what is left of it when the labels are dealt out to the images at random ([`Shuffled`]):
//! what does not exceed that is noise. The file format is described in `docs/atlas-format.md`.

mod counts;
mod document;
mod lift;
mod margins;
mod measure;
mod plan;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use counts::{BANDS, ImageCounts, band_of, noise_level};
pub use document::AtlasError;
pub use lift::{IDLE, Lifts};
pub use margins::{AtlasMargins, MarginCounts, PERCENTILES};
pub use measure::About;
pub use plan::{Plan, PlannedTable};

/// Counts of a survey over the labels of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Atlas {
    /// The model's name.
    pub model: String,
    /// First eight hexadecimal digits of the SHA-256 of its file; of the sums of its files, where there are several.
    pub hash: String,
    /// `E`.
    pub experts: usize,
    /// Blocks with experts, in order; a layer below is a place in this list.
    pub blocks: Vec<usize>,
    /// `T`, tokens of an image.
    pub tokens: usize,
    /// Images of the survey.
    pub images: usize,
    /// Passes with labels of one image in each noise band. Bands divide the noise levels from 1 to 0 evenly.
    pub passes: Vec<u32>,
    /// What the images were drawn with, for people: seed, steps, scheduler, guidance.
    pub settings: BTreeMap<String, String>,
    /// One for each label table with at least two labels in the survey.
    pub tables: Vec<AtlasTable>,
    /// How far the decisions lie from their thresholds; not of models without a capacity predictor, nor in atlases of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margins: Option<AtlasMargins>,
    /// An image of each label of the first table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnails: Option<Thumbnails>,
}

/// One label table of the survey.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtlasTable {
    /// The table's name: `class`, `subject`, `style`, or `prompt`.
    pub name: String,
    /// Names of the labels.
    pub labels: Vec<String>,
    /// Their rows in the model's table.
    pub rows: Vec<u32>,
    /// Images of each label.
    pub images: Vec<u32>,
    /// Standard deviation of `C` over the images of each label.
    pub spread: Vec<f32>,
    /// Tokens that each expert took from the images of a label, `[labels][bands][layers][E]`.
    pub taken: Vec<Vec<Vec<Vec<u32>>>>,
    /// What the same counts look like without any tie between images and labels.
    pub shuffled: Shuffled,
}

/// Lifts after the labels were dealt out to the images at random, many times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shuffled {
    /// Mean of |log₂ lift|, `[bands][layers]`.
    pub mean: Vec<Vec<f32>>,
    /// What |log₂ lift| stays below in 95 of 100 cases, `[bands][layers][E]`.
    pub high: Vec<Vec<Vec<f32>>>,
}

/// Small images of labels on one sheet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thumbnails {
    /// Height and width of each.
    pub size: [usize; 2],
    /// Images in a row of the sheet; they follow the order of the labels.
    pub columns: usize,
    /// The sheet, a PNG in base64.
    pub png: String,
}

impl Atlas {
    /// `C` of a label in a band, or in all: tokens taken over tokens, mean over layers. `None` where nothing was drawn.
    pub fn capacity(&self, table: &AtlasTable, label: usize, band: Option<usize>) -> Option<f32> {
        let bands = band.map_or(0..self.passes.len(), |band| band..band + 1);
        let of_label = table.taken.get(label)?;
        let taken = bands.clone().filter_map(|band| of_label.get(band)).flatten().flatten();
        let taken: u64 = taken.map(|&n| u64::from(n)).sum();
        let passes: u64 = bands.filter_map(|b| self.passes.get(b)).map(|&n| u64::from(n)).sum();
        let layers = passes * (self.blocks.len() * self.tokens) as u64;
        let tokens = layers * u64::from(*table.images.get(label)?);
        (tokens > 0).then(|| (taken as f64 / tokens as f64) as f32)
    }

    /// Labels of a table from the largest `C` over all noise levels to the smallest.
    pub fn by_capacity(&self, table: &AtlasTable) -> Vec<(usize, f32)> {
        let capacity = |label| Some((label, self.capacity(table, label, None)?));
        let mut all: Vec<_> = (0..table.labels.len()).filter_map(capacity).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }

    /// Mean margin of an expert in a band and a layer, and its [`PERCENTILES`], in log-odds; `None` where that was not
    /// measured.
    pub fn margin(&self, band: usize, layer: usize, expert: usize) -> Option<(f32, [f32; 5])> {
        let margins = self.margins.as_ref().filter(|_| self.passes.get(band) > Some(&0))?;
        let mean = *margins.mean.get(band)?.get(layer)?.get(expert)?;
        Some((mean, *margins.percentiles.get(band)?.get(layer)?.get(expert)?))
    }

    /// Noise levels of a band: from, down to.
    pub fn levels(&self, band: usize) -> [f32; 2] {
        let bands = self.passes.len().max(1) as f32;
        [band, band + 1].map(|edge| 1.0 - edge as f32 / bands)
    }
}

impl AtlasTable {
    /// Tokens that each expert took from each label in a band and a layer, `[labels][E]`.
    pub fn counts(&self, band: usize, layer: usize) -> Vec<&[u32]> {
        let layers = self.taken.iter().map_while(|label| label.get(band)?.get(layer));
        layers.map(Vec::as_slice).collect()
    }

    /// How much more than usual each expert works on each label.
    pub fn lifts(&self, band: usize, layer: usize) -> Lifts {
        Lifts::of(&self.counts(band, layer))
    }

    /// What |log₂ lift| of an expert stays below in 95 of 100 random deals of the labels; 0 where that is unknown.
    pub fn noise(&self, band: usize, layer: usize, expert: usize) -> f32 {
        let high = self.shuffled.high.get(band).and_then(|band| band.get(layer)?.get(expert));
        high.copied().unwrap_or(0.0)
    }
}
