//! A part of the view as a file: as PNG from a screenshot, or as SVG from what was painted, with the screenshot's pixels
//! where that was a picture.

use std::sync::{Arc, Mutex, PoisonError};

use egui::epaint::ClippedShape;
use egui::{ColorImage, Context, LayerId, Rect, TextureId};

use super::drawn::{self, Textures};
use super::made::Made;
use super::moving::{rgb, settings};
use super::svg::Ground;
use crate::App;
use crate::saving::file_stem;
use crate::session::{NoteKind, Record};

/// Frames before the screenshot, so that the menu has closed, and frames after which it counts as failed.
const SETTLE: u32 = 3;
const PATIENCE: u32 = 120;

/// A file that waits for its screenshot.
pub(super) struct Shot {
    rect: Rect,
    name: &'static str,
    is_vector: bool,
    frames: u32,
    /// What was painted in the frame of the screenshot, for a vector file.
    shapes: Vec<ClippedShape>,
    /// The whole view, once it was read back.
    image: Arc<Mutex<Option<Arc<ColorImage>>>>,
}

impl Shot {
    /// A part of the view, as a file whose name ends like this.
    pub(super) fn new(rect: Rect, name: &'static str, is_vector: bool) -> Self {
        Self { rect, name, is_vector, frames: 0, shapes: Vec::new(), image: Arc::default() }
    }

    /// Takes the screenshot once the menu has closed; returns it when it is there.
    fn tick(&mut self, ctx: &Context, layer: LayerId) -> Option<Arc<ColorImage>> {
        self.frames += 1;
        ctx.request_repaint();
        if self.frames == SETTLE {
            if self.is_vector {
                self.shapes = ctx.graphics(|layers| {
                    let layer = layers.get(layer).map(|layer| layer.all_entries().cloned());
                    layer.into_iter().flatten().collect()
                });
            }
            let place = self.image.clone();
            let callback = egui::ScreenshotCallback::new(move |image| {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(image);
            });
            ctx.send_viewport_cmd(egui::ViewportCommand::Screenshot(callback));
        }
        self.image.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether it will not come any more.
    fn is_late(&self) -> bool {
        self.frames > PATIENCE
    }
}

/// A part of a screenshot.
fn part(image: &ColorImage, rect: Rect, scale: f32) -> ColorImage {
    let [width, height] = image.size.map(|side| side as f32 / scale);
    let all = Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(width, height));
    image.region(&rect.intersect(all), Some(scale))
}

/// Pixels as PNG, with the settings of the run.
fn png(image: &ColorImage, record: &Record) -> Result<Vec<u8>, String> {
    let rgb = rgb(image).ok_or("there is nothing to save here")?;
    rgb.to_png(&settings(record, None)).map_err(|error| error.to_string())
}

/// What the textures of a run are.
fn grounds(made: &Made) -> Vec<(TextureId, Ground)> {
    let hatch = made.hatch.iter().map(|texture| (texture.id(), Ground::Hatch));
    let patterns = made.patterns.iter().flat_map(super::pattern::Patterns::textures);
    hatch.chain(patterns.map(|(id, pattern)| (id, Ground::Of(pattern)))).collect()
}

impl App {
    /// Goes on with a requested file; `layer` is where the views are painted.
    pub(super) fn take_shot(&mut self, ctx: &Context, layer: LayerId) {
        let Some(shot) = &mut self.explore.shot else { return };
        let image = shot.tick(ctx, layer);
        let is_late = shot.is_late();
        if image.is_none() && !is_late {
            return;
        }
        let Some(shot) = self.explore.shot.take() else { return };
        let Some(record) = self.session.record() else { return };
        let scale = ctx.pixels_per_point();
        let stem = format!("{}-{}", file_stem(record), shot.name);
        if shot.is_vector {
            // Without a screenshot only the pictures are missing.
            let pixels = |rect: Rect| {
                let image = part(image.as_deref()?, rect, scale);
                Some(base64::encode(rgb(&image)?.to_small_png().ok()?))
            };
            let made = [&self.explore.made, &self.explore.beside];
            let grounds = made.into_iter().flat_map(grounds).collect();
            let textures = Textures { grounds, pixels: &pixels };
            let title = format!("{}, seed {}", record.config.name, record.settings.sampling.seed);
            let bytes = drawn::svg(&shot.shapes, shot.rect, &textures, &title);
            return self.save(format!("{stem}.svg"), "image/svg+xml", Ok(bytes));
        }
        if let Some(image) = image {
            let bytes = png(&part(&image, shot.rect, scale), record);
            self.save(format!("{stem}.png"), "image/png", bytes);
        } else {
            let text = "cannot read the view back on this system. Save it as SVG or CSV instead";
            self.session.note(NoteKind::Error, text);
        }
    }
}
