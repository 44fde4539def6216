//! A sweep: recipes that differ in one setting or two, as the cells of a table.

use std::str::FromStr;

use super::data::{Recipe, RecipeError};
use super::text::{encode, labels};
use crate::model::{Config, one_of};
use crate::pipeline::{Label, Sampling};
use crate::pixels::{self, GridTooLarge, RgbImage};
use crate::scheduler::ALL;

/// The settings of [`Sampling`](crate::pipeline::Sampling) as texts call them, without the options of schedulers, and the
/// labels that are blended in.
const SETTINGS: [&str; 18] = [
    "seed",
    "steps",
    "guidance",
    "interval",
    "spin",
    "scheduler",
    "rule",
    "gamma",
    "shift",
    "odds",
    "mute",
    "shifts",
    "strength",
    "variation-seed",
    "variation-strength",
    "mix",
    "mix-strength",
    "negative",
];

/// Most cells of a table.
const MOST_CELLS: usize = 1000;

/// A setting and its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// As a link calls it ([`Recipe::with`]).
    pub setting: String,
    /// As a link writes them.
    pub values: Vec<String>,
}

/// One setting from column to column, and perhaps another from row to row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// What changes from column to column.
    pub x: Axis,
    /// What changes from row to row; one row without it.
    pub y: Option<Axis>,
}

/// Not `SETTING=VALUES`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected SETTING=VALUES, such as guidance=1,2,3; got {0:?}")]
pub struct AxisError(String);

/// `SETTING=VALUES`, where commas separate values, or semicolons if there are any. Some settings also go by the names that
/// the command line gives them.
impl FromStr for Axis {
    type Err = AxisError;

    fn from_str(text: &str) -> Result<Self, AxisError> {
        let wrong = || AxisError(text.to_owned());
        let (setting, values) = text.split_once('=').ok_or_else(wrong)?;
        let by = if values.contains(';') { ';' } else { ',' };
        let values: Vec<String> = values.split(by).map(|value| value.trim().to_owned()).collect();
        let setting = match setting.trim() {
            "cfg" => "guidance",
            "solver" => "scheduler",
            "routing" => "rule",
            "threshold-shift" => "shift",
            "guidance-interval" => "interval",
            "cycle-spin" => "spin",
            other => other,
        };
        if setting.is_empty() || values.iter().any(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self { setting: setting.to_owned(), values })
    }
}

/// `SETTING=VALUES` with semicolons.
impl std::fmt::Display for Axis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.setting, self.values.join(";"))
    }
}

impl Axis {
    fn captions(&self) -> Vec<String> {
        self.values.iter().map(|value| format!("{} {value}", self.setting)).collect()
    }
}

impl Recipe {
    /// The same with another value of a setting, as a text writes it: any setting of [`Sampling`](crate::pipeline::Sampling),
    /// `mix`, `prompt`, or the name of a label table.
    ///
    /// # Errors
    /// When the model has no such setting, or the value is wrong.
    pub fn with(&self, key: &str, value: &str, config: &Config) -> Result<Self, RecipeError> {
        let mut recipe = self.clone();
        recipe.sampling = self.sampling_for(config);
        recipe.unsaid.retain(|name| !Sampling::RECOMMENDED.contains(name) && *name != key);
        let mut is_option = ALL.iter().flat_map(|info| info.options).map(|option| option.name);
        if let Some(table) = config.labels.iter().position(|table| table.name == key) {
            recipe.unsaid.retain(|unsaid| *unsaid != "labels");
            recipe.labels.resize(config.labels.len(), vec![Label::Best]);
            let mut rows = labels(&encode(value).replace(',', "%2C"))?;
            recipe.labels[table] = rows.pop().unwrap_or_default();
        } else if is_option.any(|name| name == key) {
            recipe.sampling.scheduler = recipe.sampling.scheduler.with_text(key, value)?;
        } else if key == "prompt" && config.text.is_some() {
            recipe.prompts = vec![value.to_owned()];
        } else if key == "mix" {
            recipe.set_mix(&encode(value))?;
        } else if SETTINGS.contains(&key) {
            recipe.set(key, value.to_owned())?;
        } else {
            let tables = config.labels.iter().map(|table| table.name.as_str());
            let expected = one_of(SETTINGS.into_iter().chain(tables));
            return Err(RecipeError::NoSetting { key: key.to_owned(), expected });
        }
        Ok(recipe)
    }
}

impl Sweep {
    /// The recipes of the cells, row by row.
    ///
    /// # Errors
    /// When a setting or a value does not suit the model, or there are more than a thousand cells.
    pub fn cells(&self, base: &Recipe, config: &Config) -> Result<Vec<Recipe>, RecipeError> {
        let rows = match &self.y {
            None => vec![base.clone()],
            Some(y) => y
                .values
                .iter()
                .map(|value| base.with(&y.setting, value, config))
                .collect::<Result<_, _>>()?,
        };
        if rows.len() * self.x.values.len() > MOST_CELLS {
            return Err(RecipeError::Cells(rows.len() * self.x.values.len(), MOST_CELLS));
        }
        let cells = rows.iter().flat_map(|row| {
            self.x.values.iter().map(|value| row.with(&self.x.setting, value, config))
        });
        cells.collect()
    }

    /// Whether a setting is varied.
    pub fn varies(&self, setting: &str) -> bool {
        self.x.setting == setting || self.y.as_ref().is_some_and(|y| y.setting == setting)
    }

    /// The images of the cells as a table with captions.
    ///
    /// # Errors
    /// When it would have more than [`MOST_PIXELS`](pixels::MOST_PIXELS).
    ///
    /// # Panics
    /// When there is not one image for each cell, or they are not of one size.
    pub fn table(&self, cells: &[RgbImage]) -> Result<RgbImage, GridTooLarge> {
        let rows = self.y.as_ref().map_or_else(|| vec![String::new()], Axis::captions);
        pixels::table(cells, &self.x.captions(), &rows)
    }

    /// C of the cells as CSV, a line for each with its values; empty where a model has no experts.
    pub fn csv(&self, capacities: &[Option<f32>]) -> String {
        let quoted = |text: &str| {
            let is_plain = !text.contains([',', '"', '\n']);
            if is_plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
        };
        let line = |fields: &[String]| fields.join(",") + "\n";
        let first = self.y.iter().chain([&self.x]).map(|axis| quoted(&axis.setting));
        let mut text = line(&first.chain(["C".to_owned()]).collect::<Vec<_>>());
        for (at, capacity) in capacities.iter().enumerate() {
            let (row, column) = (at / self.x.values.len(), at % self.x.values.len());
            let of_row = self.y.as_ref().map(|y| quoted(&y.values[row]));
            let capacity = capacity.map_or_else(String::new, |c| format!("{c:.4}"));
            let fields = of_row.into_iter().chain([quoted(&self.x.values[column]), capacity]);
            text += &line(&fields.collect::<Vec<_>>());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::config;
    use super::*;

    #[test]
    fn one_setting_changes_at_a_time() {
        let config = config();
        let base = Recipe::parse("seed=7&labels=ant,any").unwrap();
        let with = |key: &str, value: &str| base.with(key, value, &config);
        let built = |key, value| with(key, value).unwrap().builder(&config).unwrap().build();
        let usual = base.builder(&config).unwrap().build().unwrap();
        let guidance = |key, value| built(key, value).unwrap().sampling.guidance.to_bits();
        assert_eq!(guidance("guidance", "3.5"), 3.5_f32.to_bits());
        assert_eq!(guidance("steps", "4"), usual.sampling.guidance.to_bits());
        assert_eq!(built("subject", "bee red").unwrap().labels, [[1], [2]]);
        assert_eq!(built("style", "1").unwrap().labels, [[0], [1]]);
        assert_eq!(built("subject", "varied").unwrap().labels[1], [2]);
        let shifted = built("shift", "0.25").unwrap();
        assert_eq!((shifted.sampling.routing.shift, shifted.sampling.seed), (0.25, 7));
        let mixed = built("mix", "cat,any").unwrap();
        assert_eq!((mixed.mix, mixed.sampling.mix_strength), (vec![Some(2), Some(2)], 0.5));
        assert_eq!(built("mix", "bee red").unwrap().mix, [Some(1), None]);
        let alone = built("mix-strength", "0.5").unwrap_err().to_string();
        assert_eq!(alone, "mix strength needs a label to blend with");
        let refused = |key, value| with(key, value).unwrap_err().to_string();
        assert!(refused("colour", "3").contains("gamma"), "{}", refused("colour", "3"));
        assert!(refused("prompt", "a fox").contains("subject or style"));
        assert!(refused("model", "emoji").starts_with("model is not a setting"));
        assert!(refused("steps", "0").contains("from 1 to"));
        assert!(refused("rtol", "0.1").contains("dopri5"));
    }

    fn axis(text: &str) -> Axis {
        text.parse().unwrap()
    }

    #[test]
    fn axes_are_read_and_written() {
        let guidance = axis("cfg=1, 2.5");
        assert_eq!(guidance.captions(), ["guidance 1", "guidance 2.5"]);
        let interval = axis("guidance-interval=0,1;0.1,0.7");
        assert_eq!((interval.setting.as_str(), interval.values.len()), ("interval", 2));
        for axis in [guidance, interval, axis("steps=3")] {
            assert_eq!(axis.to_string().parse(), Ok(axis));
        }
        for wrong in ["", "guidance", "=1", "guidance=", "guidance=1,,2"] {
            assert!(wrong.parse::<Axis>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn cells_differ_in_what_is_varied_alone() {
        let config = config();
        let base = Recipe::parse("seed=7&labels=ant,any").unwrap();
        let sweep = Sweep { x: axis("guidance=1,3"), y: Some(axis("subject=cat,bee red")) };
        let cells = sweep.cells(&base, &config).unwrap();
        let built = cells.iter().map(|cell| cell.builder(&config).unwrap().build().unwrap());
        let seen: Vec<_> = built
            .map(|s| (s.labels[0][0], s.labels[1][0], s.sampling.guidance, s.sampling.seed))
            .collect();
        assert_eq!(seen, [(2, 2, 1.0, 7), (2, 2, 3.0, 7), (1, 2, 1.0, 7), (1, 2, 3.0, 7)]);
        let many = Sweep { x: axis(&format!("seed={}", vec!["1"; 1001].join(","))), y: None };
        assert!(many.cells(&base, &config).unwrap_err().to_string().contains("1001 cells"));
        assert!(sweep.varies("subject") && !sweep.varies("style"));
    }

    #[test]
    fn tables_of_numbers_name_their_columns() {
        let all = [Some(1.0), None, Some(0.25), Some(2.0)];
        let sweep = Sweep { x: axis("a=1,2"), y: Some(axis("b=u;v,w")) };
        let text = "b,a,C\nu,1,1.0000\nu,2,\n\"v,w\",1,0.2500\n\"v,w\",2,2.0000\n";
        assert_eq!(sweep.csv(&all), text);
        let row = Sweep { x: axis("a=1,2"), y: None };
        assert_eq!(row.csv(&all[..2]), "a,C\n1,1.0000\n2,\n");
    }
}
