//! The run as an animated PNG: the selected image at every step with the overlay of the stage.

use egui::ColorImage;

use diffmoe::pixels::{self, RgbImage, Timing};

use super::colours::Ink;
use super::data::lens::Lens;
use super::data::tokens;
use super::images::{Cover, Image, image_at};
use super::now::Now;
use crate::palette;
use crate::session::{Overlay, Record};

/// Minimum pixels along the longer side of an animation.
const LARGE: usize = 384;

/// Pixels of the user interface, each enlarged.
pub(super) fn rgb(image: &ColorImage, scale: usize) -> Option<RgbImage> {
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
pub(super) fn moving(
    record: &Record,
    now: &Now,
    ink: Ink,
    texts: &[(&'static str, String)],
) -> Result<Vec<u8>, String> {
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
    pixels::animation(&still, frames.into_iter(), timing, texts)
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
        let file = moving(&record, &now, ink, &super::super::save::settings(&record, Some(1))).unwrap();
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
        assert_eq!((recipe.image, recipe.seed), (Some(1), record.settings.seed));
    }
}
