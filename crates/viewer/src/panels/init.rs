//! The image that runs start from: opening one, its strength, and painting over the patches that are redrawn.

use egui::{
    Button, Color32, EventFilter, Image, Key, Rect, Role, Sense, Stroke, StrokeKind, TextureHandle,
    TextureOptions, Ui, Vec2, WidgetInfo, vec2,
};

use crate::App;
use crate::icons::Icon;
use crate::session::Init;
use crate::theme::Look;
use crate::views::image_grid::{self, Grid};
use crate::widgets::{card, icon_button, remark, sign_button, slider};

const OPEN_HINT: &str = "A photo or another image; dropping or pasting one without settings does \
    the same. It is cut and scaled to the size of the model.";
const STRENGTH_HINT: &str = "Share of the way from noise to data that is taken. Low: close to the \
    image. 1: from noise alone.";
const PAINT_HINT: &str = "Paint over patches on the stage: only they are redrawn, the rest stays \
    as it is.";
/// Longer side of the small image.
const SIDE: f32 = 52.0;
/// Pixels along a side that are shown of an image.
const MOST_PIXELS: usize = 1024;
/// Strokes that can be undone.
const MOST_UNDO: usize = 100;

/// The state of painting.
#[derive(Default)]
pub(crate) struct Painter {
    /// Whether the stage is painted on.
    pub(crate) is_on: bool,
    texture: Option<(std::sync::Arc<Vec<f32>>, TextureHandle)>,
    /// What was redrawn before each stroke.
    undo: Vec<Vec<bool>>,
    /// What the stroke under way does to patches.
    brush: Option<bool>,
    /// Patch that the keyboard is at.
    cursor: [usize; 2],
}

impl Painter {
    /// The texture of an image, made anew for another one.
    fn texture(&mut self, ui: &Ui, init: &Init) -> TextureHandle {
        let kept = self.texture.as_ref();
        if let Some((_, texture)) = kept.filter(|(of, _)| std::sync::Arc::ptr_eq(of, &init.shown)) {
            return texture.clone();
        }
        let image = image_grid::image(&init.shown, init.size, Grid::new(1), MOST_PIXELS);
        let texture = ui.ctx().load_texture("start image", image, TextureOptions::NEAREST);
        self.texture = Some((init.shown.clone(), texture.clone()));
        self.undo.clear();
        texture
    }

    /// Begins a change of what is redrawn.
    fn remember(&mut self, redrawn: &[bool]) {
        if self.undo.len() == MOST_UNDO {
            self.undo.remove(0);
        }
        self.undo.push(redrawn.to_vec());
    }
}

/// The card among the controls.
pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    let Some(makes_pixels) = app.session.model().map(|model| model.config.makes_pixels()) else {
        return;
    };
    card(ui, "Start image", |ui| {
        let Some(init) = app.session.controls.init.as_ref() else {
            app.painter.is_on = false;
            if makes_pixels {
                let button = icon_button(ui, Icon::Open, "Open an image");
                if button.on_hover_text(OPEN_HINT).clicked() {
                    app.jobs.pick_init();
                }
            } else {
                remark(ui, "Start from an image of a run: the button is below it.");
            }
            return;
        };
        let texture = app.painter.texture(ui, init);
        let mut remove = false;
        ui.horizontal(|ui| {
            ui.add(Image::from_texture(&texture).fit_to_exact_size(Vec2::splat(SIDE)));
            ui.vertical(|ui| {
                ui.add(egui::Label::new(init.name.as_str()).truncate());
                remove = sign_button(ui, Icon::Trash, "Start from noise again").clicked();
            });
        });
        let strength = &mut app.session.controls.sampling.strength;
        slider(ui, "Strength", STRENGTH_HINT, strength, 0.05..=1.0, |s| {
            s.step_by(0.05).fixed_decimals(2).clamping(egui::SliderClamping::Edits)
        });
        let name = "Paint what to redraw";
        ui.checkbox(&mut app.painter.is_on, name).on_hover_text(PAINT_HINT);
        if remove {
            app.session.controls.init = None;
        }
    });
}

/// The stage while it is painted on.
pub(crate) fn paint(app: &mut App, ui: &mut Ui, area: Rect) {
    let Some(init) = app.session.controls.init.as_mut() else { return };
    let painter = &mut app.painter;
    let texture = painter.texture(ui, init);
    // Below the buttons: a press on one of them is no stroke.
    let below = area.with_min_y(area.min.y + strip(ui) + ui.spacing().item_spacing.y);
    let cell = Grid::new(1).cell(below, 0, vec2(0.0, 0.0), init.size);
    let id = ui.make_persistent_id("paint what to redraw");
    let response = ui.interact(cell, id, Sense::click_and_drag());
    let count = init.redrawn.iter().filter(|redrawn| **redrawn).count();
    let [rows, columns] = init.grid;
    let name = format!(
        "Patches to redraw: {count} of {}. Drag over them, or move with the arrow keys and press Space",
        rows * columns
    );
    response.widget_info(|| WidgetInfo::labeled(Role::Button, true, &name));
    if response.has_focus() {
        let filter =
            EventFilter { horizontal_arrows: true, vertical_arrows: true, ..Default::default() };
        ui.memory_mut(|memory| memory.set_focus_lock_filter(id, filter));
        by_keyboard(ui, painter, init);
    }
    let pointer = response.interact_pointer_pos().filter(|_| response.is_pointer_button_down_on());
    match pointer {
        Some(pos) => {
            let share = (pos - cell.min) / cell.size();
            let index = |share: f32, of: usize| (share * of as f32).clamp(0.0, of as f32 - 1.0);
            let at = index(share.y, rows) as usize * columns + index(share.x, columns) as usize;
            let brush = painter.brush.unwrap_or_else(|| {
                painter.remember(&init.redrawn);
                !init.redrawn[at]
            });
            painter.brush = Some(brush);
            init.redrawn[at] = brush;
        }
        None => painter.brush = None,
    }
    show_painted(ui, &texture, cell, init, response.has_focus().then_some(painter.cursor));
    buttons(app, ui, area);
}

/// The image, with the patches that are redrawn and the one that the keyboard is at.
fn show_painted(
    ui: &Ui,
    texture: &TextureHandle,
    cell: Rect,
    init: &Init,
    cursor: Option<[usize; 2]>,
) {
    let look = Look::of(ui);
    let [rows, columns] = init.grid;
    let whole = Rect::from_min_max(egui::pos2(0.0, 0.0), egui::pos2(1.0, 1.0));
    ui.painter().image(texture.id(), cell, whole, Color32::WHITE);
    let size = cell.size() / vec2(columns as f32, rows as f32);
    let patch = |row: usize, column: usize| {
        Rect::from_min_size(cell.min + vec2(column as f32, row as f32) * size, size)
    };
    for (at, _) in init.redrawn.iter().enumerate().filter(|(_, redrawn)| **redrawn) {
        let place = patch(at / columns, at % columns);
        ui.painter().rect_filled(place, 0.0, look.accent.gamma_multiply(0.55));
        let line = Stroke::new(1.0, look.accent);
        ui.painter().rect_stroke(place, 0.0, line, StrokeKind::Inside);
    }
    if let Some([row, column]) = cursor {
        let line = Stroke::new(2.0, look.text);
        ui.painter().rect_stroke(patch(row, column), 0.0, line, StrokeKind::Inside);
    }
    ui.painter().rect_stroke(cell, 2.0, Stroke::new(1.0, look.line), StrokeKind::Outside);
}

/// Height of the buttons.
fn strip(ui: &Ui) -> f32 {
    ui.spacing().interact_size.y
}

/// Above the image: what belongs to painting.
fn buttons(app: &mut App, ui: &mut Ui, area: Rect) {
    let (painter, init) = (&mut app.painter, &mut app.session.controls.init);
    let Some(init) = init else { return };
    let strip = Rect::from_min_size(area.min, vec2(area.width(), strip(ui)));
    let mut above = ui.new_child(egui::UiBuilder::new().max_rect(strip));
    above.horizontal(|ui| {
        let can_undo = !painter.undo.is_empty();
        if ui.add_enabled(can_undo, Button::new("Undo")).clicked()
            && let Some(before) = painter.undo.pop()
        {
            init.redrawn = before;
        }
        if ui.add_enabled(init.is_masked(), Button::new("Clear")).clicked() {
            painter.remember(&init.redrawn);
            init.redrawn.fill(false);
        }
        if ui.button("Done").on_hover_text("Back to the images").clicked() {
            painter.is_on = false;
        }
    });
}

/// Arrows move, Space changes a patch.
fn by_keyboard(ui: &Ui, painter: &mut Painter, init: &mut Init) {
    let [rows, columns] = init.grid;
    let moves = [
        (Key::ArrowUp, [rows - 1, 0]),
        (Key::ArrowDown, [1, 0]),
        (Key::ArrowLeft, [0, columns - 1]),
        (Key::ArrowRight, [0, 1]),
    ];
    let [row, column] = &mut painter.cursor;
    (*row, *column) = (*row % rows, *column % columns);
    for (key, [down, right]) in moves {
        if ui.input(|input| input.key_pressed(key)) {
            *row = (*row + down) % rows;
            *column = (*column + right) % columns;
        }
    }
    let at = *row * columns + *column;
    if ui.input(|input| input.key_pressed(Key::Space)) {
        painter.remember(&init.redrawn);
        init.redrawn[at] = !init.redrawn[at];
    }
}
