//! Settings in the form that most image tools of this field write into PNG files and read from them: the prompt, a line
//! for what to avoid, and a last line of names and values.
//!
//! ```text
//! a red fox
//! Negative prompt: blurred
//! Steps: 10, Sampler: Heun, CFG scale: 2, Seed: 7, Size: 64x64, Model hash: 1f00c2ab, Model: emoji
//! ```

use std::fmt;

use super::data::Recipe;
use super::text::MOST_STEPS;
use crate::model::Config;
use crate::pipeline::Settings;
use crate::scheduler::SchedulerKind;

/// What begins the line of things to avoid.
const NEGATIVE: &str = "Negative prompt:";
/// Names in the first line of a file with many images.
const MOST_NAMES: usize = 20;

/// Settings as other programs understand them. Everything may be missing.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Parameters {
    /// What to draw.
    pub prompt: String,
    /// What not to draw.
    pub negative: String,
    /// Names and values of the last line, in order.
    pub values: Vec<(String, String)>,
}

impl Parameters {
    /// What a recipe says in this form; `names` says what the images show, `size` is their height and width in pixels.
    pub fn of(recipe: &Recipe, names: &[String], size: [usize; 2]) -> Self {
        let mut different: Vec<&str> = Vec::new();
        for name in names {
            if !different.contains(&name.as_str()) {
                different.push(name);
            }
        }
        let more = if different.len() > MOST_NAMES { "; …" } else { "" };
        different.truncate(MOST_NAMES);
        let mut values = Vec::new();
        let mut put = |name: &str, value: String| values.push((name.to_owned(), value));
        put("Steps", recipe.sampling.steps.to_string());
        put("Sampler", recipe.sampling.scheduler.info().title.to_owned());
        put("CFG scale", recipe.sampling.guidance.to_string());
        put("Seed", recipe.sampling.seed.to_string());
        put("Size", format!("{}x{}", size[1], size[0]));
        if let Some(hash) = &recipe.hash {
            put("Model hash", hash.clone());
        }
        if let Some(model) = &recipe.model {
            put("Model", model.clone());
        }
        if recipe.count > 1 {
            put("Batch size", recipe.count.to_string());
        }
        if let Some(image) = recipe.image {
            put("Batch pos", image.to_string());
        }
        put("Routing", recipe.sampling.routing.rule.to_string());
        put("Version", concat!("diffmoe ", env!("CARGO_PKG_VERSION")).to_owned());
        let prompt = format!("{}{more}", different.join("; "));
        Self { prompt, negative: recipe.sampling.negative.clone(), values }
    }

    /// Reads this form; `None` where the last line has no steps, seed or guidance, so that nothing could be taken over.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end();
        let (before, last) = text.rsplit_once('\n').unwrap_or(("", text));
        let mut found = Self { values: values(last), ..Self::default() };
        found.seed().or(found.steps().map(u64::from)).or(found.guidance().map(|_| 0))?;
        let mut lines = (Vec::new(), Vec::new());
        let mut avoids = false;
        for line in before.lines() {
            let line = match line.strip_prefix(NEGATIVE) {
                Some(rest) if !avoids => {
                    avoids = true;
                    rest
                }
                _ => line,
            };
            if avoids { lines.1.push(line.trim()) } else { lines.0.push(line.trim()) }
        }
        (found.prompt, found.negative) = (lines.0.join("\n"), lines.1.join("\n"));
        Some(found)
    }

    /// A value by its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.values.iter().find(|(key, _)| key == name);
        value.map(|(_, value)| value.as_str())
    }

    /// The seed, where it is a whole number.
    pub fn seed(&self) -> Option<u64> {
        self.get("Seed")?.parse().ok()
    }

    /// Denoising steps.
    pub fn steps(&self) -> Option<u32> {
        self.get("Steps")?.parse().ok().filter(|steps| (1..=MOST_STEPS).contains(steps))
    }

    /// Guidance scale.
    pub fn guidance(&self) -> Option<f32> {
        self.get("CFG scale")?.parse().ok().filter(|scale| (0.0..=100.0).contains(scale))
    }

    /// One image of a model with these settings, as far as the model knows them, else with those that it recommends;
    /// and a sentence for each that is left out.
    pub fn recipe(&self, config: &Config) -> (Recipe, Vec<String>) {
        let mut left_out = Vec::new();
        let mut settings = Settings::builder(config);
        if let Some(sampler) = self.get("Sampler") {
            match sampler_of(sampler, config) {
                Some(kind) => settings = settings.scheduler(kind),
                None => left_out.push(format!("the sampler {sampler:?} does not suit this model")),
            }
        }
        if config.text.is_some() {
            settings = settings.prompt(&self.prompt).negative(&self.negative);
        } else if !self.prompt.is_empty() {
            left_out.push("this model takes no prompts".to_owned());
        }
        if let Some(seed) = self.seed() {
            settings = settings.seed(seed);
        }
        if let Some(steps) = self.steps() {
            settings = settings.steps(steps);
        }
        if let Some(guidance) = self.guidance() {
            settings = settings.guidance(guidance);
        }
        (Recipe::of(&settings.unchecked(), config), left_out)
    }
}

/// Our scheduler of that name, where it suits the model.
fn sampler_of(sampler: &str, config: &Config) -> Option<SchedulerKind> {
    let suitable = SchedulerKind::for_objective(config.objective);
    suitable.into_iter().find(|kind| {
        let info = kind.info();
        info.title.eq_ignore_ascii_case(sampler) || info.name.eq_ignore_ascii_case(sampler)
    })
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A line of its own would be read as something else.
        let one_line = |text: &str| text.lines().collect::<Vec<_>>().join(" ");
        writeln!(f, "{}", one_line(&self.prompt))?;
        if !self.negative.is_empty() {
            writeln!(f, "{NEGATIVE} {}", one_line(&self.negative))?;
        }
        for (i, (name, value)) in self.values.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{name}: {}", quoted(value))?;
        }
        Ok(())
    }
}

/// A value, in quotation marks where it holds what separates values.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n', '"']) || value.is_empty() {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_owned()
    }
}

/// The names and values of a line.
fn values(line: &str) -> Vec<(String, String)> {
    let mut values = Vec::new();
    let mut rest = line.trim();
    while let Some((name, after)) = rest.split_once(':') {
        let after = after.trim_start();
        let mut quoted = serde_json::Deserializer::from_str(after).into_iter::<String>();
        let (value, end) = match quoted.next() {
            Some(Ok(value)) if after.starts_with('"') => (value, quoted.byte_offset()),
            _ => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), end)
            }
        };
        values.push((name.trim().to_owned(), value));
        rest = after[end..].trim_start().trim_start_matches(',').trim_start();
    }
    values
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::data::tests::config;
    use super::*;

    #[test]
    fn a_recipe_in_the_form_of_other_tools() {
        let config = config();
        let settings = Settings::builder(&config).images(2).seed(7).label("subject", 1).build();
        let mut recipe = Recipe::of(&settings.unwrap(), &config);
        (recipe.model, recipe.hash) = (Some("small: one".into()), Some("1f00c2ab01".into()));
        let names = ["bee, red".to_owned(), "bee, red".to_owned()];
        let text = Parameters::of(&recipe, &names, [32, 64]).to_string();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            text,
            format!(
                "bee, red\nSteps: 10, Sampler: Heun, CFG scale: 2, Seed: 7, Size: 64x32, Model hash: 1f00c2ab01, \
                 Model: \"small: one\", Batch size: 2, Routing: token, Version: diffmoe {version}"
            )
        );
        let read = Parameters::parse(&text).unwrap();
        assert_eq!((read.prompt.as_str(), read.get("Model")), ("bee, red", Some("small: one")));
        assert_eq!(read.to_string(), text);
    }

    #[test]
    fn settings_of_another_program_are_taken_over_as_far_as_they_go() {
        let text = "a fox,\nin the snow\nNegative prompt: blurred,\nugly\nSteps: 20, Sampler: Euler a, \
            Schedule type: Automatic, CFG scale: 7.5, Seed: 2973, Size: 512x768, Model hash: 6ce0161689, \
            Model: v1-5, Hashes: {\"vae\": \"c6a5\"}, Note: \"a, b: c\", Version: v1.9";
        let read = Parameters::parse(text).unwrap();
        assert_eq!(read.prompt, "a fox,\nin the snow");
        assert_eq!(read.negative, "blurred,\nugly");
        assert_eq!(read.get("Note"), Some("a, b: c"));
        let config = config();
        let (recipe, left_out) = read.recipe(&config);
        assert_eq!(
            (recipe.sampling.seed, recipe.sampling.steps, recipe.sampling.guidance),
            (2973, 20, 7.5)
        );
        assert_eq!(
            (recipe.sampling.scheduler.name(), recipe.count),
            ("heun", 1),
            "what the model recommends"
        );
        assert_eq!(left_out.len(), 2, "{left_out:?}");
        assert!(left_out[0].contains("\"Euler a\"") && left_out[1].contains("no prompts"));
        let (recipe, _) = Parameters::parse("Steps: 4, Sampler: Euler").unwrap().recipe(&config);
        assert_eq!(
            (recipe.sampling.scheduler.name(), recipe.sampling.steps, recipe.sampling.guidance),
            ("euler", 4, 2.0)
        );
    }

    #[test]
    fn a_text_without_settings_is_none() {
        for text in ["", "a fox", "a fox\nSteps: many, CFG scale: high", "Title: Seed, of doubt"] {
            assert_eq!(Parameters::parse(text), None, "{text:?}");
        }
        let many = Parameters::parse("Steps: 10001, Seed: 1").unwrap();
        assert_eq!(many.steps(), None, "more than settings may have");
        let odd = Parameters::parse("Steps: 0, Seed: -1, CFG scale: 3").unwrap();
        assert_eq!((odd.steps(), odd.seed(), odd.guidance()), (None, None, Some(3.0)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*", more in "[A-Za-z:, \"\\\\\n]*") {
            let _ = Parameters::parse(&text);
            let _ = Parameters::parse(&format!("{text}\nSteps: 3, {more}"));
        }
    }
}
