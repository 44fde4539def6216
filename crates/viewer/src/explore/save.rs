//! Files of each card: the card as PNG, its plots as SVG, its numbers as CSV, and the run as an animated PNG with the
//! routing overlay.

use egui::{Color32, Rect, Ui};

use diffmoe::scheduler::Branch;

use super::colours::{Ink, mix};
use super::data::csv;
use super::data::lens::Lens;
use super::inside;
use super::made::Made;
use super::moving::{moving, settings};
use super::now::Now;
use super::offer::Save;
use super::run_map;
use super::scene::{Scene, Touch, Wish};
use super::shot::Shot;
use super::vector::Plot;
use crate::App;
use crate::saving::file_stem;
use crate::session::{Card, NoteKind, Record};

/// A run, what is looked at in it, and what was made of it.
struct Run<'a> {
    record: &'a Record,
    now: &'a Now,
    made: &'a Made,
}

impl<'a> Run<'a> {
    /// The pass that is shown, with the shift.
    fn lens(&self) -> Lens<'a> {
        Lens { trace: &self.record.trace, pass: self.now.pass, what_if: self.now.what_if }
    }

    /// Patches and experts at the step.
    fn patches(&self) -> Option<String> {
        let Now { step, layer, image, .. } = *self.now;
        (image < self.record.labels.len()).then(|| csv::patches(&self.lens(), step, layer, image))
    }
}

/// The files of a card, as words and what they are.
type Offers = Vec<(&'static str, Save)>;

/// Offers of the card with the image.
pub(super) fn of_stage(card: Rect) -> Offers {
    vec![
        ("This card, PNG", Save::View(card, "image")),
        ("This card, SVG", Save::Vector(card, "image")),
        ("All steps with this overlay, animated PNG", Save::Steps),
        ("Patches of this step and block, CSV", Save::Patches),
    ]
}

/// Offers of the card below it.
pub(super) fn of_tabs(card: Rect, scene: &Scene<'_>, shown: Card) -> Offers {
    let mut all = vec![
        ("This card, PNG", Save::View(card, "card")),
        ("This card, SVG", Save::Vector(card, "card")),
        ("Patches of this step and block, CSV", Save::Patches),
    ];
    if scene.made.histogram.is_some() {
        all.push(("Margins of this block, CSV", Save::Margins));
    }
    match shown {
        Card::Place => all.push(("Shares of all patches, CSV", Save::Places)),
        Card::Gallery => all.push(("Patches of the gallery, CSV", Save::Picks)),
        _ => {}
    }
    if scene.atlas.is_some() {
        all.push(("Atlas of the model, JSON", Save::Atlas));
        all.push(("Atlas of the model, CSV", Save::AtlasTable));
    }
    all
}

/// Offers of the card over noise.
pub(super) fn of_time(card: Rect, scene: &Scene<'_>) -> Offers {
    let mut all = vec![
        ("This card, PNG", Save::View(card, "noise")),
        ("This card, SVG", Save::Vector(card, "noise")),
        ("Compute C, SVG", Save::Curve),
        ("River of this block, SVG", Save::River),
        ("Map of the run, SVG", Save::Map),
        ("Compute C, CSV", Save::Compute),
        ("Tokens of each expert, CSV", Save::Loads),
    ];
    if scene.now.patch.is_some() {
        all.push(("The selected patch, CSV", Save::Story));
    }
    if scene.measures.any(scene.record.id) {
        all.push(("Change when muted, CSV", Save::Muting));
    }
    all
}

/// All offers of a phone, in one menu: the view, the card below the image, and the files of all cards.
pub(super) fn of_phone(view: Rect, card: Rect, scene: &Scene<'_>, shown: Card) -> Offers {
    let mut all = vec![
        ("This view, PNG", Save::View(view, "view")),
        ("This view, SVG", Save::Vector(view, "view")),
        ("The card below, PNG", Save::View(card, "card")),
        ("The card below, SVG", Save::Vector(card, "card")),
    ];
    let others = [of_stage(card), of_time(card, scene), of_tabs(card, scene, shown)];
    for offer in others.into_iter().flatten() {
        let is_new = all.iter().all(|(_, save)| *save != offer.1);
        if is_new && !matches!(offer.1, Save::View(..) | Save::Vector(..)) {
            all.push(offer);
        }
    }
    all
}

/// Offers of a run without experts.
pub(super) fn of_images(card: Rect) -> Offers {
    vec![
        ("This view, PNG", Save::View(card, "view")),
        ("This view, SVG", Save::Vector(card, "view")),
        ("All steps, animated PNG", Save::Steps),
    ]
}

/// A small button with a menu of what a card offers; for thumbs where it is high.
pub(super) fn menu(ui: &mut Ui, rect: Rect, name: &str, offers: &Offers, touch: &mut Touch) {
    let is_for_thumbs = rect.height() > 30.0;
    inside(ui, rect, name, |ui| {
        ui.spacing_mut().interact_size.y = rect.height();
        ui.spacing_mut().button_padding = egui::vec2(6.0, 0.0);
        let response = ui.menu_button("Save", |ui| {
            if is_for_thumbs {
                crate::theme::for_thumbs(ui);
            }
            // A long menu scrolls on a small screen.
            let high = ui.ctx().content_rect().height() - 120.0;
            egui::ScrollArea::vertical().max_height(high.max(120.0)).show(ui, |ui| {
                for (words, save) in offers {
                    if ui.button(*words).clicked() {
                        touch.wish = Some(Wish::Save(*save));
                        ui.close();
                    }
                }
            });
        });
        response.response.widget_info(|| {
            egui::WidgetInfo::labeled(egui::Role::Button, true, format!("Save from {name}"))
        });
    });
}

impl App {
    /// Writes a file of what is on screen.
    pub(super) fn save_view(&mut self, save: Save, now: &Now, now_b: Option<&Now>, ink: Ink) {
        let Some(record) = self.session.record() else { return };
        let stem = file_stem(record);
        let made = &self.explore.made;
        let (trace, noise) = (&record.trace, made.noise.as_slice());
        let block = trace.blocks().get(now.layer).copied().unwrap_or(0);
        let name = format!("{}, seed {}", record.config.name, record.settings.sampling.seed);
        let plot = Plot { noise, name: &name };
        let names = match now.pass.branch {
            Branch::Conditional => ["with label", "without"],
            Branch::Unconditional => ["without", "with label"],
        };
        let svg =
            |what: &str, bytes: Vec<u8>| (format!("{stem}-{what}.svg"), "image/svg+xml", bytes);
        // With a run B its rows follow those of A.
        let b = self.explore.compare.beside(record);
        let b = b.as_deref().zip(now_b).map(|(record, now)| Run {
            record,
            now,
            made: &self.explore.beside,
        });
        let csv = |what: &str, of: &dyn Fn(&Run<'_>) -> Option<String>| {
            let text = of(&Run { record, now, made })?;
            let text = match b.as_ref().map(|b| of(b).unwrap_or_default()) {
                Some(b) => csv::of_two_runs(&text, &b),
                None => text,
            };
            Some((format!("{stem}-{what}.csv"), "text/csv", text.into_bytes()))
        };
        let (name, mime, bytes) = match save {
            Save::View(rect, name) | Save::Vector(rect, name) => {
                let is_vector = matches!(save, Save::Vector(..));
                self.explore.shot = Some(Shot::new(rect, name, is_vector));
                return;
            }
            Save::Steps => {
                let bytes = match moving(record, now, ink, &settings(record, Some(now.image))) {
                    Ok(bytes) => bytes,
                    Err(reason) => return self.session.note(NoteKind::Error, reason),
                };
                (format!("{stem}-image-{}-routing.png", now.image + 1), "image/apng", bytes)
            }
            Save::Curve => {
                let other = trace.has(Branch::Unconditional).then_some((names[1], &*made.other));
                svg("compute", plot.curve((names[0], &*made.tally), other))
            }
            Save::River => svg(&format!("block-{block}"), plot.river(&made.tally, now.layer)),
            Save::Map => {
                // On paper: blue below the fair share, orange above it.
                let colour = |load: f32| on_paper(run_map::value(load));
                svg("map", plot.map(&made.tally, colour))
            }
            Save::Muting => {
                let blocks = trace.blocks();
                let changes = self.explore.measures.all(record.id);
                let changes =
                    changes.filter_map(|(l, e, change)| Some((*blocks.get(l)?, e, change)));
                let text = csv::muting(changes);
                (format!("{stem}-muting.csv"), "text/csv", text.into_bytes())
            }
            Save::Compute
            | Save::Loads
            | Save::Patches
            | Save::Story
            | Save::Places
            | Save::Picks
            | Save::Margins => {
                let (what, of): (_, fn(&Run<'_>) -> Option<String>) = match save {
                    Save::Compute => {
                        ("compute", |run| Some(csv::compute(&run.lens(), &run.made.noise)))
                    }
                    Save::Loads => ("loads", |run| Some(csv::loads(&run.lens(), &run.made.noise))),
                    Save::Patches => ("patches", |run| run.patches()),
                    Save::Story => ("patch", |run| {
                        let blocks = run.record.trace.blocks();
                        Some(csv::patch_story(&run.made.story, &blocks, &run.made.noise))
                    }),
                    Save::Places => ("places", |run| {
                        let place = run.made.place.as_ref()?;
                        Some(csv::places(place, run.record.trace.grid()))
                    }),
                    Save::Picks => ("gallery", |run| {
                        Some(csv::picks(&run.made.gallery, run.record.trace.grid()))
                    }),
                    _ => ("margins", |run| run.made.histogram.as_ref().map(csv::margins)),
                };
                let Some(file) = csv(what, &of) else { return };
                file
            }
            Save::Atlas | Save::AtlasTable => {
                let Some(atlas) = self.session.atlas() else { return };
                // Under this name the app finds it beside the model.
                let stem = format!("{}.atlas", record.config.name);
                if save == Save::AtlasTable {
                    (format!("{stem}.csv"), "text/csv", atlas.to_csv().into_bytes())
                } else {
                    match atlas.to_json() {
                        Ok(text) => (format!("{stem}.json"), "application/json", text.into_bytes()),
                        Err(error) => return self.session.note(NoteKind::Error, error.to_string()),
                    }
                }
            }
        };
        self.jobs.save(name, mime, bytes);
    }
}

/// Blue for -1, light grey for 0, orange for 1.
fn on_paper(value: f32) -> Color32 {
    let end = if value < 0.0 {
        Color32::from_rgb(0x2F, 0x62, 0xC9)
    } else {
        Color32::from_rgb(0xE5, 0x7F, 0x17)
    };
    mix(Color32::from_rgb(0xEC, 0xEE, 0xF2), end, value.abs().min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_special_is_grey_on_paper() {
        assert_eq!(on_paper(0.0), Color32::from_rgb(0xEC, 0xEE, 0xF2));
        assert_ne!(on_paper(1.0), on_paper(-1.0));
    }
}
