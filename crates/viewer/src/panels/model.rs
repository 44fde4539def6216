//! The open model and image decoder, and how to open others.

use egui::{TextEdit, Ui};

use crate::App;
use crate::icons::Icon;
use crate::session::{ModelInfo, ModelSource, Record};
use crate::widgets::{self, caption, card, icon_button, remark, sign_button};
use diffmoe::model::{Config, Kind};

pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    card(ui, "Model", |ui| {
        if let Some(model) = app.session.model() {
            describe(ui, model);
        }
        decoder(app, ui);
        built_in(app, ui);
        advise(app, ui);
        if icon_button(ui, Icon::Open, "Open a file").on_hover_text("Or drop it anywhere").clicked()
        {
            app.jobs.pick();
        }
        address(app, ui);
        kept(app, ui);
    });
}

fn describe(ui: &mut Ui, model: &ModelInfo) {
    let config = &model.config;
    let kind = match config.kind {
        Kind::Dense => "dense".to_owned(),
        Kind::Tc => format!("token choice, {} experts", config.num_experts),
        Kind::Ec => format!("expert choice, {} experts", config.num_experts),
        Kind::DiffMoe => format!(
            "DiffMoE, {} experts in {} blocks",
            config.num_experts,
            config.moe_blocks().len()
        ),
    };
    let millions = config.parameters() as f64 / 1e6;
    ui.label(egui::RichText::new(&model.name).strong());
    remark(
        ui,
        format!(
            "{kind}; {} blocks, width {}; {millions:.1} million parameters; {} {}",
            config.depth,
            config.hidden_size,
            config.extent(),
            if config.makes_pixels() { "pixels" } else { "latents" },
        ),
    );
    caption(ui, format!("{} file, SHA-256 {}…", widgets::bytes(model.file_bytes), model.hash));
    if let Some(refiner) = &config.refiner {
        let grids = [config, &refiner.config].map(Config::tokens);
        let from = 1.0 - refiner.from;
        remark(
            ui,
            format!("{} tokens an image; from noise {from} on {} of a refiner", grids[0], grids[1]),
        );
    }
    if let Some(note) = &model.backend_note {
        remark(ui, note.clone());
    }
}

/// The image decoder; or that one is needed.
fn decoder(app: &mut App, ui: &mut Ui) {
    let Some(decoder) = app.session.decoder() else {
        let model = app.session.model().map(|model| &model.config);
        if let Some(config) = model.filter(|config| !config.makes_pixels()) {
            remark(
                ui,
                format!(
                    "This model generates latents with {} channels, shown as a latent preview: \
                     their first three principal components as colours. To see images, open its \
                     decoder (AutoencoderKL or AutoencoderTiny of diffusers, safetensors) in the \
                     same way as a model.",
                    config.in_channels
                ),
            );
        }
        return;
    };
    let mut remove = false;
    ui.horizontal(|ui| {
        remove = sign_button(ui, Icon::Trash, "Remove the decoder").clicked();
        ui.label(egui::RichText::new(format!("Decoder {}", decoder.name)).strong());
    });
    remark(
        ui,
        format!(
            "{}; {:.1} million parameters, {} file; {} latent channels, {f}×{f} pixels per \
             cell; the preview explains {:.0} % of the colour variance",
            decoder.kind,
            decoder.parameters as f64 / 1e6,
            widgets::bytes(decoder.file_bytes),
            decoder.channels,
            100.0 * decoder.explained,
            f = decoder.factor,
        ),
    );
    caption(ui, format!("Decoding on {}", decoder.device));
    if let Some(note) = &decoder.note {
        remark(ui, note.clone());
    }
    if app.session.model().is_some_and(|model| model.config.makes_pixels()) {
        remark(ui, "This model generates pixels and needs no decoder.");
    }
    if remove {
        app.session.remove_decoder();
    }
}

fn built_in(app: &mut App, ui: &mut Ui) {
    let names = app.session.available().to_vec();
    let current = match app.session.model().map(|model| &model.source) {
        Some(ModelSource::Named(name)) => Some(name.clone()),
        _ => None,
    };
    ui.horizontal_wrapped(|ui| {
        for name in names {
            let chosen = current.as_ref() == Some(&name);
            let button = egui::Button::selectable(chosen, name.as_str()).frame_when_inactive(true);
            if ui.add(button).accessible_name(format!("Model {name}")).clicked() && !chosen {
                app.session.load(ModelSource::Named(name));
            }
        }
    });
}

/// Two models of the same labels, the fast one and the fine one, and how many times as long the fine one takes
/// (docs/performance.md).
const FAST_AND_FINE: (&str, &str, f32) = ("emoji", "emoji_256", 2.8);
/// Seconds for four images that nobody minds.
const MOST_SECONDS: f32 = 4.0;

/// Says what the finer model would take on this device; where that is open and slow, what the faster one would.
fn advise(app: &mut App, ui: &mut Ui) {
    let session = &app.session;
    let Some(open) = session.model().map(|model| model.name.as_str()) else { return };
    let record = session.record().filter(|record| record.config.name == open);
    let Some((other, text)) = record.and_then(four_images).and_then(|s| advice(open, s)) else {
        return;
    };
    if !session.available().iter().any(|name| name == other) {
        return;
    }
    remark(ui, text);
    if ui.button(format!("Open {other}")).clicked() {
        app.session.load(ModelSource::Named(other.to_owned()));
    }
}

/// The other model of the pair and a sentence about it, given the seconds that four images of the open one took.
fn advice(open: &str, seconds: f32) -> Option<(&'static str, String)> {
    let (fast, fine, ratio) = FAST_AND_FINE;
    let (other, how, about) = if open == fast {
        (fine, "more", ratio * seconds)
    } else if open == fine && seconds > MOST_SECONDS {
        (fast, "less", seconds / ratio)
    } else {
        return None;
    };
    let about = about.ceil().max(1.0);
    Some((
        other,
        format!(
            "On this device, {other} needs about {about} s for four images, with {how} detail."
        ),
    ))
}

/// Seconds that four images of a finished run took, by its median step; `None` of one that was not computed here.
fn four_images(record: &Record) -> Option<f32> {
    if !record.is_complete() || record.recorded {
        return None;
    }
    let mut steps = record.step_ms.clone();
    steps.sort_by(f32::total_cmp);
    let median = steps.get(steps.len() / 2)?;
    Some(4e-3 * median * steps.len() as f32 / record.labels.len().max(1) as f32)
}

fn address(app: &mut App, ui: &mut Ui) {
    ui.horizontal(|ui| {
        let room = 64.0 + ui.spacing().item_spacing.x;
        let edit = TextEdit::singleline(&mut app.view.address).hint_text("URL of a model file");
        let response = ui.add(edit.desired_width((ui.available_width() - room).max(80.0)));
        let response = response.accessible_name("URL of a model file");
        let entered = response.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter));
        let filled = !app.view.address.trim().is_empty();
        let clicked = ui.add_enabled(filled, egui::Button::new("Load")).clicked();
        if filled && (entered || clicked) {
            app.session.load(ModelSource::Url(app.view.address.trim().to_owned()));
        }
    });
}

/// Downloads that the browser keeps.
fn kept(app: &mut App, ui: &mut Ui) {
    if app.jobs.cached.is_empty() {
        return;
    }
    caption(ui, "Saved for the next visit");
    let mut delete = None;
    let mut load = None;
    for file in &app.jobs.cached {
        let name = file.location.rsplit('/').next().unwrap_or(&file.location);
        ui.horizontal(|ui| {
            if sign_button(ui, Icon::Trash, &format!("Delete {name}")).clicked() {
                delete = Some(file.location.clone());
            }
            let partly = if file.complete { "" } else { ", incomplete" };
            let text = format!("{name} ({}{partly})", widgets::bytes(file.bytes));
            let button = egui::Button::new(text).truncate().frame(false);
            if ui.add(button).on_hover_text(format!("Load {}", file.location)).clicked() {
                load = Some(file.location.clone());
            }
        });
    }
    if let Some(location) = delete {
        app.jobs.delete_cached(location);
    }
    if let Some(location) = load {
        app.session.load(ModelSource::Url(location));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::finished_record;

    #[test]
    fn the_time_of_four_images_is_that_of_the_median_step() {
        let mut record = finished_record();
        record.complete = true;
        // The first step compiles kernels.
        record.step_ms = vec![900.0, 100.0, 110.0];
        record.labels = vec![String::new(); 2];
        assert_eq!(four_images(&record), Some(0.66));
        record.recorded = true;
        assert_eq!(four_images(&record), None);
        let unfinished = Record { recorded: false, complete: false, ..record };
        assert_eq!(four_images(&unfinished), None);
    }

    #[test]
    fn advice_is_about_the_other_model() {
        let (other, text) = advice("emoji", 1.3).unwrap();
        assert_eq!(other, "emoji_256");
        assert_eq!(
            text,
            "On this device, emoji_256 needs about 4 s for four images, with more detail."
        );
        assert_eq!(advice("emoji_256", 3.9), None);
        let (other, text) = advice("emoji_256", 9.1).unwrap();
        assert_eq!(other, "emoji");
        assert_eq!(
            text,
            "On this device, emoji needs about 4 s for four images, with less detail."
        );
        assert_eq!(advice("eurosat", 9.1), None);
    }
}
