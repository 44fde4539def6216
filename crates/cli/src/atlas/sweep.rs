//! What a command line asks `diffmoe atlas` for, checked before anything is computed.

use std::collections::BTreeMap;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::model::{Config, LabelTable};
use diffmoe::pipeline::{Label, Settings};
use diffmoe::scheduler::SchedulerKind;
use diffmoe::trace::atlas::{About, Atlas, Plan, PlannedTable};

use super::super::checksum::short_hash;
use super::super::labels::resolve;
use super::Arguments;

/// Most images of a sweep.
const MOST_IMAGES: usize = 1_000_000;
/// Images of a label, about, where the command line does not say.
const IMAGES_OF_LABEL: usize = 24;
/// Labels of the tables after the first: they multiply.
const MOST_STYLES: usize = 16;
/// Name of the table of prompts.
const PROMPT: &str = "prompt";

/// A sweep before its first image.
pub(super) struct Sweep {
    pub(super) checkpoint: Checkpoint,
    pub(super) plan: Plan,
    /// One label of each table, and one prompt, for each image.
    pub(super) settings: Settings,
    /// What decides the counts, for people and for comparing sweeps.
    described: BTreeMap<String, String>,
    hash: String,
}

impl Sweep {
    /// Reads and checks all that can be checked without a device.
    pub(super) fn read(arguments: &Arguments) -> Result<Self, Box<dyn std::error::Error>> {
        let checkpoint = diffmoe_models::open_any(&arguments.model)?;
        let config = checkpoint.config();
        if config.moe_blocks().is_empty() {
            return Err(
                format!("{} has no experts, so there is nothing to measure", config.name).into()
            );
        }
        if !(1..=256).contains(&arguments.batch) {
            return Err(
                format!("a batch of {} is not possible; choose 1 to 256", arguments.batch).into()
            );
        }
        let plan = plan(arguments, config)?;
        let settings = settings(arguments, config, &plan)?;
        let described = described(&settings, &plan);
        let hash = short_hash(&checkpoint);
        Ok(Self { checkpoint, plan, settings, described, hash })
    }

    /// What an atlas of this sweep says about it.
    pub(super) fn about(&self) -> About<'_> {
        let (hash, settings) = (self.hash.clone(), self.described.clone());
        About { config: self.checkpoint.config(), hash, settings }
    }

    /// What the images of the sweep depend on, as one line of JSON.
    pub(super) fn header(&self) -> serde_json::Value {
        let tables = self.plan.tables().iter().map(|table| (&table.name, &table.labels));
        serde_json::json!({
            "model": self.checkpoint.config().name,
            "hash": self.hash,
            "settings": self.described,
            "tables": tables.collect::<Vec<_>>(),
            "images": self.plan.images(),
        })
    }

    /// Whether an atlas is the result of this sweep.
    pub(super) fn describes(&self, atlas: &Atlas) -> bool {
        let compared = self.plan.tables().iter().filter(|table| table.labels.len() > 1);
        let labels: Vec<&[String]> = compared.map(|table| table.labels.as_slice()).collect();
        let theirs: Vec<&[String]> = atlas.tables.iter().map(|t| t.labels.as_slice()).collect();
        (&atlas.hash, &atlas.settings) == (&self.hash, &self.described)
            && (atlas.images, theirs) == (self.plan.images(), labels)
    }

    /// Whether an image is the first of its label in the first table.
    pub(super) fn is_first_of_label(&self, image: usize) -> bool {
        let label = self.plan.label(0, image);
        (0..image).rev().all(|before| self.plan.label(0, before) != label)
    }
}

/// The labels that are drawn.
fn plan(arguments: &Arguments, config: &Config) -> Result<Plan, Box<dyn std::error::Error>> {
    let has = |style: bool| config.labels.iter().any(|t| (t.name == "style") == style);
    if !arguments.style.is_empty() && !has(true) {
        return Err(format!("{} has no styles; remove --style", config.name).into());
    }
    if !arguments.class.is_empty() && !has(false) {
        return Err(format!("{} has no classes; remove --class", config.name).into());
    }
    if !arguments.prompt.is_empty() && config.text.is_none() {
        return Err(format!("{} reads no prompts; remove --prompt", config.name).into());
    }
    let mut tables = Vec::new();
    if let Some(text) = &config.text {
        let given = &arguments.prompt;
        let prompts = if given.is_empty() { &text.examples } else { given };
        tables.push(PlannedTable::spread(PROMPT, prompts, prompts.len()));
    }
    for table in &config.labels {
        let given = if table.name == "style" { &arguments.style } else { &arguments.class };
        let most = if tables.is_empty() { arguments.labels } else { MOST_STYLES };
        tables.push(if given.is_empty() { some(table, most) } else { named(table, given)? });
    }
    if tables.iter().all(|table| table.labels.len() < 2) {
        return Err("an atlas compares labels; name at least two".into());
    }
    let after_first: usize = tables.iter().skip(1).map(|table| table.labels.len()).product();
    let seeds = arguments.seeds.unwrap_or((IMAGES_OF_LABEL / after_first.max(1)).max(1));
    let plan = Plan::new(tables, seeds);
    let images = plan.images();
    if !(1..=MOST_IMAGES).contains(&images) {
        return Err(format!(
            "these are {images} images; 1 to {MOST_IMAGES} are possible: change --labels or --seeds"
        )
        .into());
    }
    Ok(plan)
}

/// Labels of a table, evenly spread.
fn some(table: &LabelTable, most: usize) -> PlannedTable {
    let names: Vec<String> = (0..table.null).map(|row| table.label(row)).collect();
    PlannedTable::spread(&table.name, &names, most)
}

/// Labels that were given, each once.
fn named(table: &LabelTable, given: &[String]) -> Result<PlannedTable, String> {
    let mut rows = Vec::new();
    for text in given {
        let row = resolve(table, text)?;
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let name = |&row: &u32| if row == table.null { "any".to_owned() } else { table.label(row) };
    Ok(PlannedTable { name: table.name.clone(), labels: rows.iter().map(name).collect(), rows })
}

fn settings(
    arguments: &Arguments,
    config: &Config,
    plan: &Plan,
) -> Result<Settings, Box<dyn std::error::Error>> {
    let plainest = SchedulerKind::for_objective(config.objective)
        .into_iter()
        .find(|kind| ["euler", "ddim"].contains(&kind.name()));
    let plainest = plainest.unwrap_or_else(|| SchedulerKind::default_of(config));
    let scheduler = arguments.scheduler.resolve(plainest)?;
    if scheduler.is_adaptive() {
        return Err(format!(
            "{scheduler} chooses its steps for a whole batch, so images cannot be compared; take another scheduler"
        )
        .into());
    }
    let mut settings = Settings::builder(config)
        .images(plan.images())
        .seed(arguments.seed)
        .steps(arguments.steps)
        .scheduler(scheduler);
    if let Some(guidance) = arguments.guidance {
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
