//! The image that runs start from instead of noise alone: opened, or taken from a run; and which patches are redrawn.

use std::sync::Arc;

use super::{NoteKind, Session};
use diffmoe::model::Config;
use diffmoe::pipeline::InitImage;
use diffmoe::pixels::RgbImage;

/// An image to start from.
#[derive(Clone, Debug, PartialEq)]
pub struct Init {
    /// Where it came from, for display.
    pub name: String,
    image: InitImage,
    /// What is shown of it, `[3, height, width]` in [-1, 1].
    pub shown: Arc<Vec<f32>>,
    /// Height and width of that.
    pub size: [usize; 2],
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// `[rows, columns]`: the patches that are redrawn, where some are chosen; all of the image where none is.
    pub redrawn: Vec<bool>,
}

impl Init {
    fn new(name: String, image: InitImage, shown: (Vec<f32>, [usize; 2]), config: &Config) -> Self {
        let grid = config.input_size.map(|side| side / config.patch_size);
        let (shown, size) = shown;
        let redrawn = vec![false; grid[0] * grid[1]];
        Self { name, image, shown: Arc::new(shown), size, grid, redrawn }
    }

    /// Whether only a part is redrawn.
    pub fn is_masked(&self) -> bool {
        self.redrawn.contains(&true)
    }

    /// The image for a run, with the mask of what is redrawn.
    pub(super) fn image(&self, config: &Config) -> InitImage {
        let image = self.image.clone();
        let [_, columns] = self.grid;
        let [height, width] = config.input_size;
        let patch = config.patch_size;
        // Of another model: the settings say what is wrong with its size.
        if !self.is_masked() || [height / patch, width / patch] != self.grid {
            return image;
        }
        let mask = (0..height * width).map(|at| {
            let (y, x) = (at / width, at % width);
            f32::from(u8::from(self.redrawn[y / patch * columns + x / patch]))
        });
        image.with_mask(mask.collect())
    }
}

impl Session {
    /// Runs start from a PNG file from now on.
    pub fn start_from_png(&mut self, name: &str, bytes: &[u8]) {
        match RgbImage::read_png(bytes) {
            Ok(image) => self.start_from_image(name, &image),
            Err(error) => self.note(NoteKind::Error, format!("{name}: {error}")),
        }
    }

    /// Runs start from an image from now on.
    pub fn start_from_image(&mut self, name: &str, image: &RgbImage) {
        let Some(model) = &self.model else {
            return self.note(NoteKind::Error, format!("open a model before {name}"));
        };
        let config = model.info.config.clone();
        match InitImage::of_pixels(image, &config) {
            Ok(image) => {
                let shown = (image.values().to_vec(), config.input_size);
                self.start_from(Init::new(name.to_owned(), image, shown, &config));
            }
            Err(error) => self.note(NoteKind::Error, format!("{name}: {error}")),
        }
    }

    /// Whether runs can start from an image of the run on screen: it has images of the model that is open.
    pub fn can_start_from_record(&self) -> bool {
        let open = self.model.as_ref().map(|model| &model.info.config);
        let record = self.record().filter(|record| !record.is_traced());
        let form = |c: &Config| (c.input_size, c.in_channels, c.makes_pixels());
        open.zip(record).is_some_and(|(config, record)| form(config) == form(&record.config))
    }

    /// Runs start from an image of the run on screen, as it is after some steps, from now on.
    pub fn start_from_record(&mut self, image: usize, frame: usize) {
        if !self.can_start_from_record() {
            return;
        }
        let Some(record) = self.record() else { return };
        let len = record.config.sample_len();
        let Some(values) = record.frames.get(frame).and_then(|f| f.chunks_exact(len).nth(image))
        else {
            return;
        };
        let Some(images) = record.images(frame) else { return };
        let shown = 3 * images.size[0] * images.size[1];
        let Some(shown) = images.samples.chunks_exact(shown).nth(image) else { return };
        let name = record.labels.get(image).cloned().unwrap_or_default();
        let shown = (shown.to_vec(), images.size);
        let values = InitImage::of_sample(values.to_vec());
        let init = Init::new(name, values, shown, &record.config);
        self.start_from(init);
    }

    fn start_from(&mut self, init: Init) {
        let strength = &mut self.controls.sampling.strength;
        if *strength >= 1.0 {
            *strength = init.image.usual_strength();
        }
        let text =
            format!("Runs start from {}. Choose the strength, then press Generate.", init.name);
        self.note(NoteKind::Info, text);
        self.controls.init = Some(init);
    }
}
