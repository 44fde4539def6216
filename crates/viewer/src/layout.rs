//! Where the panels are: three columns in a wide window, one in a narrow one.

use egui::{Align2, CentralPanel, Color32, FontId, Frame, Margin, Panel, ScrollArea, Ui, vec2};

use super::panels::{
    controls, gallery, header, help, history, init, model, notes, routing, stage, sweep, timings,
    transport,
};
use super::theme::{self, Look, THUMB};
use super::view::{Mode, Tab};
use super::widgets::switch;
use super::{App, explore};

/// Parts of the window that the first frames of a page add: the controls, the images, the charts.
pub(super) const PARTS: u8 = 3;
/// From this width on there are three columns.
const WIDE: f32 = 900.0;
/// Widths of the columns next to the images.
const LEFT: f32 = 296.0;
const RIGHT: f32 = 352.0;
/// Largest width of a column.
const COLUMN: f32 = 640.0;

pub(super) fn show(app: &mut App, ui: &mut Ui) {
    let width = ui.ctx().content_rect().width();
    if app.view.mode == Mode::Explore {
        explore::show(app, ui, width >= WIDE);
    } else if width >= WIDE {
        wide(app, ui);
    } else {
        narrow(app, ui);
    }
    help::show(app, ui);
    gallery::opened(app, ui);
    drop_hint(ui);
}

fn bar(look: Look) -> Frame {
    Frame::new().fill(look.card).inner_margin(Margin::symmetric(14, 8))
}

fn column(look: Look) -> Frame {
    Frame::new().fill(look.page).inner_margin(Margin::symmetric(10, 10))
}

fn wide(app: &mut App, ui: &mut Ui) {
    let look = Look::of(ui);
    Panel::top("header")
        .frame(bar(look))
        .exact_size(46.0)
        .show(ui, |ui| header::show(app, ui, true));
    let left = Panel::left("controls").frame(column(look)).exact_size(LEFT).resizable(false);
    left.show_separator_line(false).show(ui, |ui| {
        let foot = Panel::bottom("run")
            .frame(Frame::new().inner_margin(Margin { top: 8, ..Margin::ZERO }));
        foot.show_separator_line(false).show(ui, |ui| transport::run_buttons(app, ui, 42.0));
        let body = CentralPanel::no_frame();
        body.show(ui, |ui| {
            if app.grown < 1 {
                return;
            }
            ScrollArea::vertical().id_salt("controls").show(ui, |ui| {
                controls::show(app, ui);
                init::show(app, ui);
                sweep::show(app, ui);
                gallery::show(app, ui);
                model::show(app, ui);
            });
        });
    });
    let right = Panel::right("routing").frame(column(look)).exact_size(RIGHT).resizable(false);
    right.show_separator_line(false).show(ui, |ui| {
        if app.grown < 3 {
            return;
        }
        ScrollArea::vertical().id_salt("routing").show(ui, |ui| {
            routing::show(app, ui);
            timings::show(app, ui);
        });
    });
    CentralPanel::default().frame(column(look)).show(ui, |ui| {
        if app.grown < 2 {
            return;
        }
        let foot = Panel::bottom("transport")
            .frame(Frame::new().inner_margin(Margin { top: 6, ..Margin::ZERO }));
        foot.show_separator_line(false).show(ui, |ui| {
            transport::scrub(app, ui);
            transport::take_away(app, ui);
            if history::is_worth_showing(app) {
                history::show(app, ui);
            }
        });
        CentralPanel::no_frame().show(ui, |ui| {
            notes::show(app, ui);
            let size = ui.available_size();
            stage::show(app, ui, size);
        });
    });
}

fn narrow(app: &mut App, ui: &mut Ui) {
    let look = Look::of(ui);
    theme::for_thumbs(ui);
    Panel::top("header")
        .frame(bar(look))
        .exact_size(56.0)
        .show(ui, |ui| header::show(app, ui, false));
    let foot = Panel::bottom("run").frame(bar(look).inner_margin(Margin::symmetric(12, 10)));
    foot.show(ui, |ui| transport::run_buttons(app, ui, THUMB));
    CentralPanel::default().frame(column(look)).show(ui, |ui| {
        if app.grown < 1 {
            return;
        }
        ScrollArea::vertical().id_salt("column").show(ui, |ui| {
            let side = (ui.available_width() - COLUMN).max(0.0) / 2.0;
            let frame = Frame::new().inner_margin(Margin::symmetric(side as i8, 0));
            frame.show(ui, |ui| one_column(app, ui));
        });
    });
}

fn one_column(app: &mut App, ui: &mut Ui) {
    notes::show(app, ui);
    // The frames of images lie outside of them.
    ui.add_space(1.0);
    let width = ui.available_width();
    let high = (ui.ctx().content_rect().height() * 0.5).max(200.0);
    stage::show(app, ui, vec2(width, width.min(high)));
    transport::scrub(app, ui);
    transport::take_away(app, ui);
    if app.grown < 2 {
        return;
    }
    let tabs = [
        (Tab::Draw, "Draw", "What to draw and how to sample it"),
        (Tab::Routing, "Routing", "Which expert works where"),
        (Tab::Model, "Model", "Models and timings"),
    ];
    switch(ui, &mut app.view.tab, &tabs);
    match app.view.tab {
        Tab::Draw => {
            controls::show(app, ui);
            init::show(app, ui);
            sweep::show(app, ui);
            if history::is_worth_showing(app) {
                history::show(app, ui);
            }
            gallery::show(app, ui);
        }
        Tab::Routing => routing::show(app, ui),
        Tab::Model => {
            model::show(app, ui);
            timings::show(app, ui);
        }
    }
}

/// Says what happens to a file that is held over the window.
fn drop_hint(ui: &Ui) {
    if ui.ctx().input(|input| input.raw.hovered_files.is_empty()) {
        return;
    }
    let layer = egui::LayerId::new(egui::Order::Foreground, egui::Id::unique("drop hint"));
    let painter = ui.ctx().layer_painter(layer);
    let screen = ui.ctx().content_rect();
    painter.rect_filled(screen, 0.0, Color32::from_black_alpha(170));
    let font = FontId::proportional(20.0);
    painter.text(
        screen.center(),
        Align2::CENTER_CENTER,
        "Drop a model, decoder, trace or image file to open it",
        font,
        Color32::WHITE,
    );
}
