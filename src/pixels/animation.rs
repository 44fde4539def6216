//! Moving PNG files: what a run shows at each step.

use super::{PngError, RgbImage};

/// How long a moving image shows its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Milliseconds of each frame,
    pub each_ms: u16,
    /// and of the last.
    pub last_ms: u16,
}

/// Frames as a moving PNG (APNG) that repeats, with text chunks. Programs that show no moving images show `still`.
///
/// # Errors
/// When there are no frames, one of them has another size than `still`, or a keyword cannot be written.
pub fn animation(
    still: &RgbImage,
    frames: impl ExactSizeIterator<Item = RgbImage>,
    timing: Timing,
    texts: &[(&str, String)],
) -> Result<Vec<u8>, PngError> {
    let mut file = Vec::new();
    let mut encoder = still.encoder(&mut file, texts)?;
    let count = frames.len();
    encoder.set_animated(count as u32, 0)?;
    encoder.set_sep_def_img(true)?;
    encoder.set_frame_delay(timing.each_ms, 1000)?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(still.pixels())?;
    for (i, frame) in frames.enumerate() {
        if i + 1 == count {
            writer.set_frame_delay(timing.last_ms, 1000)?;
        }
        writer.write_image_data(frame.pixels())?;
    }
    writer.finish()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_need_the_size_of_the_still_image() {
        let image = |width: u32| RgbImage::from_raw(width, 1, vec![9; 3 * width as usize]).unwrap();
        let timing = Timing { each_ms: 20, last_ms: 50 };
        let of = |frames: Vec<RgbImage>| animation(&image(2), frames.into_iter(), timing, &[]);
        let file = of(vec![image(2), image(2)]).unwrap();
        let reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        assert_eq!(reader.info().animation_control().unwrap().num_frames, 2);
        assert!(of(vec![image(3)]).is_err() && of(Vec::new()).is_err());
    }
}
