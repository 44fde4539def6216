//! The defaults of a model and changes to them: the one place where settings are built.

use super::showcase::{self, Wanted};
use super::{InitImage, Sampling, Settings, SettingsError};
use crate::model::{Config, LabelMix, LabelTable, Muted, Routing, RoutingRule, Shifts, one_of};
use crate::scheduler::{CycleSpin, GuidanceInterval, SchedulerKind};

/// A row of a label table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// The null row, which leaves the choice to the model.
    Any,
    /// Part of a combination that the model draws well, drawn from the seed; a random row if the model has no
    /// [showcase](crate::model::Showcase).
    Best,
    /// By number.
    Row(u32),
    /// By name or number as a user writes it; `any` is the null row.
    Name(String),
}

impl Label {
    /// A row as links write it: by a name that reads back as this row, or else by its number.
    pub fn of(table: &LabelTable, row: u32) -> Self {
        if row == table.null {
            return Self::Any;
        }
        let value = table.values.get(row as usize).map_or("", String::as_str);
        let letter = |c: char| if c.is_alphanumeric() { Some(c) } else { None };
        let words = value.split_whitespace().map(|word| word.chars().filter_map(letter).collect());
        let words: Vec<String> = words.filter(|word: &String| !word.is_empty()).collect();
        let name = words.join("-");
        let is_other = ["any", "best", "same", "varied"].contains(&name.as_str())
            || name.parse::<u32>().is_ok();
        if name.is_empty() || is_other || table.find(&name) != Some(row) {
            return Self::Row(row);
        }
        Self::Name(name)
    }
}

impl From<u32> for Label {
    fn from(row: u32) -> Self {
        Self::Row(row)
    }
}

impl From<&str> for Label {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

/// Settings under construction: the model's recommendations, changed by methods.
///
/// ```
/// # use diffmoe::model::Config;
/// use diffmoe::pipeline::Settings;
///
/// # fn example(config: &Config) -> Result<(), diffmoe::pipeline::SettingsError> {
/// let settings = Settings::builder(config).label("class", 3).seed(7).images(4).build()?;
/// assert_eq!(settings.labels[0], [3; 4]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "`build` makes settings of it"]
pub struct SettingsBuilder<'a> {
    config: &'a Config,
    labels: Vec<Wanted>,
    mix: Vec<Option<u32>>,
    prompts: Vec<String>,
    images: usize,
    sampling: Sampling,
    init: Option<InitImage>,
    record_scores: bool,
    /// The first mistake.
    mistake: Option<SettingsError>,
}

impl Settings {
    /// What a model recommends, for one image without labels: of each label table the null row, and no prompt.
    pub fn of(config: &Config) -> Self {
        let mut plain = Self::builder(config).unchecked();
        plain.prompts.iter_mut().for_each(String::clear);
        Self { labels: config.labels.iter().map(|table| vec![table.null]).collect(), ..plain }
    }

    /// The recommendations of a model: its scheduler, steps and guidance, one image of
    /// [labels that it draws well](Label::Best) or of its first example of a prompt, seed 0, and routing by tokens with the
    /// checkpoint's thresholds.
    pub fn builder(config: &Config) -> SettingsBuilder<'_> {
        SettingsBuilder {
            config,
            labels: vec![vec![None]; config.labels.len()],
            mix: Vec::new(),
            prompts: Vec::new(),
            images: 1,
            sampling: Sampling::of(config),
            init: None,
            record_scores: false,
            mistake: None,
        }
    }
}

impl SettingsBuilder<'_> {
    /// One row of a label table for all images.
    pub fn label(self, table: &str, label: impl Into<Label>) -> Self {
        self.labels(table, [label.into()])
    }

    /// Rows of a label table, which the images take in turn. No rows at all stand for random rows from the seed.
    pub fn labels(mut self, table: &str, labels: impl IntoIterator<Item = Label>) -> Self {
        let Some(i) = self.table(table) else { return self };
        let rows = labels.into_iter().map(|label| row(&self.config.labels[i], label));
        match rows.collect() {
            Ok(rows) => self.labels[i] = rows,
            Err(mistake) => _ = self.mistake.get_or_insert(mistake),
        }
        self
    }

    /// A label that is blended into those of all images: the half of it, unless [`SettingsBuilder::mix_strength`] or
    /// [`SettingsBuilder::sampling`] say otherwise afterwards.
    pub fn mix(mut self, table: &str, label: impl Into<Label>) -> Self {
        let Some(i) = self.table(table) else { return self };
        let label = match label.into() {
            Label::Best => Label::Name("best".to_owned()),
            label => label,
        };
        match row(&self.config.labels[i], label) {
            Ok(other) => {
                self.mix.resize(self.config.labels.len(), None);
                self.mix[i] = other;
                self.sampling.mix_strength = LabelMix::USUAL;
            }
            Err(mistake) => _ = self.mistake.get_or_insert(mistake),
        }
        self
    }

    /// How much of the labels of [`SettingsBuilder::mix`] is blended in, 0 for none of them to 1 for nothing else.
    pub fn mix_strength(mut self, strength: f32) -> Self {
        self.sampling.mix_strength = strength;
        self
    }

    /// The place of a label table; where the model does not have it, that is noted.
    fn table(&mut self, name: &str) -> Option<usize> {
        let place = self.config.labels.iter().position(|known| known.name == name);
        if place.is_none() {
            let expected = match &self.config.labels[..] {
                [] => "no label tables".to_owned(),
                tables => one_of(tables.iter().map(|table| table.name.as_str())),
            };
            let table = name.to_owned();
            self.mistake.get_or_insert(SettingsError::Table { table, expected });
        }
        place
    }

    /// One prompt for all images.
    pub fn prompt(self, prompt: impl Into<String>) -> Self {
        self.prompts([prompt.into()])
    }

    /// Prompts, which the images take in turn. No prompts at all stand for the model's examples; an empty one for none.
    pub fn prompts(self, prompts: impl IntoIterator<Item = String>) -> Self {
        Self { prompts: prompts.into_iter().collect(), ..self }
    }

    /// The image to start from, with its usual strength.
    pub fn init(mut self, init: InitImage) -> Self {
        self.sampling.strength = init.usual_strength();
        self.init = Some(init);
        self
    }

    /// Share of the way from noise to data that a run from an image takes.
    pub fn strength(mut self, strength: f32) -> Self {
        self.sampling.strength = strength;
        self
    }

    /// All of how images are sampled at once.
    pub fn sampling(self, sampling: Sampling) -> Self {
        Self { sampling, ..self }
    }

    /// What guidance leads away from, in words.
    pub fn negative(mut self, negative: impl Into<String>) -> Self {
        self.sampling.negative = negative.into();
        self
    }

    /// Number of images.
    pub fn images(self, images: usize) -> Self {
        Self { images, ..self }
    }

    /// Seed of the noise and of random rows.
    pub fn seed(mut self, seed: u64) -> Self {
        self.sampling.seed = seed;
        self
    }

    /// Mixes the noise with that of another seed, 0 for none of it to 1 for all.
    pub fn variation(mut self, seed: u64, strength: f32) -> Self {
        self.sampling.variation_seed = seed;
        self.sampling.variation_strength = strength;
        self
    }

    /// Denoising steps.
    pub fn steps(mut self, steps: u32) -> Self {
        self.sampling.steps = steps;
        self
    }

    /// Guidance scale; 1 switches guidance off.
    pub fn guidance(mut self, guidance: f32) -> Self {
        self.sampling.guidance = guidance;
        self
    }

    /// Where on the way from noise to data guidance applies.
    pub fn guidance_interval(mut self, guidance_interval: GuidanceInterval) -> Self {
        self.sampling.guidance_interval = guidance_interval;
        self
    }

    /// How the last predictions are averaged over shifts of the image; see [`Sampling::cycle_spin`].
    pub fn cycle_spin(mut self, cycle_spin: CycleSpin) -> Self {
        self.sampling.cycle_spin = cycle_spin;
        self
    }

    /// Scheduler and its options.
    pub fn scheduler(mut self, scheduler: SchedulerKind) -> Self {
        self.sampling.scheduler = scheduler;
        self
    }

    /// Routing rule.
    pub fn rule(mut self, rule: RoutingRule) -> Self {
        self.sampling.routing.rule = rule;
        self
    }

    /// Routing rule and thresholds.
    pub fn routing(mut self, routing: Routing) -> Self {
        self.sampling.routing = routing;
        self
    }

    /// Experts that take no tokens.
    pub fn muted(mut self, muted: Muted) -> Self {
        self.sampling.muted = muted;
        self
    }

    /// Thresholds of single layers and experts that are moved.
    pub fn shifts(mut self, shifts: Shifts) -> Self {
        self.sampling.shifts = shifts;
        self
    }

    /// Whether the trace keeps the router's scores.
    pub fn record_scores(self, record_scores: bool) -> Self {
        Self { record_scores, ..self }
    }

    /// The settings, checked.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn build(mut self) -> Result<Settings, SettingsError> {
        if let Some(mistake) = self.mistake.take() {
            return Err(mistake);
        }
        let config = self.config;
        let settings = self.unchecked();
        settings.check(config)?;
        Ok(settings)
    }

    /// The settings as they are, for user interfaces that [check](Settings::check) them when a run begins. A table or
    /// a name that the model does not have was ignored.
    pub fn unchecked(self) -> Settings {
        let nothing = [String::new()];
        let prompts = match &self.config.text {
            Some(text) if self.prompts.is_empty() && text.examples.is_empty() => &nothing[..],
            Some(text) if self.prompts.is_empty() => &text.examples,
            _ => &self.prompts,
        };
        Settings {
            labels: showcase::rows(self.config, &self.labels, self.sampling.seed, self.images),
            mix: self.mix,
            prompts: prompts.iter().cycle().take(self.images).cloned().collect(),
            sampling: self.sampling,
            init: self.init,
            record_scores: self.record_scores,
        }
    }
}

fn row(table: &LabelTable, label: Label) -> Result<Option<u32>, SettingsError> {
    match label {
        Label::Best => Ok(None),
        Label::Any => Ok(Some(table.null)),
        Label::Row(row) => Ok(Some(row)),
        Label::Name(name) if name.eq_ignore_ascii_case("any") => Ok(Some(table.null)),
        Label::Name(name) => table
            .find(&name)
            .map(Some)
            .ok_or_else(|| SettingsError::LabelName { table: table.name.clone(), name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::random_rows;

    fn config() -> Config {
        Config::from_json(
            r#"{"kind":"dense","t_kind":"flow",
            "params":{"input_size":2,"num_classes":3,"patch_size":1,"depth":1,"hidden_size":4,"num_heads":1},
            "labels":[{"name":"subject","tensor":"a","null":3,"values":["cat","dog","fox"]},
                      {"name":"style","tensor":"b","null":2}],
            "defaults":{"steps":17,"guidance":2.5,"solver":"heun"}}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_model_recommends_its_settings() {
        let config = config();
        let settings = Settings::builder(&config).seed(3).images(4).build().unwrap();
        assert_eq!((settings.sampling.steps, settings.sampling.guidance), (17, 2.5));
        assert_eq!(settings.sampling.scheduler.name(), "heun");
        assert_eq!(settings.labels[0], random_rows(3, 0, 3, 4));
        assert_eq!(settings.labels[1], random_rows(3, 1, 2, 4));
        assert!(settings.prompts.is_empty());
    }

    #[test]
    fn a_scheduler_that_does_not_suit_the_model_is_not_recommended() {
        let mut config = config();
        config.defaults.scheduler = "ddpm".into();
        assert_eq!(Settings::builder(&config).build().unwrap().sampling.scheduler.name(), "euler");
        config.defaults.steps = 0;
        config.defaults.guidance = f32::NAN;
        let settings = Settings::builder(&config).build().unwrap();
        assert_eq!((settings.sampling.steps, settings.sampling.guidance), (1, 1.0));
    }

    #[test]
    fn labels_are_found_by_name_and_taken_in_turn() {
        let config = config();
        let of = |labels: &[&str]| {
            let labels: Vec<Label> = labels.iter().map(|&name| name.into()).collect();
            Settings::builder(&config).labels("subject", labels).label("style", 1).images(3).build()
        };
        assert_eq!(of(&["fox", "any"]).unwrap().labels, [vec![2, 3, 2], vec![1; 3]]);
        let error = of(&["cow"]).unwrap_err().to_string();
        assert_eq!(error, "unknown subject \"cow\"");
        let error = Settings::builder(&config).label("colour", 1).build().unwrap_err().to_string();
        assert_eq!(error, "the model has no labels for \"colour\"; it has subject or style");
        let error = Settings::builder(&config).label("style", 9).build().unwrap_err().to_string();
        assert!(error.starts_with("style 9 does not exist"), "{error}");
        let error = Settings::builder(&config).prompt("a fox").build().unwrap_err();
        assert_eq!(error, SettingsError::NoText);
        let mix = |label: &str| Settings::builder(&config).mix("subject", label);
        let half = mix("fox").build().unwrap();
        assert_eq!((half.mix, half.sampling.mix_strength), (vec![Some(2), None], 0.5));
        assert_eq!(mix("any").mix_strength(0.1).build().unwrap().mix, [Some(3), None]);
        assert_eq!(mix("cow").build().unwrap_err().to_string(), "unknown subject \"cow\"");
        let error = Settings::builder(&config).mix("subject", Label::Best).build().unwrap_err();
        assert_eq!(error.to_string(), "unknown subject \"best\"");
        assert_eq!(Settings::builder(&config).images(0).build(), Err(SettingsError::Images));
    }
}
