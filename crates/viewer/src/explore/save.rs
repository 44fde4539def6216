//! Files of each card: the card as PNG, its plots as SVG, its numbers as CSV, and the run as an animated PNG with the
//! routing overlay.

use std::sync::{Arc, Mutex, PoisonError};

use egui::{Color32, ColorImage, Rect, Ui};

use diffmoe::pipeline::png_texts;
use diffmoe::pixels::{self, RgbImage, Timing};
use diffmoe::scheduler::Branch;

use super::colours::{Ink, mix};
use super::data::csv;
use super::data::lens::Lens;
use super::data::tokens;
use super::images::{Cover, Image, image_at};
use super::inside;
use super::now::Now;
use super::offer::Save;
use super::run_map;
use super::scene::{Scene, Touch, Wish};
use super::vector::Plot;
use crate::palette;
use crate::session::{NoteKind, Overlay, Record};
use crate::{App, file_stem};

/// Minimum pixels along the longer side of an animation.
const LARGE: usize = 384;
/// Frames before the screenshot, so that the menu has closed, and frames after which it counts as failed.
const SETTLE: u32 = 3;
const PATIENCE: u32 = 120;

/// A screenshot of a part of the view, in progress.
pub(super) struct Shot {
    rect: Rect,
    name: &'static str,
    frames: u32,
    /// The whole view, once it was read back.
    image: Arc<Mutex<Option<Arc<ColorImage>>>>,
}

/// The files of a card, as words and what they are.
type Offers = Vec<(&'static str, Save)>;

/// Offers of the card with the image.
pub(super) fn of_stage(card: Rect) -> Offers {
    vec![
        ("This card, PNG", Save::View(card, "image")),
        ("All steps with this overlay, animated PNG", Save::Steps),
        ("Patches of this step and block, CSV", Save::Patches),
    ]
}

/// Offers of the card below it.
pub(super) fn of_tabs(card: Rect, scene: &Scene<'_>) -> Offers {
    let mut all = vec![
        ("This card, PNG", Save::View(card, "card")),
        ("Patches of this step and block, CSV", Save::Patches),
    ];
    if scene.made.histogram.is_some() {
        all.push(("Margins of this block, CSV", Save::Margins));
    }
    all
}

/// Offers of the card over noise.
pub(super) fn of_time(card: Rect, scene: &Scene<'_>) -> Offers {
    let mut all = vec![
        ("This card, PNG", Save::View(card, "noise")),
        ("Compute C, SVG", Save::Curve),
        ("River of this block, SVG", Save::River),
        ("Map of the run, SVG", Save::Map),
        ("Compute C, CSV", Save::Compute),
        ("Tokens of each expert, CSV", Save::Loads),
    ];
    if scene.now.patch.is_some() {
        all.push(("The selected patch, CSV", Save::Story));
    }
    all
}

/// A small button with a menu of what a card offers.
pub(super) fn menu(ui: &mut Ui, rect: Rect, name: &str, offers: &Offers, touch: &mut Touch) {
    inside(ui, rect, name, |ui| {
        ui.spacing_mut().interact_size.y = rect.height();
        ui.spacing_mut().button_padding = egui::vec2(6.0, 0.0);
        let response = ui.menu_button("Save", |ui| {
            for (words, save) in offers {
                if ui.button(*words).clicked() {
                    touch.wish = Some(Wish::Save(*save));
                    ui.close();
                }
            }
        });
        response.response.widget_info(|| {
            egui::WidgetInfo::labeled(egui::Role::Button, true, format!("Save from {name}"))
        });
    });
}

impl App {
    /// Writes a file of what is on screen.
    pub(super) fn save_view(&mut self, save: Save, now: &Now, ink: Ink) {
        let Some(record) = self.session.record() else { return };
        let stem = file_stem(record);
        let made = &self.explore.made;
        let (trace, noise) = (&record.trace, made.noise.as_slice());
        let block = trace.blocks().get(now.layer).copied().unwrap_or(0);
        let lens = Lens { trace, pass: now.pass, what_if: now.what_if };
        let name = format!("{}, seed {}", record.config.name, record.settings.sampling.seed);
        let plot = Plot { noise, name: &name };
        let names = match now.pass.branch {
            Branch::Conditional => ["with label", "without"],
            Branch::Unconditional => ["without", "with label"],
        };
        let svg =
            |what: &str, bytes: Vec<u8>| (format!("{stem}-{what}.svg"), "image/svg+xml", bytes);
        let csv = |what: &str, text: String| {
            (format!("{stem}-{what}.csv"), "text/csv", text.into_bytes())
        };
        let (name, mime, bytes) = match save {
            Save::View(rect, name) => {
                self.explore.shot = Some(Shot { rect, name, frames: 0, image: Arc::default() });
                return;
            }
            Save::Steps => {
                let bytes = match moving(record, now, ink) {
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
            Save::Compute => csv("compute", csv::compute(trace, noise)),
            Save::Loads => csv("loads", csv::loads(trace, noise)),
            Save::Patches => csv("patches", csv::patches(&lens, now.step, now.layer, now.image)),
            Save::Story => csv("patch", csv::patch_story(&made.story, &trace.blocks(), noise)),
            Save::Margins => match made.histogram.as_ref() {
                Some(histogram) => csv("margins", csv::margins(histogram)),
                None => return,
            },
        };
        self.jobs.save(name, mime, bytes);
    }

    /// Takes the requested screenshot once the menu has closed.
    pub(super) fn take_shot(&mut self, ctx: &egui::Context) {
        let Some(shot) = &mut self.explore.shot else { return };
        shot.frames += 1;
        ctx.request_repaint();
        if shot.frames == SETTLE {
            let place = shot.image.clone();
            let callback = egui::ScreenshotCallback::new(move |image| {
                *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(image);
            });
            ctx.send_viewport_cmd(egui::ViewportCommand::Screenshot(callback));
        }
        let arrived = shot.image.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (rect, name, late) = (shot.rect, shot.name, shot.frames > PATIENCE);
        if let Some(image) = arrived {
            self.explore.shot = None;
            let scale = ctx.pixels_per_point();
            let [width, height] = image.size.map(|side| side as f32 / scale);
            let all = Rect::from_min_size(egui::Pos2::ZERO, egui::vec2(width, height));
            let part = image.region(&rect.intersect(all), Some(scale));
            let Some(record) = self.session.record() else { return };
            let name = format!("{}-{name}.png", file_stem(record));
            let bytes = png(&part, record);
            self.save(name, "image/png", bytes);
        } else if late {
            self.explore.shot = None;
            let text = "cannot read the view back on this system. Save it as SVG or CSV instead";
            self.session.note(NoteKind::Error, text);
        }
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

/// Pixels of the user interface as PNG, with the settings of the run.
fn png(image: &ColorImage, record: &Record) -> Result<Vec<u8>, String> {
    let rgb = rgb(image, 1).ok_or("there is nothing to save here")?;
    rgb.to_png(&settings(record, None)).map_err(|error| error.to_string())
}

/// The texts with a run's settings, of one of its images or of all.
fn settings(record: &Record, image: Option<usize>) -> [(&'static str, String); 2] {
    let names = image.and_then(|image| record.labels.get(image..=image));
    let size = record.config.input_size;
    png_texts(&record.recipe(image), names.unwrap_or(&record.labels), size)
}

/// Pixels of the user interface, each enlarged.
fn rgb(image: &ColorImage, scale: usize) -> Option<RgbImage> {
    let [width, height] = image.size;
    let mut pixels = Vec::with_capacity(3 * width * height * scale * scale);
    for y in 0..height * scale {
        for x in 0..width * scale {
            let pixel = image.pixels.get(y / scale * width + x / scale)?;
            pixels.extend([pixel.r(), pixel.g(), pixel.b()]);
        }
    }
    RgbImage::from_raw((width * scale) as u32, (height * scale) as u32, pixels)
}

/// An image at a step as the stage shows it.
fn overlaid(record: &Record, now: &Now, step: usize, ink: Ink) -> Option<ColorImage> {
    let image: Image = image_at(record, step, now.image)?;
    let trace = &record.trace;
    let lens = Lens { trace, pass: now.pass, what_if: now.what_if };
    let (grid, patches) = (trace.grid(), trace.tokens());
    let Some(layer) = lens.layer(step, now.layer) else { return Some(image.plain()) };
    Some(match now.overlay {
        Overlay::Image => image.plain(),
        Overlay::Who => {
            let who = tokens::who(&layer, now.image, patches);
            image.covered(grid, |patch| {
                let first = who.get(patch).and_then(|taken| taken.first);
                first.map_or(Cover::Solid(ink.look.well), |e| {
                    Cover::Tint(palette::expert(usize::from(e)))
                })
            })
        }
        Overlay::HowMany => {
            let many = tokens::how_many(&lens, step, now.image);
            let layers = trace.blocks().len().max(1) as f32;
            image.covered(grid, |patch| {
                let experts = many.get(patch).copied().unwrap_or(0) as f32;
                Cover::Tint(palette::ramp(experts / layers / 2.0))
            })
        }
        Overlay::Margin => match tokens::margins(&layer, now.image, patches, now.some_expert()) {
            None => image.plain(),
            Some(margins) => image.covered(grid, |patch| {
                Cover::Tint(ink.margin(margins.get(patch).copied().unwrap_or(0.0)))
            }),
        },
    })
}

/// The selected image at every step with the overlay of the stage, as an animated PNG.
fn moving(record: &Record, now: &Now, ink: Ink) -> Result<Vec<u8>, String> {
    let steps = 0..record.trace.steps() as usize;
    let images: Vec<ColorImage> =
        steps.filter_map(|step| overlaid(record, now, step, ink)).collect();
    let largest = images.iter().map(|image| image.size).max().unwrap_or([1; 2]);
    // Decoded images are larger than previews: all frames get one size.
    let scale = LARGE.div_ceil(largest[0].max(largest[1])).max(1);
    let frames: Option<Vec<RgbImage>> = images
        .iter()
        .map(|image| rgb(image, scale * (largest[0] / image.size[0]).max(1)))
        .collect();
    let frames = frames.unwrap_or_default();
    let Some(still) = frames.last().cloned() else {
        return Err("there is no image yet. Generate one first".to_owned());
    };
    let each_ms = (4000 / frames.len() as u32).clamp(40, 400) as u16;
    let timing = Timing { each_ms, last_ms: 2000 };
    let texts = settings(record, Some(now.image));
    pixels::animation(&still, frames.into_iter(), timing, &texts)
        .map_err(|error| format!("cannot write the animation: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::finished_record;
    use diffmoe::pipeline::Saved;

    #[test]
    fn a_run_moves_with_its_routing_and_holds_its_settings() {
        let record = finished_record();
        let ctx = egui::Context::default();
        let mut ink = None;
        let mut output = ctx.run_ui(egui::RawInput::default(), |ui| ink = Some(Ink::of(ui)));
        output.textures_delta.clear();
        let ink = ink.unwrap();
        let selection = crate::session::Selection { image: 1, ..Default::default() };
        let now = Now::of(&record.trace, 2, &selection, super::super::now::Hover::default());
        let file = moving(&record, &now, ink).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let control = *reader.info().animation_control().unwrap();
        assert_eq!(control.num_frames, record.trace.steps());
        let mut still = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut still).unwrap();
        // Eight pixels in two-pixel patches, enlarged 48 times: the first patch has one hue or none.
        let shown = overlaid(&record, &now, record.trace.steps() as usize - 1, ink).unwrap();
        assert_eq!((still.len(), shown.size), (3 * 384 * 384, [8, 8]));
        for (x, y) in [(0, 0), (5, 2), (7, 7)] {
            let at = 3 * ((y * 48 + 20) * 384 + x * 48 + 20);
            let pixel = shown.pixels[y * 8 + x];
            assert_eq!(still[at..at + 3], [pixel.r(), pixel.g(), pixel.b()], "({x}, {y})");
        }
        let Ok(Saved::Recipe(recipe)) = Saved::from_png(&file) else { panic!("no settings") };
        assert_eq!((recipe.image, recipe.sampling.seed), (Some(1), record.settings.sampling.seed));
        assert_eq!(on_paper(0.0), Color32::from_rgb(0xEC, 0xEE, 0xF2));
    }
}
