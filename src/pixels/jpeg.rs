//! JPEG files as pixels, for photos to start from.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::RgbImage;
use super::read::MOST_PIXELS;

/// The tag of the orientation in Exif data.
const ORIENTATION: u16 = 0x0112;

/// Reads a file, and turns it as its Exif data say.
pub(super) fn read(file: &[u8]) -> Result<RgbImage, String> {
    if !is_whole(file) {
        return Err("the file ends too early; copy it again".to_owned());
    }
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(|error| error.to_string())?;
    let info = decoder.info().ok_or("its header is missing")?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(format!(
            "the image has {width}×{height} pixels; at most {} million are read",
            MOST_PIXELS / 1_000_000
        ));
    }
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    let orientation = decoder.exif().and_then(|exif| orientation(exif)).unwrap_or(1);
    let image = RgbImage::from_raw(width, height, pixels);
    Ok(turned(&image.ok_or("its colours are not red, green and blue")?, orientation))
}

/// Whether the last scan ends. The decoder fills in what a shorter file lacks.
fn is_whole(file: &[u8]) -> bool {
    let last = |marker: u8| file.windows(2).rposition(|pair| pair == [0xff, marker]);
    let (scan, end) = (last(0xda), last(0xd9));
    scan.zip(end).is_some_and(|(scan, end)| scan < end)
}

/// The orientation in Exif data, 1 to 8; `None` where they have none that can be understood.
fn orientation(exif: &[u8]) -> Option<u16> {
    let is_little = match exif.get(..2)? {
        b"II" => true,
        b"MM" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = exif.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let table = long(4)? as usize;
    let entries = usize::from(short(table)?);
    let entry = (0..entries).map(|i| table + 2 + 12 * i).find(|&at| short(at) == Some(ORIENTATION));
    short(entry? + 8).filter(|orientation| (1..=8).contains(orientation))
}

/// An image as it is meant to be seen. From 5 on rows and columns are exchanged.
fn turned(image: &RgbImage, orientation: u16) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let (wide, high) = if orientation >= 5 { (height, width) } else { (width, height) };
    let from = |x: u32, y: u32| match orientation {
        2 => (width - 1 - x, y),
        3 => (width - 1 - x, height - 1 - y),
        4 => (x, height - 1 - y),
        5 => (y, x),
        6 => (y, height - 1 - x),
        7 => (width - 1 - y, height - 1 - x),
        8 => (width - 1 - y, x),
        _ => (x, y),
    };
    let places = (0..high).flat_map(|y| (0..wide).map(move |x| (x, y)));
    let pixels = places.flat_map(|(x, y)| {
        let (x, y) = from(x, y);
        image.pixel(x, y)
    });
    RgbImage::from_raw(wide, high, pixels.collect()).unwrap_or_else(|| image.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red, green, blue and light grey, each a quarter of 48×32 pixels.
    const COLOURS: [[u8; 3]; 4] = [[200, 30, 30], [30, 200, 30], [30, 30, 200], [230, 230, 230]];

    macro_rules! photo {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/photos/", $name)).as_slice()
        };
    }

    fn read(file: &[u8]) -> RgbImage {
        RgbImage::read(file).unwrap()
    }

    /// The colours in the middle of each quarter.
    fn quarters(image: &RgbImage) -> [[u8; 3]; 4] {
        let (x, y) = (image.width() / 4, image.height() / 4);
        [(x, y), (3 * x, y), (x, 3 * y), (3 * x, 3 * y)].map(|(x, y)| image.pixel(x, y))
    }

    fn far(a: [[u8; 3]; 4], b: [[u8; 3]; 4]) -> u8 {
        let pairs = a.as_flattened().iter().zip(b.as_flattened());
        pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    #[test]
    fn photos_become_pixels() {
        for file in [photo!("baseline.jpg"), photo!("progressive.jpg")] {
            let image = read(file);
            assert_eq!((image.width(), image.height()), (48, 32));
            assert!(far(quarters(&image), COLOURS) <= 4, "{:?}", quarters(&image));
        }
        let grey = quarters(&read(photo!("grey.jpg")));
        // Brightness as JPEG weighs colours.
        assert!(far(grey, [[81; 3], [130; 3], [49; 3], [230; 3]]) <= 4, "{grey:?}");
        assert_eq!(read(photo!("cmyk.jpg")).width(), 48);
    }

    #[test]
    fn photos_are_turned_as_the_camera_was_held() {
        let image = read(photo!("turned.jpg"));
        assert_eq!((image.width(), image.height()), (32, 48));
        let [red, green, blue, grey] = COLOURS;
        assert!(far(quarters(&image), [blue, red, grey, green]) <= 4, "{:?}", quarters(&image));
        // Two rows of three: each orientation says which pixel comes first, and which next to it.
        let image = RgbImage::from_raw(3, 2, (0..18).map(|i| i / 3).collect()).unwrap();
        let firsts = [(0, 1), (2, 1), (5, 4), (3, 4), (0, 3), (3, 0), (5, 2), (2, 5)];
        for (orientation, (first, next)) in (1..).zip(firsts) {
            let turned = turned(&image, orientation);
            assert_eq!(
                (turned.pixel(0, 0)[0], turned.pixel(1, 0)[0]),
                (first, next),
                "{orientation}"
            );
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let whole = photo!("baseline.jpg");
        let progressive = photo!("progressive.jpg");
        for end in [3, 20, 200, whole.len() - 2] {
            assert!(RgbImage::read(&whole[..end]).is_err(), "{end} bytes");
        }
        let error = RgbImage::read(&progressive[..progressive.len() - 30]).unwrap_err().to_string();
        assert!(error.contains("the file ends too early"), "{error}");
        // Whatever is wrong with a byte, there is an image or a sentence.
        for at in 2..whole.len() {
            let mut other = whole.to_vec();
            other[at] ^= 0x55;
            let _ = RgbImage::read(&other).map_err(|error| error.to_string());
        }
    }

    #[test]
    fn exif_data_of_any_kind_are_looked_through() {
        assert_eq!(orientation(b""), None);
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(
            orientation(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0"),
            Some(8)
        );
        assert_eq!(orientation(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0"), None);
    }
}
