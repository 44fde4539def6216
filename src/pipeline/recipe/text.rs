//! Recipes in one line of text, the fragment of a link:
//!
//! `model=emoji&hash=1f00c2ab&seed=7&count=4&steps=25&guidance=2&spin=1&scheduler=euler&labels=fox;cat,varied&rule=token`

use super::data::{Recipe, RecipeError};
use crate::kernels::WeightPrecision;
use crate::model::{LabelMix, RoutingRule};
use crate::pipeline::Label;
use crate::scheduler::ALL;

/// Images of a run, steps, and enlargement that a text may ask for; who runs it may allow less. Drawing the labels of a
/// million images takes a quarter of a second.
const MOST_IMAGES: usize = 1_000_000;
pub(super) const MOST_STEPS: u32 = 10_000;
const MOST_SCALE: u32 = 64;

/// The form of `spin`.
const SPIN: &str = "COUNT or COUNT,FROM with COUNT from 1 to 8 and 0 ≤ FROM ≤ 1";

/// The form of `interval`.
const INTERVAL: &str = "LOW,HIGH with 0 ≤ LOW < HIGH ≤ 1";

impl Recipe {
    /// Reads what [`Recipe::to_text`] writes, with or without a `#` before it.
    ///
    /// # Errors
    /// The first part that is wrong, and what it should be.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let mut recipe = Self::empty();
        let mut options = Vec::new();
        recipe.unsaid = Self::USUAL.to_vec();
        for part in text.trim_start_matches('#').split('&').filter(|part| !part.is_empty()) {
            let (key, raw) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (&*decode(key)?, decode(raw)?);
            // Links of earlier versions say "solver".
            let name = if key == "solver" { "scheduler" } else { key };
            recipe.unsaid.retain(|unsaid| *unsaid != name);
            if key == "labels" {
                // Names may hold what separates them.
                recipe.labels = labels(raw)?;
            } else if key == "mix" {
                recipe.set_mix(raw)?;
            } else if let Some(option) =
                ALL.iter().flat_map(|info| info.options).find(|option| option.name == key)
            {
                options.push((option.name, value));
            } else {
                recipe.set(key, value)?;
            }
        }
        // The scheduler may stand behind its options.
        for (option, value) in options {
            recipe.sampling.scheduler = recipe.sampling.scheduler.with_text(option, &value)?;
        }
        Ok(recipe)
    }

    /// Whether a text has a part of a recipe, and is no anchor of a page.
    pub fn is_text(text: &str) -> bool {
        let keys = || Self::USUAL.into_iter().chain(["model", "prompt"]);
        let begins = |part: &str| {
            keys().any(|key| part.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))
        };
        text.trim_start_matches('#').split('&').any(begins)
    }

    pub(super) fn set(&mut self, key: &str, value: String) -> Result<(), RecipeError> {
        let wrong = |expected: &str| RecipeError::Value {
            key: key.to_owned(),
            value: value.clone(),
            expected: expected.to_owned(),
        };
        let sampling = &mut self.sampling;
        let routing = &mut sampling.routing;
        match key {
            "model" => self.model = Some(value),
            "hash" => self.hash = Some(value.to_ascii_lowercase()),
            "vae" => self.decoder = Some(value),
            "seed" => sampling.seed = value.parse().map_err(|_| wrong("a whole number"))?,
            "count" => self.count = within(&value, 1, MOST_IMAGES).map_err(|e| wrong(&e))?,
            "variation-seed" => {
                sampling.variation_seed = value.parse().map_err(|_| wrong("a whole number"))?;
            }
            "variation-strength" => {
                sampling.variation_strength = within(&value, 0.0, 1.0).map_err(|e| wrong(&e))?;
            }
            "mix-strength" => {
                sampling.mix_strength = within(&value, 0.0, 1.0).map_err(|e| wrong(&e))?;
            }
            "steps" => sampling.steps = within(&value, 1, MOST_STEPS).map_err(|e| wrong(&e))?,
            "guidance" => sampling.guidance = within(&value, 0.0, 100.0).map_err(|e| wrong(&e))?,
            "interval" => {
                sampling.guidance_interval = value.parse().map_err(|_| wrong(INTERVAL))?;
            }
            "spin" => sampling.cycle_spin = value.parse().map_err(|_| wrong(SPIN))?,
            "strength" => {
                let is_share = |s: &f32| *s > 0.0 && *s <= 1.0;
                let strength = value.parse().ok().filter(is_share);
                sampling.strength = strength.ok_or_else(|| wrong("a number above 0, at most 1"))?;
                self.from_image = true;
            }
            "scheduler" | "solver" => sampling.scheduler = value.parse()?,
            // One for each of several.
            "prompt" => self.prompts.push(value),
            "negative" => sampling.negative = value,
            "rule" => routing.rule = value.parse()?,
            "gamma" => {
                routing.gamma = Some(within(&value, 0.0, 1.0).map_err(|e| wrong(&e))?);
            }
            "shift" => routing.shift = within(&value, -1.0, 1.0).map_err(|e| wrong(&e))?,
            "odds" => routing.log_odds = within(&value, -24.0, 24.0).map_err(|e| wrong(&e))?,
            "mute" => {
                sampling.muted = value.parse().map_err(|_| wrong("experts as BLOCK:EXPERT"))?;
            }
            "shifts" => {
                let expected = "log-odds as BLOCK=NUMBER or BLOCK:EXPERT=NUMBER";
                sampling.shifts = value.parse().map_err(|_| wrong(expected))?;
            }
            "batch" => self.batch = Some(within(&value, 1, MOST_IMAGES).map_err(|e| wrong(&e))?),
            "weights" => {
                self.weights =
                    Some(weights(&value).ok_or_else(|| wrong("int4, int8, f16 or f32"))?);
            }
            "image" => {
                self.image = Some(within(&value, 0, MOST_IMAGES).map_err(|e| wrong(&e))?);
            }
            "smooth" => self.smooth = value.parse().map_err(|_| wrong("true or false"))?,
            "scale" => self.scale = Some(within(&value, 1, MOST_SCALE).map_err(|e| wrong(&e))?),
            _ => self.others.push((key.to_owned(), value)),
        }
        Ok(())
    }

    /// Reads `mix`, with the strength that is usual unless there is one already.
    pub(super) fn set_mix(&mut self, text: &str) -> Result<(), RecipeError> {
        let expected = "for each label table a name, a number, any or same";
        let other = |rows: Vec<Label>| match &rows[..] {
            [Label::Name(name)] if name == "same" => Ok(None),
            [other @ (Label::Any | Label::Row(_) | Label::Name(_))] => Ok(Some(other.clone())),
            _ => Err(RecipeError::Value {
                key: "mix".to_owned(),
                value: text.to_owned(),
                expected: expected.to_owned(),
            }),
        };
        self.mix = labels(text)?.into_iter().map(other).collect::<Result<_, _>>()?;
        if self.sampling.mix_strength == 0.0 {
            self.sampling.mix_strength = LabelMix::USUAL;
        }
        Ok(())
    }

    /// The text that [`Recipe::parse`] reads: ASCII without spaces, as the fragment of an address has to be.
    pub fn to_text(&self) -> String {
        let mut parts = Vec::new();
        let sampling = &self.sampling;
        let mut put = |key: &str, value: String| {
            if !self.unsaid.contains(&key) {
                parts.push(format!("{key}={value}"));
            }
        };
        let names = [("model", &self.model), ("hash", &self.hash), ("vae", &self.decoder)];
        for (key, name) in names {
            if let Some(name) = name {
                put(key, encode(name));
            }
        }
        put("seed", sampling.seed.to_string());
        if sampling.variation_strength != 0.0 {
            put("variation-seed", sampling.variation_seed.to_string());
            put("variation-strength", sampling.variation_strength.to_string());
        }
        put("count", self.count.to_string());
        put("steps", sampling.steps.to_string());
        // Rust writes the shortest digits that read back as the same number.
        put("guidance", sampling.guidance.to_string());
        if !sampling.guidance_interval.is_whole() {
            put("interval", sampling.guidance_interval.to_string());
        }
        put("spin", sampling.cycle_spin.to_string());
        if self.from_image {
            put("strength", sampling.strength.to_string());
        }
        put("scheduler", sampling.scheduler.to_string());
        for (option, value) in sampling.scheduler.changed_options() {
            put(option.name, option.format(value));
        }
        let row = |row: &Label| match row {
            Label::Any => "any".to_owned(),
            Label::Best => "best".to_owned(),
            Label::Row(row) => row.to_string(),
            Label::Name(name) => encode(name).replace(',', "%2C"),
        };
        let table = |rows: &Vec<Label>| match &rows[..] {
            [] => "varied".to_owned(),
            rows => rows.iter().map(row).collect::<Vec<_>>().join(";"),
        };
        put("labels", self.labels.iter().map(table).collect::<Vec<_>>().join(","));
        if !self.mix.is_empty() {
            let other = |other: &Option<Label>| other.as_ref().map_or("same".to_owned(), row);
            put("mix", self.mix.iter().map(other).collect::<Vec<_>>().join(","));
        }
        if !self.mix.is_empty() || sampling.mix_strength != 0.0 {
            put("mix-strength", sampling.mix_strength.to_string());
        }
        for prompt in &self.prompts {
            put("prompt", encode(prompt));
        }
        if !sampling.negative.is_empty() {
            put("negative", encode(&sampling.negative));
        }
        let routing = &sampling.routing;
        if routing.rule != RoutingRule::default() {
            put("rule", routing.rule.to_string());
        }
        if let Some(gamma) = routing.gamma {
            put("gamma", gamma.to_string());
        }
        if routing.shift != 0.0 {
            put("shift", routing.shift.to_string());
        }
        if routing.log_odds != 0.0 {
            put("odds", routing.log_odds.to_string());
        }
        if !sampling.muted.is_empty() {
            put("mute", sampling.muted.to_string());
        }
        if !sampling.shifts.is_empty() {
            put("shifts", sampling.shifts.to_string());
        }
        let mut put_some = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                put(key, value);
            }
        };
        put_some("batch", self.batch.map(|batch| batch.to_string()));
        put_some("weights", self.weights.map(|weights| weights.to_string()));
        put_some("image", self.image.map(|image| image.to_string()));
        put_some("scale", self.scale.map(|scale| scale.to_string()));
        if self.smooth {
            put("smooth", "true".to_owned());
        }
        for (key, value) in &self.others {
            put(&encode(key), encode(value));
        }
        parts.join("&")
    }
}

/// The rows of all tables, by name or number; `;` separates those of a table.
pub(super) fn labels(text: &str) -> Result<Vec<Vec<Label>>, RecipeError> {
    let row = |text: &str| {
        let name = decode(text)?;
        Ok(match name.parse() {
            Ok(row) => Label::Row(row),
            Err(_) if name == "any" => Label::Any,
            Err(_) if name == "best" => Label::Best,
            Err(_) if name.is_empty() => {
                return Err(RecipeError::Value {
                    key: "labels".to_owned(),
                    value: text.to_owned(),
                    expected: "names or numbers, any, best or varied".to_owned(),
                });
            }
            Err(_) => Label::Name(name),
        })
    };
    let table = |text: &str| match text {
        "varied" => Ok(Vec::new()),
        rows => rows.split(';').map(row).collect(),
    };
    // A model that reads prompts has no other labels.
    if text.is_empty() { Ok(Vec::new()) } else { text.split(',').map(table).collect() }
}

fn weights(name: &str) -> Option<WeightPrecision> {
    use WeightPrecision::{F16, F32, Int4, Int8};
    [Int4, Int8, F16, F32].into_iter().find(|weights| weights.to_string() == name)
}

/// A number in a range, or what it should be.
fn within<T>(text: &str, least: T, most: T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let number = text.parse().ok().filter(|n| *n >= least && *n <= most);
    number.ok_or_else(|| format!("a number from {least} to {most}"))
}

/// Percent-encodes what has a meaning in a fragment.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/:,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}

fn decode(text: &str) -> Result<String, RecipeError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or(RecipeError::Damaged)?;
        let digits = std::str::from_utf8(digits).map_err(|_| RecipeError::Damaged)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| RecipeError::Damaged)?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| RecipeError::Damaged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Routing;
    use crate::pipeline::Sampling;
    use crate::scheduler::{CycleSpin, GuidanceInterval, SchedulerKind};

    fn any_label() -> impl Strategy<Value = Label> {
        let name = "[a-zé][a-z ,;&=-]{0,6}x".prop_map(Label::Name);
        prop_oneof![Just(Label::Any), Just(Label::Best), any::<u32>().prop_map(Label::Row), name]
    }

    fn any_mix() -> impl Strategy<Value = Option<Label>> {
        let label = any_label().prop_filter("one label", |label| *label != Label::Best);
        proptest::option::of(label)
    }

    prop_compose! {
        fn any_recipe()(
            (model, decoder) in (proptest::option::of(".{1,20}"), proptest::option::of(".{1,20}")),
            labels in prop::collection::vec(
                prop::collection::vec(any_label(), 0..4), 0..4),
            (prompts, negative) in (prop::collection::vec(".{0,20}", 0..3), ".{0,20}"),
            (seed, steps, guidance) in (any::<u64>(), 1..=MOST_STEPS, 0.0_f32..=100.0),
            (low, width) in (0.0_f32..0.9, 0.01_f32..=0.1),
            (spins, spins_from) in (1..=CycleSpin::MOST, 0.0_f32..=1.0),
            image_strength in proptest::option::of(0.01_f32..=1.0),
            variation in proptest::option::of((any::<u64>(), 0.01_f32..=1.0)),
            (mix, mix_strength) in (prop::collection::vec(any_mix(), 0..3), 0.0_f32..=1.0),
            (scheduler, rule) in (0..ALL.len(), 0..RoutingRule::ALL.len()),
            (count, batch) in (1..=MOST_IMAGES, proptest::option::of(1..=MOST_IMAGES)),
            gamma in proptest::option::of(0.0_f32..=1.0),
            (shift, log_odds) in (-1.0_f32..=1.0, -24.0_f32..=24.0),
            muted in prop::collection::vec((0_usize..9, 0_usize..32), 0..4),
            moved in prop::collection::vec(
                (0_usize..9, prop::option::of(0_usize..32), -5.0_f32..5.0), 0..3),
            weights in proptest::option::of(prop_oneof![
                Just(WeightPrecision::Int4), Just(WeightPrecision::F32)]),
            (image, scale) in
                (proptest::option::of(0_usize..99), proptest::option::of(1..=MOST_SCALE)),
            (other, smooth) in (proptest::option::of(".{0,9}"), any::<bool>()),
        ) -> Recipe {
            let rule = RoutingRule::ALL[rule];
            Recipe {
                model, hash: Some("0a1b2c3d4e".into()), decoder, labels, mix, prompts, count,
                from_image: image_strength.is_some(),
                sampling: Sampling {
                    negative, seed, steps, guidance,
                    guidance_interval: GuidanceInterval { low, high: low + width },
                    cycle_spin: CycleSpin { count: spins, from: spins_from },
                    strength: image_strength.unwrap_or(1.0),
                    variation_seed: variation.map_or(0, |variation| variation.0),
                    variation_strength: variation.map_or(0.0, |variation| variation.1),
                    mix_strength,
                    scheduler: SchedulerKind::new(ALL[scheduler]),
                    routing: Routing { rule, gamma, shift, log_odds },
                    muted: muted.into_iter().collect(),
                    shifts: moved.into_iter().fold(
                        crate::model::Shifts::default(),
                        |mut all, (block, expert, odds)| {
                            all.add(block, expert, odds);
                            all
                        },
                    ),
                },
                batch, weights, image, scale, smooth,
                unsaid: Vec::new(),
                others: other.map(|value| ("explore".to_owned(), value)).into_iter().collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn a_text_restores_every_bit(recipe in any_recipe()) {
            let text = recipe.to_text();
            prop_assert!(text.is_ascii() && !text.contains([' ', '#', '"']), "{text}");
            prop_assert_eq!(Recipe::parse(&text), Ok(recipe.clone()));
            prop_assert_eq!(Recipe::parse(&format!("#{text}")), Ok(recipe));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = Recipe::parse(&text);
        }
    }

    #[test]
    fn keys_of_others_are_kept_whatever_they_are() {
        for text in ["&#", "##a=1", "a%23b=c%26d", "%3D==", "=x", "\u{e9}=1", "a b"] {
            let recipe = Recipe::parse(text).unwrap();
            assert_eq!(recipe.others.len(), 1, "{text}");
            let written = recipe.to_text();
            assert!(written.is_ascii() && !written.contains([' ', '#', '"']), "{written}");
            assert_eq!(Recipe::parse(&written), Ok(recipe), "{text}");
        }
        assert_eq!(Recipe::parse("%=1"), Err(RecipeError::Damaged));
    }

    #[test]
    fn options_of_schedulers_are_kept() {
        for info in ALL {
            for option in info.options {
                let good = "seed=1&steps=5&guidance=2&labels=any&scheduler=euler";
                let mut recipe = Recipe::parse(good).unwrap();
                let mut values = [1.0, 0.5].into_iter().filter(|&v| option.check(v).is_ok());
                let value = values.next().expect("a value that is no default");
                recipe.sampling.scheduler =
                    SchedulerKind::new(info).with(option.name, value).unwrap();
                let text = recipe.to_text();
                assert!(text.contains(option.name), "{text}");
                assert_eq!(Recipe::parse(&text), Ok(recipe));
            }
        }
    }

    #[test]
    fn links_can_be_written_by_hand() {
        let link = Recipe::parse("#model=emoji&labels=fox,fluent3d&seed=7").unwrap();
        assert_eq!(link.labels, [[Label::from("fox")], [Label::from("fluent3d")]]);
        assert_eq!(link.unsaid, ["count", "steps", "guidance", "spin", "scheduler"]);
        assert_eq!(Recipe::parse(&link.to_text()), Ok(link));
        let old = Recipe::parse("seed=7&count=1&labels=3;any,varied&solver=heun").unwrap();
        assert_eq!(old.labels, [vec![Label::Row(3), Label::Any], Vec::new()]);
        assert_eq!(old.unsaid, ["steps", "guidance", "spin"]);
        let mixed = Recipe::parse("labels=fox,any&mix=cat,same").unwrap();
        let usual = (vec![Some(Label::from("cat")), None], LabelMix::USUAL);
        assert_eq!((mixed.mix.clone(), mixed.sampling.mix_strength), usual);
        assert_eq!(Recipe::parse(&mixed.to_text()), Ok(mixed));
        for text in ["labels=fox", "#count=3", "x&model=emoji"] {
            assert!(Recipe::is_text(text), "{text}");
        }
        for text in ["", "#routing", "labels", "my-seed=3"] {
            assert!(!Recipe::is_text(text), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let good = "seed=1&steps=5&guidance=2&labels=any";
        let refused =
            |more: &str| Recipe::parse(&format!("{good}&{more}")).unwrap_err().to_string();
        assert!(refused("weights=f64").contains("int4, int8, f16 or f32"));
        assert!(refused("scale=65").contains("from 1 to 64"));
        assert!(refused("labels=3;").contains("any, best or varied"));
        assert!(refused("spin=9").contains("COUNT from 1 to 8"));
        for mix in ["best", "varied", "3;4"] {
            assert!(refused(&format!("mix={mix}")).contains("a name, a number, any or same"));
        }
        assert!(refused("mix=3&mix-strength=1.1").contains("from 0 to 1"));
        assert!(refused("steps=10001").contains("from 1 to 10000"));
    }
}
