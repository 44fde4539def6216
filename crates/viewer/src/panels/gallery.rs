//! The images that the user has kept: small versions, and one that is looked at.

use std::collections::HashMap;

use egui::{
    Button, ColorImage, Frame, Id, Image, Margin, Modal, RichText, ScrollArea, TextureHandle,
    TextureOptions, Ui, Vec2, vec2,
};

use crate::App;
use crate::gallery::{Item, MOST};
use crate::icons::Icon;
use crate::widgets::{self, caption, card, icon_button, remark};

/// Longer side of a small image.
const SIDE: f32 = 52.0;
/// Height of the small images together; more are scrolled.
const MOST_HIGH: f32 = 236.0;

/// Textures of kept images by the names of their files.
#[derive(Default)]
pub(crate) struct Textures {
    thumbs: HashMap<String, TextureHandle>,
    large: Option<(String, TextureHandle)>,
}

impl Textures {
    /// Makes those that are new and forgets those that are gone.
    fn update(&mut self, ui: &Ui, items: &[Item]) {
        let known = || items.iter().filter_map(|item| Some((item, item.preview.as_ref()?)));
        // Names are distinct: as many textures as images, one for each, are all that is needed.
        let is_current = self.thumbs.len() == known().count()
            && known().all(|(item, _)| self.thumbs.contains_key(&item.name));
        if is_current {
            return;
        }
        self.thumbs.retain(|name, _| items.iter().any(|item| item.name == *name));
        for (item, preview) in known() {
            self.thumbs.entry(item.name.clone()).or_insert_with(|| {
                let thumb = preview.thumb.clone();
                ui.ctx().load_texture("kept image", thumb, TextureOptions::LINEAR)
            });
        }
    }
}

/// The card among the controls.
pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    if !app.gallery.is_there() {
        return;
    }
    card(ui, "Gallery", |ui| {
        let place = match app.gallery.place() {
            Ok(place) => place,
            Err(reason) => {
                remark(ui, reason);
                return;
            }
        };
        if app.gallery.items().is_empty() {
            remark(
                ui,
                "Press Keep below a finished image to find it here again on your next visit.",
            );
        } else {
            thumbs(app, ui);
            let size = widgets::bytes(app.gallery.bytes());
            caption(ui, format!("{} of at most {MOST} images, {size}", app.gallery.items().len()));
        }
        damaged(app, ui);
        ui.horizontal_wrapped(|ui| {
            if app.gallery.items().len() > 1 && icon_button(ui, Icon::Trash, "Delete all").clicked()
            {
                app.gallery.delete_all();
            }
            let undo = match app.gallery.restorable() {
                0 => return,
                1 => "Restore the deleted image".to_owned(),
                count => format!("Restore {count} deleted images"),
            };
            if ui
                .button(undo)
                .on_hover_text("Possible until the page or window is closed")
                .clicked()
            {
                app.gallery.restore();
            }
        });
        remark(ui, place);
        if ui.is_rect_visible(ui.min_rect()) {
            app.gallery.look();
        }
    });
}

fn thumbs(app: &mut App, ui: &mut Ui) {
    app.kept.update(ui, app.gallery.items());
    let mut clicked = None;
    ScrollArea::vertical().id_salt("kept images").max_height(MOST_HIGH).show(ui, |ui| {
        ui.horizontal_wrapped(|ui| {
            ui.spacing_mut().button_padding = vec2(3.0, 3.0);
            for item in app.gallery.items() {
                let button = match app.kept.thumbs.get(&item.name) {
                    Some(texture) => Button::image(
                        Image::from_texture(texture).fit_to_exact_size(Vec2::splat(SIDE)),
                    ),
                    // It is read soon.
                    None => Button::new("").min_size(Vec2::splat(SIDE)),
                };
                let name = format!("Kept: {}", item.caption());
                let button = ui.add(button).accessible_name(name.as_str());
                if button.on_hover_text(name).clicked() {
                    clicked = Some(item.name.clone());
                }
            }
        });
    });
    if let Some(name) = clicked {
        app.gallery.open(name);
    }
}

/// Files that cannot be shown.
fn damaged(app: &mut App, ui: &mut Ui) {
    let text = match app.gallery.damaged() {
        [] => return,
        [one] => format!("{one} is damaged and not shown."),
        [first, rest @ ..] => {
            format!("{first} and {} more files are damaged and not shown.", rest.len())
        }
    };
    remark(ui, text);
    if ui.button("Delete what is damaged").clicked() {
        app.gallery.delete_damaged();
    }
}

/// What was pressed below the large image.
enum Pressed {
    Use,
    Start,
    Save,
    Delete,
    Close,
}

/// The image that is looked at, over everything else.
pub(crate) fn opened(app: &mut App, ui: &mut Ui) {
    let Some(opened) = app.gallery.opened() else {
        app.kept.large = None;
        return;
    };
    let texture = match &app.kept.large {
        Some((name, texture)) if *name == opened.name => texture.clone(),
        _ => {
            let size = [opened.image.width(), opened.image.height()].map(|side| side as usize);
            let image = ColorImage::from_rgb(size, opened.image.pixels());
            let texture = ui.ctx().load_texture("kept image", image, TextureOptions::LINEAR);
            app.kept.large = Some((opened.name.clone(), texture.clone()));
            texture
        }
    };
    let item = app.gallery.items().iter().find(|item| item.name == opened.name);
    let title = item.map_or_else(|| opened.name.clone(), |item| item.caption().to_owned());
    let model = app.session.model();
    let can_start = model.is_some_and(|model| model.config.makes_pixels());
    let screen = ui.ctx().content_rect().size();
    let frame = Frame::popup(ui.style()).inner_margin(Margin::same(18));
    let modal = Modal::new(Id::unique("kept image")).frame(frame).show(ui.ctx(), |ui| {
        let width = (screen.x - 48.0).min(560.0);
        ui.set_width(width);
        ui.label(RichText::new(&title).size(16.0).strong());
        let most = vec2(width, (screen.y - 190.0).max(120.0));
        ui.vertical_centered(|ui| {
            ui.add(Image::from_texture(&texture).max_size(most).shrink_to_fit().alt_text(&title));
        });
        ui.horizontal_wrapped(|ui| buttons(ui, can_start)).inner
    });
    let pressed = if modal.should_close() { Some(Pressed::Close) } else { modal.inner };
    let Some(pressed) = pressed else { return };
    let (name, png) = (opened.name.clone(), opened.png.clone());
    match pressed {
        Pressed::Use => app.session.open_png(&title, &png),
        Pressed::Start => app.session.start_from_png(&title, &png),
        Pressed::Save => return app.jobs.save(format!("diffmoe-{name}"), "image/png", png),
        Pressed::Delete => return app.gallery.delete(name),
        Pressed::Close => {}
    }
    app.gallery.close();
}

fn buttons(ui: &mut Ui, can_start: bool) -> Option<Pressed> {
    let mut pressed = None;
    let hint = "Draws it again with the settings in its file";
    if icon_button(ui, Icon::Play, "Use these settings").on_hover_text(hint).clicked() {
        pressed = Some(Pressed::Use);
    }
    if can_start
        && icon_button(ui, Icon::Forward, "Start from it")
            .on_hover_text("Runs then start from it instead of noise")
            .clicked()
    {
        pressed = Some(Pressed::Start);
    }
    if icon_button(ui, Icon::Save, "Save as file").clicked() {
        pressed = Some(Pressed::Save);
    }
    if icon_button(ui, Icon::Trash, "Delete").clicked() {
        pressed = Some(Pressed::Delete);
    }
    if ui.button("Close").clicked() {
        pressed = Some(Pressed::Close);
    }
    pressed
}
