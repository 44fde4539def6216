//! Settings of a run, checked before anything is computed.

use crate::model::{
    Config, Kind, Muted, MutedError, Objective, Routing, Shifts, ShiftsError, one_of,
};
use crate::scheduler::{
    Branch, Guidance, GuidanceInterval, GuidanceIntervalError, Next, OptionError, ScheduleConfig,
    SchedulerKind, StepNoise,
};

/// Thresholds move by no more log-odds than this: beyond it a threshold is 0 or 1.
const MOST_LOG_ODDS: f32 = 24.0;

/// The settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// For each label table of the model, one row for each image. The null row means "anything".
    pub labels: Vec<Vec<u32>>,
    /// One prompt for each image; empty for a model that reads no text.
    pub prompts: Vec<String>,
    /// What guidance leads away from; empty for nothing in particular. Without effect at a guidance of 1.
    pub negative: String,
    /// Seed of the noise.
    pub seed: u64,
    /// Denoising steps; without effect on schedulers that choose their own.
    pub steps: u32,
    /// Guidance scale; 1 switches guidance off.
    pub guidance: f32,
    /// Where on the way from noise to data guidance applies; elsewhere the unconditional pass is left out.
    pub guidance_interval: GuidanceInterval,
    /// Scheduler and its options.
    pub scheduler: SchedulerKind,
    /// Routing rule and thresholds.
    pub routing: Routing,
    /// Experts that take no tokens.
    pub muted: Muted,
    /// Thresholds of single layers and experts that are shifted.
    pub shifts: Shifts,
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
        self.check_scheduler(config)?;
        if !(0.0..=100.0).contains(&self.guidance) {
            return Err(SettingsError::Guidance(self.guidance));
        }
        self.guidance_interval.check()?;
        if let Some(gamma) = self.routing.gamma.filter(|g| !(0.0..=1.0).contains(g)) {
            return Err(SettingsError::Gamma(gamma));
        }
        if !(-1.0..=1.0).contains(&self.routing.shift) {
            return Err(SettingsError::Shift(self.routing.shift));
        }
        if !(-MOST_LOG_ODDS..=MOST_LOG_ODDS).contains(&self.routing.log_odds) {
            return Err(SettingsError::LogOdds(self.routing.log_odds));
        }
        self.muted.check(config)?;
        self.shifts.check(config)?;
        if config.text.is_none() && !(self.prompts.is_empty() && self.negative.is_empty()) {
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

    /// The scheduler, its options, and the steps. Ranges of options were checked when they were set.
    fn check_scheduler(&self, config: &Config) -> Result<(), SettingsError> {
        let (kind, objective) = (self.scheduler, config.objective);
        if !kind.suits(objective) {
            let suitable = SchedulerKind::for_objective(objective);
            return Err(SettingsError::Scheduler {
                scheduler: kind.name(),
                models: match objective {
                    Objective::Flow => "flow",
                    Objective::Ddpm => "DDPM",
                },
                suitable: one_of(suitable.iter().map(|kind| kind.name())),
            });
        }
        if let Some((option, _)) = kind.changed_options().find(|(o, _)| !o.applies(objective)) {
            return Err(SettingsError::UnusedOption(option.name));
        }
        let most = kind.info().max_steps(objective);
        if !(1..=most).contains(&self.steps) {
            return Err(SettingsError::Steps { given: self.steps, most });
        }
        Ok(())
    }

    /// Whether at least one step has an unconditional pass. None has at a scale of 1, nor with an interval between two
    /// steps. Of an adaptive scheduler, whose steps are not known before, the interval is not looked at.
    pub fn is_guided(&self, config: &Config) -> bool {
        #[expect(clippy::float_cmp, reason = "exactly 1 is documented to switch guidance off")]
        let is_off = self.guidance == 1.0;
        if is_off || self.scheduler.is_adaptive() {
            return !is_off;
        }
        let mut schedule = self.scheduler.schedule(
            config,
            ScheduleConfig {
                steps: self.steps,
                guidance: Guidance { scale: self.guidance, interval: self.guidance_interval },
                // Nothing is drawn, so no noise is made.
                noise: StepNoise::Seeded { seed: 0, images: 0..0 },
            },
        );
        let steps = std::iter::from_fn(|| match schedule.next() {
            Next::Step(instructions) => Some(instructions),
            Next::Wait | Next::Done | Next::Stalled(_) => None,
        });
        let mut passes = steps.flatten().flat_map(|instruction| instruction.passes());
        passes.any(|(_, branch)| branch == Branch::Unconditional)
    }

    /// Whether the routing settings have any effect on a model.
    pub fn routing_applies(config: &Config) -> bool {
        config.kind == Kind::DiffMoe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                assert_eq!(Settings { scheduler, ..settings() }.check(&config), Ok(()));
                let most = scheduler.info().max_steps(config.objective);
                let many = Settings { scheduler, steps: most + 1, ..settings() };
                let given = most + 1;
                assert_eq!(many.check(&config), Err(SettingsError::Steps { given, most }));
            }
            for scheduler in SchedulerKind::for_objective(other) {
                let result = Settings { scheduler, ..settings() }.check(&config);
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

    fn settings() -> Settings {
        Settings {
            labels: vec![vec![3, 10]],
            prompts: Vec::new(),
            negative: String::new(),
            seed: 0,
            steps: 10,
            guidance: 1.5,
            guidance_interval: GuidanceInterval::default(),
            scheduler: "euler".parse().unwrap(),
            routing: Routing::default(),
            muted: Muted::default(),
            shifts: Shifts::default(),
            record_scores: false,
        }
    }

    #[test]
    fn an_interval_between_two_steps_guides_none() {
        let config = config();
        let guided = |scale: f32, interval: &str, scheduler: &str| {
            let guidance_interval = interval.parse().unwrap();
            let scheduler = scheduler.parse().unwrap();
            Settings { guidance: scale, guidance_interval, scheduler, ..settings() }
                .is_guided(&config)
        };
        assert!(guided(1.5, "0,1", "euler") && !guided(1.0, "0,1", "euler"));
        // Steps begin at tenths; Heun's second evaluation is at the end of a step.
        assert!(guided(1.5, "0.9,1", "euler") && !guided(1.5, "0.92,0.98", "euler"));
        assert!(!guided(1.5, "0.92,0.98", "heun") && guided(1.5, "0.92,0.98", "dopri5"));
        let ddpm = Settings { scheduler: "ddpm".parse().unwrap(), ..settings() };
        assert!(ddpm.is_guided(&model("ddpm")));
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert_eq!(settings().check(&config()), Ok(()), "the null row is allowed");
        let refused = |change: fn(&mut Settings)| {
            let mut s = settings();
            change(&mut s);
            s.check(&config()).unwrap_err().to_string()
        };
        assert!(refused(|s| s.steps = 0).contains("steps must be 1–10000, got 0"));
        assert!(refused(|s| s.guidance = f32::NAN).contains("off), got NaN"));
        assert!(refused(|s| s.guidance = -1.0).contains("off), got -1"));
        let interval = refused(|s| s.guidance_interval.high = -1.0);
        assert!(interval.contains("LOW,HIGH") && interval.ends_with("got 0,-1"), "{interval}");
        assert!(refused(|s| s.guidance_interval.low = f32::NAN).contains("got NaN,1"));
        assert!(refused(|s| s.routing.gamma = Some(1.5)).contains("probability, got 1.5"));
        assert!(refused(|s| s.routing.shift = f32::INFINITY).contains("shift must be"));
        assert!(refused(|s| s.routing.log_odds = f32::NAN).contains("log-odds"));
        assert!(refused(|s| s.labels = vec![vec![99_999]]).contains("class 99999 does not exist"));
        assert!(refused(|s| s.labels = vec![vec![]]).contains("must be at least 1, got 0"));
        assert!(refused(|s| s.labels.push(vec![1, 2])).contains("needs one label"));
        assert!(refused(|s| s.prompts = vec!["a fox".into(); 2]).contains("does not take prompts"));
        assert!(refused(|s| s.negative = "blob".into()).contains("does not take prompts"));
    }
}
