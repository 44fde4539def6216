//! The request to `diffmoe sample`: model, decoder and settings, checked before anything is computed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::WeightChoice;
use diffmoe::model::{Config, LabelTable, Muted, MutedError, Routing, Shifts};
use diffmoe::pipeline::{Label, Recipe, Settings, SettingsBuilder, check_decoder};
use diffmoe::scheduler::SchedulerKind;
use diffmoe::vae::DecoderFile;

use super::super::checksum::short_hash;
use super::super::decoder;
use super::super::labels::resolve;
use super::like::Like;
use super::{Arguments, init};

/// What to draw, with what.
pub(crate) struct Request {
    pub(crate) checkpoint: Checkpoint,
    /// Name of the model in files.
    pub(crate) model: String,
    /// The decoder, if the model generates latents.
    pub(crate) vae: Option<DecoderFile>,
    pub(crate) settings: Settings,
    /// Images that share a pass.
    pub(crate) batch: usize,
    pub(crate) weights: WeightChoice,
    /// The one image of the run to write, unless it is all of them.
    pub(crate) image: Option<usize>,
    pub(crate) scale: Option<u32>,
    /// Whether images are enlarged smoothly.
    pub(crate) smooth: bool,
}

/// Default batch size.
const BATCH: usize = 16;
/// Most images in one call: a grid of them is still an image that programs can open.
const MOST_IN_A_GRID: usize = 10_000;
/// Most images in a set.
const MOST_IN_A_SET: usize = 1_000_000;

impl Request {
    /// Reads and checks all that can be checked without a device.
    pub(crate) fn read(arguments: &Arguments) -> Result<Self, Box<dyn std::error::Error>> {
        let like = arguments.like.as_deref().map(Like::read).transpose()?;
        let name = match (&arguments.model, &like) {
            (Some(name), _) => name.clone(),
            (None, Some(like)) => like.model()?.into(),
            (None, None) => PathBuf::from(diffmoe_models::DEFAULT),
        };
        let checkpoint = diffmoe_models::open_any(&name)?;
        // Files of ours name models in UTF-8, and by their checksum.
        let name = name.to_string_lossy();
        let config = checkpoint.config();
        let vae = vae(arguments, &name, config)?;
        let recipe = like.map(|like| like.recipe(&checkpoint)).transpose()?;
        if recipe.as_ref().is_some_and(|r| r.from_image) && arguments.init_image.is_none() {
            eprintln!(
                "note: the file was drawn from an image, which it does not contain; without \
                 --init-image FILE the images start from noise"
            );
        }
        let settings = settings(arguments, recipe.as_ref(), config)?;
        note_cut_prompts(config, &settings);
        let batch = batch(arguments, recipe.as_ref(), &settings)?;
        let of_recipe = |recipe: &Recipe| recipe.weights.map(WeightChoice::from);
        let weights = arguments.weights.map(WeightChoice::from);
        let weights = weights.or_else(|| recipe.as_ref().and_then(of_recipe)).unwrap_or_default();
        // A file with one image of several reproduces that one, unless other images are requested.
        let all = arguments.count.is_some() || !arguments.class.is_empty();
        let recipe = recipe.as_ref();
        let image = recipe.and_then(|recipe| recipe.image).filter(|_| !all);
        let smooth = arguments.smooth || recipe.is_some_and(|recipe| recipe.smooth);
        let scale = arguments.scale.or_else(|| recipe.and_then(|recipe| recipe.scale));
        Ok(Self {
            model: file_name(&name),
            checkpoint,
            vae,
            settings,
            batch,
            weights,
            image,
            scale,
            smooth,
        })
    }

    /// The images that the file shows.
    pub(super) fn shown(&self) -> Range<usize> {
        let all = self.settings.images();
        self.image.filter(|&image| image < all).map_or(0..all, |image| image..image + 1)
    }

    /// The images that have to be sampled for that: all of them if they depend on each other.
    pub(super) fn drawn(&self) -> Range<usize> {
        if self.settings.sampling.couples_images() {
            0..self.settings.images()
        } else {
            self.shown()
        }
    }

    /// The recipe that reproduces the file.
    pub(crate) fn recipe(&self, arguments: &Arguments) -> Recipe {
        let weights = match self.weights {
            WeightChoice::Auto => None,
            WeightChoice::Exactly(precision) => Some(precision),
        };
        let recipe = Recipe::of(&self.settings, self.checkpoint.config());
        Recipe {
            model: Some(self.model.clone()),
            hash: Some(short_hash(&self.checkpoint)),
            decoder: arguments.vae.as_deref().map(|path| file_name(&path.to_string_lossy())),
            batch: recipe.batch.map(|_| self.batch.min(self.settings.images())),
            weights,
            image: self.image,
            scale: self.scale,
            smooth: self.smooth,
            ..recipe
        }
    }
}

/// A path without its folders.
fn file_name(path: &str) -> String {
    let name = Path::new(path).file_name();
    name.map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The batch size: as requested, as in the file, or the default.
fn batch(
    arguments: &Arguments,
    recipe: Option<&Recipe>,
    settings: &Settings,
) -> Result<usize, String> {
    let together = |recipe: &Recipe| recipe.batch.filter(|_| settings.sampling.couples_images());
    let batch = arguments.batch.or_else(|| recipe.and_then(together)).unwrap_or(BATCH);
    if !(1..=256).contains(&batch) {
        return Err(format!("batch must be 1–256, got {batch}"));
    }
    let is_one_grid = arguments.set.is_none();
    if settings.sampling.scheduler.is_adaptive() && is_one_grid && settings.images() > batch {
        return Err(format!(
            "{} chooses its steps per batch: request at most {batch} images, or set --batch {}",
            settings.sampling.scheduler,
            settings.images()
        ));
    }
    Ok(batch)
}

/// The decoder that turns the model's samples into pixels, where they are none.
fn vae(
    arguments: &Arguments,
    model: &str,
    config: &Config,
) -> Result<Option<DecoderFile>, Box<dyn std::error::Error>> {
    let makes_pixels = config.makes_pixels();
    match &arguments.vae {
        None if makes_pixels => Ok(None),
        None => Err(format!(
            "{model} generates latents and needs an image decoder: --vae FILE (a safetensors file \
             of diffusers, such as sd-vae-ft-mse)"
        )
        .into()),
        Some(_) if makes_pixels => Err(format!("{model} generates pixels; remove --vae").into()),
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

/// The settings of the file that is drawn again, or the model's; and what the command line says.
fn settings(
    arguments: &Arguments,
    recipe: Option<&Recipe>,
    config: &Config,
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
    let usual = if classes == 0 { BATCH } else { 4 * classes };
    let count = arguments.count.unwrap_or_else(|| recipe.map_or(usual, |recipe| recipe.count));
    let most = if arguments.set.is_some() { MOST_IN_A_SET } else { MOST_IN_A_GRID };
    if !(1..=most).contains(&count) {
        return Err(format!("count must be 1–{most}, got {count}").into());
    }
    if count < classes {
        eprintln!(
            "note: --count {count} draws only the first {count} of {classes} classes or prompts"
        );
    }
    let mut settings = match recipe {
        Some(recipe) => recipe.builder(config)?,
        None => Settings::builder(config)
            .seed(new_seed())
            .scheduler(arguments.scheduler.resolve(SchedulerKind::default_of(config))?),
    };
    settings = settings.images(count);
    if let Some(recipe) = recipe {
        settings =
            settings.scheduler(arguments.scheduler.resolve(recipe.sampling_for(config).scheduler)?);
    }
    for table in &config.labels {
        let texts = named(table);
        if texts.is_empty() {
            continue;
        }
        let label = |text: &String| match text.as_str() {
            "best" => Ok(Label::Best),
            "varied" => Err(format!("\"varied\" must be the only {}", table.name)),
            text => Ok(Label::Row(resolve(table, text)?)),
        };
        let rows = if texts.iter().all(|text| text == "varied") {
            Vec::new()
        } else {
            texts.iter().map(label).collect::<Result<Vec<_>, String>>()?
        };
        settings = settings.labels(&table.name, rows);
    }
    if let Some(seed) = arguments.seed {
        settings = settings.seed(seed);
    }
    if let Some((seed, share)) = arguments.variation_seed.zip(arguments.variation_strength) {
        settings = settings.variation(seed, share);
    }
    settings = mixed(settings, arguments, config)?;
    if let Some(steps) = arguments.steps {
        settings = settings.steps(steps);
    }
    if let Some(guidance) = arguments.guidance {
        settings = settings.guidance(guidance);
    }
    if let Some(interval) = arguments.guidance_interval {
        settings = settings.guidance_interval(interval);
    }
    if let Some(spin) = arguments.cycle_spin {
        settings = settings.cycle_spin(spin);
    }
    if let Some(init) = init::read(arguments, config)? {
        // A file says how strong it was, but not what it started from.
        let before = recipe.filter(|recipe| recipe.from_image).map(|like| like.sampling.strength);
        let strength = arguments.strength.or(before).unwrap_or_else(|| init.usual_strength());
        settings = settings.init(init).strength(strength);
    }
    if !arguments.prompt.is_empty() {
        settings = settings.prompts(arguments.prompt.clone());
    }
    if let Some(negative) = &arguments.negative {
        settings = settings.negative(negative);
    }
    if !(arguments.mute.is_empty() && arguments.solo.is_empty()) {
        settings = settings.muted(muted(arguments, config)?);
    }
    if !arguments.shift.is_empty() {
        settings = settings.shifts(shifts(&arguments.shift));
    }
    let routing =
        routing(arguments, recipe.map(|recipe| recipe.sampling.routing).unwrap_or_default());
    let settings = settings.routing(routing).record_scores(arguments.trace_scores).build()?;
    if arguments.cycle_spin.is_some() {
        settings.sampling.check_spins(config)?;
    }
    Ok(settings)
}

/// With the labels that are blended into those of the images. Settings without any refuse a strength.
fn mixed<'a>(
    mut settings: SettingsBuilder<'a>,
    arguments: &Arguments,
    config: &Config,
) -> Result<SettingsBuilder<'a>, String> {
    for (other, is_style) in [(&arguments.mix_class, false), (&arguments.mix_style, true)] {
        let Some(other) = other else { continue };
        let mut tables = config.labels.iter().filter(|table| (table.name == "style") == is_style);
        let Some(table) = tables.next() else {
            let (option, labels) =
                if is_style { ("--mix-style", "styles") } else { ("--mix-class", "classes") };
            return Err(format!("{} has no {labels}; remove {option}", config.name));
        };
        settings = settings.mix(&table.name, resolve(table, other)?);
    }
    Ok(match arguments.mix_strength {
        Some(strength) => settings.mix_strength(strength),
        None => settings,
    })
}

/// The experts that are muted, and those beside an expert that works alone.
fn muted(arguments: &Arguments, config: &Config) -> Result<Muted, MutedError> {
    let mut muted: Muted = arguments.mute.iter().copied().collect();
    for &(block, expert) in &arguments.solo {
        Muted::from_iter([(block, expert)]).check(config)?;
        muted.solo(block, expert, config.num_experts);
    }
    Ok(muted)
}

/// All given shifts together.
fn shifts(given: &[Shifts]) -> Shifts {
    let mut all = Shifts::default();
    for shift in given.iter().flat_map(Shifts::list) {
        all.add(shift.block, shift.expert, shift.log_odds);
    }
    all
}

/// Rule and thresholds; thresholds that are given replace all that is said about them elsewhere.
fn routing(arguments: &Arguments, before: Routing) -> Routing {
    let rule = arguments.routing.unwrap_or(before.rule);
    let routing = match (arguments.gamma, arguments.threshold_shift) {
        (None, None) => Routing { rule, ..before },
        (gamma, shift) => {
            Routing { rule, gamma, shift: shift.unwrap_or_default(), ..Routing::default() }
        }
    };
    Routing { log_odds: arguments.log_odds.unwrap_or(routing.log_odds), ..routing }
}

/// Says which prompts are longer than the model reads.
fn note_cut_prompts(config: &Config, settings: &Settings) {
    let Some(text) = &config.text else { return };
    let tokenizer = text.tokenizer();
    let asked: BTreeSet<_> = settings.prompts.iter().chain([&settings.sampling.negative]).collect();
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]
mod tests {
    use clap::Parser;
    use diffmoe::model::RoutingRule;
    use diffmoe::pipeline::Sampling;
    use diffmoe::scheduler::{CycleSpin, GuidanceInterval};
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
        let checkpoint = diffmoe_models::open("emoji").unwrap().unwrap();
        let config = checkpoint.config().clone();
        let settings = settings(&arguments, None, &config).unwrap();
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
        let mut defaults = Controls::for_model(&config);
        defaults.sampling.seed = 7;
        assert_eq!(defaults.settings(&config), expected, "nothing chosen: random rows");

        let (config, expected) = line(
            "--class 3 --style any --mix-class 5 --mix-strength 0.3 --seed 9 --count 5 --steps 11 --cfg 1.75 \
             --guidance-interval 0.1,0.7 --cycle-spin 2,0.7 --solver heun \
             --routing pool --gamma 0.3 --log-odds -0.5 --shift 1=1.5,3:2=-1 --shift 3:2=0.5 --mute 5:1",
        );
        let choices = config.labels.iter().map(|table| match table.name.as_str() {
            "style" => Choice::Any,
            _ => Choice::Row(3),
        });
        let controls = Controls {
            choices: choices.collect(),
            mix: vec![Some(5)],
            prompt: String::new(),
            sampling: Sampling {
                seed: 9,
                mix_strength: 0.3,
                steps: 11,
                guidance: 1.75,
                guidance_interval: GuidanceInterval { low: 0.1, high: 0.7 },
                cycle_spin: CycleSpin { count: 2, from: 0.7 },
                scheduler: "heun".parse().unwrap(),
                routing: Routing {
                    rule: RoutingRule::Pool,
                    gamma: Some(0.3),
                    log_odds: -0.5,
                    ..Routing::default()
                },
                muted: Muted::from_iter([(5, 1)]),
                shifts: "1=1.5,3:2=-0.5".parse().unwrap(),
                ..Sampling::default()
            },
            init: None,
            count: 5,
        };
        assert_eq!(controls.settings(&config), expected);
    }
}
