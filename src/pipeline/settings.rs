//! Settings of a run, checked before anything is computed.

use super::Sampling;
use crate::model::{Config, Kind, MutedError, ShiftsError};
use crate::scheduler::{GuidanceIntervalError, OptionError};

/// The settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// For each label table of the model, one row for each image. The null row means "anything".
    pub labels: Vec<Vec<u32>>,
    /// One prompt for each image; empty for a model that reads no text.
    pub prompts: Vec<String>,
    /// How they are sampled.
    pub sampling: Sampling,
    /// Whether the trace keeps the router's scores; the images are the same.
    pub record_scores: bool,
}

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

impl Settings {
    /// Checks the settings against a model.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn check(&self, config: &Config) -> Result<(), SettingsError> {
        self.sampling.check(config)?;
        if config.text.is_none() && !(self.prompts.is_empty() && self.sampling.negative.is_empty())
        {
            return Err(SettingsError::NoText);
        }
        let images = self.images();
        if images == 0 {
            return Err(SettingsError::Images);
        }
        if self.labels.len() != config.labels.len()
            || self.labels.iter().any(|rows| rows.len() != images)
            || config.text.is_some() && self.prompts.len() != images
        {
            return Err(SettingsError::Count);
        }
        for (rows, table) in self.labels.iter().zip(&config.labels) {
            if let Some(&row) = rows.iter().find(|&&row| row > table.null) {
                let count = table.null;
                return Err(SettingsError::Label { table: table.name.clone(), row, count });
            }
        }
        Ok(())
    }

    /// Number of requested images.
    pub fn images(&self) -> usize {
        self.labels.first().map_or(self.prompts.len(), Vec::len)
    }

    /// Whether an image depends on the others of its pass: they compete for experts, or the scheduler chooses its steps
    /// for all.
    pub fn couples_images(&self) -> bool {
        self.routing.rule.couples_images() || self.scheduler.is_adaptive()
    }

    /// A name for each image: its prompt and labels, without null labels.
    pub fn names(&self, config: &Config) -> Vec<String> {
        let name = |image: usize| {
            let tables = self.labels.iter().zip(&config.labels);
            let named = tables.filter_map(|(rows, table)| {
                let row = rows[image];
                (row != table.null).then(|| {
                    if table.values.is_empty() {
                        format!("{} {row}", table.name)
                    } else {
                        table.label(row)
                    }
                })
            });
            let prompt = self.prompts.get(image).filter(|prompt| !prompt.is_empty()).cloned();
            let named: Vec<_> = prompt.into_iter().chain(named).collect();
            if named.is_empty() { "anything".to_owned() } else { named.join(", ") }
        };
        (0..self.images()).map(name).collect()
    }

    /// The same settings for some of the images.
    #[must_use]
    pub fn part(&self, images: std::ops::Range<usize>) -> Self {
        let labels = self.labels.iter().map(|rows| rows[images.clone()].to_vec()).collect();
        let prompts = self.prompts.get(images).unwrap_or_default().to_vec();
        Self { labels, prompts, ..self.clone() }
    }

    /// Whether the routing settings have any effect on a model.
    pub fn routing_applies(config: &Config) -> bool {
        config.kind == Kind::DiffMoe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Objective;
    use crate::scheduler::SchedulerKind;

    fn config() -> Config {
        model("flow")
    }

    fn model(objective: &str) -> Config {
        Config::from_json(&format!(
            r#"{{"kind":"dense","t_kind":"{objective}","params":{{"input_size":8,"num_classes":10,
            "patch_size":2,"depth":1,"hidden_size":64,"num_heads":4}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn schedulers_and_models_of_different_kinds_do_not_go_together() {
        for (objective, other) in [("flow", Objective::Ddpm), ("ddpm", Objective::Flow)] {
            let config = model(objective);
            for scheduler in SchedulerKind::for_objective(config.objective) {
                assert_eq!(with(scheduler, 10).check(&config), Ok(()));
                let most = scheduler.info().max_steps(config.objective);
                let many = with(scheduler, most + 1);
                let given = most + 1;
                assert_eq!(many.check(&config), Err(SettingsError::Steps { given, most }));
            }
            for scheduler in SchedulerKind::for_objective(other) {
                let result = with(scheduler, 10).check(&config);
                if scheduler.suits(config.objective) {
                    assert_eq!(result, Ok(()));
                    continue;
                }
                let error = result.unwrap_err().to_string();
                let want = format!("{scheduler} does not support");
                assert!(error.starts_with(&want), "{error}");
                let first = SchedulerKind::for_objective(config.objective)[0].name();
                assert!(error.contains(&format!("choose {first}")), "{error}");
            }
        }
    }

    fn with(scheduler: SchedulerKind, steps: u32) -> Settings {
        let plain = settings();
        let sampling = Sampling { scheduler, steps, ..plain.sampling.clone() };
        Settings { sampling, ..plain }
    }

    fn settings() -> Settings {
        Settings {
            labels: vec![vec![3, 10]],
            prompts: Vec::new(),
            sampling: Sampling {
                steps: 10,
                guidance: 1.5,
                scheduler: "euler".parse().unwrap(),
                ..Sampling::default()
            },
            record_scores: false,
        }
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert_eq!(settings().check(&config()), Ok(()), "the null row is allowed");
        let refused = |change: fn(&mut Settings)| {
            let mut s = settings();
            change(&mut s);
            s.check(&config()).unwrap_err().to_string()
        };
        assert!(refused(|s| s.sampling.steps = 0).contains("steps must be 1–10000, got 0"));
        assert!(refused(|s| s.sampling.guidance = f32::NAN).contains("off), got NaN"));
        assert!(refused(|s| s.sampling.guidance = -1.0).contains("off), got -1"));
        let interval = refused(|s| s.sampling.guidance_interval.high = -1.0);
        assert!(interval.contains("LOW,HIGH") && interval.ends_with("got 0,-1"), "{interval}");
        assert!(refused(|s| s.sampling.guidance_interval.low = f32::NAN).contains("got NaN,1"));
        assert!(refused(|s| s.sampling.routing.gamma = Some(1.5)).contains("probability, got 1.5"));
        assert!(refused(|s| s.sampling.routing.shift = f32::INFINITY).contains("shift must be"));
        assert!(refused(|s| s.sampling.routing.log_odds = f32::NAN).contains("log-odds"));
        assert!(refused(|s| s.labels = vec![vec![99_999]]).contains("class 99999 does not exist"));
        assert!(refused(|s| s.labels = vec![vec![]]).contains("must be at least 1, got 0"));
        assert!(refused(|s| s.labels.push(vec![1, 2])).contains("needs one label"));
        assert!(refused(|s| s.prompts = vec!["a fox".into(); 2]).contains("does not take prompts"));
        assert!(refused(|s| s.sampling.negative = "blob".into()).contains("does not take prompts"));
    }
}
