//! A table of images over one setting or two.

use egui::{Image, TextEdit, TextureHandle, TextureOptions, Ui};

use crate::App;
use crate::icons::Icon;
use crate::session::NoteKind;
use crate::widgets::{caption, card, icon_button, remark};

const HINT: &str = "A setting as links call it (guidance, steps, seed, scheduler, shift, strength, \
    variation-strength, mix-strength, or a label table such as subject), and its values, separated by commas.";

/// What is typed, and the table on screen.
pub(crate) struct SweepForm {
    columns: String,
    rows: String,
    texture: Option<(usize, TextureHandle)>,
}

impl Default for SweepForm {
    fn default() -> Self {
        Self { columns: "guidance=1,2,4".to_owned(), rows: String::new(), texture: None }
    }
}

pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    if app.session.model().is_none() {
        return;
    }
    card(ui, "Sweep", |ui| {
        if let Some((done, all)) = app.session.sweep_progress() {
            remark(ui, format!("Image {} of {all}", (done + 1).min(all)));
            if icon_button(ui, Icon::Stop, "Cancel the sweep").clicked() {
                app.session.cancel_sweep();
            }
            return;
        }
        let form = &mut app.sweep;
        for (title, text, example) in [
            ("Columns", &mut form.columns, "guidance=1,2,4"),
            ("Rows", &mut form.rows, "steps=5,10,20"),
        ] {
            let title = caption(ui, title).on_hover_text(HINT);
            let edit = TextEdit::singleline(text).hint_text(example).desired_width(f32::INFINITY);
            ui.add(edit).labelled_by(title.id).on_hover_text(HINT);
        }
        let button = icon_button(ui, Icon::Grid, "Draw the table");
        let hint = "One image for each value or pair of values; all other settings as above";
        if button.on_hover_text(hint).clicked()
            && let Err(reason) = app.session.begin_sweep(&form.columns, &form.rows)
        {
            app.session.note(NoteKind::Error, reason);
        }
        table(app, ui);
    });
}

/// The last table, and what can be taken away of it.
fn table(app: &mut App, ui: &mut Ui) {
    let Some(table) = app.session.table() else { return };
    let shown = app.sweep.texture.as_ref().filter(|(of, _)| *of == table.png.len());
    let texture = if let Some((_, texture)) = shown {
        texture.clone()
    } else {
        let size = [table.image.width() as usize, table.image.height() as usize];
        let image = egui::ColorImage::from_rgb(size, table.image.pixels());
        let texture = ui.ctx().load_texture("sweep", image, TextureOptions::LINEAR);
        app.sweep.texture = Some((table.png.len(), texture.clone()));
        texture
    };
    let width = ui.available_width();
    ui.add(Image::from_texture(&texture).max_width(width).alt_text("The table of the sweep"));
    let mut save = None;
    ui.horizontal(|ui| {
        if icon_button(ui, Icon::Save, "Save table").clicked() {
            save = Some(("diffmoe-sweep.png", "image/png", table.png.clone()));
        }
        if icon_button(ui, Icon::Save, "Save C").on_hover_text("C of each cell as CSV").clicked() {
            save = Some(("diffmoe-sweep.csv", "text/csv", table.csv.clone().into_bytes()));
        }
    });
    if let Some((name, mime, bytes)) = save {
        app.jobs.save(name.to_owned(), mime, bytes);
    }
}
