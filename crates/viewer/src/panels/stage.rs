//! The images with the token map over them, and how latents are rendered; before the first image, the progress of
//! loading.

use egui::{
    Align2, Color32, FontId, Pos2, ProgressBar, Rect, Role, Sense, Stroke, StrokeKind, Ui, Vec2,
    WidgetInfo, vec2,
};

use super::{init, recorded};
use crate::App;
use crate::icons::Icon;
use crate::session::{Phase, Rendering};
use crate::theme::Look;
use crate::views::image_grid::Grid;
use crate::views::token_map::{self, Overlay};
use crate::widgets;

/// Room for a name below each image.
const NAME_HEIGHT: f32 = 20.0;
/// Images narrower than this have no room for a name.
const NAMED_WIDTH: f32 = 84.0;

/// Shows the stage in `size`.
pub(crate) fn show(app: &mut App, ui: &mut Ui, size: Vec2) {
    let (area, _) = ui.allocate_exact_size(size, Sense::hover());
    if app.painter.is_on && app.session.controls.init.is_some() {
        init::paint(app, ui, area);
        return;
    }
    if app.session.record().is_none() || app.shown.images.is_none() {
        empty(app, ui, area);
        return;
    }
    images(app, ui, area);
    let phase = app.session.phase();
    let preparing = matches!(phase, Phase::Opening { .. }).then_some(phase);
    if let Some(phase) = app.session.loading().or(preparing) {
        let strip = Rect::from_min_size(area.min, vec2(area.width(), 22.0));
        progress(&mut above(ui, strip), &phase);
    } else if app.session.phase() == Phase::Recovering {
        let text = "The device was lost. Resuming on another one.";
        label_on(ui, area.center_top() + vec2(0.0, 16.0), text);
    } else if let Phase::Decoding { .. } = app.session.phase() {
        let strip = Rect::from_min_size(area.min, vec2(area.width(), 22.0));
        let phase = app.session.phase();
        progress(&mut above(ui, strip), &phase);
    } else {
        latents(app, ui, area);
    }
    // Below the progress of the model.
    let strip = Rect::from_min_size(area.min + vec2(0.0, 28.0), vec2(area.width(), 24.0));
    recorded::badge(app, &mut above(ui, strip));
}

/// A place on top of the images; what is put there does not move what comes below them.
fn above(ui: &mut Ui, place: Rect) -> Ui {
    ui.new_child(egui::UiBuilder::new().max_rect(place))
}

/// Says what the images of a model that generates latents are, and offers to decode them.
fn latents(app: &mut App, ui: &mut Ui, area: Rect) {
    let Some(record) = app.session.record() else { return };
    let frame = app.view.frame_of(record);
    let (name, hint) = match record.rendering(frame) {
        Rendering::Pixels => return,
        Rendering::Latents => (
            "Latent preview",
            "This model generates latents, and no decoder is open. Their first three principal \
             components are shown as red, green and blue. Open a decoder under Model.",
        ),
        Rendering::Preview => (
            "Decoder preview",
            "A linear approximation of the decoder, one colour per latent cell. It shows the \
                composition without detail.",
        ),
        Rendering::Decoded => ("Decoded", "The latents of this step, decoded."),
    };
    let offers = app.session.can_decode(frame);
    let strip = Rect::from_min_size(area.min, vec2(area.width(), ui.spacing().interact_size.y));
    let mut wanted = false;
    above(ui, strip).scope(|ui| {
        ui.horizontal(|ui| {
            widgets::badge(ui, name).on_hover_text(hint);
            let button = offers.then(|| ui.button("Decode this step"));
            wanted = button.is_some_and(|button| {
                button.on_hover_text("Decode the latents of the step on screen").clicked()
            });
        });
    });
    if wanted {
        app.session.decode(frame);
    }
}

fn images(app: &mut App, ui: &mut Ui, area: Rect) {
    let Some(record) = app.session.record() else { return };
    let grid = app.shown.grid.unwrap_or(Grid::new(record.labels.len()));
    let shown: Vec<usize> =
        app.view.image.map_or_else(|| (0..grid.count).collect(), |image| vec![image]);
    let arrangement = Grid::new(shown.len());
    let (plain, size) = (vec2(8.0, 8.0), record.config.input_size);
    let named = arrangement.cell(area, 0, plain, size).width() >= NAMED_WIDTH;
    let gap = if named { vec2(8.0, NAME_HEIGHT) } else { plain };
    let (mut clicked, mut kept) = (None, None);
    for (place, &image) in shown.iter().enumerate() {
        let cell = arrangement.cell(area, place, gap, size);
        let response = ui.interact(cell, ui.make_persistent_id(("image", image)), Sense::click());
        let name = format!("Image {}: {}", image + 1, record.labels[image]);
        response.widget_info(|| WidgetInfo::labeled(Role::Button, true, &name));
        paint(app, ui, cell, grid, image);
        if named && app.can_keep() && keep_button(ui, cell, image, &record.labels[image]) {
            kept = Some(image);
        }
        if named {
            paint_name(ui, cell, &record.labels[image]);
        }
        if response.clicked() {
            clicked = Some(image);
        }
        let pointed = response.hover_pos().and_then(|pos| patch_at(app, cell, pos));
        if let Some((x, y)) = pointed {
            mark_patch(app, ui, cell, (x, y));
            let text = describe(app, image, (x, y));
            response.on_hover_text_at_pointer(format!("{name}\n{text}"));
        } else {
            response.on_hover_text(name);
        }
    }
    if kept.is_some() {
        app.keep(kept);
    }
    if let Some(image) = clicked.filter(|_| grid.count > 1) {
        app.view.image = if app.view.image.is_some() { None } else { Some(image) };
    }
}

fn paint(app: &App, ui: &Ui, cell: Rect, grid: Grid, image: usize) {
    let painter = ui.painter();
    let uv = grid.uv(image);
    if let Some(texture) = &app.shown.images {
        painter.image(texture.id(), cell, uv, Color32::WHITE);
    }
    if let Some(texture) = app.shown.overlay.as_ref().filter(|_| app.view.overlay != Overlay::Off) {
        painter.image(texture.id(), cell, uv, Color32::WHITE.gamma_multiply(app.view.strength));
    }
    painter.rect_stroke(cell, 2.0, Stroke::new(1.0, Look::of(ui).line), StrokeKind::Outside);
}

/// A button in the corner of an image while the pointer is over it; whether it was pressed. A finger finds the button
/// below the images instead.
fn keep_button(ui: &mut Ui, cell: Rect, image: usize, label: &str) -> bool {
    const SIDE: f32 = 28.0;
    let id = ui.make_persistent_id(("keep image", image));
    let has_focus = ui.memory(|memory| memory.has_focus(id));
    if !has_focus && !ui.rect_contains_pointer(cell) {
        return false;
    }
    let corner = cell.right_top() + vec2(-SIDE - 6.0, 6.0);
    let place = Rect::from_min_size(corner, Vec2::splat(SIDE));
    let response = ui.interact(place, id, Sense::click());
    let name = format!("Keep {label} in the gallery");
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, &name));
    let look = Look::of(ui);
    let (fill, ink) = if response.hovered() || has_focus {
        (look.accent, look.on_accent)
    } else {
        (look.card.gamma_multiply(0.85), look.text)
    };
    ui.painter().rect_filled(place, 8.0, fill);
    Icon::Keep.paint(ui.painter(), place.shrink(7.0), ink);
    response.on_hover_text(name).clicked()
}

fn paint_name(ui: &Ui, cell: Rect, name: &str) {
    let look = Look::of(ui);
    let mut job = egui::text::LayoutJob::simple_singleline(
        name.to_owned(),
        FontId::proportional(12.0),
        look.weak,
    );
    job.wrap = egui::text::TextWrapping::truncate_at_width(cell.width());
    let galley = ui.fonts_mut(|fonts| fonts.layout_job(job));
    let left = cell.center().x - galley.size().x / 2.0;
    ui.painter().galley(Pos2::new(left, cell.bottom() + 3.0), galley, look.weak);
}

/// Column and row of the patch at a position, where there is a map.
fn patch_at(app: &App, cell: Rect, pos: Pos2) -> Option<(usize, usize)> {
    let map = app.shown.map.as_ref()?;
    let share = (pos - cell.min) / cell.size();
    let index = |share: f32, of: usize| ((share * of as f32).max(0.0) as usize).min(of - 1);
    let patch = || (index(share.x, map.columns), index(share.y, map.rows));
    (app.view.overlay != Overlay::Off).then(patch)
}

fn mark_patch(app: &App, ui: &Ui, cell: Rect, (x, y): (usize, usize)) {
    let Some(map) = &app.shown.map else { return };
    let size = cell.size() / vec2(map.columns as f32, map.rows as f32);
    let patch = Rect::from_min_size(cell.min + vec2(x as f32, y as f32) * size, size);
    ui.painter().rect_stroke(patch, 0.0, Stroke::new(3.0, Color32::BLACK), StrokeKind::Inside);
    ui.painter().rect_stroke(patch, 0.0, Stroke::new(1.5, Color32::WHITE), StrokeKind::Inside);
}

fn describe(app: &App, image: usize, (x, y): (usize, usize)) -> String {
    let (Some(map), Some(block)) = (&app.shown.map, app.shown.blocks.get(app.view.layer)) else {
        return String::new();
    };
    let who = token_map::sentence(map.mask(image, x, y));
    format!("row {}, column {}: {who} in block {block}", y + 1, x + 1)
}

fn label_on(ui: &Ui, centre: Pos2, text: &str) {
    let look = Look::of(ui);
    let galley =
        ui.painter().layout_no_wrap(text.to_owned(), FontId::proportional(14.0), look.text);
    let rect = Align2::CENTER_CENTER.anchor_size(centre, galley.size());
    ui.painter().rect_filled(rect.expand2(vec2(12.0, 7.0)), 8.0, look.card);
    ui.painter().galley(rect.min, galley, look.text);
}

/// The stage before the first image.
fn empty(app: &App, ui: &mut Ui, area: Rect) {
    let look = Look::of(ui);
    let square =
        Rect::from_center_size(area.center(), Vec2::splat(area.width().min(area.height())));
    ui.painter().rect_filled(square, 10.0, look.card);
    let phase = app.session.loading().unwrap_or_else(|| app.session.phase());
    let inner =
        Rect::from_center_size(area.center(), vec2((square.width() - 48.0).min(360.0), 90.0));
    let layout = egui::Layout::top_down(egui::Align::Center);
    ui.scope_builder(egui::UiBuilder::new().max_rect(inner).layout(layout), |ui| match phase {
        Phase::Fetching { .. } | Phase::Opening { .. } => progress(ui, &phase),
        Phase::NoModel => {
            widgets::remark(
                ui,
                "No model is open. Drop a model file here, or choose one under Model.",
            );
        }
        Phase::Ready => {
            widgets::remark(ui, "Press Generate.");
        }
        Phase::Running | Phase::Paused | Phase::Recovering | Phase::Decoding { .. } => {
            widgets::remark(ui, "Preparing the first step.");
        }
    });
}

/// How far a model is: bytes, then parts.
fn progress(ui: &mut Ui, phase: &Phase) {
    let (share, text) = progress_of(phase);
    ui.label(&text);
    let bar = ProgressBar::new(share).desired_height(8.0).corner_radius(4);
    ui.add(bar.fill(Look::of(ui).accent)).accessible_name(text);
}

/// The share that is done, and what is being done.
fn progress_of(phase: &Phase) -> (f32, String) {
    match phase {
        Phase::Fetching { name, done, total: Some(total) } => {
            let text =
                format!("Fetching {name}: {} of {}", widgets::bytes(*done), widgets::bytes(*total));
            (*done as f32 / (*total).max(1) as f32, text)
        }
        Phase::Fetching { name, done, total: None } => {
            (0.0, format!("Fetching {name}: {}", widgets::bytes(*done)))
        }
        Phase::Opening { what, done, total } => {
            (*done as f32 / (*total).max(1) as f32, format!("Opening: {what}"))
        }
        Phase::Decoding { percent, images } => {
            let images = if *images == 1 { "image" } else { "images" };
            (f32::from(*percent) / 100.0, format!("Decoding the {images}: {percent} %"))
        }
        _ => (0.0, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_bytes_then_in_parts() {
        let fetching = |total| Phase::Fetching { name: "emoji".into(), done: 2_800_000, total };
        assert_eq!(
            progress_of(&fetching(Some(11_200_000))),
            (0.25, "Fetching emoji: 2.8 MB of 11.2 MB".into())
        );
        assert_eq!(progress_of(&fetching(None)), (0.0, "Fetching emoji: 2.8 MB".into()));
        let opening = Phase::Opening { what: "weights".into(), done: 3, total: 4 };
        assert_eq!(progress_of(&opening), (0.75, "Opening: weights".into()));
        let decoding = |images| progress_of(&Phase::Decoding { percent: 25, images });
        assert_eq!(decoding(1), (0.25, "Decoding the image: 25 %".into()));
        assert_eq!(decoding(4), (0.25, "Decoding the images: 25 %".into()));
        let unknown = Phase::Opening { what: "device".into(), done: 0, total: 0 };
        assert!(progress_of(&unknown).0 < 1e-6, "an unknown length is no progress");
    }
}
