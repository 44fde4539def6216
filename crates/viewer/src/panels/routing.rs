//! Routing at a glance: C over noise, tokens per expert, and the token map over the images.

use egui::{Button, ComboBox, Rect, Role, Sense, Ui, WidgetInfo, pos2, vec2};

use crate::App;
use crate::palette;
use crate::theme::Look;
use crate::views::token_map::{Overlay, TokenMap};
use crate::views::{capacity, experts};
use crate::widgets::{caption, card, remark, slider, switch};
use diffmoe::model::Kind;
use diffmoe::scheduler::Branch;

const C_HINT: &str = "C is the mean number of experts per token: 1 costs as much as a model \
    without experts. Drag in the plot to move through the steps.";

pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    let Some(record) = app.session.record() else {
        card(ui, "Routing", |ui| {
            remark(
                ui,
                "Generate an image to see which expert works on which patch at every \
                step.",
            )
        });
        return;
    };
    if record.config.kind == Kind::Dense || record.config.moe_blocks().is_empty() {
        card(ui, "Routing", |ui| {
            remark(ui, "This model has no experts: every token goes through the same network.")
        });
        return;
    }
    if app.shown.blocks.is_empty() {
        card(ui, "Routing", |ui| remark(ui, "Routing appears after the first step."));
        return;
    }
    card(ui, "Capacity over noise", |ui| over_noise(app, ui));
    card(ui, "Tokens per expert", |ui| per_expert(app, ui));
    card(ui, "Token map", |ui| map_controls(app, ui));
}

fn over_noise(app: &mut App, ui: &mut Ui) {
    let Some(record) = app.session.record() else { return };
    let step = app.view.step_of(record);
    let now = app.shown.curves.first().and_then(|curve| curve.points.get(step as usize));
    let text = now.map_or_else(String::new, |p| format!("C = {:.2} at noise {:.2}", p[1], p[0]));
    ui.horizontal(|ui| {
        caption(ui, text).on_hover_text(C_HINT);
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            let hint = "One line per block with experts, for the passes chosen below";
            ui.checkbox(&mut app.view.each_layer, "Per block").on_hover_text(hint);
        });
    });
    let pointed = capacity::show(ui, &app.shown.curves, step, 112.0);
    if app.view.each_layer {
        block_legend(app, ui);
    } else if app.shown.guided {
        caption(ui, "bold: all passes, thin: conditional, dotted: unconditional");
    }
    if let Some(step) = pointed {
        app.look_at(step as usize + 1);
    }
}

fn block_legend(app: &App, ui: &mut Ui) {
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        for (i, block) in app.shown.blocks.iter().enumerate() {
            let (rect, _) = ui.allocate_exact_size(vec2(12.0, 12.0), Sense::hover());
            let line = Rect::from_center_size(rect.center(), vec2(12.0, 3.0));
            ui.painter().rect_filled(line, 1.5, palette::expert(i));
            caption(ui, format!("block {block}  "));
        }
    });
}

fn per_expert(app: &mut App, ui: &mut Ui) {
    place(app, ui);
    let Some(load) = &app.shown.load else {
        remark(ui, "Not computed yet.");
        return;
    };
    let whose = match app.view.image {
        Some(image) => format!("of image {}", image + 1),
        None => "of the batch".to_owned(),
    };
    let even = format!(
        "{} tokens {whose}, C = {:.2}, dashed: even share {:.0}",
        load.pool, load.capacity, load.even
    );
    let chosen = match app.view.overlay {
        Overlay::Expert(expert) => Some(expert),
        Overlay::Off | Overlay::Count => None,
    };
    let clicked = experts::show(ui, load, chosen, 108.0);
    caption(ui, even).on_hover_text("Click a bar to see that expert's tokens over the images");
    if let Some(expert) = clicked {
        app.view.overlay =
            if chosen == Some(expert) { Overlay::Count } else { Overlay::Expert(expert) };
    }
}

/// Which block, and which pass.
fn place(app: &mut App, ui: &mut Ui) {
    const MOST_BUTTONS: usize = 6;
    let names: Vec<_> = app.shown.blocks.iter().map(|block| format!("Block {block}")).collect();
    if names.len() <= MOST_BUTTONS {
        let hint = "The transformer block whose experts are shown";
        let choices: Vec<_> =
            names.iter().enumerate().map(|(i, name)| (i, name.as_str(), hint)).collect();
        switch(ui, &mut app.view.layer, &choices);
    } else {
        let chosen = names.get(app.view.layer).cloned().unwrap_or_default();
        let width = ui.available_width();
        let combo = ComboBox::from_id_salt("block").width(width).selected_text(chosen.clone());
        let shown = combo.show_ui(ui, |ui| {
            for (i, name) in names.iter().enumerate() {
                ui.selectable_value(&mut app.view.layer, i, name);
            }
        });
        shown.response.accessible_name(format!("Block: {chosen}"));
    }
    if app.shown.guided {
        let with = "The conditional pass of guidance";
        let without = "The unconditional pass of guidance";
        let choices = [
            (Branch::Conditional, "Conditional", with),
            (Branch::Unconditional, "Unconditional", without),
        ];
        switch(ui, &mut app.view.branch, &choices);
    }
}

fn map_controls(app: &mut App, ui: &mut Ui) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mode {
        Off,
        Count,
        Expert,
    }
    let before = match app.view.overlay {
        Overlay::Off => Mode::Off,
        Overlay::Count => Mode::Count,
        Overlay::Expert(_) => Mode::Expert,
    };
    let mut mode = before;
    let choices = [
        (Mode::Off, "Off", "Only the images (M)"),
        (Mode::Count, "How many", "How many experts took each patch (M)"),
        (Mode::Expert, "One expert", "The patches that one expert took"),
    ];
    if switch(ui, &mut mode, &choices) {
        app.view.overlay = match mode {
            Mode::Off => Overlay::Off,
            Mode::Count => Overlay::Count,
            Mode::Expert => Overlay::Expert(0),
        };
    }
    match app.view.overlay {
        Overlay::Off => {
            caption(ui, "Shows where the experts work on the images.");
            return;
        }
        Overlay::Count => ramp_legend(ui, app.shown.map.as_ref().map_or(1, TokenMap::most)),
        Overlay::Expert(chosen) => {
            let experts = app.session.record().map_or(0, |record| record.trace.experts());
            if let Some(expert) = expert_buttons(ui, experts, chosen) {
                app.view.overlay = Overlay::Expert(expert);
            }
        }
    }
    let hint = "Opacity of the map over the images";
    slider(ui, "Strength", hint, &mut app.view.strength, 0.1..=1.0, |s| s.fixed_decimals(2));
}

fn ramp_legend(ui: &mut Ui, most: u32) {
    let look = Look::of(ui);
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 24.0), Sense::hover());
    let cells = most + 1;
    let width = rect.width() / cells as f32;
    for count in 0..cells {
        let left = rect.left() + width * count as f32;
        let cell = Rect::from_min_size(pos2(left, rect.top()), vec2(width + 0.5, rect.height()));
        let colour = palette::ramp(count as f32 / most as f32);
        ui.painter().rect_filled(cell, 0.0, colour);
        let font = egui::FontId::proportional(11.5);
        let text = palette::text_on(colour);
        ui.painter().text(cell.center(), egui::Align2::CENTER_CENTER, count, font, text);
    }
    ui.painter().rect_stroke(
        rect,
        3.0,
        egui::Stroke::new(1.0, look.line),
        egui::StrokeKind::Inside,
    );
    let name = format!("Scale: 0 to {most} experts per patch");
    response.widget_info(|| WidgetInfo::labeled(Role::Image, true, &name));
    caption(ui, "experts per patch; point at a patch to see which");
}

fn expert_buttons(ui: &mut Ui, experts: usize, chosen: usize) -> Option<usize> {
    let mut clicked = None;
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing = vec2(4.0, 4.0);
        ui.spacing_mut().button_padding = vec2(4.0, 2.0);
        let ring = Look::of(ui).text;
        for expert in 0..experts {
            let colour = palette::expert(expert);
            let text = egui::RichText::new(expert.to_string()).color(palette::text_on(colour));
            let mut button = Button::new(text).fill(colour).min_size(vec2(32.0, 28.0));
            if expert == chosen {
                button = button.stroke(egui::Stroke::new(2.5, ring));
            }
            if ui.add(button).accessible_name(format!("Expert {expert}")).clicked() {
                clicked = Some(expert);
            }
        }
    });
    clicked
}
