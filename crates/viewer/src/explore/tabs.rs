//! The tabs of the card below the stage: which there are, and the strip that chooses one.

use egui::{Button, Color32, CornerRadius, Rect, ScrollArea, Ui, vec2};

use super::inside;
use super::scene::Scene;
use crate::session::Card;
use crate::theme::Look;

/// A tab with its name and what it shows.
type Tab = (Card, &'static str, &'static str);

/// All tabs, in their order.
const TABS: [Tab; 8] = [
    (Card::Experts, "Experts", "Where each expert works in this image"),
    (Card::Noise, "Noise", "Everything over noise"),
    (Card::Patch, "Why", "Why experts take or skip the selected patch"),
    (Card::Compare, "Compare", "This run beside another one"),
    (Card::Mute, "Mute", "What changes without the chosen expert, or with it alone"),
    (Card::Labels, "Labels", "Which expert works on which label, over many images"),
    (Card::Gallery, "Gallery", "Patches that the chosen expert works on"),
    (Card::Place, "Place", "Where each expert works over all images of the run"),
];

/// Whether a tab has something to show that is not on screen already.
fn is_there(card: Card, scene: &Scene<'_>, wide: bool) -> bool {
    match card {
        Card::Noise => !wide,
        // Two images leave no room for it beside them.
        Card::Patch => !wide || scene.other.is_some(),
        // Without the model nothing can be muted.
        Card::Mute => scene.can_draw,
        _ => true,
    }
}

/// The tab that is shown: the chosen one, if it is there.
pub(super) fn shown(chosen: Card, scene: &Scene<'_>, wide: bool) -> Card {
    if is_there(chosen, scene, wide) { chosen } else { Card::Experts }
}

/// The strip of tabs, which scrolls where it is wider than its place; returns where it ends.
pub(super) fn strip(
    ui: &mut Ui,
    rect: Rect,
    scene: &Scene<'_>,
    chosen: &mut Card,
    wide: bool,
) -> f32 {
    let look = Look::of(ui);
    let current = shown(*chosen, scene, wide);
    // A tab that a link or a key chose scrolls into sight once.
    let seen = ui.scope_id().with("tab in sight");
    let is_new = ui.data(|data| data.get_temp::<Card>(seen)) != Some(current);
    ui.data_mut(|data| data.insert_temp(seen, current));
    inside(ui, rect, "tabs", |ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        ui.spacing_mut().interact_size.y = rect.height() - 4.0;
        ui.spacing_mut().button_padding = vec2(if wide { 7.0 } else { 12.0 }, 1.0);
        let bar = egui::scroll_area::ScrollBarVisibility::AlwaysHidden;
        let area = ScrollArea::horizontal().id_salt("tabs").scroll_bar_visibility(bar);
        let output = area.show(ui, |ui| {
            ui.horizontal(|ui| {
                for (card, name, hint) in TABS.iter().filter(|tab| is_there(tab.0, scene, wide)) {
                    let is_chosen = *card == current;
                    let fill = if is_chosen { look.chosen } else { Color32::TRANSPARENT };
                    let button = Button::new(*name).selected(is_chosen).fill(fill);
                    let button = button.min_size(vec2(0.0, rect.height() - 4.0)).corner_radius(6);
                    let response = ui.add(button).on_hover_text(*hint);
                    if response.clicked() {
                        *chosen = *card;
                    }
                    if is_chosen && is_new {
                        response.scroll_to_me(None);
                    }
                }
            });
        });
        output.inner_rect.left() + output.content_size.x
    })
}

/// The ground of the strip.
pub(super) fn ground(ui: &Ui, rect: Rect) {
    ui.painter().rect_filled(rect, CornerRadius::same(8), Look::of(ui).control);
}
