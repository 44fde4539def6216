//! Timings of steps and stages, and the device.

use egui::Ui;

use crate::App;
use crate::palette;
use crate::widgets::{self, bar, caption, card, counted, milliseconds, remark};

const PROFILE_HINT: &str = "Measures the time of each stage on the GPU, at a small cost. CPU \
    timings are always included.";

pub(crate) fn show(app: &mut App, ui: &mut Ui) {
    card(ui, "Timings", |ui| {
        let Some(record) = app.session.record() else {
            remark(ui, "Timings appear after the first step.");
            return;
        };
        if let Some(last) = record.step_ms.last() {
            let total: f32 = record.step_ms.iter().sum();
            let mean = total / record.step_ms.len() as f32;
            ui.label(format!("{} per step, {} in total", milliseconds(mean), milliseconds(total)));
            caption(
                ui,
                format!(
                    "last step {}, {}",
                    milliseconds(*last),
                    counted(record.labels.len(), "image")
                ),
            );
        } else {
            remark(ui, "Timings appear after the first step.");
        }
        let sum: f32 = record.stage_ms.iter().map(|(_, ms)| ms).sum();
        for (i, (stage, ms)) in record.stage_ms.iter().enumerate() {
            bar(
                ui,
                stage.name(),
                ms / sum.max(f32::MIN_POSITIVE),
                &milliseconds(*ms),
                palette::expert(i),
            );
        }
        if record.stage_ms.is_empty() || app.view.profiling {
            let toggle =
                ui.checkbox(&mut app.view.profiling, "Time each stage").on_hover_text(PROFILE_HINT);
            if toggle.changed() {
                app.session.set_profiling(app.view.profiling);
            }
            if app.view.profiling && record_without_stages(app) {
                caption(ui, "Starts with the next step, if the device supports it.");
            }
        }
        let Some(record) = app.session.record() else { return };
        let capacity = record
            .trace
            .capacity()
            .map_or_else(String::new, |c| format!("C = {c:.2} on average. "));
        let memory = app.session.model().map_or(0, |model| model.memory_bytes);
        caption(
            ui,
            format!("{capacity}{} of weights on {}.", widgets::bytes(memory), record.device),
        );
    });
}

fn record_without_stages(app: &App) -> bool {
    app.session.record().is_some_and(|record| record.stage_ms.is_empty())
}
