//! Shortcuts, and what the plots mean.

use egui::{Button, Grid, Id, Label, Modal, RichText, ScrollArea, Ui};

use crate::App;
use crate::explore::keys::KEYS;
use crate::jobs::Report;
use crate::keys::SHORTCUTS;
use crate::platform;
use crate::theme::Look;
use crate::widgets::remark;

const MEANINGS: [(&str, &str); 6] = [
    (
        "Experts",
        "Some blocks of the model contain several small networks, the experts. For each patch \
         of the noisy image, a router decides which of them process it: none, one or many.",
    ),
    (
        "Capacity C",
        "The mean number of experts per patch. 1 is the compute of a model without experts. It \
         changes with the noise level and with the subject: that is the point of DiffMoE.",
    ),
    (
        "Tokens per expert",
        "A token is a patch of one image. The bars show how many tokens each expert took in \
         one block at the step on screen. Bars of equal height mean that the work is shared \
         evenly.",
    ),
    (
        "Token map",
        "The same by position: how many experts took each patch, or the patches of one expert. \
         Point at a patch to see which experts took it.",
    ),
    (
        "Conditional and unconditional",
        "Guidance runs the model twice: with the labels or prompt (conditional) and without \
            (unconditional). Each pass is routed separately.",
    ),
    (
        "Latents",
        "Some models work in a smaller latent space, and an image decoder turns latents into \
         images. While such a model draws, you see a preview. Without a decoder its colours have \
         no meaning.",
    ),
];

pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    if !app.view.help {
        return;
    }
    let screen = ui.ctx().content_rect().size();
    let frame = egui::Frame::popup(ui.style()).inner_margin(egui::Margin::same(18));
    let modal = Modal::new(Id::unique("help")).frame(frame).show(ui.ctx(), |ui| {
        ui.set_width((screen.x - 48.0).min(520.0));
        ui.label(RichText::new("Help").size(18.0).strong());
        ScrollArea::vertical().max_height(screen.y - 150.0).show(ui, |ui| {
            contents(ui);
            ui.add_space(8.0);
            device(app, ui);
        });
        if platform::page_address().is_some() {
            ui.checkbox(&mut app.view.tab_icon, "Image in the tab's icon while it is generated");
        }
        ui.button("Close").clicked()
    });
    if modal.inner || modal.should_close() {
        app.view.help = false;
    }
}

/// Whether the device computes what it should.
fn device(app: &mut App, ui: &mut Ui) {
    ui.heading("Wrong images?");
    remark(
        ui,
        "A graphics driver may compute wrong numbers. The check runs every kernel and a block of the model, and makes a \
         report that can be sent to the project.",
    );
    let is_pending = matches!(app.jobs.report, Some(Report::Pending));
    if ui.add_enabled(!is_pending, Button::new("Check this device")).clicked() {
        app.jobs.examine(&app.session);
    }
    match &app.jobs.report {
        None => {}
        Some(Report::Pending) => {
            remark(ui, "Checking. This takes some seconds.");
        }
        Some(Report::Ready(text)) => {
            if ui.button("Copy the report").clicked() {
                ui.ctx().copy_text(text.clone());
            }
            let text = RichText::new(text).monospace().size(11.0);
            ScrollArea::horizontal().id_salt("report").show(ui, |ui| {
                ui.add(Label::new(text).extend());
            });
        }
    }
}

fn contents(ui: &mut Ui) {
    let look = Look::of(ui);
    ui.heading("Keys");
    Grid::new("shortcuts").num_columns(2).spacing([24.0, 3.0]).min_row_height(18.0).show(
        ui,
        |ui| {
            for (_, key, what, _) in SHORTCUTS {
                ui.label(RichText::new(key).strong().color(look.accent));
                ui.label(what);
                ui.end_row();
            }
        },
    );
    ui.add_space(8.0);
    ui.heading("Keys in Explore");
    Grid::new("explore shortcuts").num_columns(2).spacing([24.0, 3.0]).min_row_height(18.0).show(
        ui,
        |ui| {
            for (key, what) in KEYS {
                ui.label(RichText::new(key).strong().color(look.accent));
                ui.label(what);
                ui.end_row();
            }
        },
    );
    ui.add_space(8.0);
    ui.heading("What you see");
    for (title, text) in MEANINGS {
        ui.label(RichText::new(title).strong());
        remark(ui, text);
        ui.add_space(4.0);
    }
    let paper = "https://arxiv.org/abs/2503.14487";
    ui.hyperlink_to(
        "The paper: DiffMoE, Dynamic Token Selection for Scalable Diffusion Transformers",
        paper,
    );
}
