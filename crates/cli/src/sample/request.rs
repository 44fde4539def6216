//! The request to `diffmoe sample`: model, decoder and settings, checked before anything is computed.

use std::collections::BTreeSet;
use std::time::SystemTime;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::model::{Config, LabelTable, Muted, Routing};
use diffmoe::pipeline::{Label, Settings, check_decoder};
use diffmoe::vae::DecoderFile;

use super::super::decoder;
use super::Arguments;

/// What to draw, with what.
pub(super) struct Request {
    pub(super) checkpoint: Checkpoint,
    /// The decoder, if the model generates latents.
    pub(super) vae: Option<DecoderFile>,
    pub(super) settings: Settings,
}

/// Most images in one call: a grid of them is still an image that programs can open.
const MOST_IN_A_GRID: usize = 10_000;
/// Most images in a set.
const MOST_IN_A_SET: usize = 10_000_000;

impl Request {
    /// Reads and checks all that can be checked without a device.
    pub(super) fn read(arguments: &Arguments) -> Result<Self, Box<dyn std::error::Error>> {
        let checkpoint = diffmoe_models::open_any(&arguments.model)?;
        let config = checkpoint.config();
        let vae = vae(arguments, config)?;
        let seed = arguments.seed.unwrap_or_else(new_seed);
        let settings = settings(arguments, config, seed)?;
        note_cut_prompts(config, &settings);
        if !(1..=256).contains(&arguments.batch) {
            return Err(format!("batch must be 1–256, got {}", arguments.batch).into());
        }
        let is_one_grid = arguments.set.is_none();
        if settings.scheduler.is_adaptive() && is_one_grid && settings.pictures() > arguments.batch
        {
            return Err(format!(
                "{} chooses its steps per batch: request at most {} images, or set --batch {}",
                settings.scheduler,
                arguments.batch,
                settings.pictures()
            )
            .into());
        }
        Ok(Self { checkpoint, vae, settings })
    }
}

/// The decoder that turns the model's samples into pixels, where they are none.
fn vae(
    arguments: &Arguments,
    config: &Config,
) -> Result<Option<DecoderFile>, Box<dyn std::error::Error>> {
    let makes_pixels = config.makes_pixels();
    match &arguments.vae {
        None if makes_pixels => Ok(None),
        None => Err(format!(
            "{} generates latents and needs an image decoder: --vae FILE (a safetensors file \
             of diffusers, such as sd-vae-ft-mse)",
            arguments.model
        )
        .into()),
        Some(_) if makes_pixels => {
            Err(format!("{} generates pixels; remove --vae", arguments.model).into())
        }
        Some(path) => {
            let file = decoder::open(path)?;
            check_decoder(&file, config)?;
            Ok(Some(file))
        }
    }
}

fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // Short enough to be read out and typed again.
    u64::from(now.subsec_nanos()) % 1_000_000
}

fn settings(
    arguments: &Arguments,
    config: &Config,
    seed: u64,
) -> Result<Settings, Box<dyn std::error::Error>> {
    let named = |table: &LabelTable| {
        if table.name == "style" { &arguments.style } else { &arguments.class }
    };
    if !arguments.style.is_empty() && config.labels.iter().all(|t| t.name != "style") {
        return Err(format!("{} has no styles; remove --style", config.name).into());
    }
    if !arguments.class.is_empty() && config.labels.iter().all(|t| t.name == "style") {
        return Err(format!("{} has no classes; use --prompt", config.name).into());
    }
    let classes = arguments.class.len().max(arguments.style.len()).max(arguments.prompt.len());
    let count = arguments.count.unwrap_or(if classes == 0 { 16 } else { 4 * classes });
    let most = if arguments.set.is_some() { MOST_IN_A_SET } else { MOST_IN_A_GRID };
    if !(1..=most).contains(&count) {
        return Err(format!("count must be 1–{most}, got {count}").into());
    }
    if count < classes {
        eprintln!(
            "note: --count {count} draws only the first {count} of {classes} classes or prompts"
        );
    }
    let mut settings = Settings::builder(config).images(count).seed(seed);
    for table in &config.labels {
        let rows = named(table).iter().map(|text| Ok(Label::Row(resolve(table, text)?)));
        settings = settings.labels(&table.name, rows.collect::<Result<Vec<_>, String>>()?);
    }
    if let Some(steps) = arguments.steps {
        settings = settings.steps(steps);
    }
    if let Some(guidance) = arguments.guidance {
        settings = settings.guidance(guidance);
    }
    let Arguments { routing: rule, gamma, threshold_shift: shift, .. } = *arguments;
    let settings = settings
        .prompts(prompts(arguments, config))
        .negative(&arguments.negative)
        .scheduler(arguments.scheduler.resolve(config)?)
        .routing(Routing { rule, gamma, shift, ..Routing::default() })
        .muted(arguments.mute.iter().copied().collect::<Muted>())
        .record_scores(arguments.trace_scores);
    Ok(settings.build()?)
}

/// The prompts that were given, or the model's examples, or none.
fn prompts(arguments: &Arguments, config: &Config) -> Vec<String> {
    let examples = config.text.as_ref().map(|text| text.examples.clone());
    if arguments.prompt.is_empty() {
        examples.unwrap_or_default()
    } else {
        arguments.prompt.clone()
    }
}

/// Says which prompts are longer than the model reads.
fn note_cut_prompts(config: &Config, settings: &Settings) {
    let Some(text) = &config.text else { return };
    let tokenizer = text.tokenizer();
    let asked: BTreeSet<_> = settings.prompts.iter().chain([&settings.negative]).collect();
    for prompt in asked.into_iter().filter(|p| tokenizer.encode(p, text.max_length).is_cut) {
        eprintln!("note: the prompt is too long and was truncated: {}", beginning(prompt));
    }
}

/// The beginning of a prompt, in quotation marks.
fn beginning(prompt: &str) -> String {
    const SHOWN: usize = 60;
    match prompt.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("\"{}…\"", &prompt[..end]),
        None => format!("\"{prompt}\""),
    }
}

/// A row of a label table by name or number, or an error that shows what there is.
fn resolve(table: &LabelTable, text: &str) -> Result<u32, String> {
    if text.eq_ignore_ascii_case("any") {
        return Ok(table.null);
    }
    table.find(text).ok_or_else(|| {
        const SHOWN: usize = 12;
        let wanted = text.to_lowercase();
        let near = |v: &&String| {
            let v = v.to_lowercase();
            v.contains(&wanted) || wanted.contains(&v)
        };
        let mut shown: Vec<_> = table.values.iter().filter(near).take(SHOWN).cloned().collect();
        if shown.is_empty() {
            shown = table.values.iter().take(SHOWN).cloned().collect();
        }
        let more = if shown.len() < table.values.len() { ", …" } else { "" };
        let numbers = table.null.saturating_sub(1);
        if shown.is_empty() {
            format!("unknown {} {text:?}: expected a number from 0 to {numbers}", table.name)
        } else {
            format!(
                "unknown {} {text:?}: expected a number from 0 to {numbers} or a name: {}{more}",
                table.name,
                shown.join(", ")
            )
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]
mod tests {
    use clap::Parser;
    use diffmoe::model::RoutingRule;
    use diffmoe_viewer::session::{Choice, Controls};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// The settings of a command line, with the model's configuration.
    fn line(text: &str) -> (Config, Settings) {
        let line = Line::try_parse_from(["sample"].into_iter().chain(text.split_whitespace()));
        let arguments = line.map_err(|error| error.to_string()).unwrap().arguments;
        let checkpoint = diffmoe_models::open_any(&arguments.model).unwrap();
        let config = checkpoint.config().clone();
        let settings = settings(&arguments, &config, arguments.seed.unwrap()).unwrap();
        (config, settings)
    }

    #[test]
    fn long_prompts_are_shown_by_their_beginning() {
        assert_eq!(beginning("a fox"), "\"a fox\"");
        assert_eq!(beginning(&"ü".repeat(10_000)), format!("\"{}…\"", "ü".repeat(60)));
    }

    #[test]
    fn the_app_means_the_same_by_the_same_settings() {
        let (config, expected) = line("--seed 7 --count 4");
        let defaults = Controls { seed: 7, ..Controls::for_model(&config) };
        assert_eq!(defaults.settings(&config), expected, "nothing chosen: random rows");

        let (config, expected) = line(
            "--class 3 --style any --seed 9 --count 5 --steps 11 --cfg 1.75 --solver heun \
             --routing pool --gamma 0.3",
        );
        let choices = config.labels.iter().map(|table| match table.name.as_str() {
            "style" => Choice::Any,
            _ => Choice::Row(3),
        });
        let controls = Controls {
            choices: choices.collect(),
            prompt: String::new(),
            negative: String::new(),
            seed: 9,
            steps: 11,
            guidance: 1.75,
            scheduler: "heun".parse().unwrap(),
            count: 5,
            routing: Routing { rule: RoutingRule::Pool, gamma: Some(0.3), ..Routing::default() },
            muted: Muted::default(),
        };
        assert_eq!(controls.settings(&config), expected);
    }
}
