//! The run as an animated PNG: the selected image at every step with the overlay of the stage.

use egui::ColorImage;

use diffmoe::pipeline::png_texts;
use diffmoe::pixels::{self, RgbImage, Timing};

use super::colours::{Ink, mix};
use super::data::lens::Lens;
use super::data::tokens;
use super::images::{Image, image_at};
use super::now::Now;
use super::overlay::Patches;
use super::pattern::Pattern;
use crate::palette;
use crate::session::{Overlay, Record};

/// Minimum pixels along the longer side of an animation.
const LARGE: usize = 384;

/// Pixels from one element of a pattern to the next.
const PERIOD: f32 = 8.0;

/// The experts whose colours patches have, in an image that is shown patch by patch.
struct Coloured {
    grid: [usize; 2],
    experts: Vec<Option<u8>>,
}

impl Coloured {
    /// The expert of a patch whose pattern covers a pixel of an image of this size.
    fn pattern_at(&self, [x, y]: [usize; 2], [width, height]: [usize; 2]) -> Option<usize> {
        let [rows, columns] = self.grid;
        let patch = y * rows / height * columns + x * columns / width;
        let expert = usize::from((*self.experts.get(patch)?)?);
        let pattern = Pattern::of(expert)?;
        pattern.covers(x as f32 / PERIOD, y as f32 / PERIOD).then_some(expert)
    }
}

/// A frame: the image, each pixel enlarged, and the patterns of experts beyond eight over their colours.
fn frame((image, coloured): &(ColorImage, Option<Coloured>), scale: usize) -> Option<RgbImage> {
    let mut large = ColorImage::filled(image.size.map(|side| side * scale), egui::Color32::BLACK);
    let [width, height] = large.size;
    for (at, pixel) in large.pixels.iter_mut().enumerate() {
        let (x, y) = (at % width, at / width);
        *pixel = image.pixels[y / scale * image.size[0] + x / scale];
        let expert = coloured.as_ref().and_then(|c| c.pattern_at([x, y], [width, height]));
        if let Some(expert) = expert {
            *pixel = mix(*pixel, palette::text_on(palette::expert(expert)), 0.6);
        }
    }
    rgb(&large)
}

/// The texts with a run's settings, of one of its images or of all.
pub(super) fn settings(record: &Record, image: Option<usize>) -> [(&'static str, String); 2] {
    let names = image.and_then(|image| record.labels.get(image..=image));
    let size = record.config.input_size;
    png_texts(&record.recipe(image), names.unwrap_or(&record.labels), size)
}

/// Pixels of the user interface.
pub(super) fn rgb(image: &ColorImage) -> Option<RgbImage> {
    let [width, height] = image.size;
    let pixels = image.pixels.iter().flat_map(|pixel| [pixel.r(), pixel.g(), pixel.b()]);
    RgbImage::from_raw(width as u32, height as u32, pixels.collect())
}

/// An image at a step as the stage shows it, and the experts of its patches where they have their colours.
fn overlaid(
    record: &Record,
    now: &Now,
    step: usize,
    ink: Ink,
) -> Option<(ColorImage, Option<Coloured>)> {
    let image: Image = image_at(record, step, now.image)?;
    let trace = &record.trace;
    let lens = Lens { trace, pass: now.pass, what_if: now.what_if };
    let (grid, patches) = (trace.grid(), trace.tokens());
    let Some(layer) = lens.layer(step, now.layer) else {
        return Some((image.plain(), None));
    };
    let (who, many, margins);
    let mut coloured = None;
    let over = match now.overlay {
        Overlay::Image => Patches::Plain,
        Overlay::Who => {
            who = tokens::who(&layer, now.image, patches);
            let experts = who.iter().map(|taken| taken.first).collect();
            coloured = Some(Coloured { grid, experts });
            Patches::Who(&who)
        }
        Overlay::HowMany => {
            many = tokens::how_many(&lens, step, now.image);
            Patches::HowMany(&many, trace.blocks().len())
        }
        Overlay::Margin => {
            margins = tokens::margins(&layer, now.image, patches, now.some_expert());
            margins.as_deref().map_or(Patches::Plain, Patches::Margins)
        }
    };
    Some((over.over(&image, grid, ink), coloured))
}

/// The selected image at every step with the overlay of the stage, as an animated PNG.
pub(super) fn moving(
    record: &Record,
    now: &Now,
    ink: Ink,
    texts: &[(&'static str, String)],
) -> Result<Vec<u8>, String> {
    let steps = 0..record.trace.steps() as usize;
    let images: Vec<_> = steps.filter_map(|step| overlaid(record, now, step, ink)).collect();
    let largest = images.iter().map(|(image, _)| image.size).max().unwrap_or([1; 2]);
    // Decoded images are larger than previews: all frames get one size.
    let scale = LARGE.div_ceil(largest[0].max(largest[1])).max(1);
    let frames: Option<Vec<RgbImage>> = images
        .iter()
        .map(|shown| frame(shown, scale * (largest[0] / shown.0.size[0]).max(1)))
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
        let texts = settings(&record, Some(1));
        let file = moving(&record, &now, ink, &texts).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let control = *reader.info().animation_control().unwrap();
        assert_eq!(control.num_frames, record.trace.steps());
        let mut still = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut still).unwrap();
        // Eight pixels in two-pixel patches, enlarged 48 times: the first patch has one hue or none.
        let (shown, coloured) =
            overlaid(&record, &now, record.trace.steps() as usize - 1, ink).unwrap();
        assert_eq!((still.len(), shown.size), (3 * 384 * 384, [8, 8]));
        assert_eq!(coloured.unwrap().experts.len(), record.trace.tokens());
        for (x, y) in [(0, 0), (5, 2), (7, 7)] {
            let at = 3 * ((y * 48 + 20) * 384 + x * 48 + 20);
            let pixel = shown.pixels[y * 8 + x];
            assert_eq!(still[at..at + 3], [pixel.r(), pixel.g(), pixel.b()], "({x}, {y})");
        }
        let Ok(Saved::Recipe(recipe)) = Saved::from_png(&file) else { panic!("no settings") };
        assert_eq!((recipe.image, recipe.sampling.seed), (Some(1), record.settings.sampling.seed));
    }

    #[test]
    fn frames_show_the_patterns_of_experts_beyond_eight() {
        let image = ColorImage::filled([2, 1], egui::Color32::from_gray(100));
        let coloured = Coloured { grid: [1, 2], experts: vec![Some(3), Some(9)] };
        let large = frame(&(image, Some(coloured)), 16).unwrap();
        let grey = |x: u32, y: u32| large.pixel(x, y)[0];
        let left = (0..16).all(|x| (0..16).all(|y| grey(x, y) == 100));
        let dots = (16..32).flat_map(|x| (0..16).map(move |y| (x, y)));
        let dots = dots.filter(|&(x, y)| grey(x, y) != 100).count();
        assert!(left && (40..100).contains(&dots), "{left} {dots}");
    }
}
