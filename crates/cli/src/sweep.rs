//! `diffmoe sweep`: one image for each value of one setting, or for each pair of values of two, in a table.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use diffmoe::engine::Engine;
use diffmoe::model::Config;
use diffmoe::pipeline::{Pipeline, Recipe, Run, Settings, png_texts};
use diffmoe::pixels::{self, RgbImage};
use diffmoe::vae::DecoderFile;
use indicatif::ProgressBar;

use super::output::{self, Output};
use super::sample::{self, Request};
use super::{Outcome, decoder};

/// Most cells of a table.
const MOST_CELLS: usize = 1000;

/// Vary one setting or two, and write the images as one table with captions, and C of each cell.
///
/// All options of `sample` apply to every cell; only what is varied differs, the seed too is the same.
#[derive(clap::Args)]
#[command(
    after_help = "Settings are named as in links: seed, steps, guidance, interval, scheduler and its options, rule, gamma, shift,
odds, mute, shifts, strength, variation-seed, variation-strength, prompt, negative, and each label table of the model
(subject, style, class). Values are separated by commas, or by semicolons where they have commas themselves.

Examples:
  diffmoe sweep --class fox --x guidance=1,2,3 --y steps=5,10,20
  diffmoe sweep --class fox --seed 1 --variation-seed 2 --variation-strength 1 --x variation-strength=0,0.25,0.5,0.75,1
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

/// A setting and its values.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    setting: String,
    values: Vec<String>,
}

impl std::str::FromStr for Axis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected SETTING=VALUES, such as guidance=1,2,3; got {text:?}");
        let (setting, values) = text.split_once('=').ok_or_else(wrong)?;
        let by = if values.contains(';') { ';' } else { ',' };
        let values: Vec<String> = values.split(by).map(|value| value.trim().to_owned()).collect();
        if setting.is_empty() || values.iter().any(String::is_empty) {
            return Err(wrong());
        }
        // As the options of `sample` call them.
        let setting = match setting.trim() {
            "cfg" => "guidance",
            "solver" => "scheduler",
            "routing" => "rule",
            "threshold-shift" => "shift",
            "guidance-interval" => "interval",
            other => other,
        };
        Ok(Self { setting: setting.to_owned(), values })
    }
}

impl Axis {
    fn captions(&self) -> Vec<String> {
        self.values.iter().map(|value| format!("{} {value}", self.setting)).collect()
    }
}

pub(super) fn run(mut arguments: Arguments) -> Outcome {
    arguments.sample.for_sweep()?;
    let request = Request::read(&arguments.sample)?;
    let config = request.checkpoint.config();
    let base = Recipe::of(&request.settings, config);
    let (x, y) = (&arguments.x, arguments.y.as_ref());
    let varies = |setting: &str| x.setting == setting || y.is_some_and(|y| y.setting == setting);
    if varies("strength") && request.settings.init.is_none() {
        return Err("strength is that of --init-image, which is missing".into());
    }
    let rows: Vec<Option<&str>> = match y {
        Some(y) => y.values.iter().map(|value| Some(value.as_str())).collect(),
        None => vec![None],
    };
    let count = x.values.len() * rows.len();
    if count > MOST_CELLS {
        return Err(format!("{count} cells are too many: at most {MOST_CELLS}").into());
    }
    // Everything is checked before the first image is drawn.
    let mut cells = Vec::new();
    for row in &rows {
        let recipe = match y.zip(*row) {
            Some((y, value)) => base.with(&y.setting, value, config)?,
            None => base.clone(),
        };
        for value in &x.values {
            let recipe = recipe.with(&x.setting, value, config)?;
            let mut settings = recipe.builder(config)?;
            if let Some(init) = &request.settings.init {
                settings = settings.init(init.clone()).strength(recipe.sampling.strength);
            }
            cells.push(settings.build()?);
        }
    }
    let path = arguments.sample.out.clone();
    let path = path.unwrap_or_else(|| PathBuf::from(format!("diffmoe-{}-sweep.png", config.name)));
    sample::check_png(&path)?;
    if let Some(csv) = &arguments.csv {
        output::distinct(&[("--out", &path), ("--csv", csv)], 2)?;
    }
    let out = Output::reserve(&path)?;
    let csv = arguments.csv.as_deref().map(Output::reserve).transpose()?;

    let started = Instant::now();
    let drawn = draw(&request, &cells, &arguments)?;
    let captions = y.map_or_else(|| vec![String::new()], Axis::captions);
    let table = pixels::table(&drawn.images, &x.captions(), &captions)?;
    let mut recipe = request.recipe(&arguments.sample);
    recipe.others.push(("x".to_owned(), format!("{}={}", x.setting, x.values.join(";"))));
    if let Some(y) = y {
        recipe.others.push(("y".to_owned(), format!("{}={}", y.setting, y.values.join(";"))));
    }
    let size = [drawn.images[0].height() as usize, drawn.images[0].width() as usize];
    let png = table.to_png(&png_texts(&recipe, &request.settings.names(config), size))?;
    out.write(|part| std::fs::write(part, &png))?;
    println!("wrote {} in {:.1} s", path.display(), started.elapsed().as_secs_f32());
    if let (Some(out), Some(path)) = (csv, &arguments.csv) {
        let text = csv_text(x, y, &drawn.capacities);
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

/// A line for each cell: the values, and C.
fn csv_text(x: &Axis, y: Option<&Axis>, capacities: &[Option<f32>]) -> String {
    let quoted = |text: &str| match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let mut text = y.map_or_else(String::new, |y| format!("{},", quoted(&y.setting)));
    text += &format!("{},C\n", quoted(&x.setting));
    for (at, capacity) in capacities.iter().enumerate() {
        let (row, column) = (at / x.values.len(), at % x.values.len());
        if let Some(y) = y {
            text += &format!("{},", quoted(&y.values[row]));
        }
        let capacity = capacity.map_or_else(String::new, |c| format!("{c:.4}"));
        text += &format!("{},{capacity}\n", quoted(&x.values[column]));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]
mod tests {
    use super::*;

    #[test]
    fn axes_are_read() {
        let axis: Axis = "cfg=1, 2.5".parse().unwrap();
        assert_eq!(axis.captions(), ["guidance 1", "guidance 2.5"]);
        let axis: Axis = "guidance-interval=0,1;0.1,0.7".parse().unwrap();
        assert_eq!((axis.setting.as_str(), axis.values.len()), ("interval", 2));
        for wrong in ["", "guidance", "=1", "guidance=", "guidance=1,,2"] {
            assert!(wrong.parse::<Axis>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tables_of_numbers_name_their_columns() {
        let (x, y): (Axis, Axis) = ("a=1,2".parse().unwrap(), "b=u;v,w".parse().unwrap());
        let all = [Some(1.0), None, Some(0.25), Some(2.0)];
        assert_eq!(
            csv_text(&x, Some(&y), &all),
            "b,a,C\nu,1,1.0000\nu,2,\n\"v,w\",1,0.2500\n\"v,w\",2,2.0000\n"
        );
        assert_eq!(csv_text(&x, None, &all[..2]), "a,C\n1,1.0000\n2,\n");
    }
}
