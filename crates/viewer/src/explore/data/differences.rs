//! What two runs differ in, and runs that differ from one in a single setting.

use diffmoe::model::{Config, RoutingRule};
use diffmoe::scheduler::SchedulerKind;

use crate::session::{Choice, Controls, MAX_COUNT, Record};

/// A setting that two runs differ in, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The setting.
    pub(crate) name: String,
    /// What it is in run A.
    pub(crate) a: String,
    /// What it is in run B.
    pub(crate) b: String,
}

/// Settings that can be changed for run B.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Setting {
    /// All thresholds, in log-odds.
    #[default]
    Odds,
    /// The routing rule.
    Rule,
    /// The guidance scale.
    Guidance,
    /// The scheduler.
    Scheduler,
    /// The seed.
    Seed,
    /// The rows of a label table.
    Label(usize),
    /// Images of the run.
    Images,
}

/// A change that is being put together: the setting, and the place of its value among [`Setting::values`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The setting.
    pub(crate) setting: Setting,
    /// The place of its value.
    pub(crate) value: usize,
}

/// Moves of all thresholds that are offered, in log-odds.
const ODDS: [f32; 6] = [-4.0, -2.0, -1.0, 1.0, 2.0, 4.0];
/// Guidance scales that are offered beside the doubled one.
const GUIDANCE: [f32; 5] = [1.0, 1.5, 2.0, 3.0, 5.0];
/// Numbers of images that are offered.
const IMAGES: [usize; 5] = [1, 2, 4, 8, MAX_COUNT];
/// Seeds that are offered.
const SEEDS: u64 = 4;

impl Setting {
    /// The settings that a model has.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let mut all = vec![Self::Guidance, Self::Scheduler, Self::Seed];
        if diffmoe::pipeline::Settings::routing_applies(config) {
            all.splice(0..0, [Self::Odds, Self::Rule]);
        }
        all.extend((0..config.labels.len()).map(Self::Label));
        all.push(Self::Images);
        all
    }

    /// Its name, for people.
    pub(crate) fn name(self, config: &Config) -> String {
        match self {
            Self::Odds => "γ shift".to_owned(),
            Self::Rule => "rule".to_owned(),
            Self::Guidance => "guidance".to_owned(),
            Self::Scheduler => "scheduler".to_owned(),
            Self::Seed => "seed".to_owned(),
            Self::Label(table) => {
                config.labels.get(table).map_or_else(String::new, |table| table.name.clone())
            }
            Self::Images => "images".to_owned(),
        }
    }

    /// Other values than that of a run, each with its name and all settings of the run that has it.
    pub(crate) fn values(self, record: &Record) -> Vec<(String, Controls)> {
        let of = &record.controls;
        let with = |name: String, change: &dyn Fn(&mut Controls)| {
            let mut controls = of.clone();
            change(&mut controls);
            (controls != *of).then_some((name, controls))
        };
        let all: Vec<Option<(String, Controls)>> = match self {
            Self::Odds => ODDS
                .iter()
                .map(|&odds| {
                    with(format!("{odds:+}").replace('-', "−"), &|c| {
                        c.sampling.routing.log_odds += odds;
                    })
                })
                .collect(),
            Self::Rule => RoutingRule::ALL
                .iter()
                .map(|&rule| with(rule.name().to_owned(), &|c| c.sampling.routing.rule = rule))
                .collect(),
            Self::Guidance => GUIDANCE
                .into_iter()
                .chain(
                    (!GUIDANCE.contains(&(2.0 * of.sampling.guidance)))
                        .then_some(2.0 * of.sampling.guidance),
                )
                .map(|scale| with(scale.to_string(), &|c| c.sampling.guidance = scale))
                .collect(),
            Self::Scheduler => SchedulerKind::for_objective(record.config.objective)
                .into_iter()
                .map(|kind| with(kind.name().to_owned(), &|c| c.sampling.scheduler = kind))
                .collect(),
            Self::Seed => (1..=SEEDS)
                .map(|i| of.sampling.seed.wrapping_add(i))
                .map(|seed| with(seed.to_string(), &|c| c.sampling.seed = seed))
                .collect(),
            Self::Label(place) => {
                let Some(table) = record.config.labels.get(place) else { return Vec::new() };
                let set = |choice| {
                    move |c: &mut Controls| {
                        if let Some(place) = c.choices.get_mut(place) {
                            *place = choice;
                        }
                    }
                };
                let any = with("any".to_owned(), &set(Choice::Any));
                let rows =
                    (0..table.null).map(|row| with(table.label(row), &set(Choice::Row(row))));
                std::iter::once(any).chain(rows).collect()
            }
            Self::Images => IMAGES
                .into_iter()
                .map(|count| with(count.to_string(), &|c| c.count = count))
                .collect(),
        };
        all.into_iter().flatten().collect()
    }
}

impl Change {
    /// The settings of run B.
    pub(crate) fn controls(self, record: &Record) -> Option<Controls> {
        self.setting.values(record).into_iter().nth(self.value).map(|(_, controls)| controls)
    }
}

/// What the labels of a run were chosen to be.
fn choice(record: &Record, table: usize) -> String {
    match record.controls.choices.get(table) {
        None => String::new(),
        Some(Choice::Row(row)) => {
            record.config.labels.get(table).map_or_else(String::new, |table| table.label(*row))
        }
        Some(other) => other.word().unwrap_or_default().to_owned(),
    }
}

/// The settings that two runs differ in, the model first.
pub(crate) fn differences(a: &Record, b: &Record) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut put = |name: &str, of: &dyn Fn(&Record) -> String| {
        let (a, b) = (of(a), of(b));
        if a != b {
            found.push(Difference { name: name.to_owned(), a, b });
        }
    };
    let or_usual = |text: String| if text.is_empty() { "the usual".to_owned() } else { text };
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    put("model", &|r| r.trace.model().to_owned());
    if a.is_traced() || b.is_traced() {
        return found;
    }
    if a.trace.model() == b.trace.model() {
        put("model file", &|r| r.share.hash.clone().unwrap_or_default());
    }
    put("γ shift", &|r| format!("{:+}", r.controls.sampling.routing.log_odds).replace('-', "−"));
    put("γ", &|r| {
        r.controls.sampling.routing.gamma.map_or("trained".to_owned(), |g| g.to_string())
    });
    put("threshold shift", &|r| format!("{:+}", r.controls.sampling.routing.shift));
    put("single thresholds", &|r| or_none(r.controls.sampling.shifts.to_string()));
    put("rule", &|r| r.controls.sampling.routing.rule.name().to_owned());
    put("muted", &|r| or_none(r.controls.sampling.muted.to_string()));
    put("guidance", &|r| r.controls.sampling.guidance.to_string());
    put("guidance interval", &|r| {
        let interval = r.controls.sampling.guidance_interval;
        format!("{} to {}", interval.low, interval.high)
    });
    put("cycle spinning", &|r| match r.controls.sampling.cycle_spin {
        spin if spin.is_off() => "off".to_owned(),
        spin => spin.to_string(),
    });
    put("scheduler", &|r| r.controls.sampling.scheduler.to_string());
    put("scheduler options", &|r| {
        let options = r.controls.sampling.scheduler.changed_options();
        let options =
            options.map(|(option, value)| format!("{} {}", option.name, option.format(value)));
        or_usual(options.collect::<Vec<_>>().join(", "))
    });
    put("steps", &|r| r.controls.sampling.steps.to_string());
    put("seed", &|r| r.controls.sampling.seed.to_string());
    put("variation", &|r| {
        let sampling = &r.controls.sampling;
        match sampling.variation_strength {
            0.0 => "none".to_owned(),
            share => format!("{share} of seed {}", sampling.variation_seed),
        }
    });
    put("start image", &|r| match &r.controls.init {
        Some(init) => format!("{} at strength {}", init.name, r.controls.sampling.strength),
        None => "noise".to_owned(),
    });
    for table in 0..a.config.labels.len().max(b.config.labels.len()) {
        let of = |r: &Record| r.config.labels.get(table).map(|table| table.name.clone());
        let name = of(a).or_else(|| of(b)).unwrap_or_default();
        put(&name, &|r| choice(r, table));
    }
    put("label blend", &|r| {
        let others = r.controls.mix.iter().zip(&r.config.labels);
        let others: Vec<_> = others.filter_map(|(row, table)| Some(table.label((*row)?))).collect();
        match &others[..] {
            [] => "none".to_owned(),
            others => format!("{} of {}", r.controls.sampling.mix_strength, others.join(", ")),
        }
    });
    put("prompt", &|r| or_none(r.controls.prompt.clone()));
    put("negative prompt", &|r| or_none(r.controls.sampling.negative.clone()));
    put("images", &|r| r.labels.len().to_string());
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::finished_record;

    #[test]
    fn settings_that_are_not_offered_are_named_too() {
        let a = finished_record();
        let named = |change: &dyn Fn(&mut Record)| {
            let mut b = a.clone();
            change(&mut b);
            let found = differences(&a, &b).into_iter();
            found.map(|d| format!("{}: {}, {}", d.name, d.a, d.b)).collect::<Vec<_>>()
        };
        let sampling = |change: fn(&mut diffmoe::pipeline::Sampling)| {
            named(&|b: &mut Record| change(&mut b.controls.sampling))
        };
        assert_eq!(sampling(|s| s.negative = "blob".into()), ["negative prompt: none, blob"]);
        let muted = sampling(|s| s.muted = [(3, 1)].into_iter().collect());
        assert_eq!(muted, ["muted: none, 3:1"]);
        let blend = named(&|b: &mut Record| {
            b.controls.mix = vec![Some(1)];
            b.controls.sampling.mix_strength = 0.25;
        });
        assert!(blend[0].starts_with("label blend: none, 0.25 of "), "{blend:?}");
        let shifts = sampling(|s| s.shifts = "3=1.5".parse().unwrap());
        assert_eq!(shifts, ["single thresholds: none, 3=1.5"]);
        assert_eq!(named(&|b| b.controls.prompt = "a fox".into()), ["prompt: none, a fox"]);
        let file = named(&|b| b.share.hash = Some("01234567".into()));
        assert!(matches!(&file[..], [one] if one.starts_with("model file: ")), "{file:?}");
    }

    #[test]
    fn every_offered_value_differs_in_its_setting_alone() {
        let record = finished_record();
        for setting in Setting::all(&record.config) {
            let values = setting.values(&record);
            assert!(!values.is_empty(), "{setting:?}");
            for (i, (name, controls)) in values.into_iter().enumerate() {
                let change = Change { setting, value: i };
                assert_eq!(change.controls(&record).as_ref(), Some(&controls));
                let labels = match setting {
                    Setting::Images => vec![String::new(); controls.count],
                    _ => record.labels.clone(),
                };
                let b = Record { controls, labels, ..record.clone() };
                let differences = differences(&record, &b);
                let names: Vec<&str> = differences.iter().map(|d| d.name.as_str()).collect();
                assert_eq!(names, [setting.name(&record.config)], "{name}");
                assert_ne!(differences[0].a, differences[0].b);
            }
        }
        assert_eq!(differences(&record, &record), []);
        let beyond = Change { setting: Setting::Seed, value: 99 };
        assert_eq!(beyond.controls(&record), None);
    }
}
