//! A survey over the labels of a model: which images it draws, what it keeps of each batch, and the atlas that follows.
//!
//! Whoever draws it cuts it into batches: the command line one after the other, the app between two frames.

mod thumbnails;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Label, Settings, SettingsError};
use crate::model::Config;
use crate::scheduler::SchedulerKind;
use crate::trace::Trace;
use crate::trace::atlas::{About, Atlas, ImageCounts, MarginCounts, Plan, PlannedTable};

/// Most images of a survey.
const MOST_IMAGES: usize = 1_000_000;
/// Labels of the tables after the first: they multiply.
const MOST_STYLES: usize = 16;
/// Name of the table of prompts.
const PROMPT: &str = "prompt";

/// What a survey draws.
#[derive(Clone, Debug)]
pub struct SurveyOptions {
    /// Tables whose labels are chosen, by name; `prompt` for prompts. Of the others some labels are drawn, evenly spread.
    pub tables: Vec<PlannedTable>,
    /// Labels of the first table that are drawn where none are chosen.
    pub labels: usize,
    /// Images of a label, about, where `seeds` does not say; at least one of each combination.
    pub images_of_label: usize,
    /// Images of each combination of labels.
    pub seeds: Option<usize>,
    /// Seed of the noise; every image has its own.
    pub seed: u64,
    /// Denoising steps.
    pub steps: u32,
    /// Guidance scale. Default: the model's.
    pub guidance: Option<f32>,
    /// Scheduler. Default: [`Survey::scheduler`].
    pub scheduler: Option<SchedulerKind>,
}

/// As `diffmoe atlas` without options.
impl Default for SurveyOptions {
    fn default() -> Self {
        Self {
            tables: Vec::new(),
            labels: 48,
            images_of_label: 24,
            seeds: None,
            seed: 0,
            steps: 8,
            guidance: None,
            scheduler: None,
        }
    }
}

/// A survey that cannot be drawn.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SurveyError {
    /// No layer routes.
    #[error("{0} has no experts, so there is nothing to measure")]
    NoExperts(String),
    /// Nothing to compare.
    #[error("an atlas compares labels; name at least two")]
    OneLabel,
    /// No images, or too many.
    #[error(
        "these are {0} images; 1 to {MOST_IMAGES} are possible: change the number of labels or seeds"
    )]
    Images(usize),
    /// An adaptive scheduler.
    #[error(
        "{0} chooses its steps for a whole batch, so images cannot be compared; take another scheduler"
    )]
    Adaptive(SchedulerKind),
    /// A setting that cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// The images of a survey.
#[derive(Clone, Debug)]
pub struct Survey {
    plan: Plan,
    settings: Settings,
    described: BTreeMap<String, String>,
}

/// What a batch of images leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SurveyBatch {
    /// Counts of each image.
    counts: Vec<ImageCounts>,
    /// Small images of those that are the first of their label; of models that generate pixels.
    small: Vec<Option<Vec<u8>>>,
    /// Margins of all images; of models with a capacity predictor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    margins: Option<MarginCounts>,
}

impl Survey {
    /// Plans a survey.
    ///
    /// # Errors
    /// When the model has no experts, or the options do not make a survey.
    pub fn new(config: &Config, options: &SurveyOptions) -> Result<Self, SurveyError> {
        if config.moe_blocks().is_empty() {
            return Err(SurveyError::NoExperts(config.name.clone()));
        }
        let plan = plan(config, options)?;
        let settings = settings(config, options, &plan)?;
        let described = described(&settings, &plan);
        Ok(Self { plan, settings, described })
    }

    /// The scheduler where none is chosen: the plainest, `euler` or `ddim`.
    pub fn scheduler(config: &Config) -> SchedulerKind {
        let all = SchedulerKind::for_objective(config.objective).into_iter();
        let plainest = all.into_iter().find(|kind| ["euler", "ddim"].contains(&kind.name()));
        plainest.unwrap_or_else(|| SchedulerKind::default_of(config))
    }

    /// Images in all.
    pub fn images(&self) -> usize {
        self.plan.images()
    }

    /// The labels of each image.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The settings of all images; [`Settings::part`] gives those of a batch.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What decides the counts, for people and for comparing surveys.
    pub fn described(&self) -> &BTreeMap<String, String> {
        &self.described
    }

    /// Whether an atlas is the result of this survey with a model of this hash.
    pub fn describes(&self, atlas: &Atlas, hash: &str) -> bool {
        let compared = self.plan.tables().iter().filter(|table| table.labels.len() > 1);
        let labels: Vec<&[String]> = compared.map(|table| table.labels.as_slice()).collect();
        let theirs: Vec<&[String]> = atlas.tables.iter().map(|t| t.labels.as_slice()).collect();
        (atlas.hash.as_str(), &atlas.settings) == (hash, &self.described)
            && (atlas.images, theirs) == (self.images(), labels)
            // Atlases of earlier versions have no margins.
            && atlas.margins.is_some() == self.settings.record_scores
    }

    /// What is kept of the images `first..` of the survey: their samples, `[B, C, h, w]`, and their routing.
    pub fn batch(
        &self,
        config: &Config,
        first: usize,
        samples: &[f32],
        trace: &Trace,
    ) -> SurveyBatch {
        let samples = samples.chunks_exact(config.sample_len()).enumerate();
        let small = samples.clone().map(|(i, sample)| {
            let is_first = self.is_first_of_label(first + i);
            is_first.then(|| thumbnails::small(config, sample)).flatten()
        });
        SurveyBatch {
            counts: samples.map(|(i, _)| ImageCounts::of(trace, i, config.objective)).collect(),
            small: small.collect(),
            margins: MarginCounts::of(trace, config.objective),
        }
    }

    /// The atlas, from all batches in order.
    ///
    /// # Panics
    /// When images are missing, or they are of another model: a bug of the caller.
    pub fn atlas(&self, config: &Config, hash: String, batches: Vec<SurveyBatch>) -> Atlas {
        let (mut counts, mut small) = (Vec::new(), Vec::new());
        let mut margins: Option<MarginCounts> = None;
        for batch in batches {
            counts.extend(batch.counts);
            small.extend(batch.small);
            match (&mut margins, batch.margins) {
                (Some(sum), Some(more)) => sum.add(&more),
                (sum, more) => *sum = more,
            }
        }
        let about = About { config, hash, settings: self.described.clone() };
        let mut atlas = Atlas::measure(about, &self.plan, &counts);
        atlas.thumbnails = thumbnails::sheet(config, &small);
        let (layers, experts) = (config.moe_blocks().len(), config.num_experts);
        atlas.margins = margins.map(|margins| margins.summary(layers, experts));
        atlas
    }

    /// Whether an image is the first of its label in the first table.
    fn is_first_of_label(&self, image: usize) -> bool {
        let label = self.plan.label(0, image);
        (0..image).rev().all(|before| self.plan.label(0, before) != label)
    }
}

impl SurveyBatch {
    /// Images.
    pub fn images(&self) -> usize {
        self.counts.len()
    }

    /// Whether it is of a model with so many layers and experts.
    pub fn fits(&self, layers: usize, experts: usize) -> bool {
        self.small.len() == self.counts.len()
            && self.counts.iter().all(|counts| counts.fits(layers, experts))
            && self.margins.as_ref().is_none_or(|margins| margins.fits(layers, experts))
    }
}

/// The labels that are drawn.
fn plan(config: &Config, options: &SurveyOptions) -> Result<Plan, SurveyError> {
    let chosen = |name: &str| options.tables.iter().find(|table| table.name == name).cloned();
    let mut tables = Vec::new();
    if let Some(text) = &config.text {
        let all = || PlannedTable::spread(PROMPT, &text.examples, text.examples.len());
        tables.push(chosen(PROMPT).unwrap_or_else(all));
    }
    for table in &config.labels {
        let most = if tables.is_empty() { options.labels } else { MOST_STYLES };
        let some = || {
            let names: Vec<String> = (0..table.null).map(|row| table.label(row)).collect();
            PlannedTable::spread(&table.name, &names, most)
        };
        tables.push(chosen(&table.name).unwrap_or_else(some));
    }
    if tables.iter().all(|table| table.labels.len() < 2) {
        return Err(SurveyError::OneLabel);
    }
    let after_first: usize = tables.iter().skip(1).map(|table| table.labels.len()).product();
    let seeds = options.seeds.unwrap_or((options.images_of_label / after_first.max(1)).max(1));
    let plan = Plan::new(tables, seeds);
    let images = plan.images();
    if (1..=MOST_IMAGES).contains(&images) { Ok(plan) } else { Err(SurveyError::Images(images)) }
}

fn settings(
    config: &Config,
    options: &SurveyOptions,
    plan: &Plan,
) -> Result<Settings, SurveyError> {
    let scheduler = options.scheduler.unwrap_or_else(|| Survey::scheduler(config));
    if scheduler.is_adaptive() {
        return Err(SurveyError::Adaptive(scheduler));
    }
    let mut settings = Settings::builder(config)
        .images(plan.images())
        .seed(options.seed)
        .steps(options.steps)
        .scheduler(scheduler)
        // For the margins.
        .record_scores(Settings::routing_applies(config));
    if let Some(guidance) = options.guidance {
        settings = settings.guidance(guidance);
    }
    for (t, table) in plan.tables().iter().enumerate() {
        if config.text.is_some() && t == 0 {
            let prompt = |image| table.labels[plan.label(t, image)].clone();
            settings = settings.prompts((0..plan.images()).map(prompt));
        } else {
            settings = settings.labels(&table.name, plan.rows(t).map(Label::Row));
        }
    }
    Ok(settings.build()?)
}

fn described(settings: &Settings, plan: &Plan) -> BTreeMap<String, String> {
    let scheduler = settings.sampling.scheduler;
    let options = scheduler.changed_options();
    let mut described: BTreeMap<String, String> =
        options.map(|(option, value)| (option.name.to_owned(), option.format(value))).collect();
    let combinations: usize = plan.tables().iter().map(|table| table.labels.len()).product();
    let fixed = [
        ("scheduler", scheduler.name().to_owned()),
        ("steps", settings.sampling.steps.to_string()),
        ("guidance", settings.sampling.guidance.to_string()),
        ("seed", settings.sampling.seed.to_string()),
        ("seeds", (plan.images() / combinations.max(1)).to_string()),
    ];
    described.extend(fixed.map(|(key, value)| (key.to_owned(), value)));
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(experts: &str, classes: usize) -> Config {
        Config::from_json(&format!(
            r#"{{"kind":"{experts}","t_kind":"flow","params":{{"input_size":8,"num_classes":{classes},"patch_size":2,"depth":2,
            "hidden_size":64,"num_heads":4,"MoE_config":{{"num_experts":4,"interleave":true}}}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn surveys_cover_every_label_of_a_small_model_and_some_of_a_large_one() {
        let small = Survey::new(&config("diffmoe", 10), &SurveyOptions::default()).unwrap();
        assert_eq!(small.images(), 10 * 24);
        assert!(
            small.settings().record_scores && small.settings().sampling.scheduler.name() == "euler"
        );
        assert_eq!(small.described()["seeds"], "24");
        let large = Survey::new(&config("diffmoe", 1000), &SurveyOptions::default()).unwrap();
        assert_eq!(large.images(), 48 * 24);
        let few = SurveyOptions { labels: 3, images_of_label: 2, ..SurveyOptions::default() };
        let few = Survey::new(&config("diffmoe", 1000), &few).unwrap();
        let first: Vec<bool> = (0..6).map(|image| few.is_first_of_label(image)).collect();
        assert_eq!(first, [true, true, true, false, false, false]);
    }

    #[test]
    fn what_cannot_be_swept_is_refused_with_a_reason() {
        let refused = |config: &Config, options: SurveyOptions| {
            Survey::new(config, &options).unwrap_err().to_string()
        };
        let all = SurveyOptions::default;
        let model = config("diffmoe", 10);
        assert!(refused(&config("dense", 10), all()).contains("no experts"));
        assert!(refused(&config("diffmoe", 1), all()).contains("at least two"));
        assert!(refused(&model, SurveyOptions { seeds: Some(0), ..all() }).contains("0 images"));
        assert!(refused(&model, SurveyOptions { steps: 0, ..all() }).contains("steps must be"));
        let scheduler = Some("dopri5".parse().unwrap());
        let adaptive = refused(&model, SurveyOptions { scheduler, ..all() });
        assert!(adaptive.contains("take another scheduler"), "{adaptive}");
    }
}
