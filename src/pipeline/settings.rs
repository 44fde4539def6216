//! Settings of a run, checked before anything is computed.

use std::ops::Range;

use super::{InitImage, Sampling, SettingsError};
use crate::model::{Config, Kind, LabelMix, LabelRow};
use crate::scheduler::{Branch, Next, ScheduleConfig, Scheduler, StepNoise, steps_taken};

/// The settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// For each label table of the model, one row for each image. The null row means "anything".
    pub labels: Vec<Vec<u32>>,
    /// For each label table the row that is blended into those of all images, as much as [`Sampling::mix_strength`] says;
    /// `None` leaves the labels of a table as they are. Empty where nothing is blended.
    pub mix: Vec<Option<u32>>,
    /// One prompt for each image; empty for a model that reads no text.
    pub prompts: Vec<String>,
    /// How they are sampled.
    pub sampling: Sampling,
    /// The image to start from instead of noise alone.
    pub init: Option<InitImage>,
    /// Whether the trace keeps the router's scores; the images are the same.
    pub record_scores: bool,
}

impl Settings {
    /// Checks the settings against a model.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn check(&self, config: &Config) -> Result<(), SettingsError> {
        self.sampling.check(config)?;
        if let Some(init) = &self.init {
            init.check(config, self.sampling.scheduler)?;
        }
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
        if self.mix.len() > config.labels.len() {
            return Err(SettingsError::Count);
        }
        let is_blended = self.mix.iter().any(Option::is_some);
        if self.sampling.mix_strength > 0.0 && !is_blended {
            return Err(SettingsError::MixLabel);
        }
        let blended = self.mix.iter().map(Option::as_slice).chain(std::iter::repeat(&[][..]));
        for ((rows, other), table) in self.labels.iter().zip(blended).zip(&config.labels) {
            if let Some(&row) = rows.iter().chain(other).find(|&&row| row > table.null) {
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

    /// Steps of the run: fewer than [`Sampling::steps`] where it starts from an image.
    pub fn steps_taken(&self) -> u32 {
        steps_taken(self.sampling.steps, self.strength())
    }

    /// Share of the way from noise to data that the run takes.
    pub(super) fn strength(&self) -> f32 {
        if self.init.is_some() { self.sampling.strength } else { 1.0 }
    }

    /// What is blended into the labels.
    pub fn label_mix(&self) -> LabelMix {
        LabelMix { rows: self.mix.clone(), strength: self.sampling.mix_strength }
    }

    /// The label of an image from a table, given the names of rows; of two rows with their shares.
    pub(super) fn label_name(
        &self,
        table: usize,
        image: usize,
        name: impl Fn(u32) -> String,
    ) -> String {
        let LabelRow { rows: [row, other], share } =
            self.label_mix().of(table, self.labels[table][image]);
        if share == 0.0 {
            return name(row);
        }
        let percent = (100.0 * share).round().clamp(1.0, 99.0);
        format!("{}% {} + {percent}% {}", 100.0 - percent, name(row), name(other))
    }

    /// A name for each image: its prompt and labels, without null labels.
    pub fn names(&self, config: &Config) -> Vec<String> {
        let name = |image: usize| {
            let named = config.labels.iter().enumerate().filter_map(|(i, table)| {
                let of_row = |row: u32| match row {
                    null if null == table.null => "any".to_owned(),
                    row if table.values.is_empty() => format!("{} {row}", table.name),
                    row => table.label(row),
                };
                let name = self.label_name(i, image, of_row);
                (name != "any").then_some(name)
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

    /// The scheduler for some images of a run.
    pub(super) fn schedule(&self, config: &Config, images: Range<u64>) -> Box<dyn Scheduler> {
        let sampling = &self.sampling;
        let noise = StepNoise::Seeded { seed: sampling.seed, images };
        let run = ScheduleConfig {
            strength: self.strength(),
            spin: sampling.cycle_spin,
            keeps: self.init.as_ref().is_some_and(|init| init.mask().is_some()),
            ..ScheduleConfig::new(sampling.steps, sampling.guided(), noise)
        };
        sampling.scheduler.schedule(config, run)
    }

    /// Whether at least one step has an unconditional pass. None has at a scale of 1, nor with an interval between two
    /// steps. Of an adaptive scheduler, whose steps are not known before, the interval is not looked at.
    pub fn is_guided(&self, config: &Config) -> bool {
        #[expect(clippy::float_cmp, reason = "exactly 1 is documented to switch guidance off")]
        let is_off = self.sampling.guidance == 1.0;
        if is_off || self.sampling.scheduler.is_adaptive() {
            return !is_off;
        }
        // Nothing is drawn, so no noise is made.
        let mut schedule = self.schedule(config, 0..0);
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
        let sampling = Sampling { steps, scheduler, ..plain.sampling.clone() };
        Settings { sampling, ..plain }
    }

    fn settings() -> Settings {
        Settings {
            labels: vec![vec![3, 10]],
            mix: Vec::new(),
            prompts: Vec::new(),
            sampling: Sampling {
                steps: 10,
                guidance: 1.5,
                scheduler: "euler".parse().unwrap(),
                ..Sampling::default()
            },
            init: None,
            record_scores: false,
        }
    }

    #[test]
    fn an_interval_between_two_steps_guides_none() {
        let config = config();
        let guided = |scale: f32, interval: &str, scheduler: &str| {
            let guidance_interval = interval.parse().unwrap();
            let scheduler = scheduler.parse().unwrap();
            let sampling =
                Sampling { guidance: scale, guidance_interval, scheduler, ..settings().sampling };
            Settings { sampling, ..settings() }.is_guided(&config)
        };
        assert!(guided(1.5, "0,1", "euler") && !guided(1.0, "0,1", "euler"));
        // Steps begin at tenths; Heun's second evaluation is at the end of a step.
        assert!(guided(1.5, "0.9,1", "euler") && !guided(1.5, "0.92,0.98", "euler"));
        assert!(!guided(1.5, "0.92,0.98", "heun") && guided(1.5, "0.92,0.98", "dopri5"));
        let scheduler = "ddpm".parse().unwrap();
        let sampling = Sampling { scheduler, ..settings().sampling };
        let ddpm = Settings { sampling, ..settings() };
        assert!(ddpm.is_guided(&model("ddpm")));
    }

    #[test]
    fn blended_labels_are_named_with_their_shares() {
        let config = config();
        let names = |mix: Option<u32>, mix_strength: f32| {
            let sampling = Sampling { mix_strength, ..settings().sampling };
            let settings = Settings { mix: vec![mix], sampling, ..settings() };
            assert_eq!(settings.check(&config), Ok(()));
            settings.names(&config)
        };
        assert_eq!(names(Some(5), 0.0), ["class 3", "anything"]);
        assert_eq!(names(Some(5), 0.25), ["75% class 3 + 25% class 5", "75% any + 25% class 5"]);
        assert_eq!(names(Some(10), 0.001), ["99% class 3 + 1% any", "anything"]);
        assert_eq!(names(Some(5), 1.0), ["class 5", "class 5"]);
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
        assert!(refused(|s| s.mix = vec![Some(11)]).contains("class 11 does not exist"));
        assert!(refused(|s| s.mix = vec![None, None]).contains("needs one label"));
        assert!(refused(|s| s.sampling.mix_strength = 1.5).contains("got 1.5"));
        assert!(refused(|s| s.sampling.mix_strength = 0.5).contains("needs a label"));
        assert!(refused(|s| s.prompts = vec!["a fox".into(); 2]).contains("does not take prompts"));
        assert!(refused(|s| s.sampling.negative = "blob".into()).contains("does not take prompts"));
    }
}
