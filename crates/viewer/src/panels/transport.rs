//! Generate, pause, step, cancel; and navigation through the steps of a run.

use diffmoe::model::Objective;
use egui::containers::menu::{MenuButton, MenuConfig};
use egui::{PopupCloseBehavior, Slider, Ui, vec2};

use crate::App;
use crate::icons::Icon;
use crate::keys::Action;
use crate::session::Phase;
use crate::theme::Look;
use crate::widgets::{caption, icon_button, milliseconds, primary_button, sign_button, switch};

/// The primary button and those next to it.
pub(crate) fn run_buttons(app: &mut App, ui: &mut Ui, height: f32) {
    let phase = app.session.phase();
    let decoding = matches!(phase, Phase::Decoding { .. });
    let at_work = decoding || matches!(phase, Phase::Running | Phase::Recovering);
    let paused = phase == Phase::Paused;
    let (icon, text, enabled) = match phase {
        Phase::Running | Phase::Recovering | Phase::Decoding { .. } => (Icon::Pause, "Pause", true),
        Phase::Paused => (Icon::Play, "Resume", true),
        Phase::Ready if app.would_repeat() => (Icon::Play, "Generate another", true),
        Phase::Ready => (Icon::Play, "Generate", true),
        Phase::Fetching { .. } => (Icon::Play, "Loading the model", false),
        Phase::Opening { .. } => (Icon::Play, "Preparing", false),
        Phase::NoModel => (Icon::Play, "No model", false),
    };
    let changed = (paused || decoding)
        && app.session.record().is_some_and(|r| r.controls != app.session.controls);
    ui.horizontal(|ui| {
        ui.spacing_mut().interact_size.y = height;
        let others = if at_work || paused { 2.0 } else { 1.0 };
        let gap = ui.spacing().item_spacing.x;
        let width = ui.available_width() - others * (height + gap);
        let ctx = ui.ctx().clone();
        let hint = if text == "Generate another" {
            "The same settings with another seed (Space)"
        } else {
            "Space"
        };
        if primary_button(ui, (icon.atom(), text), vec2(width, height), enabled)
            .on_hover_text(hint)
            .clicked()
        {
            app.act(&ctx, Action::GenerateOrPause);
        }
        ui.add_enabled_ui(matches!(phase, Phase::Ready | Phase::Paused | Phase::Running), |ui| {
            if sign_button(ui, Icon::Step, "One step").clicked() {
                app.act(&ctx, Action::Step);
            }
        });
        if (at_work || paused) && sign_button(ui, Icon::Stop, "Cancel").clicked() {
            app.act(&ctx, Action::Cancel);
        }
    });
    if changed {
        let wide = vec2(ui.available_width(), 0.0);
        let button = egui::Button::new("Start over with the new settings").min_size(wide);
        if ui.add(button).clicked() {
            app.generate();
        }
    }
}

/// The way through the steps.
pub(crate) fn scrub(app: &mut App, ui: &mut Ui) {
    let Some(record) = app.session.record() else { return };
    let (steps, frames) = (record.steps() as usize, record.frames.len());
    let mut frame = app.view.frame_of(record);
    // The next step starts from the noise that this one left.
    let left = if frame >= steps { Some(0.0) } else { record.noise_levels().get(frame).copied() };
    let is_flow = record.config.objective == Objective::Flow;
    let whole = steps as f32 / record.settings.sampling.steps.max(1) as f32;
    let left = left.or_else(|| is_flow.then(|| whole * (1.0 - frame as f32 / steps.max(1) as f32)));
    let text = match (frame, left) {
        (0, _) if record.settings.init.is_some() => "Before the first step".to_owned(),
        (0, _) => "Noise, before the first step".to_owned(),
        _ if record.settings.sampling.scheduler.is_adaptive() => format!("After step {frame}"),
        (_, Some(noise)) => format!("After step {frame} of {steps}, noise level {noise:.2}"),
        (_, None) => format!("After step {frame} of {steps}"),
    };
    let ctx = ui.ctx().clone();
    let title = caption(ui, text);
    ui.horizontal(|ui| {
        if sign_button(ui, Icon::Back, "One step back").clicked() {
            app.act(&ctx, Action::Back);
        }
        let side = ui.spacing().interact_size.y + ui.spacing().item_spacing.x;
        ui.spacing_mut().slider_width = (ui.available_width() - side).max(60.0);
        let slider = Slider::new(&mut frame, 0..=steps).show_value(false);
        let response = ui.add(slider).labelled_by(title.id).accessible_name("Step on screen");
        if response.changed() {
            app.look_at(frame.min(frames.saturating_sub(1)));
        }
        if sign_button(ui, Icon::Forward, "One step forward").clicked() {
            app.act(&ctx, Action::Forward);
        }
    });
}

/// Save, link, trace.
pub(crate) fn take_away(app: &mut App, ui: &mut Ui) {
    let Some(record) = app.session.record() else { return };
    let (many, routes) = (record.labels.len() > 1, !app.shown.blocks.is_empty());
    let complete = record.is_complete();
    let image = app.view.image;
    let ctx = ui.ctx().clone();
    ui.horizontal_wrapped(|ui| {
        // The size is chosen without closing the menu.
        let stays = MenuConfig::new().close_behavior(PopupCloseBehavior::CloseOnClickOutside);
        let button = MenuButton::new((Icon::Save.atom(), "Save")).config(stays);
        button.ui(ui, |ui| {
            let single = image.map(|image| format!("Image {} as PNG", image + 1));
            if let Some(text) = single
                && ui.button(text).clicked()
            {
                app.save_png(image);
                ui.close();
            }
            let all = if many { "All images as PNG" } else { "Image as PNG" };
            if ui.button(all).clicked() {
                app.save_png(None);
                ui.close();
            }
            let animation =
                ui.add_enabled(complete, egui::Button::new("All steps as animated PNG"));
            if animation.on_disabled_hover_text("When the run is finished").clicked() {
                app.save_animation();
                ui.close();
            }
            ui.separator();
            enlargement(app, ui);
            ui.separator();
            if routes && ui.button("Routing trace as JSON").clicked() {
                app.save_trace();
                ui.close();
            }
        });
        let link = icon_button(ui, Icon::Link, "Copy link");
        if link.on_hover_text("A link that draws the same images (L)").clicked() {
            app.act(&ctx, Action::Link);
        }
        let one = image.or_else(|| (!many).then_some(0));
        if app.can_keep() {
            let text = if one.is_some() { "Keep" } else { "Keep all" };
            let button = icon_button(ui, Icon::Keep, text);
            if button.on_hover_text("Into the gallery, for your next visit (K)").clicked() {
                app.keep(one);
            }
        }
        if let Some(image) = one.filter(|_| app.session.can_start_from_record()) {
            let button = icon_button(ui, Icon::Forward, "Start from this image");
            if button.on_hover_text("Runs then start from it instead of noise").clicked() {
                let frame = app.session.record().map_or(0, |record| app.view.frame_of(record));
                app.session.start_from_record(image, frame);
            }
        }
        if image.is_some() && many && icon_button(ui, Icon::Grid, "All images").clicked() {
            app.view.image = None;
        }
        summary(app, ui);
    });
}

/// How saved images are enlarged.
fn enlargement(app: &mut App, ui: &mut Ui) {
    let sizes = [
        (None, "Usual", "Small images are enlarged to be seen elsewhere"),
        (Some(1), "1×", "As many pixels as the model draws"),
        (Some(2), "2×", "Twice as many along a side"),
        (Some(4), "4×", "Four times as many along a side"),
    ];
    ui.set_min_width(220.0);
    switch(ui, &mut app.view.enlarge.scale, &sizes);
    ui.checkbox(&mut app.view.enlarge.smooth, "Enlarge smoothly")
        .on_hover_text("Otherwise each pixel becomes a square");
}

/// C and the time of a step, in a few words.
fn summary(app: &App, ui: &mut Ui) {
    let Some(record) = app.session.record() else { return };
    let (mut words, mut hints) = (Vec::new(), Vec::new());
    if let Some(c) = record.trace.capacity() {
        words.push(format!("C {c:.2}"));
        hints.push("C: mean number of experts per token over all steps so far".to_owned());
    }
    if !record.step_ms.is_empty() {
        let mean = record.step_ms.iter().sum::<f32>() / record.step_ms.len() as f32;
        words.push(format!("{} per step", milliseconds(mean)));
        hints.push(format!("Computed on {}", record.device));
    }
    if !words.is_empty() {
        let text = egui::RichText::new(words.join(", ")).color(Look::of(ui).weak);
        // Whole on the next row where there is no room, as on a phone.
        ui.add(egui::Label::new(text).extend()).on_hover_text(hints.join("\n"));
    }
}
