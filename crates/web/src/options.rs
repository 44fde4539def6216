//! Options of a script, read from plain objects and checked. Error messages address the script's author.

use js_sys::{Array, ArrayBuffer, Function, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::AbortSignal;

use super::init::init;
use diffmoe::model::{Config, LabelTable, Muted, Routing, Shifts, UnknownName};
use diffmoe::pipeline::{Backend, Label, Recipe, Saved, Settings};
use diffmoe::scheduler::{ALL, CycleSpin, GuidanceInterval, OptionInfo, SchedulerKind};

/// A plain object with optional entries.
pub(super) struct Options(JsValue);

impl Options {
    /// An object; `undefined` and `null` count as an empty one. Unknown entries are rejected,
    /// because a misspelt one would be ignored in silence.
    pub(super) fn new(value: JsValue, known: &[&str]) -> Result<Self, String> {
        if value.is_undefined() || value.is_null() {
            return Ok(Self(JsValue::UNDEFINED));
        }
        if !value.is_object() {
            return Err("options must be an object, such as { seed: 7 }".into());
        }
        let keys = Reflect::own_keys(&value).map_err(|_| "options cannot be read")?;
        let unknown = keys.iter().filter_map(|k| k.as_string()).find(|k| !known.contains(&&**k));
        match unknown {
            Some(key) => Err(format!("unknown option {key:?}: expected {}", known.join(", "))),
            None => Ok(Self(value)),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<JsValue> {
        let value = Reflect::get(&self.0, &key.into()).ok()?;
        (!value.is_undefined() && !value.is_null()).then_some(value)
    }

    pub(super) fn function(&self, key: &str) -> Result<Option<Function>, String> {
        let convert = |value: JsValue| {
            value.dyn_into::<Function>().map_err(|_| format!("{key} must be a function"))
        };
        self.get(key).map(convert).transpose()
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let convert = |v: JsValue| v.as_f64().ok_or_else(|| format!("{key} must be a number"));
        self.get(key).map(convert).transpose()
    }

    fn whole(&self, key: &str, most: f64) -> Result<Option<f64>, String> {
        match self.number(key)? {
            Some(n) if n.fract() != 0.0 || !(0.0..=most).contains(&n) => {
                Err(format!("{key} must be an integer from 0 to {most}, got {n}"))
            }
            number => Ok(number),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, String> {
        let convert = |v: JsValue| v.as_string().ok_or_else(|| format!("{key} must be a string"));
        self.get(key).map(convert).transpose()
    }

    pub(super) fn signal(&self) -> Result<Option<AbortSignal>, String> {
        let convert = |value: JsValue| {
            value.dyn_into::<AbortSignal>().map_err(|_| "signal must be an AbortSignal".to_owned())
        };
        self.get("signal").map(convert).transpose()
    }

    pub(super) fn backend(&self) -> Result<Backend, String> {
        let name = self.text("backend")?;
        name.map_or(Ok(Backend::default()), |name| name.parse().map_err(|e| format!("{e}")))
    }

    /// How many workers share the work of the processor; 0 for this thread alone.
    pub(super) fn workers(&self) -> Result<Option<usize>, String> {
        Ok(self.whole("workers", MAX_WORKERS)?.map(|count| count as usize))
    }

    /// The value of a scheduler's option as text, if it is given.
    fn scheduler_option(&self, option: &OptionInfo) -> Option<String> {
        let value = self.get(&option.camel_case())?;
        let number = value.as_f64().map(|number| number.to_string());
        let flag = value.as_bool().map(|flag| flag.to_string());
        Some(value.as_string().or(number).or(flag).unwrap_or_default())
    }
}

/// Entries of the options of `sample`, besides those of label tables and schedulers.
/// Earlier versions used `solver`.
const SAMPLE: [&str; 33] = [
    "labels",
    "mix",
    "mixStrength",
    "prompt",
    "negative",
    "seed",
    "steps",
    "guidance",
    "guidanceInterval",
    "cycleSpin",
    "scheduler",
    "solver",
    "count",
    "routing",
    "gamma",
    "shift",
    "logOdds",
    "shifts",
    "signal",
    "onStep",
    "onDecode",
    "trace",
    "traceScores",
    "mute",
    "like",
    "png",
    "scale",
    "smooth",
    "initImage",
    "variationSeed",
    "variationStrength",
    "mask",
    "strength",
];

/// The options of all schedulers.
fn scheduler_options() -> impl Iterator<Item = &'static OptionInfo> {
    ALL.iter().flat_map(|info| info.options)
}

/// Most workers of a generator: each has a copy of the weights.
const MAX_WORKERS: f64 = 16.0;

/// Most images in one call: they share one pass through the model.
const MAX_COUNT: f64 = 64.0;

/// Reads the options of `sample`.
pub(super) fn sample(value: JsValue) -> Result<Options, String> {
    let mut known: Vec<String> = SAMPLE.map(str::to_owned).to_vec();
    for option in scheduler_options().map(OptionInfo::camel_case) {
        if !known.contains(&option) {
            known.push(option);
        }
    }
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    Options::new(value, &known)
}

/// The settings inside a PNG file; of another program's file as far as the model knows them.
pub(super) fn like(options: &Options, config: &Config) -> Result<Option<Recipe>, String> {
    let Some(value) = options.get("like") else { return Ok(None) };
    let bytes = match value.dyn_into::<ArrayBuffer>() {
        Ok(buffer) => Uint8Array::new(&buffer),
        Err(other) => other
            .dyn_into::<Uint8Array>()
            .map_err(|_| "like has to be the bytes of a PNG, as ArrayBuffer or Uint8Array")?,
    };
    match Saved::from_png(&bytes.to_vec()).map_err(|error| format!("like: {error}"))? {
        Saved::Recipe(recipe) => Ok(Some(*recipe)),
        Saved::Parameters(parameters) => Ok(Some(parameters.recipe(config).0)),
    }
}

/// How the images of `png` are enlarged: by which factor, and whether smoothly.
pub(super) fn enlargement(options: &Options) -> Result<(Option<u32>, bool), String> {
    let smooth = options.get("smooth").is_some_and(|wanted| wanted.is_truthy());
    match options.whole("scale", 64.0)? {
        Some(0.0) => Err("scale must be an integer from 1 to 64, got 0".into()),
        scale => Ok((scale.map(|scale| scale as u32), smooth)),
    }
}

/// The settings of a run; missing ones are those of `like`, or the model's defaults and labels that it draws well.
pub(super) fn settings(
    options: &Options,
    config: &Config,
    like: Option<&Recipe>,
    seed: u64,
) -> Result<Settings, String> {
    let mut settings = match like {
        Some(recipe) => recipe.builder(config).map_err(|error| format!("like: {error}"))?,
        None => Settings::builder(config).seed(seed),
    };
    if let Some(seed) = options.whole("seed", 9_007_199_254_740_991.0)? {
        settings = settings.seed(seed as u64);
    }
    let seed = options.whole("variationSeed", 9_007_199_254_740_991.0)?;
    match (seed, options.number("variationStrength")?) {
        (Some(seed), Some(share)) => settings = settings.variation(seed as u64, share as f32),
        (None, None) => {}
        _ => return Err("variationSeed and variationStrength need each other".into()),
    }
    let count = options.whole("count", MAX_COUNT)?.map(|count| count as usize);
    let count = count.unwrap_or_else(|| like.map_or(1, |recipe| recipe.count));
    if !(1..=MAX_COUNT as usize).contains(&count) {
        return Err(format!("count must be 1–{MAX_COUNT}, got {count}"));
    }
    settings = settings.images(count);
    for (table, labels) in labels(options, config)? {
        settings = settings.labels(table, labels);
    }
    for (table, other) in mix(options, config)? {
        settings = settings.mix(table, other);
    }
    if let Some(share) = options.number("mixStrength")? {
        settings = settings.mix_strength(share as f32);
    }
    if let Some(prompt) = options.text("prompt")? {
        settings = settings.prompt(prompt);
    }
    if let Some(negative) = options.text("negative")? {
        settings = settings.negative(negative);
    }
    if let Some(steps) = options.whole("steps", f64::from(u32::MAX))? {
        settings = settings.steps(steps as u32);
    }
    if let Some(guidance) = options.number("guidance")? {
        settings = settings.guidance(guidance as f32);
    }
    if let Some(interval) = guidance_interval(options)? {
        settings = settings.guidance_interval(interval);
    }
    if let Some(spin) = cycle_spin(options)? {
        settings = settings.cycle_spin(spin);
    }
    if let Some(init) = init(options.get("initImage"), options.get("mask"), config)? {
        let before = like.filter(|like| like.from_image).map(|like| like.sampling.strength);
        let strength = options.number("strength")?.map(|strength| strength as f32);
        let strength = strength.or(before).unwrap_or_else(|| init.usual_strength());
        settings = settings.init(init).strength(strength);
    } else if options.get("strength").is_some() {
        return Err("strength needs initImage, the image to start from".into());
    }
    if options.get("mute").is_some() || like.is_none() {
        settings = settings.muted(muted(options)?);
    }
    if let Some(shifts) = shifts(options)? {
        settings = settings.shifts(shifts);
    }
    let otherwise = like.map_or_else(
        || SchedulerKind::default_of(config),
        |like| like.sampling_for(config).scheduler,
    );
    let scores = options.get("traceScores").is_some_and(|wanted| wanted.is_truthy());
    let settings = settings
        .routing(routing(options, like.map(|like| like.sampling.routing).unwrap_or_default())?)
        .scheduler(scheduler(options, otherwise)?)
        .record_scores(scores)
        .build()
        .map_err(|error| error.to_string())?;
    if options.get("cycleSpin").is_some() {
        settings.sampling.check_spins(config).map_err(|error| error.to_string())?;
    }
    Ok(settings)
}

/// Rule and thresholds; thresholds that are given replace all that the file says about them.
fn routing(options: &Options, before: Routing) -> Result<Routing, String> {
    let rule = match options.text("routing")? {
        None => before.rule,
        Some(rule) => rule.parse().map_err(|error: UnknownName| error.to_string())?,
    };
    let gamma = options.number("gamma")?.map(|gamma| gamma as f32);
    let shift = options.number("shift")?.map(|shift| shift as f32);
    let log_odds = options.number("logOdds")?.map(|odds| odds as f32);
    let routing = match (gamma, shift) {
        (None, None) => Routing { rule, ..before },
        _ => Routing { rule, gamma, shift: shift.unwrap_or_default(), log_odds: 0.0 },
    };
    Ok(Routing { log_odds: log_odds.unwrap_or(routing.log_odds), ..routing })
}

/// The requested scheduler or `otherwise`, with its options.
fn scheduler(options: &Options, otherwise: SchedulerKind) -> Result<SchedulerKind, String> {
    let name = match options.text("scheduler")? {
        None => options.text("solver")?,
        name => name,
    };
    let mut kind = match name {
        None => otherwise,
        Some(name) => name.parse().map_err(|error| format!("{error}"))?,
    };
    for option in scheduler_options() {
        if let Some(value) = options.scheduler_option(option) {
            kind = kind.with_text(option.name, &value).map_err(|error| error.to_string())?;
        }
    }
    Ok(kind)
}

/// `guidanceInterval`, two numbers, which the settings check.
fn guidance_interval(options: &Options) -> Result<Option<GuidanceInterval>, String> {
    let wrong = || "guidanceInterval has to be [low, high], such as [0.1, 0.7]".to_owned();
    let Some(value) = options.get("guidanceInterval") else { return Ok(None) };
    let list = value.dyn_into::<Array>().map_err(|_| wrong())?;
    match list.iter().map(|bound| bound.as_f64()).collect::<Vec<_>>()[..] {
        [Some(low), Some(high)] => {
            Ok(Some(GuidanceInterval { low: low as f32, high: high as f32 }))
        }
        _ => Err(wrong()),
    }
}

/// `cycleSpin`, a count or a count and a time, which the settings check.
fn cycle_spin(options: &Options) -> Result<Option<CycleSpin>, String> {
    let wrong = || {
        "cycleSpin has to be a whole number from 1 (off) to 8, or [count, from], such as [4, 0.7]"
            .to_owned()
    };
    let Some(value) = options.get("cycleSpin") else { return Ok(None) };
    let numbers = if let Some(count) = value.as_f64() {
        vec![Some(count), Some(f64::from(CycleSpin::FROM))]
    } else {
        let list = value.dyn_into::<Array>().map_err(|_| wrong())?;
        list.iter().map(|number| number.as_f64()).collect()
    };
    match numbers[..] {
        [Some(count), Some(from)] if count.fract() == 0.0 && count >= 0.0 => {
            let spin = CycleSpin { count: count as u32, from: from as f32 };
            spin.check().map(Some).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

/// The experts of `mute`, a list of pairs.
fn muted(options: &Options) -> Result<Muted, String> {
    let wrong = || "mute must be a list of [block, expert], such as [[1, 3], [5, 0]]".to_owned();
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

/// The thresholds of `shifts`, a list of `[block, logOdds]` and `[block, expert, logOdds]`; the settings check ranges.
fn shifts(options: &Options) -> Result<Option<Shifts>, String> {
    let wrong = || {
        "shifts must be a list of [block, logOdds] or [block, expert, logOdds], such as [[3, 1.5], [5, 2, -1]]".to_owned()
    };
    let Some(value) = options.get("shifts") else { return Ok(None) };
    let list = value.dyn_into::<Array>().map_err(|_| wrong())?;
    let whole = |number: f64| {
        let is_whole = number.fract() == 0.0 && (0.0..=65_535.0).contains(&number);
        is_whole.then_some(number as usize).ok_or_else(wrong)
    };
    let mut shifts = Shifts::default();
    for entry in list.iter() {
        let entry = entry.dyn_into::<Array>().map_err(|_| wrong())?;
        match entry.iter().map(|number| number.as_f64()).collect::<Vec<_>>()[..] {
            [Some(block), Some(odds)] => shifts.add(whole(block)?, None, odds as f32),
            [Some(block), Some(expert), Some(odds)] => {
                shifts.add(whole(block)?, Some(whole(expert)?), odds as f32);
            }
            _ => return Err(wrong()),
        }
    }
    Ok(Some(shifts))
}

/// The rows that are given, by table.
fn labels<'a>(options: &Options, config: &'a Config) -> Result<Vec<(&'a str, Vec<Label>)>, String> {
    let names: Vec<_> = config.labels.iter().map(|table| table.name.as_str()).collect();
    let given = options.get("labels").unwrap_or(JsValue::UNDEFINED);
    let given = Options::new(given, &names)?;
    let mut all = Vec::new();
    for table in &config.labels {
        let Some(value) = given.get(&table.name) else { continue };
        let list = if Array::is_array(&value) { Array::from(&value) } else { Array::of1(&value) };
        if value.as_string().as_deref() == Some("varied") {
            all.push((table.name.as_str(), Vec::new()));
            continue;
        }
        let labels = list.iter().map(|value| match value.as_string().as_deref() {
            Some("best") => Ok(Label::Best),
            _ => Ok(Label::Row(row(table, &value)?)),
        });
        let labels = labels.collect::<Result<Vec<_>, String>>()?;
        if labels.is_empty() {
            return Err(format!("the list of labels for {} is empty", table.name));
        }
        all.push((table.name.as_str(), labels));
    }
    Ok(all)
}

/// The rows that are blended in, by table.
fn mix<'a>(options: &Options, config: &'a Config) -> Result<Vec<(&'a str, u32)>, String> {
    let names: Vec<_> = config.labels.iter().map(|table| table.name.as_str()).collect();
    let given = Options::new(options.get("mix").unwrap_or(JsValue::UNDEFINED), &names)?;
    let given = config.labels.iter().filter_map(|table| Some((table, given.get(&table.name)?)));
    given.map(|(table, value)| Ok((table.name.as_str(), row(table, &value)?))).collect()
}

/// A row by its name or its number; `any` is the null row.
fn row(table: &LabelTable, value: &JsValue) -> Result<u32, String> {
    let text = value.as_string().or_else(|| value.as_f64().map(|n| n.to_string()));
    let text =
        text.ok_or_else(|| format!("a label for {} must be a name or a number", table.name))?;
    if text == "any" {
        return Ok(table.null);
    }
    table.find(&text).ok_or_else(|| {
        format!(
            "unknown {} {text:?}: `info.labels` lists them, or use \"any\", \"best\" or \"varied\"",
            table.name
        )
    })
}
