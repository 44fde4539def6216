//! Options of schedulers as data: name, title, hint, range and default, from which every front end makes its own form.

use crate::model::{Objective, one_of};

/// One option of a scheduler.
#[derive(Debug, PartialEq)]
pub struct OptionInfo {
    /// Name in links, and `--name` on the command line; camel case in JavaScript.
    pub name: &'static str,
    /// Title of a control.
    pub title: &'static str,
    /// What it does, in one line.
    pub hint: &'static str,
    /// The allowed values.
    pub values: OptionValues,
    /// The only objective for which it has an effect, if there is one.
    pub only: Option<Objective>,
}

/// The values of an option. All are kept as numbers: a flag is 0 or 1, a name its position.
#[derive(Debug, PartialEq)]
pub enum OptionValues {
    /// A number.
    Number {
        /// Smallest allowed.
        min: f32,
        /// Largest allowed.
        max: f32,
        /// Default.
        default: f32,
    },
    /// `true` or `false`; `false` by default.
    Flag,
    /// One of several names, the first by default.
    Names(&'static [&'static str]),
}

/// An option that a scheduler does not take, or a value that it cannot have.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OptionError {
    /// The scheduler has no such option for this model.
    #[error("{option} is not an option of {scheduler}: remove it, or choose {takers}")]
    NotTaken {
        /// The option.
        option: String,
        /// The scheduler.
        scheduler: &'static str,
        /// Schedulers that have it.
        takers: String,
    },
    /// Not a number, out of range, or an unknown name.
    #[error("{option} must be {expected}, got {given}")]
    Value {
        /// The option.
        option: &'static str,
        /// The allowed values.
        expected: String,
        /// The given value.
        given: String,
    },
}

impl OptionInfo {
    /// The name in JavaScript: camel case.
    pub fn camel_case(&self) -> String {
        let mut words = self.name.split('-');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| {
            let (initial, rest) = word.split_at_checked(1).unwrap_or((word, ""));
            name + &initial.to_ascii_uppercase() + rest
        })
    }

    /// Its default value.
    pub fn default_value(&self) -> f32 {
        match self.values {
            OptionValues::Number { default, .. } => default,
            OptionValues::Flag | OptionValues::Names(_) => 0.0,
        }
    }

    /// Whether it has an effect for models of an objective.
    pub fn applies(&self, objective: Objective) -> bool {
        self.only.is_none_or(|only| only == objective)
    }

    /// The allowed values, for messages.
    pub fn expected(&self) -> String {
        match self.values {
            OptionValues::Number { min, max, .. } => format!("{min:?}–{max:?}"),
            OptionValues::Flag => "true or false".into(),
            OptionValues::Names(names) => one_of(names.iter().copied()),
        }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// When it is out of range.
    pub fn check(&self, value: f32) -> Result<f32, OptionError> {
        let is_allowed = match self.values {
            OptionValues::Number { min, max, .. } => (min..=max).contains(&value),
            OptionValues::Flag => value.fract() == 0.0 && (0.0..=1.0).contains(&value),
            OptionValues::Names(names) => {
                value.fract() == 0.0 && (0.0..names.len() as f32).contains(&value)
            }
        };
        if is_allowed { Ok(value) } else { Err(self.refused(&value.to_string())) }
    }

    /// Reads a value as [`OptionInfo::format`] writes it.
    ///
    /// # Errors
    /// When it is not a value of this option.
    pub fn parse(&self, text: &str) -> Result<f32, OptionError> {
        let value = match self.values {
            OptionValues::Number { .. } => text.parse().ok(),
            OptionValues::Flag => text.parse().ok().map(|on: bool| f32::from(u8::from(on))),
            OptionValues::Names(names) => names.iter().position(|n| *n == text).map(|i| i as f32),
        };
        value.and_then(|value| self.check(value).ok()).ok_or_else(|| self.refused(text))
    }

    /// A value as text, which reads back as the same number.
    pub fn format(&self, value: f32) -> String {
        match self.values {
            OptionValues::Number { .. } => value.to_string(),
            OptionValues::Flag => (value > 0.5).to_string(),
            OptionValues::Names(names) => {
                names.get(value as usize).copied().unwrap_or_default().to_owned()
            }
        }
    }

    fn refused(&self, given: &str) -> OptionError {
        OptionError::Value { option: self.name, expected: self.expected(), given: given.to_owned() }
    }
}
