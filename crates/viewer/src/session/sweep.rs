//! A sweep in the app: the runs of its cells, one after the other, and the table of their images.

use super::{Controls, NoteKind, Origin, Record, Session, Share};
use diffmoe::pipeline::{Axis, Sweep, png_texts};
use diffmoe::pixels::{self, RgbImage};

/// A sweep that is being drawn.
pub(super) struct SweepJob {
    sweep: Sweep,
    cells: Vec<Controls>,
    /// What the controls were before.
    before: Controls,
    /// The run of the cell that is being drawn.
    run: u64,
    images: Vec<RgbImage>,
    capacities: Vec<Option<f32>>,
}

/// A finished sweep.
#[derive(Clone, Debug)]
pub struct Table {
    /// The images with captions.
    pub image: RgbImage,
    /// The same as a PNG file, with the settings inside.
    pub png: Vec<u8>,
    /// C of the cells.
    pub csv: String,
}

impl Session {
    /// Draws one image for each value of a setting, and for each pair of values of two, as the command line's `sweep`; the
    /// other settings are those of the controls.
    ///
    /// # Errors
    /// A message about the first thing that is wrong.
    pub fn begin_sweep(&mut self, columns: &str, rows: &str) -> Result<(), String> {
        let model = self.model.as_ref().ok_or("open a model first")?;
        let config = model.info.config.clone();
        let axis = |text: &str| text.trim().parse::<Axis>().map_err(|error| error.to_string());
        let y = if rows.trim().is_empty() { None } else { Some(axis(rows)?) };
        let sweep = Sweep { x: axis(columns)?, y };
        if sweep.varies("strength") && self.controls.init.is_none() {
            return Err("strength is that of a start image; open one first".to_owned());
        }
        let before = self.controls.clone();
        let base = Share::of(Controls { count: 1, ..before.clone() }).recipe();
        let recipes = sweep.cells(&base, &config).map_err(|error| error.to_string())?;
        let mut cells = Vec::new();
        for recipe in recipes {
            let mut share = Share::of_recipe(recipe, Origin::Link)?;
            share.resolve(&config)?;
            let controls = Controls { init: before.init.clone(), ..share.controls };
            controls.settings(&config).check(&config).map_err(|error| error.to_string())?;
            cells.push(controls);
        }
        let (images, capacities) = (Vec::new(), Vec::new());
        self.sweep = Some(SweepJob { sweep, cells, before, run: 0, images, capacities });
        self.table = None;
        self.draw_next_cell();
        Ok(())
    }

    /// Finished cells of the sweep that is being drawn, and all of them.
    pub fn sweep_progress(&self) -> Option<(usize, usize)> {
        self.sweep.as_ref().map(|job| (job.images.len(), job.cells.len()))
    }

    /// The table of the sweep that was drawn last.
    pub fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    /// Ends a sweep before its last cell.
    pub fn cancel_sweep(&mut self) {
        if let Some(job) = self.sweep.take() {
            self.controls = job.before;
            self.cancel();
        }
    }

    /// Takes the image of a cell that is complete, and begins the next.
    pub(super) fn tick_sweep(&mut self) {
        let Some(job) = &self.sweep else { return };
        let run = job.run;
        let is_active = self.preparing.is_some() || self.job.is_some() || self.decode.is_some();
        let done = self.history.records().iter().find(|record| record.id == run).cloned();
        match done {
            Some(record) if self.decode.is_none() => self.keep_cell(&record),
            // Somebody cancelled the run, or drew something else.
            None if !is_active || self.runs != run => {
                if let Some(job) = self.sweep.take() {
                    self.controls = job.before;
                    self.note(NoteKind::Info, "The sweep was cancelled.");
                }
            }
            _ => {}
        }
    }

    fn keep_cell(&mut self, record: &Record) {
        let Some(job) = &mut self.sweep else { return };
        let Some(images) = record.images(record.frames.len().saturating_sub(1)) else { return };
        // As in a grid of several images.
        let scale = pixels::default_scale(2, images.size);
        job.images.push(pixels::grid(&images.samples, images.size, Some(scale)));
        job.capacities.push(record.trace.capacity());
        if job.images.len() < job.cells.len() {
            return self.draw_next_cell();
        }
        let Some(job) = self.sweep.take() else { return };
        self.controls = job.before.clone();
        match finished_table(&job, record) {
            Ok(table) => self.table = Some(table),
            Err(reason) => self.note(NoteKind::Error, reason),
        }
    }

    fn draw_next_cell(&mut self) {
        let Some(job) = &self.sweep else { return };
        let Some(cell) = job.cells.get(job.images.len()) else { return };
        self.controls = cell.clone();
        self.generate();
        let run = self.runs;
        if let Some(job) = &mut self.sweep {
            job.run = run;
        }
    }
}

/// The table of a sweep whose last cell is complete.
fn finished_table(job: &SweepJob, last: &Record) -> Result<Table, String> {
    let size = |image: &RgbImage| [image.height() as usize, image.width() as usize];
    let first = size(&job.images[0]);
    if job.images.iter().any(|image| size(image) != first) {
        return Err("some latents of the sweep were not decoded; draw it again".to_owned());
    }
    let image = job.sweep.table(&job.images).map_err(|error| error.to_string())?;
    let mut recipe = last.recipe(None);
    let axes = [("x", Some(&job.sweep.x)), ("y", job.sweep.y.as_ref())];
    let axes = axes.into_iter().filter_map(|(name, axis)| Some((name, axis?.to_string())));
    recipe.others.extend(axes.map(|(name, axis)| (name.to_owned(), axis)));
    let png = image.to_png(&png_texts(&recipe, &last.labels, first));
    let png = png.map_err(|error| error.to_string())?;
    Ok(Table { image, png, csv: job.sweep.csv(&job.capacities) })
}
