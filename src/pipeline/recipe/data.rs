//! What a recipe is, and how it comes from settings and becomes settings again.

use crate::kernels::WeightPrecision;
use crate::model::{Config, UnknownName};
use crate::pipeline::showcase::recognised;
use crate::pipeline::{Label, Sampling, Settings, SettingsBuilder};
use crate::scheduler::OptionError;

/// Everything that draws the same images again: the model by name and checksum, the settings of the run, and what of
/// the run a file shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Name of a shipped model, address of a file on the web, or the name of somebody's own file.
    pub model: Option<String>,
    /// First digits of the SHA-256 of the model's file, lower-case.
    pub hash: Option<String>,
    /// Address or file name of the image decoder, for a model that makes latents.
    pub decoder: Option<String>,
    /// For each label table the rows that the images take in turn. An empty list stands for random rows from the seed,
    /// [`Label::Best`] for rows that the model draws well.
    pub labels: Vec<Vec<Label>>,
    /// For each label table the label that is blended into those of all images; `None` leaves the labels of a table as they
    /// are. Empty where nothing is blended.
    pub mix: Vec<Option<Label>>,
    /// Prompts that the images take in turn; empty for none.
    pub prompts: Vec<String>,
    /// How they are sampled.
    pub sampling: Sampling,
    /// Whether the run started from an image, which a recipe does not contain.
    pub from_image: bool,
    /// Images of the run.
    pub count: usize,
    /// Images that share a pass, where images of a pass depend on each other.
    pub batch: Option<usize>,
    /// What large matrices were on the device, where somebody chose it.
    pub weights: Option<WeightPrecision>,
    /// The image that a file shows, from 0; `None` for all of them.
    pub image: Option<usize>,
    /// How much a file enlarges them; `None` for the usual.
    pub scale: Option<u32>,
    /// Whether it enlarges them smoothly.
    pub smooth: bool,
    /// The settings among [`Recipe::USUAL`] that a text does not have: those that the model recommends are used.
    pub unsaid: Vec<&'static str>,
    /// Parts that the library does not know, as key and value: of a program around it, or of a later version.
    pub others: Vec<(String, String)>,
}

/// Why a text is no recipe.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// A value that a part cannot have.
    #[error("invalid {key}: expected {expected}, got {value:?}")]
    Value {
        /// The part.
        key: String,
        /// What was given.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// A percent sign without its two digits, or bytes that are no text.
    #[error("damaged settings: a percent sign without two digits, or bytes that are no text")]
    Damaged,
    /// A scheduler or rule that this version does not have.
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    /// A wrong option of a scheduler.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// A sweep of too many images.
    #[error("{0} cells are too many for a table: at most {1}")]
    Cells(usize, usize),
    /// A setting that cannot be changed on its own, or that the model does not have.
    #[error("{key} is not a setting of this model that can be varied: expected {expected}")]
    NoSetting {
        /// The given key.
        key: String,
        /// What there is.
        expected: String,
    },
    /// For another model.
    #[error("the settings are for a model with {recipe} label tables, but {name} has {model}")]
    Tables {
        /// Label tables in the recipe.
        recipe: usize,
        /// Those of the model.
        model: usize,
        /// Its name.
        name: String,
    },
}

impl Recipe {
    /// Keys of the settings for which a model has a recommendation.
    pub const USUAL: [&str; 7] =
        ["seed", "count", "steps", "guidance", "spin", "scheduler", "labels"];

    /// The settings of a run with a model; names and checksum are left to the caller.
    pub fn of(settings: &Settings, config: &Config) -> Self {
        let count = settings.images();
        let asked = recognised(config, &settings.labels, settings.sampling.seed);
        let tables = settings.labels.iter().zip(&config.labels).zip(asked);
        let labels = tables.map(|((rows, table), asked)| match asked {
            Some(wanted) => wanted.iter().map(|_| Label::Best).collect(),
            None => in_turn(rows).iter().map(|&row| Label::of(table, row)).collect(),
        });
        let mix = settings.mix.iter().zip(&config.labels);
        let mix = mix.map(|(row, table)| row.map(|row| Label::of(table, row)));
        // Other images of a pass matter where they compete, or where the scheduler chooses its steps for all.
        let together = settings.sampling.couples_images();
        Self {
            model: None,
            hash: None,
            decoder: None,
            labels: labels.collect(),
            mix: mix.collect(),
            prompts: in_turn(&settings.prompts).to_vec(),
            sampling: settings.sampling.clone(),
            from_image: settings.init.is_some(),
            count,
            batch: together.then_some(count),
            weights: None,
            image: None,
            scale: None,
            smooth: false,
            unsaid: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Before anything is read.
    pub(super) fn empty() -> Self {
        Self {
            model: None,
            hash: None,
            decoder: None,
            labels: Vec::new(),
            mix: Vec::new(),
            prompts: Vec::new(),
            sampling: Sampling::default(),
            from_image: false,
            count: 1,
            batch: None,
            weights: None,
            image: None,
            scale: None,
            smooth: false,
            unsaid: Vec::new(),
            others: Vec::new(),
        }
    }

    /// The settings for a model, to be changed or [built](SettingsBuilder::build).
    ///
    /// # Errors
    /// When the model has another number of label tables.
    pub fn builder<'a>(&self, config: &'a Config) -> Result<SettingsBuilder<'a>, RecipeError> {
        let (sampling, is_said) = (self.sampling_for(config), !self.unsaid.contains(&"labels"));
        let given = if is_said { self.labels.len() } else { config.labels.len() };
        let (recipe, model) = (given.max(self.mix.len()), config.labels.len());
        if given != model || recipe != model {
            return Err(RecipeError::Tables { recipe, model, name: config.name.clone() });
        }
        let mut settings =
            Settings::builder(config).images(self.count).prompts(self.prompts.iter().cloned());
        for (table, rows) in config.labels.iter().zip(&self.labels) {
            settings = settings.labels(&table.name, rows.iter().cloned());
        }
        for (table, other) in config.labels.iter().zip(&self.mix) {
            if let Some(other) = other {
                settings = settings.mix(&table.name, other.clone());
            }
        }
        // The strength of the blend is there.
        Ok(settings.sampling(sampling))
    }

    /// How a model's images are sampled: as said, and what is [unsaid](Recipe::unsaid) as the model recommends.
    pub fn sampling_for(&self, config: &Config) -> Sampling {
        let mut sampling = self.sampling.clone();
        sampling.take(&self.unsaid, &Sampling::of(config));
        sampling
    }

    /// The first ten digits of a SHA-256, as recipes name a model's file and other tools of this field do. Of a sharded
    /// model it is the SHA-256 of its files' sums, one after the other.
    pub fn short_hash(sha256: [u8; 32]) -> String {
        sha256[..5].iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Whether a model's file is the one that this names, as far as both checksums go; true where this names none.
    pub fn agrees_with(&self, hash: &str) -> bool {
        let Some(named) = &self.hash else { return true };
        named.starts_with(hash) || hash.starts_with(named.as_str())
    }
}

/// The shortest beginning of a list whose repetition is the list.
fn in_turn<T: PartialEq>(list: &[T]) -> &[T] {
    let repeats = |period: &usize| list.iter().enumerate().all(|(i, v)| *v == list[i % period]);
    let period = (1..list.len()).find(repeats).unwrap_or(list.len());
    &list[..period]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Routing, RoutingRule};
    use crate::scheduler::SchedulerKind;

    /// A model with two label tables.
    pub(in super::super) fn config() -> Config {
        Config::from_json(
            r#"{"name":"small","kind":"diffmoe","t_kind":"flow",
            "params":{"input_size":8,"num_classes":3,"patch_size":2,"depth":2,"hidden_size":32,"num_heads":2,
                      "MoE_config":{"num_experts":4,"capacity":1}},
            "labels":[{"name":"subject","tensor":"a","null":3,"values":["ant","bee, red","cat"]},
                      {"name":"style","tensor":"b","null":2}],
            "defaults":{"steps":10,"guidance":2.0,"solver":"heun"}}"#,
        )
        .unwrap()
    }

    #[test]
    fn the_settings_of_a_run_come_back() {
        let config = config();
        let build = |builder: SettingsBuilder<'_>| builder.build().unwrap();
        let of = || Settings::builder(&config).images(6).seed(9);
        let rows = |rows: &[u32]| rows.iter().map(|&row| Label::Row(row)).collect::<Vec<_>>();
        let all = [
            build(of()),
            build(of().label("subject", 1).label("style", Label::Any)),
            build(of().labels("subject", rows(&[2, 0])).labels("style", rows(&[1, 2, 0]))),
            build(of().labels("subject", rows(&[2, 0, 2, 0, 2, 1])).images(6)),
            build(of().routing(Routing {
                rule: RoutingRule::Pool,
                gamma: Some(0.1),
                shift: 0.0,
                log_odds: -1.5,
            })),
            build(of().muted([(1, 3)].into_iter().collect()).steps(7).guidance(0.1)),
            build(of().scheduler("dopri5".parse::<SchedulerKind>().unwrap())),
            build(of().mix("style", 1).mix_strength(0.3)),
            build(of().mix("subject", "bee red").mix("style", Label::Any).mix_strength(0.0)),
        ];
        for settings in all {
            let recipe = Recipe::of(&settings, &config);
            let read = Recipe::parse(&recipe.to_text()).unwrap();
            assert_eq!(read, recipe);
            assert_eq!(read.builder(&config).unwrap().build().unwrap(), settings);
        }
        let recipe = Recipe::of(&build(of().labels("subject", rows(&[2, 0]))), &config);
        let named = vec![Label::from("cat"), Label::from("ant")];
        assert_eq!(recipe.labels, [named, Vec::new()], "in turn, and random");
        assert_eq!(recipe.batch, None, "with the token rule images do not depend on each other");
    }

    #[test]
    fn what_a_text_does_not_say_is_what_the_model_recommends() {
        let config = config();
        let built = |text: &str| {
            Recipe::parse(text)
                .unwrap()
                .builder(&config)
                .unwrap()
                .build()
                .map_err(|e| e.to_string())
        };
        assert_eq!(built(""), Settings::builder(&config).build().map_err(|e| e.to_string()));
        let some = built("seed=7&count=2&labels=Bee-RED,1").unwrap();
        assert_eq!(some.labels, [[1; 2], [1; 2]]);
        assert_eq!((some.sampling.steps, some.sampling.guidance), (10, 2.0));
        assert_eq!((some.sampling.seed, some.sampling.scheduler.name()), (7, "heun"));
        assert_eq!(built("labels=cow,any"), Err("unknown subject \"cow\"".to_owned()));
        let other = built("scheduler=euler&steps=3").unwrap();
        assert_eq!((other.sampling.steps, other.sampling.scheduler.name()), (3, "euler"));
        assert_eq!(other.sampling.guidance.to_bits(), 2.0_f32.to_bits());
    }

    #[test]
    fn another_model_is_refused() {
        let config = config();
        let mut recipe = Recipe::of(&Settings::of(&config), &config);
        assert_eq!(recipe.labels, [[Label::Any], [Label::Any]]);
        recipe.labels.pop();
        let error = recipe.builder(&config).unwrap_err().to_string();
        assert!(error.contains("1 label tables, but small has 2"), "{error}");
    }

    #[test]
    fn checksums_agree_as_far_as_they_go() {
        let config = config();
        let mut recipe = Recipe::of(&Settings::of(&config), &config);
        assert!(recipe.agrees_with("0123456789"));
        recipe.hash = Some("01234567".into());
        assert!(recipe.agrees_with("0123456789") && recipe.agrees_with("01234567"));
        assert!(!recipe.agrees_with("0123456889"));
    }
}
