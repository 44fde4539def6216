//! `--scheduler` and the options of schedulers, made from the library's table.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command};
use diffmoe::model::UnknownName;
use diffmoe::scheduler::{ALL, OptionError, OptionInfo, OptionValues, SchedulerKind};

/// Scheduler and its options; those of other schedulers are refused.
#[derive(Clone)]
pub(super) struct SchedulerOptions {
    scheduler: Option<SchedulerKind>,
    /// Names and values that were given.
    options: Vec<(&'static str, String)>,
}

impl SchedulerOptions {
    /// The requested scheduler, or `otherwise`, with the given options.
    pub(super) fn resolve(&self, otherwise: SchedulerKind) -> Result<SchedulerKind, OptionError> {
        let kind = self.scheduler.unwrap_or(otherwise);
        self.options.iter().try_fold(kind, |kind, (name, value)| kind.with_text(name, value))
    }
}

/// The options of all schedulers, each once, with the schedulers that have it.
fn options() -> Vec<(&'static OptionInfo, String)> {
    let mut all: Vec<(&OptionInfo, String)> = Vec::new();
    for info in ALL {
        for option in info.options {
            match all.iter_mut().find(|(known, _)| known.name == option.name) {
                Some((_, of)) => *of = format!("{of}, {}", info.name),
                None => all.push((option, info.name.to_owned())),
            }
        }
    }
    all
}

/// A choice by name, with the hints of a table in the help.
pub(super) fn by_name<T>(
    rows: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr<Err = UnknownName> + Clone + Send + Sync + 'static,
{
    let rows = rows.into_iter().map(|(name, hint)| PossibleValue::new(name).help(hint));
    PossibleValuesParser::new(rows).try_map(|name| name.parse::<T>())
}

impl clap::Args for SchedulerOptions {
    fn augment_args(command: Command) -> Command {
        let rows = ALL.iter().map(|info| (info.name, info.hint));
        let scheduler = Arg::new("scheduler")
            .long("scheduler")
            .visible_alias("solver")
            .value_name("NAME")
            .value_parser(by_name::<SchedulerKind>(rows))
            .help("Scheduler. Default: the model's");
        options().into_iter().fold(command.arg(scheduler), |command, (option, of)| {
            let arg = Arg::new(option.name).long(option.name);
            let help = format!("{of}: {}", option.hint.trim_end_matches('.'));
            let arg = match option.values {
                OptionValues::Flag => arg.action(ArgAction::SetTrue).help(help),
                OptionValues::Number { .. } | OptionValues::Names(_) => {
                    let default = option.format(option.default_value());
                    let expected = option.expected();
                    arg.value_name("VALUE")
                        .allow_negative_numbers(true)
                        .help(format!("{help}: {expected}. Default: {default}"))
                }
            };
            // The name of the official code.
            let is_guided = option.name == "guided-channels";
            command.arg(if is_guided { arg.visible_alias("cfg-channels") } else { arg })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SchedulerOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |option: &'static OptionInfo| {
            let value = match option.values {
                OptionValues::Flag => matches.get_flag(option.name).then(|| "true".to_owned()),
                OptionValues::Number { .. } | OptionValues::Names(_) => {
                    matches.get_one::<String>(option.name).cloned()
                }
            };
            value.map(|value| (option.name, value))
        };
        let options = options().into_iter().filter_map(|(option, _)| given(option)).collect();
        Ok(Self { scheduler: matches.get_one("scheduler").copied(), options })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        scheduler: SchedulerOptions,
    }

    #[test]
    fn help_names_every_scheduler_and_option() {
        let help = <Line as clap::CommandFactory>::command().render_long_help().to_string();
        // Long lines are wrapped.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for info in ALL {
            assert!(help.contains(info.name) && help.contains(info.hint), "{}: {help}", info.name);
            for option in info.options {
                assert!(help.contains(&format!("--{}", option.name)), "{}: {help}", option.name);
            }
        }
    }

    #[test]
    fn old_flags_are_read() {
        let read = |line: &[&str]| {
            let line = Line::try_parse_from([&["sample"], line].concat()).unwrap();
            line.scheduler.scheduler.unwrap().with_text("eta", "0").map(|_| line.scheduler.options)
        };
        let options = read(&["--solver", "ddim", "--cfg-channels", "all", "--clip"]).unwrap();
        assert_eq!(options, [("guided-channels", "all".into()), ("clip", "true".into())]);
    }
}
