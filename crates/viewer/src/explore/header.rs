//! The line on top of Explore: the two modes, the images of the run, the pass; and what works in both modes.

use egui::{
    Align, Color32, Layout, Rect, RichText, Role, Sense, Stroke, StrokeKind, Ui, WidgetInfo, vec2,
};

use diffmoe::scheduler::Branch;

use super::images::place_on_sheet;
use super::{explorable, switch_in, tour};
use crate::App;
use crate::icons::paint_sign;
use crate::keys::Action;
use crate::panels::header::{help_button, mode_switch, theme_button};
use crate::panels::recorded;
use crate::theme::Look;

pub(super) fn show(app: &mut App, ui: &mut Ui, wide: bool) {
    let look = Look::of(ui);
    ui.horizontal_centered(|ui| {
        let (rect, _) = ui.allocate_exact_size(vec2(22.0, 22.0), Sense::hover());
        paint_sign(ui.painter(), rect);
        if wide {
            ui.label(RichText::new("DiffMoE").size(17.0).strong());
        }
        mode_switch(app, ui);
        recorded::badge(app, ui);
        if wide {
            let name = app.session.record().map(|record| record.config.name.clone());
            if let Some(name) = name {
                ui.label(RichText::new(name).color(look.weak));
            }
        }
        tour_button(app, ui);
        images(app, ui, if wide { 32.0 } else { 38.0 });
        if wide {
            passes(app, ui);
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                help_button(app, ui);
                theme_button(ui);
                let ctx = ui.ctx().clone();
                let link =
                    ui.button("Copy link").on_hover_text("A link to this view of this run (L)");
                if link.clicked() {
                    app.act(&ctx, Action::Link);
                }
                ui.allocate_ui(vec2(150.0, 28.0), |ui| {
                    crate::panels::transport::run_buttons(app, ui, 28.0);
                });
            });
        }
    });
}

/// Begins the guided tour; nothing where the run routes nothing.
fn tour_button(app: &mut App, ui: &mut Ui) {
    let Some(record) = explorable(&app.session).filter(|record| tour::has_tour(record)) else {
        return;
    };
    let button = ui.button("Tour").on_hover_text("A tour of this view in seven stops");
    if button.clicked() {
        tour::go(&mut app.explore.selection, record, None);
    }
}

/// The images of the run as far as they fit; pointing previews one, a click chooses it.
fn images(app: &mut App, ui: &mut Ui, side: f32) {
    let Some(record) = explorable(&app.session) else { return };
    let Some(texture) = app.explore.made.results.as_ref() else { return };
    let count = record.labels.len();
    let evaluations = record.trace.evaluations();
    let switch = if evaluations > 1 { 46.0 * evaluations as f32 + 12.0 } else { 0.0 };
    let room = if ui.available_width() > 500.0 {
        ui.available_width() - 480.0 - switch
    } else {
        ui.available_width()
    };
    let fit = (room / (side + 4.0)).floor().max(1.0) as usize;
    let chosen = app.explore.selection.image.min(count.saturating_sub(1));
    // Those around the chosen one, where not all fit.
    let first = chosen.saturating_sub(fit / 2).min(count.saturating_sub(fit));
    ui.spacing_mut().item_spacing.x = 4.0;
    let mut clicked = None;
    for (image, label) in record.labels.iter().enumerate().skip(first).take(fit) {
        let (rect, response) = ui.allocate_exact_size(vec2(side, side), Sense::click());
        let name = format!("Image {}: {label}", image + 1);
        response.widget_info(|| WidgetInfo::selected(Role::Button, true, image == chosen, &name));
        let [height, width] = record.config.input_size.map(|side| side as f32);
        let scale = side / height.max(width);
        let cell = Rect::from_center_size(rect.center(), vec2(width, height) * scale);
        ui.painter().image(texture.id(), cell, place_on_sheet(image, count, count), Color32::WHITE);
        if image == chosen {
            let pen = Stroke::new(2.0, Look::of(ui).accent);
            ui.painter().rect_stroke(rect.expand(1.0), 4.0, pen, StrokeKind::Outside);
        }
        if response.on_hover_text(name).clicked() {
            clicked = Some(image);
        }
    }
    if let Some(image) = clicked {
        app.explore.selection.image = image;
    }
}

/// Passes with labels, or without; nothing where there is one kind.
fn passes(app: &mut App, ui: &mut Ui) {
    let Some(record) = explorable(&app.session) else { return };
    let (guided, evaluations) =
        (record.trace.has(Branch::Unconditional), record.trace.evaluations());
    if evaluations > 1 && ui.available_width() > 470.0 + 46.0 * evaluations as f32 {
        ui.add_space(6.0);
        let (rect, _) =
            ui.allocate_exact_size(vec2(46.0 * evaluations as f32, 28.0), Sense::hover());
        super::phone::evaluation_switch(ui, rect, evaluations, &mut app.explore.selection);
    }
    if !guided || ui.available_width() < 420.0 {
        return;
    }
    ui.add_space(6.0);
    let (rect, _) = ui.allocate_exact_size(vec2(164.0, 28.0), Sense::hover());
    let hint = "Guidance runs the model twice, conditional and unconditional, and each pass is routed separately";
    let choices = [(Branch::Conditional, "Cond.", hint), (Branch::Unconditional, "Uncond.", hint)];
    switch_in(ui, rect, "pass", &mut app.explore.selection.pass, &choices);
}
