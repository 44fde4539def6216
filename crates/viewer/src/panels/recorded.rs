//! Says that the run on the screen was recorded beforehand, and how far the model is that will replace it.

use egui::Ui;

use crate::App;
use crate::session::Phase;
use crate::widgets;

/// A badge; nothing where the run was drawn here.
pub(crate) fn badge(app: &App, ui: &mut Ui) {
    if !app.session.record().is_some_and(|record| record.recorded) {
        return;
    }
    let model = match app.session.loading() {
        Some(Phase::Fetching { done, total: Some(total), .. }) => {
            format!(" · model {} %", 100 * done / total.max(1))
        }
        Some(_) => " · model arriving".to_owned(),
        None => String::new(),
    };
    // A phone has no room for more.
    let model = if ui.available_width() < 320.0 { String::new() } else { model };
    let hint = "This run was recorded beforehand, with rounded numbers. The same one, drawn here, takes its place as \
                soon as the model is there.";
    widgets::badge(ui, &format!("Recorded{model}")).on_hover_text(hint);
}
