//! A badge for recorded runs, with the progress of the model that will replace it.

use egui::Ui;

use crate::App;
use crate::session::Phase;
use crate::widgets;

/// Shows the badge; nothing for live runs.
pub(crate) fn badge(app: &App, ui: &mut Ui) {
    if !app.session.record().is_some_and(|record| record.recorded) {
        return;
    }
    let model = match app.session.loading() {
        Some(Phase::Fetching { done, total: Some(total), .. }) => {
            format!(" · model {} %", 100 * done / total.max(1))
        }
        Some(_) => " · model loading".to_owned(),
        None => String::new(),
    };
    // A phone has no room for more.
    let model = if ui.available_width() < 320.0 { String::new() } else { model };
    let hint = "A recorded run with rounded numbers. The same run, computed here, replaces it as soon as the model has \
                arrived.";
    widgets::badge(ui, &format!("Recorded{model}")).on_hover_text(hint);
}
