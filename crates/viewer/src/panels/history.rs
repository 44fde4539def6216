//! Earlier runs of this session, as thumbnails.

use std::sync::Arc;

use egui::{Button, Context, Image, ScrollArea, TextureHandle, TextureOptions, Ui, vec2};

use crate::App;
use crate::session::Record;
use crate::views::image_grid::{self, Grid};
use crate::widgets::caption;

/// Longer side of a small image.
const SIDE: f32 = 52.0;
/// Pixels along a side that are kept of it.
const MOST_PIXELS: usize = 512;

/// Textures of the earlier runs, in their order.
#[derive(Default)]
pub(crate) struct Thumbs(Vec<(Arc<Record>, TextureHandle)>);

impl Thumbs {
    /// Makes those that are new and forgets those that are gone.
    fn update(&mut self, ctx: &Context, history: &[Arc<Record>]) {
        self.0.retain(|(record, _)| history.iter().any(|kept| Arc::ptr_eq(kept, record)));
        for record in history {
            if self.of(record).is_none()
                && let Some(last) = record.frames.len().checked_sub(1)
                && let Some(images) = record.images(last)
            {
                let grid = Grid::new(record.labels.len());
                let image = image_grid::image(&images.samples, images.size, grid, MOST_PIXELS);
                let texture = ctx.load_texture("earlier run", image, TextureOptions::LINEAR);
                self.0.push((record.clone(), texture));
            }
        }
    }

    fn of(&self, record: &Arc<Record>) -> Option<&TextureHandle> {
        self.0.iter().find(|(kept, _)| Arc::ptr_eq(kept, record)).map(|(_, texture)| texture)
    }
}

/// Whether there is more than the run on screen.
pub(crate) fn is_worth_showing(app: &App) -> bool {
    app.session.history().len() > 1
}

pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    app.thumbs.update(ui.ctx(), app.session.history());
    let shown = app.session.shown();
    let mut clicked = None;
    caption(ui, "Earlier runs");
    ScrollArea::horizontal().id_salt("earlier runs").show(ui, |ui| {
        ui.horizontal(|ui| {
            ui.spacing_mut().button_padding = vec2(3.0, 3.0);
            for (i, record) in app.session.history().iter().enumerate().rev() {
                let Some(texture) = app.thumbs.of(record) else { continue };
                let image = Image::from_texture(texture).fit_to_exact_size(vec2(SIDE, SIDE));
                let name = format!("{}, seed {}", summary(record), record.settings.sampling.seed);
                let button = Button::image(image).selected(shown == Some(i));
                if ui.add(button).accessible_name(name.as_str()).on_hover_text(name).clicked() {
                    clicked = Some(i);
                }
            }
        });
    });
    if let Some(i) = clicked {
        app.session.show(i);
    }
}

/// What a run drew, in a few words.
fn summary(record: &Record) -> String {
    let mut names: Vec<&str> = Vec::new();
    for label in &record.labels {
        if !names.contains(&label.as_str()) {
            names.push(label);
        }
    }
    match names.as_slice() {
        [first, _, _, ..] => format!("{first} and {} others", names.len() - 1),
        _ => names.join(" and "),
    }
}
