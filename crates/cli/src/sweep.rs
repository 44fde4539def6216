//! `diffmoe sweep`: one image for each value of one setting, or for each pair of values of two, in a table.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use diffmoe::engine::Engine;
use diffmoe::model::Config;
use diffmoe::pipeline::{Axis, Pipeline, Recipe, Run, Settings, Sweep, png_texts};
use diffmoe::pixels::{self, RgbImage};
use diffmoe::vae::DecoderFile;
use indicatif::ProgressBar;

use super::output::{self, Output};
use super::sample::{self, Request};
use super::{Outcome, decoder};

/// Vary one setting or two, and write the images as one table with captions, and C of each cell.
///
/// All options of `sample` apply to every cell; only what is varied differs, the seed too is the same.
#[derive(clap::Args)]
#[group(skip)]
#[command(
    after_help = "Settings are named as in links: seed, steps, guidance, interval, spin, scheduler and its options, rule, gamma, shift,
odds, mute, shifts, strength, variation-seed, variation-strength, mix, mix-strength, prompt, negative, and each label table of
the model (subject, style, class). Values are separated by commas, or by semicolons where they have commas themselves.

Examples:
  diffmoe sweep --class fox --x guidance=1,2,3 --y steps=5,10,20
  diffmoe sweep --class fox --seed 1 --variation-seed 2 --variation-strength 1 --x variation-strength=0,0.25,0.5,0.75,1
  diffmoe sweep --class fox --mix-class cat --seed 1 --x mix-strength=0,0.25,0.5,0.75,1
  diffmoe sweep --x subject=fox,cat,dog --y style=noto,blob,fluent3d --csv capacity.csv
  diffmoe sweep --init-image photo.png --class fox --x strength=0.2,0.4,0.6,0.8"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) sample: sample::Arguments,
    /// What changes from column to column.
    #[arg(long, value_name = "SETTING=VALUES")]
    x: Axis,
    /// What changes from row to row.
    #[arg(long, value_name = "SETTING=VALUES")]
    y: Option<Axis>,
    /// Also write C, the mean number of experts per token, of each cell.
    #[arg(long, value_name = "FILE.csv")]
    csv: Option<PathBuf>,
}

pub(super) fn run(mut arguments: Arguments) -> Outcome {
    arguments.sample.for_sweep()?;
    let request = Request::read(&arguments.sample)?;
    let config = request.checkpoint.config();
    let base = Recipe::of(&request.settings, config);
    let sweep = Sweep { x: arguments.x.clone(), y: arguments.y.clone() };
    if sweep.varies("strength") && request.settings.init.is_none() {
        return Err("strength is that of --init-image, which is missing".into());
    }
    // Everything is checked before the first image is drawn.
    let mut cells = Vec::new();
    for recipe in sweep.cells(&base, config)? {
        let mut settings = recipe.builder(config)?;
        if let Some(init) = &request.settings.init {
            settings = settings.init(init.clone()).strength(recipe.sampling.strength);
        }
        cells.push(settings.build()?);
    }
    let path = arguments.sample.out.clone();
    let path = path.unwrap_or_else(|| PathBuf::from(format!("diffmoe-{}-sweep.png", config.name)));
    sample::check_png(&path)?;
    if let Some(csv) = &arguments.csv {
        output::distinct(&[("--out", path.as_path()), ("--csv", csv.as_path())], 2)?;
    }
    let out = Output::reserve(&path)?;
    let csv = arguments.csv.as_deref().map(Output::reserve).transpose()?;

    let started = Instant::now();
    let drawn = draw(&request, &cells, &arguments)?;
    let table = sweep.table(&drawn.images)?;
    let mut recipe = request.recipe(&arguments.sample);
    let axes = [("x", Some(&sweep.x)), ("y", sweep.y.as_ref())];
    let axes =
        axes.into_iter().filter_map(|(name, axis)| Some((name.to_owned(), axis?.to_string())));
    recipe.others.extend(axes);
    let size = [drawn.images[0].height() as usize, drawn.images[0].width() as usize];
    let png = table.to_png(&png_texts(&recipe, &request.settings.names(config), size))?;
    out.write(|part| std::fs::write(part, &png))?;
    println!("wrote {} in {:.1} s", path.display(), started.elapsed().as_secs_f32());
    if let (Some(out), Some(path)) = (csv, &arguments.csv) {
        let text = sweep.csv(&drawn.capacities);
        out.write(|part| std::fs::write(part, &text))?;
        println!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What was drawn, cell by cell.
struct Drawn {
    images: Vec<RgbImage>,
    capacities: Vec<Option<f32>>,
}

fn draw(
    request: &Request,
    cells: &[Settings],
    arguments: &Arguments,
) -> Result<Drawn, Box<dyn std::error::Error>> {
    let backend = arguments.sample.backend;
    let config = request.checkpoint.config();
    let model = Pipeline::open(&request.checkpoint, backend, request.weights)?;
    if let Some(note) = model.note() {
        eprintln!("note: {note}");
    }
    eprintln!("{} · {} · {} cells", config.name, model.device(), cells.len());
    let bar = ProgressBar::new(cells.len() as u64);
    let (mut engine, mut samples, mut capacities) = (None, Vec::new(), Vec::new());
    for settings in cells {
        let (drawn, capacity) = cell(&model, config, settings, &mut engine)?;
        samples.push(drawn);
        capacities.push(capacity);
        bar.inc(1);
    }
    bar.finish_and_clear();
    // The model's memory is free for the decoder.
    drop((engine, model));
    let images = images(request.vae.as_ref(), config, &samples, arguments)?;
    Ok(Drawn { images, capacities })
}

/// The samples of a cell and their C.
fn cell(
    model: &Pipeline,
    config: &Config,
    settings: &Settings,
    engine: &mut Option<Box<dyn Engine>>,
) -> Result<(Vec<f32>, Option<f32>), Box<dyn std::error::Error>> {
    let batch = settings.images();
    let ready = match engine.take() {
        Some(ready) if ready.batch() == batch => ready,
        _ => model.engine(batch)?,
    };
    let done = Run::start(ready, config, settings.clone(), 0)?.finish(|_| {})?;
    *engine = Some(done.engine);
    Ok((done.samples, done.trace.capacity()))
}

/// Each cell as an image: its samples as a grid.
fn images(
    vae: Option<&DecoderFile>,
    config: &Config,
    samples: &[Vec<f32>],
    arguments: &Arguments,
) -> Result<Vec<RgbImage>, Box<dyn std::error::Error>> {
    let mut images = Vec::new();
    for samples in samples {
        let (decoded, size) = match vae {
            Some(vae) => {
                decoder::decode(vae, samples, config.input_size, arguments.sample.backend)?
            }
            None => (samples.clone(), config.input_size),
        };
        // Two images have the usual enlargement of a grid, and so has a table.
        let scale = arguments.sample.scale.unwrap_or_else(|| pixels::default_scale(2, size));
        let grid = if arguments.sample.smooth { pixels::smooth_grid } else { pixels::grid };
        images.push(grid(&decoded, size, Some(scale)));
    }
    Ok(images)
}
