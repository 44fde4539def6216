//! What a command line asks `diffmoe atlas` for, checked before anything is computed.

use diffmoe::checkpoint::Checkpoint;
use diffmoe::model::{Config, LabelTable};
use diffmoe::pipeline::{Survey, SurveyOptions};
use diffmoe::trace::atlas::PlannedTable;

use super::super::checksum::short_hash;
use super::super::labels::resolve;
use super::Arguments;

/// A survey before its first image.
pub(super) struct Planned {
    pub(super) checkpoint: Checkpoint,
    pub(super) survey: Survey,
    pub(super) hash: String,
}

impl Planned {
    /// Reads and checks all that can be checked without a device.
    pub(super) fn read(arguments: &Arguments) -> Result<Self, Box<dyn std::error::Error>> {
        let checkpoint = diffmoe_models::open_any(&arguments.model)?;
        let config = checkpoint.config();
        if !(1..=256).contains(&arguments.batch) {
            return Err(
                format!("a batch of {} is not possible; choose 1 to 256", arguments.batch).into()
            );
        }
        let options = SurveyOptions {
            tables: tables(arguments, config)?,
            labels: arguments.labels,
            seeds: arguments.seeds,
            seed: arguments.seed,
            steps: arguments.steps,
            guidance: arguments.guidance,
            scheduler: Some(arguments.scheduler.resolve(Survey::scheduler(config))?),
            ..SurveyOptions::default()
        };
        let survey = Survey::new(config, &options)?;
        let hash = short_hash(&checkpoint);
        Ok(Self { checkpoint, survey, hash })
    }

    /// What the images of the survey depend on, as one line of JSON.
    pub(super) fn header(&self) -> serde_json::Value {
        let tables = self.survey.plan().tables().iter().map(|table| (&table.name, &table.labels));
        serde_json::json!({
            "log": 2,
            "model": self.checkpoint.config().name,
            "hash": self.hash,
            "settings": self.survey.described(),
            "tables": tables.collect::<Vec<_>>(),
            "images": self.survey.images(),
        })
    }
}

/// The labels and prompts that are named.
fn tables(
    arguments: &Arguments,
    config: &Config,
) -> Result<Vec<PlannedTable>, Box<dyn std::error::Error>> {
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
    if !arguments.prompt.is_empty() {
        let prompts = &arguments.prompt;
        tables.push(PlannedTable::spread("prompt", prompts, prompts.len()));
    }
    for table in &config.labels {
        let given = if table.name == "style" { &arguments.style } else { &arguments.class };
        if !given.is_empty() {
            tables.push(named(table, given)?);
        }
    }
    Ok(tables)
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
