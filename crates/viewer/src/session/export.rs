//! Exports of a run: images as PNG, all steps as an animated PNG, routing as JSON. PNG files contain the settings.

use diffmoe::pipeline::{Recipe, png_texts};
use diffmoe::pixels::{self, Timing};

use super::Record;

/// Duration of the animation,
const SHOWN_MS: u32 = 3000;
/// and of its last frame.
const HELD_MS: u16 = 2000;

/// One image, or the grid of all, after `step` steps (0 is the noise, beyond the end the last), each pixel
/// enlarged `scale` times; `None` enlarges a grid to at least 128 pixels an image, as the command line does.
///
/// # Errors
/// When there is no such image.
pub fn png(
    record: &Record,
    image: Option<usize>,
    step: usize,
    scale: Option<u32>,
) -> Result<Vec<u8>, String> {
    enlarged_png(record, image, step, scale, false)
}

/// As [`png`], enlarged smoothly if asked.
///
/// # Errors
/// As [`png`].
pub fn enlarged_png(
    record: &Record,
    image: Option<usize>,
    step: usize,
    scale: Option<u32>,
    smooth: bool,
) -> Result<Vec<u8>, String> {
    let all = record.images(step).or_else(|| record.images(record.frames.len().checked_sub(1)?));
    let all = all.ok_or("there is no image yet. Generate one first")?;
    let shown = match image {
        None => &*all.samples,
        Some(image) => all
            .samples
            .chunks_exact(3 * all.size[0] * all.size[1])
            .nth(image)
            .ok_or_else(|| format!("this run has no image {}", image + 1))?,
    };
    let checked = checked(scale)?;
    let count = shown.len() / (3 * all.size[0] * all.size[1]);
    pixels::grid_extent(count, all.size, checked).map_err(|error| error.to_string())?;
    let grid = if smooth { pixels::smooth_grid } else { pixels::grid };
    let grid = grid(shown, all.size, checked);
    // The only image of a run is the run.
    let image = image.filter(|_| record.labels.len() > 1);
    grid.to_png(&texts(record, image, (scale, smooth), all.size)).map_err(|error| error.to_string())
}

/// The settings of the run, for a file with one image or with all of them.
fn texts(
    record: &Record,
    image: Option<usize>,
    (scale, smooth): (Option<u32>, bool),
    size: [usize; 2],
) -> [(&'static str, String); 2] {
    let names = match image {
        Some(image) => record.labels.get(image..=image).unwrap_or_default(),
        None => &record.labels,
    };
    let recipe = Recipe { smooth, ..record.shared().file_recipe(image, scale) };
    png_texts(&recipe, names, size)
}

/// The grid at every step from noise to the end, as an animated PNG that repeats; the last frame is held for two
/// seconds.
/// Programs without animation show the last frame.
///
/// # Errors
/// When there is no image, or the grid would be larger than a PNG can be.
pub fn apng(record: &Record, scale: Option<u32>) -> Result<Vec<u8>, String> {
    let scale = checked(scale)?;
    let frames = record.frames.len();
    let sizes = (0..frames).filter_map(|frame| record.images(frame)).map(|p| p.size);
    let size = sizes.max().ok_or("there is no image yet. Generate one first")?;
    // Previews are smaller than what is decoded: they are enlarged by as much.
    let scale = scale.unwrap_or_else(|| pixels::default_scale(record.labels.len(), size));
    pixels::grid_extent(record.labels.len(), size, Some(scale))
        .map_err(|error| error.to_string())?;
    let grid = |frame: usize| {
        let images = record.images(frame);
        images.map(|p| pixels::grid(&p.samples, p.size, Some(scale * (size[0] / p.size[0]) as u32)))
    };
    let still = grid(frames - 1).ok_or("there is no image yet. Generate one first")?;
    let all: Vec<_> = (0..frames).filter_map(grid).collect();
    let each_ms = (SHOWN_MS / frames as u32).clamp(20, 200) as u16;
    let timing = Timing { each_ms, last_ms: HELD_MS };
    pixels::animation(&still, all.into_iter(), timing, &texts(record, None, (None, false), size))
        .map_err(|error| format!("cannot write the animation: {error}"))
}

/// The routing, in the form of the command line's `--trace` (docs/trace-format.md).
///
/// # Errors
/// Never in practice.
pub fn trace_json(record: &Record) -> Result<String, String> {
    record.trace.to_json().map_err(|error| error.to_string())
}

/// A name for a file of the run, without its ending.
pub fn file_name(record: &Record) -> String {
    let safe = |c: char| if c.is_alphanumeric() || c == '-' { c } else { '-' };
    let model: String = record.config.name.chars().map(safe).collect();
    format!("diffmoe-{model}-{}", record.settings.sampling.seed)
}

/// An enlargement as the command line allows it.
fn checked(scale: Option<u32>) -> Result<Option<u32>, String> {
    match scale {
        Some(scale) if !(1..=64).contains(&scale) => {
            Err(format!("scale must be 1–64, got {scale}"))
        }
        scale => Ok(scale),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::finished_record;
    use super::*;
    use diffmoe::pixels::RgbImage;

    fn pixels(png: &[u8]) -> RgbImage {
        let image = image::load_from_memory(png).unwrap().to_rgb8();
        RgbImage::from_raw(image.width(), image.height(), image.into_raw()).unwrap()
    }

    #[test]
    fn png_files_hold_the_pixels_of_their_step() {
        let record = finished_record();
        let grid = |step: usize, scale| pixels::grid(&record.frames[step], [8, 8], scale);
        assert_eq!(pixels(&png(&record, None, 2, Some(3)).unwrap()), grid(2, Some(3)));
        assert_eq!(
            pixels(&png(&record, None, 99, None).unwrap()),
            grid(record.frames.len() - 1, None)
        );
        let second = pixels(&png(&record, Some(1), 2, Some(1)).unwrap());
        let left = 8 + 4;
        let grid = grid(2, Some(1));
        for (x, y) in (0..64).map(|at| (at % 8, at / 8)) {
            assert_eq!(second.pixel(x, y), grid.pixel(left + x, y));
        }
        assert!(png(&record, Some(2), 2, None).unwrap_err().contains("no image 3"));
        assert!(png(&record, None, 2, Some(0)).unwrap_err().contains("1–64"));
        assert_eq!(file_name(&record), "diffmoe-tiny-11");
    }

    #[test]
    fn an_animation_shows_every_step_and_holds_the_last() {
        let record = finished_record();
        let file = apng(&record, Some(2)).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        let control = *reader.info().animation_control().unwrap();
        assert_eq!((control.num_frames as usize, control.num_plays), (record.frames.len(), 0));
        let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
        let last = pixels::grid(record.frames.last().unwrap(), [8, 8], Some(2));
        reader.next_frame(&mut buffer).unwrap();
        assert_eq!(buffer, last.pixels(), "programs without animation show the last step");
        for (i, frame) in record.frames.iter().enumerate() {
            reader.next_frame(&mut buffer).unwrap();
            assert_eq!(buffer, pixels::grid(frame, [8, 8], Some(2)).pixels(), "frame {i}");
            let held = i + 1 == record.frames.len();
            let delay = reader.info().frame_control().unwrap().delay_num;
            assert_eq!(delay == HELD_MS, held, "frame {i} is held for {delay} ms");
        }
    }

    #[test]
    fn the_trace_is_the_command_lines() {
        let record = finished_record();
        let json: serde_json::Value = serde_json::from_str(&trace_json(&record).unwrap()).unwrap();
        assert_eq!(
            json["forwards"].as_array().unwrap().len(),
            2 * record.settings.sampling.steps as usize
        );
        assert_eq!(json["model"], "tiny");
    }
}
