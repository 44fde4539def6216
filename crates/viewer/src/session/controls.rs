//! The controls of a run, and their conversion to [`Settings`].

use super::Init;
use diffmoe::model::{Config, LabelTable};
use diffmoe::pipeline::{Label, Sampling, Settings};

/// Largest number of images per run in the app: more would take long and be small on screen.
pub const MAX_COUNT: usize = 16;
/// Largest number of steps per run in the app: every step is kept.
pub const MAX_STEPS: u32 = 250;
/// Images of the first run: enough to compare, and fast.
const FIRST_COUNT: usize = 4;

/// What a label table contributes to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The null row, which leaves the choice to the model.
    Any,
    /// A combination that the model draws well, a different one for each image, drawn from the seed.
    Best,
    /// Another row for each image, drawn from the seed.
    Varied,
    /// One row for all images.
    Row(u32),
}

impl Choice {
    /// Its name in the app; `None` for a row, which its table names.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Any => Some("any"),
            Self::Best => Some("well drawn"),
            Self::Varied => Some("varied"),
            Self::Row(_) => None,
        }
    }
}

/// The settings as shown in the user interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Controls {
    /// For each label table of the model, in its order.
    pub choices: Vec<Choice>,
    /// For each label table the row that is blended into those of all images, `None` for none; may be shorter than the list
    /// of tables. How much is part of the sampling.
    pub mix: Vec<Option<u32>>,
    /// The prompt, for a text-conditioned model. If it is empty, the images take the model's examples in turn; a blank
    /// stands for no prompt.
    pub prompt: String,
    /// How images are sampled: steps 1 to [`MAX_STEPS`], no negative prompt for a model without text.
    pub sampling: Sampling,
    /// The image to start from instead of noise alone; its strength is part of the sampling.
    pub init: Option<Init>,
    /// Images, 1 to [`MAX_COUNT`].
    pub count: usize,
}

/// What is written for no prompt at all: the tokenizer drops it.
pub(super) const NO_PROMPT: &str = " ";

impl Controls {
    /// Before there is a model.
    pub(super) fn none() -> Self {
        let sampling = Sampling::default();
        Self {
            choices: Vec::new(),
            mix: Vec::new(),
            prompt: String::new(),
            sampling,
            init: None,
            count: 1,
        }
    }

    /// What a model recommends ([`Sampling::of`]), and another subject for each image, of those that it draws well where
    /// that is known.
    pub fn for_model(config: &Config) -> Self {
        let usual = Sampling::of(config);
        let usual_choice =
            if config.defaults.showcase.is_some() { Choice::Best } else { Choice::Varied };
        let (seed, steps) = (crate::platform::new_seed(), usual.steps.min(MAX_STEPS));
        Self {
            choices: vec![usual_choice; config.labels.len()],
            mix: Vec::new(),
            prompt: String::new(),
            sampling: Sampling { seed, steps, ..usual },
            init: None,
            count: FIRST_COUNT,
        }
    }

    /// The labels as a link writes them: by name, if the model is known.
    pub(super) fn labels(&self, config: Option<&Config>) -> Vec<Vec<Label>> {
        let tables = config.into_iter().flat_map(|config| &config.labels).map(Some);
        let tables = tables.chain(std::iter::repeat(None));
        let label = |(choice, table): (&Choice, Option<&LabelTable>)| match *choice {
            Choice::Any => vec![Label::Any],
            Choice::Best => vec![Label::Best],
            Choice::Varied => Vec::new(),
            Choice::Row(row) => vec![table.map_or(Label::Row(row), |table| Label::of(table, row))],
        };
        self.choices.iter().zip(tables).map(label).collect()
    }

    /// The labels that are blended in, as a link writes them: by name, if the model is known.
    pub(super) fn mix_labels(&self, config: Option<&Config>) -> Vec<Option<Label>> {
        let tables = config.into_iter().flat_map(|config| &config.labels).map(Some);
        let tables = tables.chain(std::iter::repeat(None));
        let label = |row: u32, table: Option<&LabelTable>| {
            table.map_or(Label::Row(row), |table| Label::of(table, row))
        };
        let mix = self.mix.iter().zip(tables);
        mix.map(|(row, table)| row.map(|row| label(row, table))).collect()
    }

    /// The settings of a run. Rows are drawn as the command line draws them, so the same seed shows the same
    /// images there.
    pub fn settings(&self, config: &Config) -> Settings {
        let mut sampling = self.sampling.clone();
        if config.text.is_none() {
            sampling.negative.clear();
        }
        if self.mix.iter().all(Option::is_none) {
            sampling.mix_strength = 0.0;
        }
        let strength = sampling.mix_strength;
        let count = self.count.clamp(1, MAX_COUNT);
        let mut settings = Settings::builder(config).images(count).sampling(sampling);
        if let Some(init) = &self.init {
            settings = settings.init(init.image(config)).strength(self.sampling.strength);
        }
        for (table, choice) in config.labels.iter().zip(&self.choices) {
            settings = match *choice {
                Choice::Any => settings.label(&table.name, Label::Any),
                Choice::Row(row) => settings.label(&table.name, row),
                Choice::Best => settings.label(&table.name, Label::Best),
                Choice::Varied => settings.labels(&table.name, []),
            };
        }
        for (table, row) in config.labels.iter().zip(&self.mix) {
            if let Some(row) = *row {
                settings = settings.mix(&table.name, row);
            }
        }
        if config.text.is_some() && !self.prompt.is_empty() {
            settings = settings.prompt(&self.prompt);
        }
        settings.mix_strength(strength).unchecked()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffmoe::pipeline::random_rows;

    fn config() -> Config {
        Config::from_json(
            r#"{"kind":"dense","t_kind":"flow","params":{"input_size":8,"num_classes":3,"patch_size":2,
            "depth":1,"hidden_size":64,"num_heads":4},
            "labels":[{"name":"subject","tensor":"a","null":3,"values":["ant","bee","cat"]},
                      {"name":"style","tensor":"b","null":2}],
            "defaults":{"steps":1000,"guidance":2.5,"solver":"heun"}}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_model_recommends_its_settings() {
        let controls = Controls::for_model(&config());
        assert_eq!(controls.choices, [Choice::Varied; 2]);
        assert_eq!(
            (controls.sampling.steps, controls.sampling.guidance),
            (MAX_STEPS, 2.5),
            "every step is kept"
        );
        assert_eq!(controls.sampling.scheduler.name(), "heun");
        assert_eq!(controls.settings(&config()).check(&config()), Ok(()));
    }

    #[test]
    fn choices_become_rows() {
        let config = config();
        let mut controls = Controls { count: 4, ..Controls::for_model(&config) };
        controls.sampling.seed = 3;
        controls.choices = vec![Choice::Row(2), Choice::Any];
        let settings = controls.settings(&config);
        assert_eq!(settings.labels, [vec![2; 4], vec![2; 4]]);
        assert_eq!(settings.names(&config), ["cat"; 4], "the null row has no name");
        controls.choices = vec![Choice::Any, Choice::Row(1)];
        assert_eq!(controls.settings(&config).names(&config), ["style 1"; 4]);
        controls.choices = vec![Choice::Any, Choice::Any];
        assert_eq!(controls.settings(&config).names(&config), ["anything"; 4]);
        controls.choices = vec![Choice::Varied; 2];
        let varied = controls.settings(&config).labels;
        assert_eq!(varied[0], random_rows(3, 0, 3, 4));
        assert_eq!(varied[1], random_rows(3, 1, 2, 4));
        controls.mix = vec![Some(1)];
        controls.sampling.mix_strength = 0.25;
        controls.choices = vec![Choice::Row(2), Choice::Any];
        let mixed = controls.settings(&config);
        assert_eq!((&mixed.mix, mixed.sampling.mix_strength), (&vec![Some(1), None], 0.25));
        assert_eq!(mixed.names(&config), ["75% cat + 25% bee"; 4]);
        controls.mix = vec![None];
        assert_eq!(controls.settings(&config).check(&config), Ok(()), "nothing is blended");
        controls.count = 1000;
        assert_eq!(controls.settings(&config).labels[0].len(), MAX_COUNT);
    }
}
