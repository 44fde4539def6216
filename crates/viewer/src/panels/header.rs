//! The header: the project's logo, the model and its device, the theme, help.

use egui::{Align, Layout, RichText, Sense, ThemePreference, Ui, vec2};

use crate::App;
use crate::icons::paint_sign;
use crate::theme::Look;
use crate::view::Mode;
use crate::widgets::switch;

pub(crate) fn show(app: &mut App, ui: &mut Ui, wide: bool) {
    let look = Look::of(ui);
    ui.horizontal_centered(|ui| {
        let (rect, _) = ui.allocate_exact_size(vec2(22.0, 22.0), Sense::hover());
        paint_sign(ui.painter(), rect);
        if wide {
            ui.label(RichText::new("DiffMoE").size(17.0).strong());
        }
        mode_switch(app, ui);
        let right_to_left = Layout::right_to_left(Align::Center);
        ui.with_layout(right_to_left, |ui| {
            help_button(app, ui);
            theme_button(ui);
            let Some(model) = app.session.model() else { return };
            let text = if wide {
                format!("{} on {}", model.name, model.device)
            } else {
                model.name.clone()
            };
            let label = egui::Label::new(RichText::new(text).color(look.weak)).truncate();
            ui.add(label).on_hover_text(&model.device);
        });
    });
}

/// Draw or Explore.
pub(crate) fn mode_switch(app: &mut App, ui: &mut Ui) {
    let mut mode = app.view.mode;
    let modes = [
        (Mode::Draw, "Draw", "Settings and images (E)"),
        (Mode::Explore, "Explore", "What every expert does at every noise level (E)"),
    ];
    let height = ui.spacing().interact_size.y;
    ui.allocate_ui(vec2(150.0, height), |ui| switch(ui, &mut mode, &modes));
    app.set_mode(mode);
}

pub(crate) fn help_button(app: &mut App, ui: &mut Ui) {
    let response = ui.button("Help").on_hover_text("Keyboard shortcuts and what the plots mean");
    if response.clicked() {
        app.view.help = true;
    }
}

/// Goes round: as the system has it, light, dark.
pub(crate) fn theme_button(ui: &mut Ui) {
    let preference = ui.ctx().options(|options| options.theme_preference);
    let (name, next) = match preference {
        ThemePreference::System => ("Auto", ThemePreference::Light),
        ThemePreference::Light => ("Light", ThemePreference::Dark),
        ThemePreference::Dark => ("Dark", ThemePreference::System),
    };
    let response = ui.button(name).accessible_name(format!("Theme: {name}"));
    if response.on_hover_text("Light or dark; Auto follows the system").clicked() {
        ui.ctx().set_theme(next);
    }
}
