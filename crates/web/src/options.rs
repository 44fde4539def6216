//! What a script asks for, read from plain objects and checked. Errors are sentences for the script's author.

use js_sys::{Array, Function, Reflect};
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;

use diffmoe::model::{Config, LabelTable, Muted, Routing, RoutingRule};
use diffmoe::pipeline::{Backend, Settings};
use diffmoe::scheduler::random_rows;

/// A plain object with optional entries.
pub(super) struct Options(JsValue);

impl Options {
    /// An object; `undefined` and `null` count as an empty one. Entries that we do not know are refused,
    /// because a misspelt one would be ignored in silence.
    pub(super) fn new(value: JsValue, known: &[&str]) -> Result<Self, String> {
        if value.is_undefined() || value.is_null() {
            return Ok(Self(JsValue::UNDEFINED));
        }
        if !value.is_object() {
            return Err("options have to be an object, such as { seed: 7 }".into());
        }
        let keys = Reflect::own_keys(&value).map_err(|_| "options cannot be read")?;
        let unknown = keys.iter().filter_map(|k| k.as_string()).find(|k| !known.contains(&&**k));
        match unknown {
            Some(key) => Err(format!("there is no option {key:?}; known are {}", known.join(", "))),
            None => Ok(Self(value)),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<JsValue> {
        let value = Reflect::get(&self.0, &key.into()).ok()?;
        (!value.is_undefined() && !value.is_null()).then_some(value)
    }

    pub(super) fn function(&self, key: &str) -> Result<Option<Function>, String> {
        let convert = |value: JsValue| {
            value.dyn_into::<Function>().map_err(|_| format!("{key} has to be a function"))
        };
        self.get(key).map(convert).transpose()
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let convert = |v: JsValue| v.as_f64().ok_or_else(|| format!("{key} has to be a number"));
        self.get(key).map(convert).transpose()
    }

    fn whole(&self, key: &str, most: f64) -> Result<Option<f64>, String> {
        match self.number(key)? {
            Some(n) if n.fract() != 0.0 || !(0.0..=most).contains(&n) => {
                Err(format!("{key} {n} is not possible; choose a whole number from 0 to {most}"))
            }
            number => Ok(number),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, String> {
        let convert = |v: JsValue| v.as_string().ok_or_else(|| format!("{key} has to be a string"));
        self.get(key).map(convert).transpose()
    }

    pub(super) fn signal(&self) -> Result<Option<AbortSignal>, String> {
        let convert = |value: JsValue| {
            value
                .dyn_into::<AbortSignal>()
                .map_err(|_| "signal has to be an AbortSignal".to_owned())
        };
        self.get("signal").map(convert).transpose()
    }

    pub(super) fn backend(&self) -> Result<Backend, String> {
        match self.text("backend")?.as_deref() {
            None | Some("auto") => Ok(Backend::Auto),
            Some("gpu") => Ok(Backend::Gpu),
            Some("cpu") => Ok(Backend::Cpu),
            Some(other) => Err(format!("there is no backend {other:?}; choose auto, gpu or cpu")),
        }
    }
}

/// Entries of the options of `sample`, beside those that name label tables.
const SAMPLE: [&str; 17] = [
    "labels",
    "prompt",
    "negative",
    "seed",
    "steps",
    "guidance",
    "solver",
    "count",
    "routing",
    "gamma",
    "shift",
    "signal",
    "onStep",
    "onDecode",
    "trace",
    "traceScores",
    "mute",
];

/// Most pictures in one call: they share one pass through the model.
const MAX_COUNT: f64 = 64.0;

/// Reads the options of `sample`.
pub(super) fn sample(value: JsValue) -> Result<Options, String> {
    Options::new(value, &SAMPLE)
}

/// The settings of a run; what is not given is the model's default, and random labels from the seed.
pub(super) fn settings(options: &Options, config: &Config, seed: u64) -> Result<Settings, String> {
    let seed = options.whole("seed", 9_007_199_254_740_991.0)?.map_or(seed, |seed| seed as u64);
    let count = options.whole("count", MAX_COUNT)?.unwrap_or(1.0) as usize;
    if count == 0 {
        return Err(format!("0 pictures are not possible; choose 1 to {MAX_COUNT}"));
    }
    let defaults = &config.defaults;
    let solver = options.text("solver")?.unwrap_or_else(|| defaults.solver.clone());
    let rule = match options.text("routing")?.as_deref() {
        None | Some("token") => RoutingRule::Token,
        Some("pool") => RoutingRule::Pool,
        Some(other) => {
            return Err(format!("there is no routing rule {other:?}; choose token or pool"));
        }
    };
    let settings = Settings {
        labels: labels(options, config, seed, count)?,
        prompts: match options.text("prompt")? {
            None if config.text.is_none() => Vec::new(),
            prompt => vec![prompt.unwrap_or_default(); count],
        },
        negative: options.text("negative")?.unwrap_or_default(),
        seed,
        steps: options.whole("steps", f64::from(u32::MAX))?.map_or(defaults.steps, |n| n as u32),
        guidance: options.number("guidance")?.map_or(defaults.guidance, |g| g as f32),
        solver: solver.parse().map_err(|error| format!("{error}"))?,
        routing: Routing {
            rule,
            gamma: options.number("gamma")?.map(|gamma| gamma as f32),
            shift: options.number("shift")?.unwrap_or(0.0) as f32,
            log_odds: 0.0,
        },
        muted: muted(options)?,
        record_scores: options.get("traceScores").is_some_and(|wanted| wanted.is_truthy()),
    };
    settings.check(config).map_err(|error| error.to_string())?;
    Ok(settings)
}

/// The experts of `mute`, a list of pairs.
fn muted(options: &Options) -> Result<Muted, String> {
    let wrong = || "mute has to be a list of [block, expert], such as [[1, 3], [5, 0]]".to_owned();
    let Some(value) = options.get("mute") else { return Ok(Muted::default()) };
    let list = value.dyn_into::<Array>().map_err(|_| wrong())?;
    let number = |value: JsValue| {
        let number = value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=65_535.0).contains(n));
        number.map(|n| n as usize).ok_or_else(wrong)
    };
    let pair = |value: JsValue| {
        let pair = value.dyn_into::<Array>().map_err(|_| wrong())?;
        match pair.length() {
            2 => Ok((number(pair.get(0))?, number(pair.get(1))?)),
            _ => Err(wrong()),
        }
    };
    list.iter().map(pair).collect()
}

/// For each table one row for each picture.
fn labels(
    options: &Options,
    config: &Config,
    seed: u64,
    count: usize,
) -> Result<Vec<Vec<u32>>, String> {
    let names: Vec<_> = config.labels.iter().map(|table| table.name.as_str()).collect();
    let given = options.get("labels").unwrap_or(JsValue::UNDEFINED);
    let given = Options::new(given, &names)?;
    let rows = |(i, table): (usize, &LabelTable)| match given.get(&table.name) {
        None => Ok(random_rows(seed, i as u32, table.null, count)),
        Some(value) => {
            let list =
                if Array::is_array(&value) { Array::from(&value) } else { Array::of1(&value) };
            let rows =
                list.iter().map(|value| row(table, &value)).collect::<Result<Vec<_>, _>>()?;
            if rows.is_empty() {
                return Err(format!("the list of labels for {} is empty", table.name));
            }
            Ok(rows.into_iter().cycle().take(count).collect())
        }
    };
    config.labels.iter().enumerate().map(rows).collect()
}

/// A row by its name or its number; `any` is the null row.
fn row(table: &LabelTable, value: &JsValue) -> Result<u32, String> {
    let text = value.as_string().or_else(|| value.as_f64().map(|n| n.to_string()));
    let text = text.ok_or_else(|| format!("a label for {} is a name or a number", table.name))?;
    if text == "any" {
        return Ok(table.null);
    }
    table.find(&text).ok_or_else(|| {
        format!("there is no {} {text:?}; `info.labels` lists them, or give \"any\"", table.name)
    })
}
