//! Notifications: errors and information.

use egui::{CornerRadius, Frame, Label, Margin, RichText, Stroke, Ui};

use crate::App;
use crate::icons::Icon;
use crate::session::NoteKind;
use crate::theme::Look;
use crate::widgets::sign_button;

/// More are not shown at once; the newest are.
const MOST: usize = 3;

pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    let look = Look::of(ui);
    let notes = app.session.notes();
    let first = notes.len().saturating_sub(MOST);
    let mut dismissed = None;
    for (i, note) in notes.iter().enumerate().skip(first) {
        let line = if note.kind == NoteKind::Error { look.danger } else { look.accent };
        let frame = Frame::new()
            .fill(look.card)
            .stroke(Stroke::new(1.0, line))
            .corner_radius(CornerRadius::same(8));
        frame.inner_margin(Margin::symmetric(12, 6)).show(ui, |ui| {
            ui.horizontal(|ui| {
                let room = ui.available_width()
                    - ui.spacing().interact_size.y
                    - 2.0 * ui.spacing().item_spacing.x;
                ui.scope(|ui| {
                    ui.set_width(room.max(40.0));
                    ui.add(Label::new(RichText::new(&note.text).color(look.text)).wrap());
                });
                if sign_button(ui, Icon::Close, "Dismiss").clicked() {
                    dismissed = Some(i);
                }
            });
        });
    }
    if let Some(i) = dismissed {
        app.session.dismiss(i);
    }
}
