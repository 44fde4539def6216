//! A run as a line of text: the fragment of a link that reproduces the same images.
//!
//! `#model=emoji&hash=1f00c2ab&seed=7&count=4&steps=25&guidance=2&scheduler=euler&labels=12,varied&rule=token`

use super::controls::{Choice, Controls, MAX_COUNT, MAX_STEPS};
use super::selection::Selection;
use diffmoe::model::{Muted, Routing, RoutingRule, UnknownName};
use diffmoe::scheduler::{ALL, SchedulerKind};

/// Hexadecimal digits of a model's SHA-256 that a link carries.
pub(super) const HASH_DIGITS: usize = 8;

/// A shared run.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// Name of an embedded model, URL of a file, or name of a local file.
    pub model: Option<String>,
    /// First digits of the SHA-256 of the model that drew the images, lower-case.
    pub hash: Option<String>,
    /// URL of the image decoder, or name of a local file.
    pub decoder: Option<String>,
    /// The controls.
    pub controls: Controls,
    /// The selection of Explore, if it was open.
    pub explore: Option<Selection>,
    /// Parts of the link unknown to this version.
    pub unknown: Vec<String>,
}

impl Share {
    /// Reads a fragment, with or without its `#`.
    ///
    /// # Errors
    /// A message that names the invalid part and the expected value.
    pub fn parse(fragment: &str) -> Result<Self, String> {
        let mut share = Self {
            model: None,
            hash: None,
            decoder: None,
            controls: Controls {
                choices: Vec::new(),
                prompt: String::new(),
                negative: String::new(),
                seed: 0,
                steps: 0,
                guidance: f32::NAN,
                scheduler: SchedulerKind::new(ALL[0]),
                count: 1,
                routing: Routing::default(),
                muted: Muted::default(),
            },
            explore: None,
            unknown: Vec::new(),
        };
        let mut options = Vec::new();
        let mut missing = vec!["seed", "steps", "guidance", "labels"];
        for part in fragment.trim_start_matches('#').split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = decode(value)?;
            missing.retain(|name| *name != key);
            if ALL.iter().flat_map(|info| info.options).any(|option| option.name == key) {
                options.push((key, value));
            } else {
                share.set(key, &value)?;
            }
        }
        // The scheduler may stand behind its options.
        for (option, value) in options {
            let kind = share.controls.scheduler.with_text(option, &value);
            share.controls.scheduler = kind.map_err(|error| format!("invalid link: {error}"))?;
        }
        if missing.is_empty() {
            Ok(share)
        } else {
            Err(format!(
                "the link is incomplete: {} is missing. Copy the whole link",
                missing.join(", ")
            ))
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = |should: &str| {
            format!(
                "invalid {key} in the link: expected {should}, got \
            {value:?}"
            )
        };
        let unknown = |error: &UnknownName| format!("invalid link: {error}");
        let c = &mut self.controls;
        match key {
            "model" => self.model = Some(value.to_owned()),
            "hash" => self.hash = Some(value.to_ascii_lowercase()),
            "vae" => self.decoder = Some(value.to_owned()),
            "seed" => c.seed = value.parse().map_err(|_| wrong("a whole number"))?,
            "count" => c.count = within(value, 1, MAX_COUNT).map_err(|s| wrong(&s))?,
            "steps" => c.steps = within(value, 1, MAX_STEPS).map_err(|s| wrong(&s))?,
            "guidance" => c.guidance = within(value, 0.0, 100.0).map_err(|s| wrong(&s))?,
            // Links of earlier versions use "solver".
            "scheduler" | "solver" => c.scheduler = value.parse().map_err(|e| unknown(&e))?,
            "prompt" => value.clone_into(&mut c.prompt),
            "negative" => value.clone_into(&mut c.negative),
            // A text-conditioned model has no other labels.
            "labels" if value.is_empty() => c.choices.clear(),
            "labels" => {
                let choices: Option<Vec<_>> = value.split(',').map(choice).collect();
                c.choices = choices.ok_or_else(|| wrong("a list of numbers, any or varied"))?;
            }
            "rule" => c.routing.rule = value.parse().map_err(|e| unknown(&e))?,
            "gamma" => {
                c.routing.gamma = Some(within(value, 0.0, 1.0).map_err(|s| wrong(&s))?);
            }
            "shift" => c.routing.shift = within(value, -1.0, 1.0).map_err(|s| wrong(&s))?,
            "odds" => c.routing.log_odds = within(value, -24.0, 24.0).map_err(|s| wrong(&s))?,
            "mute" => c.muted = value.parse().map_err(|_| wrong("experts as BLOCK:EXPERT"))?,
            "explore" => self.explore = Some(value.parse()?),
            _ => self.unknown.push(key.to_owned()),
        }
        Ok(())
    }

    /// The text that [`Share::parse`] reads, without `#`.
    pub fn to_fragment(&self) -> String {
        let c = &self.controls;
        let mut parts = Vec::new();
        let mut put = |key: &str, value: String| parts.push(format!("{key}={value}"));
        if let Some(model) = &self.model {
            put("model", encode(model));
        }
        if let Some(hash) = &self.hash {
            put("hash", encode(hash));
        }
        if let Some(decoder) = &self.decoder {
            put("vae", encode(decoder));
        }
        put("seed", c.seed.to_string());
        put("count", c.count.to_string());
        put("steps", c.steps.to_string());
        // Rust writes the shortest digits that read back as the same number.
        put("guidance", c.guidance.to_string());
        put("scheduler", c.scheduler.to_string());
        for (option, value) in c.scheduler.changed_options() {
            put(option.name, option.format(value));
        }
        let choices: Vec<_> = c
            .choices
            .iter()
            .map(|choice| match choice {
                Choice::Any => "any".to_owned(),
                Choice::Varied => "varied".to_owned(),
                Choice::Row(row) => row.to_string(),
            })
            .collect();
        put("labels", choices.join(","));
        for (key, text) in [("prompt", &c.prompt), ("negative", &c.negative)] {
            if !text.is_empty() {
                put(key, encode(text));
            }
        }
        if c.routing.rule != RoutingRule::default() {
            put("rule", c.routing.rule.to_string());
        }
        if let Some(gamma) = c.routing.gamma {
            put("gamma", gamma.to_string());
        }
        if c.routing.shift != 0.0 {
            put("shift", c.routing.shift.to_string());
        }
        if c.routing.log_odds != 0.0 {
            put("odds", c.routing.log_odds.to_string());
        }
        if !c.muted.is_empty() {
            put("mute", c.muted.to_string());
        }
        if let Some(selection) = &self.explore {
            put("explore", selection.to_text());
        }
        parts.join("&")
    }

    /// Whether a fragment looks like a shared run, not like a page anchor.
    pub fn is_share(fragment: &str) -> bool {
        fragment.trim_start_matches('#').split('&').any(|part| part.starts_with("seed="))
    }
}

fn choice(text: &str) -> Option<Choice> {
    match text {
        "any" => Some(Choice::Any),
        "varied" => Some(Choice::Varied),
        row => row.parse().ok().map(Choice::Row),
    }
}

/// A number in a range, or the expected range.
fn within<T>(text: &str, least: T, most: T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let number = text.parse().ok().filter(|n| *n >= least && *n <= most);
    number.ok_or_else(|| format!("a number from {least} to {most}"))
}

/// Percent-encodes what has a meaning in a fragment.
fn encode(text: &str) -> String {
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

fn decode(text: &str) -> Result<String, String> {
    let damaged = || "the link is damaged. Copy the whole link again".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2).ok_or_else(damaged)?;
        let digits = std::str::from_utf8(digits).map_err(|_| damaged())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| damaged())?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choice_strategy() -> impl Strategy<Value = Choice> {
        prop_oneof![Just(Choice::Any), Just(Choice::Varied), any::<u32>().prop_map(Choice::Row),]
    }

    prop_compose! {
        fn any_share()(
            (model, decoder) in (proptest::option::of(".{1,20}"), proptest::option::of(".{1,20}")),
            choices in proptest::collection::vec(choice_strategy(), 0..4),
            (prompt, negative) in (".{0,20}", ".{0,20}"),
            seed in any::<u64>(),
            steps in 1..=MAX_STEPS,
            guidance in 0.0_f32..=100.0,
            scheduler in 0..ALL.len(),
            count in 1..=MAX_COUNT,
            rule in 0..RoutingRule::ALL.len(),
            gamma in proptest::option::of(0.0_f32..=1.0),
            (shift, log_odds) in (-1.0_f32..=1.0, -24.0_f32..=24.0),
            muted in proptest::collection::vec((0_usize..9, 0_usize..32), 0..4),
        ) -> Share {
            let (rule, scheduler) = (RoutingRule::ALL[rule], SchedulerKind::new(ALL[scheduler]));
            let routing = Routing { rule, gamma, shift, log_odds };
            let muted = muted.into_iter().collect();
            let controls = Controls { choices, prompt, negative, seed, steps, guidance, scheduler, count, routing, muted };
            Share { model, hash: Some("0a1b2c3d".into()), decoder, controls, explore: None, unknown: Vec::new() }
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
        fn no_text_makes_it_panic(text in ".*") {
            let _ = Share::parse(&text);
        }
    }

    #[test]
    fn broken_links_say_what_is_wrong() {
        let good = "seed=1&steps=5&guidance=2&labels=any";
        assert!(Share::parse(good).is_ok());
        let refused = |text: &str| Share::parse(text).unwrap_err();
        assert!(refused("").contains("seed, steps, guidance, labels is missing"));
        assert!(
            refused(&format!("{good}&steps=0")).contains("invalid steps in the link: expected")
        );
        assert!(refused(&format!("{good}&guidance=NaN")).contains("from 0 to 100"));
        assert!(refused(&format!("{good}&count=17")).contains("from 1 to 16"));
        assert!(
            refused(&format!("{good}&scheduler=magic")).contains("unknown scheduler \"magic\"")
        );
        assert!(refused(&format!("{good}&rule=dice")).contains("token or pool"));
        assert!(refused(&format!("{good}&mute=3")).contains("BLOCK:EXPERT"));
        assert!(refused(&format!("{good}&labels=3,cat")).contains("any or varied"));
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
        assert_eq!(controls.scheduler.name(), "heun");
        assert_eq!(controls.routing.rule, RoutingRule::Pool);
    }

    #[test]
    fn links_carry_every_option_of_a_scheduler() {
        for info in ALL {
            for option in info.options {
                let mut share = Share::parse("seed=1&steps=5&guidance=2&labels=any").unwrap();
                let mut values = [1.0, 0.5].into_iter().filter(|&v| option.check(v).is_ok());
                let value = values.next().expect("a value that is no default");
                let kind = SchedulerKind::new(info).with(option.name, value).unwrap();
                share.controls.scheduler = kind;
                let fragment = share.to_fragment();
                assert!(fragment.contains(option.name), "{fragment}");
                assert_eq!(Share::parse(&fragment), Ok(share));
            }
        }
        let wrong = "rtol=0.1&seed=1&steps=5&guidance=2&labels=any&scheduler=heun";
        assert!(Share::parse(wrong).unwrap_err().contains("rtol is not an option of heun"));
    }

    #[test]
    fn what_is_not_known_is_kept_for_a_note() {
        let share = Share::parse("seed=1&zoom=3&steps=5&guidance=2&labels=any,4&colour").unwrap();
        assert_eq!(share.unknown, ["zoom", "colour"]);
        assert_eq!(share.controls.choices, [Choice::Any, Choice::Row(4)]);
    }
}
