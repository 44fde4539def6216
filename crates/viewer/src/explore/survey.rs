//! Labels without an atlas: offers to measure one in the background, and shows how far that is.

use egui::{Rect, Role, Sense, Ui, WidgetInfo, pos2, vec2};

use super::paint::text_within;
use super::put;
use super::scene::{Scene, Touch, Wish};

/// Height of it all.
pub(super) const HEIGHT: f32 = 150.0;
/// Height of a button, and of a line of text.
const BUTTON: f32 = 34.0;
const LINE: f32 = 20.0;

/// Shows the offer or the progress in an area.
pub(super) fn show(ui: &mut Ui, area: Rect, scene: &Scene<'_>, touch: &mut Touch) {
    let look = scene.ink.look;
    let mut lines =
        vec!["Labels × experts needs an atlas: counts over many images of the model.".to_owned()];
    lines.push(match (scene.survey.progress, scene.survey.images) {
        (Some(progress), _) => {
            let state = if progress.is_paused { "Paused" } else { "Measuring" };
            format!(
                "{state}: {} of {} images. It waits while anything else is drawn.",
                progress.done, progress.total
            )
        }
        (None, Some(images)) => format!(
            "This model has none. {images} images are enough for a first one; they are drawn while nothing else is."
        ),
        (None, None) => "There is none for this run. Measure one and drop the file here:".to_owned(),
    });
    let buttons = area.top() + 8.0 + LINE * lines.len() as f32 + 4.0;
    let file = format!("diffmoe atlas {}.safetensors", scene.record.config.name);
    let is_alone = scene.survey.images.is_none();
    let command =
        if is_alone { file } else { format!("For more images, drop the file of: {file}") };
    let response = ui.interact(area, ui.scope_id().with("no atlas"), Sense::hover());
    let spoken = format!("{} {command}", lines.join(" "));
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, &spoken));
    for (i, line) in lines.iter().enumerate() {
        let at = area.min + vec2(0.0, 8.0 + LINE * i as f32);
        text_within(ui.painter(), at, line, 13.0, look.weak, area.width());
    }
    let below = if is_alone { buttons } else { buttons + BUTTON + 12.0 };
    let at = pos2(area.left(), below);
    let colour = if is_alone { look.text } else { look.weak };
    text_within(ui.painter(), at, &command, 13.0, colour, area.width());
    let width = (area.width().min(480.0) - 8.0) / 2.0;
    let first = Rect::from_min_size(pos2(area.left(), buttons), vec2(width, BUTTON));
    let second = first.translate(vec2(width + 8.0, 0.0));
    let button = |ui: &mut Ui, place: Rect, words: &str| {
        let button = super::centred(words).truncate().min_size(place.size());
        put(ui, place, button).clicked()
    };
    let Some(progress) = scene.survey.progress else {
        if !is_alone && button(ui, first, "Measure an atlas") {
            touch.wish = Some(Wish::Survey);
        }
        return;
    };
    let words = if progress.is_paused { "Go on measuring" } else { "Pause measuring" };
    if button(ui, first, words) {
        touch.wish = Some(Wish::Survey);
    }
    if button(ui, second, "Give up") {
        touch.wish = Some(Wish::CancelSurvey);
    }
    let bar = Rect::from_min_size(
        pos2(area.left(), buttons + BUTTON + 3.0),
        vec2(2.0 * width + 8.0, 4.0),
    );
    ui.painter().rect_filled(bar, 2.0, look.well);
    let share = progress.done as f32 / progress.total.max(1) as f32;
    ui.painter().rect_filled(bar.with_max_x(bar.left() + share * bar.width()), 2.0, look.accent);
}
