//! The guided tour: a strip below the views with the caption of a stop and buttons to the next.

use egui::{Align2, Color32, FontId, Rect, Role, Sense, Ui, WidgetInfo, pos2, vec2};

use super::colours::Ink;
use super::data::stops::{TITLES, available, caption, selection as select};
use super::paint::{card, text};
use super::{centred, put};
use crate::session::{Record, Selection};

/// Height of the strip beside the views of a wide window, and below those of a phone.
const HEIGHT: [f32; 2] = [64.0, 168.0];
/// Between the strip and the views.
const GAP: f32 = 8.0;

/// What the strip says, kept until the run or the stop changes.
#[derive(Default)]
pub(super) struct Tour {
    key: Option<(u64, usize, usize, bool)>,
    stops: Vec<usize>,
    caption: String,
}

/// A move within the tour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Go {
    Next,
    Back,
    Close,
}

/// Whether the tour applies to a run.
pub(super) fn has_tour(record: &Record) -> bool {
    !available(record).is_empty()
}

/// Begins, or goes on.
pub(super) fn go(selection: &mut Selection, record: &Record, go: Option<Go>) {
    let stops = available(record);
    let at = selection.tour.and_then(|stop| stops.iter().position(|&other| other == stop));
    let next = match (go, at) {
        (Some(Go::Close), _) => None,
        (None, _) | (Some(_), None) => stops.first(),
        (Some(Go::Next), Some(at)) => stops.get(at + 1),
        (Some(Go::Back), Some(at)) => stops.get(at.saturating_sub(1)),
    };
    match next.and_then(|&stop| select(record, stop)) {
        Some(stop) => *selection = stop,
        // After the last one what is chosen stays.
        None => selection.tour = None,
    }
}

/// A link that names a stop and nothing else shows what the stop selects.
pub(super) fn resolve(selection: &mut Selection, record: &Record) {
    let Some(stop) = selection.tour else { return };
    let bare = Selection { tour: Some(stop), ..Selection::default() };
    if *selection != bare || !record.is_complete() {
        return;
    }
    if let Some(stop) = select(record, stop) {
        *selection = stop;
    }
}

/// The area of the views, and that of the strip where there is a tour.
pub(super) fn split(area: Rect, touring: bool, wide: bool) -> (Rect, Option<Rect>) {
    if !touring {
        return (area, None);
    }
    let strip = area.with_min_y(area.bottom() - HEIGHT[usize::from(!wide)]);
    (area.with_max_y(strip.top() - GAP), Some(strip))
}

impl Tour {
    /// Shows the strip; returns the move of a pressed button.
    pub(super) fn show(
        &mut self,
        ui: &mut Ui,
        strip: Rect,
        record: &Record,
        can_draw: bool,
        stop: usize,
        ink: Ink,
    ) -> Option<Go> {
        let key = (record.id, record.trace.forwards().len(), stop, can_draw);
        if self.key != Some(key) {
            self.key = Some(key);
            self.stops = available(record);
            self.caption = caption(record, stop, can_draw).unwrap_or_default();
        }
        let look = ink.look;
        card(ui.painter(), strip, ink);
        let inner = strip.shrink2(vec2(12.0, 8.0));
        let wide = strip.width() > 700.0;
        let title = TITLES[stop.min(TITLES.len() - 1)];
        let place = self.stops.iter().position(|&other| other == stop).unwrap_or(0) + 1;
        let of = format!("{place} of {}", self.stops.len());
        let painter = ui.painter_at(strip);
        let name = text(&painter, inner.min, Align2::LEFT_TOP, title, 15.5, look.text);
        let (words, buttons) = if wide {
            text(
                &painter,
                inner.left_top() + vec2(0.0, 26.0),
                Align2::LEFT_TOP,
                of,
                12.0,
                look.weak,
            );
            let buttons = inner.with_min_x(inner.right() - 236.0);
            let left = inner.left() + 190.0;
            (
                Rect::from_min_max(
                    pos2(left, inner.top()),
                    pos2(buttons.left() - 14.0, inner.bottom()),
                ),
                buttons,
            )
        } else {
            let at = pos2(inner.right(), name.center().y);
            text(&painter, at, Align2::RIGHT_CENTER, of, 12.0, look.weak);
            let buttons = inner.with_min_y(inner.bottom() - 38.0);
            (
                Rect::from_min_max(
                    inner.min + vec2(0.0, 22.0),
                    pos2(inner.right(), buttons.top() - 4.0),
                ),
                buttons,
            )
        };
        self.say(ui, words, look.text);
        let last = place == self.stops.len();
        let width = (buttons.width() - 12.0) / 3.0;
        let height = buttons.height().min(38.0);
        let mut wanted = None;
        let next = if last { "Done" } else { "Next" };
        for (i, (name, go, on)) in [
            ("Back", Go::Back, place > 1),
            ("Close", Go::Close, true),
            (next, if last { Go::Close } else { Go::Next }, true),
        ]
        .into_iter()
        .enumerate()
        {
            let corner =
                pos2(buttons.left() + i as f32 * (width + 6.0), buttons.center().y - height / 2.0);
            let rect = Rect::from_min_size(corner, vec2(width, height));
            let hint = ["The stop before (P)", "Leave the tour (Esc)", "Go on (N)"][i];
            let button = centred(name).min_size(rect.size());
            let response = ui.add_enabled_ui(on, |ui| put(ui, rect, button)).inner;
            if response.on_hover_text(hint).clicked() {
                wanted = Some(go);
            }
        }
        wanted
    }

    /// The caption, wrapped, in letters small enough for its room.
    fn say(&self, ui: &Ui, room: Rect, colour: Color32) {
        let wrapped = |size: f32| {
            let font = FontId::proportional(size);
            ui.painter().layout(self.caption.clone(), font, colour, room.width())
        };
        let sizes = [14.0, 13.0, 12.0, 11.0];
        let fitting =
            sizes.into_iter().map(wrapped).find(|galley| galley.size().y <= room.height());
        let galley = fitting.unwrap_or_else(|| wrapped(11.0));
        ui.painter_at(room.expand(2.0)).galley(room.min, galley, colour);
        let response = ui.interact(room, ui.scope_id().with("tour"), Sense::hover());
        response.widget_info(|| WidgetInfo::labeled(Role::Label, true, &self.caption));
    }
}
