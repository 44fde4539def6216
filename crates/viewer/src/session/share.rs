//! A shared run, from a link or a saved image: a recipe of the library as the app's controls, and what Explore showed.

use std::fmt;

use super::controls::{Choice, Controls, MAX_COUNT, MAX_STEPS, NO_PROMPT};
use super::selection::Selection;
use diffmoe::model::Config;
use diffmoe::pipeline::{Label, Recipe, RecipeError};

/// Key of the part with the selection of Explore.
const EXPLORE: &str = "explore";
/// Key of the part with the run that it is compared with, a recipe in its turn.
const OTHER: &str = "other";

/// Where a shared run came from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Origin {
    /// A link.
    #[default]
    Link,
    /// A saved image, by its name.
    File(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link => f.write_str("the link"),
            Self::File(name) => f.write_str(name),
        }
    }
}

/// A shared run.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Name of an embedded model, URL of a file, or name of a local file.
    pub model: Option<String>,
    /// First digits of the SHA-256 of the model that drew the images, lower-case.
    pub hash: Option<String>,
    /// URL of the image decoder, or name of a local file.
    pub decoder: Option<String>,
    /// The controls, once [`Share::resolve`] has filled in what only the model knows.
    pub controls: Controls,
    /// The labels as a link writes them.
    pub labels: Vec<Vec<Label>>,
    /// The labels that are blended in, as a link writes them.
    pub mix: Vec<Option<Label>>,
    /// The prompts as a link writes them, until the model is known.
    pub(super) prompts: Vec<String>,
    /// Settings that a link leaves to the model.
    pub(super) unsaid: Vec<&'static str>,
    /// The selection of Explore, if it was open.
    pub explore: Option<Selection>,
    /// The run that it was compared with.
    pub other: Option<Box<Share>>,
    /// The image that a file shows, if it is one of several.
    pub image: Option<usize>,
    /// Parts that this version does not know.
    pub unknown: Vec<String>,
    /// Settings that the app cannot reproduce.
    pub differs: Vec<String>,
    /// Where it came from.
    pub origin: Origin,
}

impl Share {
    /// A run with these settings and nothing else.
    pub(super) fn of(controls: Controls) -> Self {
        Self {
            model: None,
            hash: None,
            decoder: None,
            labels: controls.labels(None),
            mix: controls.mix_labels(None),
            controls,
            prompts: Vec::new(),
            unsaid: Vec::new(),
            explore: None,
            other: None,
            image: None,
            unknown: Vec::new(),
            differs: Vec::new(),
            origin: Origin::Link,
        }
    }

    /// Reads a fragment, with or without its `#`.
    ///
    /// # Errors
    /// A message that names the invalid part and the expected value.
    pub fn parse(fragment: &str) -> Result<Self, String> {
        Self::of_recipe(Self::recipe_of(fragment)?, Origin::Link)
    }

    fn recipe_of(fragment: &str) -> Result<Recipe, String> {
        Recipe::parse(fragment).map_err(|error| match error {
            RecipeError::Damaged => "the link is damaged. Copy the whole link again".to_owned(),
            RecipeError::Value { key, value, expected } => {
                format!("invalid {key} in the link: expected {expected}, got {value:?}")
            }
            error => format!("invalid link: {error}"),
        })
    }

    /// A recipe as the app's controls.
    ///
    /// # Errors
    /// A message that names a setting that the app does not have.
    pub fn of_recipe(recipe: Recipe, origin: Origin) -> Result<Self, String> {
        let most = |key: &str, value: String, most: String| {
            Err(format!(
                "invalid {key} in {origin}: expected a number from 1 to {most}, got {value:?}"
            ))
        };
        if recipe.count > MAX_COUNT {
            return most("count", recipe.count.to_string(), MAX_COUNT.to_string());
        }
        if recipe.sampling.steps > MAX_STEPS {
            return most("steps", recipe.sampling.steps.to_string(), MAX_STEPS.to_string());
        }
        let choices: Option<Vec<_>> = recipe.labels.iter().map(|rows| choice(rows)).collect();
        let Some(choices) = choices else { return Err(in_turn(&origin)) };
        let mut differs = Vec::new();
        if let Some(weights) = recipe.weights {
            differs.push(format!("it used {weights} weights"));
        }
        if recipe.batch.is_some_and(|batch| batch < recipe.count) {
            differs.push("it used several batches".to_owned());
        }
        if recipe.from_image {
            differs.push("it started from an image, which it does not contain".to_owned());
        }
        let (mut explore, mut other, mut unknown) = (None, None, Vec::new());
        for (key, value) in &recipe.others {
            if key == EXPLORE {
                explore = Some(value.parse()?);
            } else if key == OTHER {
                let mut recipe = Self::recipe_of(value)?;
                // A run is compared with one other, not with a chain of them.
                recipe.others.retain(|(key, _)| key != OTHER);
                other = Some(Box::new(Self::of_recipe(recipe, origin.clone())?));
            } else {
                unknown.push(key.clone());
            }
        }
        let controls = Controls {
            choices,
            mix: recipe.mix.iter().map(|other| other.as_ref().and_then(number)).collect(),
            prompt: match &recipe.prompts[..] {
                [none] if none.is_empty() => NO_PROMPT.to_owned(),
                [one] => one.clone(),
                _ => String::new(),
            },
            sampling: recipe.sampling,
            init: None,
            count: recipe.count,
        };
        let image = recipe.image.filter(|&image| image < recipe.count);
        let Recipe { model, hash, decoder, labels, mix, prompts, unsaid, .. } = recipe;
        Ok(Self {
            model,
            hash,
            decoder,
            controls,
            labels,
            mix,
            prompts: if prompts.len() > 1 { prompts } else { Vec::new() },
            unsaid,
            explore,
            other,
            image,
            unknown,
            differs,
            origin,
        })
    }

    /// Fills in what only the model knows: rows that are named, and settings that the link does not have.
    ///
    /// # Errors
    /// A message that names a label that the model does not have, or when several prompts take turns that are not the
    /// model's examples.
    pub fn resolve(&mut self, config: &Config) -> Result<(), String> {
        let examples = config.text.as_ref().map_or(&[][..], |text| &text.examples);
        let prompts = std::mem::take(&mut self.prompts);
        let of = |texts: &[String], image: usize| texts.get(image % texts.len().max(1)).cloned();
        // Of the examples it is enough to say that there is no prompt.
        let is_other = |image| of(&prompts, image) != of(examples, image);
        if !prompts.is_empty() && (0..self.controls.count).any(is_other) {
            return Err(in_turn(&self.origin));
        }
        let usual = Controls::for_model(config);
        let (controls, unsaid) = (&mut self.controls, std::mem::take(&mut self.unsaid));
        controls.sampling.take(&unsaid, &usual.sampling);
        if unsaid.contains(&"seed") {
            controls.sampling.seed = usual.sampling.seed;
        }
        if unsaid.contains(&"count") {
            controls.count = usual.count;
        }
        if unsaid.contains(&"labels") {
            self.labels = usual.labels(Some(config));
            controls.choices.clone_from(&usual.choices);
        }
        let tables = config.labels.iter().zip(&self.labels).zip(&mut controls.choices);
        for ((table, rows), choice) in tables {
            if let [Label::Name(name)] = &rows[..] {
                let row = table.find(name);
                let row = row.ok_or_else(|| format!("unknown {} {name:?}", table.name))?;
                *choice = Choice::Row(row);
            }
        }
        for ((table, other), row) in config.labels.iter().zip(&self.mix).zip(&mut controls.mix) {
            *row = match other {
                Some(Label::Any) => Some(table.null),
                Some(Label::Name(name)) => {
                    let row = table.find(name);
                    Some(row.ok_or_else(|| format!("unknown {} {name:?}", table.name))?)
                }
                _ => *row,
            };
        }
        Ok(())
    }

    /// The run as a recipe of the library.
    pub fn recipe(&self) -> Recipe {
        let c = &self.controls;
        let said = Some(&c.prompt).filter(|prompt| !prompt.is_empty());
        let explore =
            self.explore.as_ref().map(|selection| (EXPLORE.to_owned(), selection.to_text()));
        let other = self.other.as_ref().map(|other| (OTHER.to_owned(), other.to_fragment()));
        Recipe {
            model: self.model.clone(),
            hash: self.hash.clone(),
            decoder: self.decoder.clone(),
            labels: self.labels.clone(),
            mix: self.mix.clone(),
            prompts: said.into_iter().cloned().collect(),
            sampling: c.sampling.clone(),
            from_image: c.init.is_some(),
            count: c.count,
            batch: None,
            weights: None,
            image: self.image,
            scale: None,
            smooth: false,
            unsaid: self.unsaid.clone(),
            others: other.into_iter().chain(explore).collect(),
        }
    }

    /// The recipe for a file with images of the run: with the batch, which in the app is all images.
    pub(super) fn file_recipe(&self, image: Option<usize>, scale: Option<u32>) -> Recipe {
        let c = &self.controls;
        let batch = c.sampling.couples_images().then_some(c.count);
        Recipe { image, scale, batch, ..self.recipe() }
    }

    /// The text that [`Share::parse`] reads, without `#`.
    pub fn to_fragment(&self) -> String {
        self.recipe().to_text()
    }

    /// Whether a fragment looks like a shared run, not like a page anchor.
    pub fn is_share(fragment: &str) -> bool {
        Recipe::is_text(fragment)
    }

    /// Whether the run was made with this model file, as far as both checksums go; true if it names none.
    pub(super) fn agrees_with(&self, hash: &str) -> bool {
        self.recipe().agrees_with(hash)
    }

    /// Names a model where the link leaves it open, for the other run too.
    pub(super) fn name_model(&mut self, name: &str) {
        if self.model.is_none() {
            self.model = Some(name.to_owned());
        }
        if let Some(other) = &mut self.other {
            other.name_model(name);
        }
    }
}

/// The number of a row; others are left to [`Share::resolve`].
fn number(label: &Label) -> Option<u32> {
    match label {
        Label::Row(row) => Some(*row),
        _ => None,
    }
}

/// The rows of a table as the app offers them, names left to [`Share::resolve`]; `None` if several take turns.
fn choice(rows: &[Label]) -> Option<Choice> {
    match rows {
        [] => Some(Choice::Varied),
        [Label::Best] => Some(Choice::Best),
        [Label::Any | Label::Name(_)] => Some(Choice::Any),
        [Label::Row(row)] => Some(Choice::Row(*row)),
        _ => None,
    }
}

fn in_turn(origin: &Origin) -> String {
    format!(
        "{origin} has several labels or prompts that take turns, which the app does not support. Use `diffmoe sample --like`"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use diffmoe::model::{Routing, RoutingRule};
    use diffmoe::pipeline::Sampling;
    use diffmoe::scheduler::{ALL, GuidanceInterval, SchedulerKind};

    #[test]
    fn a_link_that_leaves_the_model_open_takes_the_one_of_the_start() {
        let model = |link: &str| {
            let mut share = Share::parse(link).unwrap();
            share.name_model("first");
            share.model
        };
        assert_eq!(model("seed=7&labels=fox").as_deref(), Some("first"));
        assert_eq!(model("model=eurosat&seed=7").as_deref(), Some("eurosat"));
    }

    fn choice_strategy() -> impl Strategy<Value = Choice> {
        let others = [Choice::Any, Choice::Best, Choice::Varied];
        prop_oneof![proptest::sample::select(others.to_vec()), any::<u32>().prop_map(Choice::Row)]
    }

    prop_compose! {
        fn any_share()(
            (model, decoder) in (proptest::option::of(".{1,20}"), proptest::option::of(".{1,20}")),
            choices in proptest::collection::vec(choice_strategy(), 0..4),
            (mix, mix_strength) in
                (proptest::collection::vec(proptest::option::of(any::<u32>()), 0..3), 0.0_f32..=1.0),
            (prompt, negative) in (".{0,20}", ".{0,20}"),
            seed in any::<u64>(),
            steps in 1..=MAX_STEPS,
            (guidance, low, width) in (0.0_f32..=100.0, 0.0_f32..0.9, 0.01_f32..=0.1),
            scheduler in 0..ALL.len(),
            count in 1..=MAX_COUNT,
            rule in 0..RoutingRule::ALL.len(),
            gamma in proptest::option::of(0.0_f32..=1.0),
            (shift, log_odds) in (-1.0_f32..=1.0, -24.0_f32..=24.0),
            muted in proptest::collection::vec((0_usize..9, 0_usize..32), 0..4),
            moved in proptest::collection::vec(
                (0_usize..9, proptest::option::of(0_usize..32), -5.0_f32..5.0), 0..3),
        ) -> Share {
            let (rule, scheduler) = (RoutingRule::ALL[rule], SchedulerKind::new(ALL[scheduler]));
            let routing = Routing { rule, gamma, shift, log_odds };
            let muted = muted.into_iter().collect();
            let guidance_interval = GuidanceInterval { low, high: low + width };
            let mut shifts = diffmoe::model::Shifts::default();
            for (block, expert, odds) in moved {
                shifts.add(block, expert, odds);
            }
            let sampling = Sampling {
                negative, seed, steps, guidance, guidance_interval, scheduler, routing, muted, shifts,
                mix_strength, ..Sampling::default()
            };
            let controls = Controls { choices, mix, prompt, sampling, init: None, count };
            Share { model, hash: Some("0a1b2c3d".into()), decoder, ..Share::of(controls) }
        }
    }

    proptest! {
        #[test]
        fn a_link_restores_every_bit(share in any_share()) {
            let fragment = share.to_fragment();
            prop_assert!(fragment.is_ascii() && !fragment.contains([' ', '#', '"']), "{fragment}");
            prop_assert!(Share::is_share(&fragment));
            prop_assert_eq!(Share::parse(&fragment), Ok(share.clone()));
            prop_assert_eq!(Share::parse(&format!("#{fragment}")), Ok(share));
        }

        #[test]
        fn a_link_of_two_runs_restores_both(a in any_share(), b in any_share()) {
            let both = Share { other: Some(Box::new(b)), ..a };
            prop_assert_eq!(Share::parse(&both.to_fragment()), Ok(both));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = Share::parse(&text);
        }
    }

    #[test]
    fn broken_links_say_what_is_wrong() {
        let good = "seed=1&steps=5&guidance=2&labels=any";
        assert!(Share::parse(good).is_ok());
        let refused = |text: &str| Share::parse(text).unwrap_err();
        assert!(refused(&format!("{good}&steps=0")).contains("invalid steps in the link"));
        assert!(refused(&format!("{good}&guidance=NaN")).contains("from 0 to 100"));
        assert!(refused(&format!("{good}&interval=0.7,0.1")).contains("LOW < HIGH"));
        assert!(refused(&format!("{good}&count=17")).contains("from 1 to 16"));
        assert!(
            refused(&format!("{good}&scheduler=magic")).contains("unknown scheduler \"magic\"")
        );
        assert!(refused(&format!("{good}&rule=dice")).contains("unknown routing rule \"dice\""));
        assert!(refused(&format!("{good}&mute=3")).contains("BLOCK:EXPERT"));
        assert!(refused(&format!("{good}&labels=3,")).contains("any, best or varied"));
        for damaged in ["model=%", "model=%4", "model=%zz", "model=%ff"] {
            assert!(refused(&format!("{good}&{damaged}")).contains("damaged"));
        }
        assert!(refused(&format!("{good}&explore=step:x")).contains("a whole number"));
        assert!(!Share::is_share("#routing"), "an anchor is no run");
    }

    #[test]
    fn a_link_carries_what_explore_looked_at() {
        let plain = Share::parse("seed=1&steps=5&guidance=2&labels=any").unwrap();
        assert_eq!(plain.explore, None);
        let explore = Some(Selection { step: Some(3), expert: Some(2), ..Selection::default() });
        let share = Share { explore, ..plain };
        let fragment = share.to_fragment();
        assert!(fragment.ends_with("explore=image:0,step:3,expert:2,view:who,tab:experts"));
        assert_eq!(Share::parse(&fragment), Ok(share));
    }

    #[test]
    fn links_of_earlier_versions_open() {
        let share = Share::parse("seed=1&steps=5&guidance=2&labels=any&solver=heun&rule=pool");
        let controls = share.unwrap().controls;
        assert_eq!(controls.sampling.scheduler.name(), "heun");
        assert_eq!(controls.sampling.routing.rule, RoutingRule::Pool);
        assert!(controls.sampling.guidance_interval.is_whole());
    }

    #[test]
    fn what_the_app_cannot_do_is_said() {
        let wrong = "rtol=0.1&seed=1&steps=5&guidance=2&labels=any&scheduler=heun";
        assert!(Share::parse(wrong).unwrap_err().contains("rtol is not an option of heun"));
        let good = "seed=1&steps=5&guidance=2&labels=any";
        let refused = |more: &str| Share::parse(&format!("{good}&{more}")).unwrap_err();
        let several = refused("labels=3;4");
        assert!(several.contains("several labels or prompts"), "{several}");
        let other =
            Share::parse(&format!("{good}&weights=int8&rule=pool&count=4&batch=2")).unwrap();
        assert_eq!(other.differs.len(), 2);
    }

    /// Several prompts are those of the examples, or too many; an empty one is no prompt.
    #[test]
    fn prompts_are_one_or_the_examples() {
        let config = Config::from_json(
            r###"{"name":"tiny","kind":"dense","t_kind":"flow","labels":[],
            "params":{"input_size":8,"num_classes":0,"patch_size":2,"depth":1,"hidden_size":8,"num_heads":2},
            "text":{"vocab_size":5,"max_length":4,"hidden_size":8,"depth":1,"num_heads":1,"examples":["a","b","c"],
            "tokenizer":{"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",
            "max_input_chars_per_word":100,"vocab":{"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3,"a":4}},
            "pre_tokenizer":{"type":"BertPreTokenizer"}}}}"###,
        )
        .unwrap();
        let drawn = |prompts: &str| {
            let mut share = Share::parse(&format!("seed=1&count=4{prompts}"))?;
            share.resolve(&config)?;
            Ok::<_, String>((
                share.controls.prompt.clone(),
                share.controls.settings(&config).prompts,
            ))
        };
        let examples = (String::new(), ["a", "b", "c", "a"].map(String::from).to_vec());
        assert_eq!(drawn(""), Ok(examples.clone()));
        assert_eq!(drawn("&prompt=a&prompt=b&prompt=c"), Ok(examples));
        assert_eq!(drawn("&prompt=b"), Ok(("b".into(), vec!["b".into(); 4])));
        assert_eq!(drawn("&prompt="), Ok((" ".into(), vec![" ".into(); 4])));
        assert!(drawn("&prompt=b&prompt=a").unwrap_err().contains("`diffmoe sample --like`"));
    }

    #[test]
    fn what_a_link_does_not_have_comes_from_the_model_and_nothing_else_does() {
        let config = Config::from_json(
            r#"{"name":"tiny","kind":"dense","t_kind":"flow","params":{"input_size":8,"num_classes":9,"patch_size":2,
            "depth":1,"hidden_size":8,"num_heads":2},"defaults":{"steps":7,"guidance":3.0,"solver":"heun","cycle_spin":"2"}}"#,
        )
        .unwrap();
        let usual = Controls::for_model(&config);
        let all = [
            ("seed", "4"),
            ("count", "3"),
            ("steps", "5"),
            ("guidance", "1.5"),
            ("spin", "1"),
            ("scheduler", "euler"),
            ("labels", "4"),
        ];
        assert_eq!(
            all.map(|(key, _)| key).into_iter().collect::<BTreeSet<_>>(),
            Recipe::USUAL.into()
        );
        let resolved = |without: &str| {
            let said = all.iter().filter(|(key, _)| *key != without);
            let parts: Vec<_> = said.map(|(key, value)| format!("{key}={value}")).collect();
            let mut share = Share::parse(&parts.join("&")).unwrap();
            share.resolve(&config).unwrap();
            share.controls
        };
        let whole = resolved("");
        for (key, _) in all {
            let (mut wanted, got) = (whole.clone(), resolved(key));
            let (of_link, of_model) = (&mut wanted.sampling, &usual.sampling);
            match key {
                // A random one.
                "seed" => of_link.seed = got.sampling.seed,
                "count" => wanted.count = usual.count,
                "steps" => of_link.steps = of_model.steps,
                "guidance" => of_link.guidance = of_model.guidance,
                "spin" => of_link.cycle_spin = of_model.cycle_spin,
                "scheduler" => of_link.scheduler = of_model.scheduler,
                _ => wanted.choices.clone_from(&usual.choices),
            }
            assert_eq!(got, wanted, "without {key}");
            assert_ne!(wanted, whole, "{key}");
        }
    }

    #[test]
    fn what_is_not_known_is_kept_for_a_note() {
        let share = Share::parse("seed=1&zoom=3&steps=5&guidance=2&labels=any,4&colour").unwrap();
        assert_eq!(share.unknown, ["zoom", "colour"]);
        assert_eq!(share.controls.choices, [Choice::Any, Choice::Row(4)]);
    }
}
