//! Widgets shared by several panels: cards, switches, sliders with a label above them, icon buttons.

use std::ops::RangeInclusive;

use egui::{
    Button, Color32, CornerRadius, Frame, IntoAtoms, Margin, Response, RichText, Sense, Slider,
    Stroke, Ui, Vec2, vec2,
};

use super::icons::Icon;
use super::theme::{CAPTION, Look};

/// A group of controls on a surface of its own, under a heading.
pub(super) fn card<R>(ui: &mut Ui, title: &str, contents: impl FnOnce(&mut Ui) -> R) -> R {
    let look = Look::of(ui);
    let frame = Frame::new()
        .fill(look.card)
        .stroke(Stroke::new(1.0, look.line))
        .corner_radius(CornerRadius::same(10))
        .inner_margin(Margin::symmetric(14, 12));
    frame
        .show(ui, |ui| {
            ui.set_width(ui.available_width());
            if !title.is_empty() {
                ui.heading(RichText::new(title).strong());
            }
            contents(ui)
        })
        .inner
}

/// A caption over a control or a plot.
pub(super) fn caption(ui: &mut Ui, text: impl Into<String>) -> Response {
    let colour = Look::of(ui).weak;
    ui.label(RichText::new(text).size(CAPTION).color(colour))
}

/// A sentence of less weight, over several lines if need be.
pub(super) fn remark(ui: &mut Ui, text: impl Into<String>) -> Response {
    let colour = Look::of(ui).weak;
    ui.add(egui::Label::new(RichText::new(text).color(colour)).wrap())
}

/// A word on a surface of its own, over images.
pub(super) fn badge(ui: &mut Ui, text: &str) -> Response {
    let look = Look::of(ui);
    let frame = Frame::new().fill(look.card).stroke(Stroke::new(1.0, look.line));
    let frame = frame.corner_radius(CornerRadius::same(6)).inner_margin(Margin::symmetric(8, 3));
    frame.show(ui, |ui| ui.label(RichText::new(text).size(CAPTION).color(look.text))).inner
}

/// A button with a sign and a word.
pub(super) fn icon_button(ui: &mut Ui, icon: Icon, text: &str) -> Response {
    ui.add(Button::new((icon.atom(), text)))
}

/// A button with a sign alone; the name is for screen readers and is shown under the pointer.
pub(super) fn sign_button(ui: &mut Ui, icon: Icon, name: &str) -> Response {
    let side = ui.spacing().interact_size.y;
    let padding = ((side - 15.0) / 2.0).floor().max(0.0);
    let response = ui.scope(|ui| {
        ui.spacing_mut().button_padding = vec2(padding, 0.0);
        ui.add(Button::new(icon.atom()).min_size(vec2(side, side)))
    });
    response.inner.accessible_name(name).on_hover_text(name)
}

/// The one button that matters, as wide as `width`.
pub(super) fn primary_button<'a>(
    ui: &mut Ui,
    atoms: impl IntoAtoms<'a>,
    size: Vec2,
    enabled: bool,
) -> Response {
    let look = Look::of(ui);
    let atoms = (
        egui::Atom::grow(),
        atoms.into_atoms().into_iter().collect::<egui::Atoms<'_>>(),
        egui::Atom::grow(),
    );
    ui.scope(|ui| {
        let widgets = &mut ui.visuals_mut().widgets;
        for (state, lift) in [
            (&mut widgets.inactive, 1.0),
            (&mut widgets.hovered, 0.92),
            (&mut widgets.active, 0.85),
        ] {
            state.weak_bg_fill = look.accent.gamma_multiply(lift).to_opaque();
            state.fg_stroke.color = look.on_accent;
        }
        ui.add_enabled(enabled, Button::new(atoms).min_size(size).corner_radius(9))
    })
    .inner
}

/// One of a few choices, side by side. Returns whether it changed.
pub(super) fn switch<T: Copy + PartialEq>(
    ui: &mut Ui,
    value: &mut T,
    choices: &[(T, &str, &str)],
) -> bool {
    named_switch(ui, "", value, choices)
}

/// The same, for choices whose texts say little alone: screen readers read `title` before them.
pub(super) fn named_switch<T: Copy + PartialEq>(
    ui: &mut Ui,
    title: &str,
    value: &mut T,
    choices: &[(T, &str, &str)],
) -> bool {
    let look = Look::of(ui);
    let before = *value;
    let frame = Frame::new().fill(look.control).corner_radius(8).inner_margin(Margin::same(2));
    frame.show(ui, |ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        ui.horizontal(|ui| {
            let room =
                (ui.available_width() - 2.0 * (choices.len() - 1) as f32) / choices.len() as f32;
            let height = ui.spacing().interact_size.y - 4.0;
            for &(choice, text, hint) in choices {
                let chosen = *value == choice;
                let fill = if chosen { look.chosen } else { Color32::TRANSPARENT };
                let label = (egui::Atom::grow(), text, egui::Atom::grow());
                let button = Button::new(label).selected(chosen).fill(fill).truncate();
                let button = button.min_size(vec2(room, height)).corner_radius(6);
                let response = ui.scope(|ui| {
                    ui.spacing_mut().button_padding = vec2(4.0, 1.0);
                    ui.spacing_mut().interact_size.y = height;
                    ui.add(button)
                });
                let mut response = response.inner.on_hover_text(hint);
                if !title.is_empty() {
                    response = response.accessible_name(format!("{title}: {text}"));
                }
                if response.clicked() {
                    *value = choice;
                }
            }
        });
    });
    *value != before
}

/// A slider below its label, filling the width, with its value next to it.
pub(super) fn slider<'a, T: egui::emath::Numeric>(
    ui: &mut Ui,
    name: &str,
    hint: &str,
    value: &'a mut T,
    range: RangeInclusive<T>,
    refine: impl FnOnce(Slider<'a>) -> Slider<'a>,
) -> Response {
    let title = caption(ui, name).on_hover_text(hint);
    ui.scope(|ui| {
        // Values of one width let all rails end at the same place.
        let value_room = 32.0 + 2.0 * ui.spacing().button_padding.x;
        let rail = ui.available_width() - value_room - ui.spacing().item_spacing.x;
        ui.spacing_mut().interact_size.x = value_room;
        ui.spacing_mut().slider_width = rail.max(60.0);
        let slider = refine(Slider::new(value, range));
        let response = ui.label_inputs_by(title.id, |ui| ui.add(slider));
        response.on_hover_text(hint)
    })
    .inner
}

/// A bar of a table: a name, a length, a value.
pub(super) fn bar(ui: &mut Ui, name: &str, share: f32, value: &str, colour: Color32) {
    let look = Look::of(ui);
    let height = 18.0;
    let (rect, response) =
        ui.allocate_exact_size(vec2(ui.available_width(), height), Sense::hover());
    let painter = ui.painter();
    let font = egui::FontId::proportional(12.5);
    let (name_end, value_start) = (rect.left() + 86.0, rect.right() - 66.0);
    let rail = egui::Rect::from_min_max(
        egui::pos2(name_end, rect.center().y - 4.0),
        egui::pos2(value_start, rect.center().y + 4.0),
    );
    painter.text(rect.left_center(), egui::Align2::LEFT_CENTER, name, font.clone(), look.text);
    painter.text(rect.right_center(), egui::Align2::RIGHT_CENTER, value, font, look.weak);
    if rail.is_positive() {
        painter.rect_filled(rail, 4.0, look.well);
        let filled = rail.with_max_x(rail.left() + rail.width() * share.clamp(0.0, 1.0));
        painter.rect_filled(filled, 4.0, colour);
    }
    response.widget_info(|| {
        egui::WidgetInfo::labeled(egui::Role::Label, true, format!("{name}: {value}"))
    });
}

/// Bytes, for display.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.0} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// Milliseconds, for display.
pub(super) fn milliseconds(ms: f32) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// `1 image`, `2 images`.
pub(super) fn counted(count: usize, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(11_200_000), "11.2 MB");
        assert_eq!(bytes(2_500_000_000), "2.50 GB");
        assert_eq!(milliseconds(3.456), "3.46 ms");
        assert_eq!(milliseconds(41.2), "41 ms");
        assert_eq!(milliseconds(2_345.0), "2.3 s");
    }
}
