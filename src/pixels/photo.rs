//! Image files of the formats that this build reads.

use super::RgbImage;
use super::read::PngReadError;

/// Formats of image files, told apart by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageFormat {
    /// PNG.
    Png,
    /// JPEG.
    Jpeg,
    /// WebP.
    WebP,
    /// AVIF or HEIC, as some phones save photos.
    Heif,
    /// GIF.
    Gif,
    /// BMP.
    Bmp,
    /// TIFF.
    Tiff,
}

impl ImageFormat {
    /// The format of a file; `None` for what is no image.
    pub fn of(file: &[u8]) -> Option<Self> {
        let brand = file.get(4..12).filter(|brand| brand.starts_with(b"ftyp"));
        let is_heif = |brand: &[u8]| {
            let known: [&[u8]; 6] = [b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1"];
            known.contains(&&brand[4..])
        };
        Some(match file {
            _ if file.starts_with(b"\x89PNG\r\n\x1a\n") => Self::Png,
            _ if file.starts_with(b"\xff\xd8\xff") => Self::Jpeg,
            _ if file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP") => Self::WebP,
            _ if file.starts_with(b"GIF8") => Self::Gif,
            _ if file.starts_with(b"II*\0") || file.starts_with(b"MM\0*") => Self::Tiff,
            // The bytes that are reserved are zero; two letters alone are no format.
            _ if file.starts_with(b"BM") && file.get(6..10) == Some(&[0; 4]) => Self::Bmp,
            _ if brand.is_some_and(is_heif) => Self::Heif,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Heif => "AVIF or HEIC",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }
}

/// Why an image file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageReadError {
    /// A PNG file that cannot be read.
    #[error(transparent)]
    Png(#[from] PngReadError),
    /// A JPEG file that cannot be read.
    #[error("not a JPEG file that can be read: {0}")]
    Jpeg(String),
    /// Another format.
    #[error("{} files are not read here; {}", .0.name(), expected())]
    Unsupported(ImageFormat),
    /// No format of images.
    #[error("not an image file; {}", expected())]
    Unknown,
}

fn expected() -> &'static str {
    if cfg!(feature = "jpeg") { "convert it to PNG or JPEG" } else { "convert it to PNG" }
}

impl RgbImage {
    /// Reads an image file: a PNG, as [`RgbImage::read_png`] does, or, with the feature `jpeg`, a JPEG, turned as its
    /// camera was held.
    ///
    /// # Errors
    /// When the file has another format, is damaged, or has more than 64 million pixels.
    pub fn read(file: &[u8]) -> Result<Self, ImageReadError> {
        match ImageFormat::of(file) {
            Some(ImageFormat::Png) => Ok(Self::read_png(file)?),
            #[cfg(feature = "jpeg")]
            Some(ImageFormat::Jpeg) => super::jpeg::read(file).map_err(ImageReadError::Jpeg),
            Some(other) => Err(ImageReadError::Unsupported(other)),
            None => Err(ImageReadError::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart_by_their_first_bytes() {
        let cases: [(&[u8], Option<ImageFormat>); 10] = [
            (b"\x89PNG\r\n\x1a\n", Some(ImageFormat::Png)),
            (b"\xff\xd8\xff\xe0", Some(ImageFormat::Jpeg)),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Some(ImageFormat::WebP)),
            (b"RIFF\x10\0\0\0WAVEfmt ", None),
            (b"\0\0\0\x1cftypheic", Some(ImageFormat::Heif)),
            (b"\0\0\0\x1cftypmp42", None),
            (b"GIF89a", Some(ImageFormat::Gif)),
            (b"BM\x9a\0\0\0\0\0\0\0", Some(ImageFormat::Bmp)),
            (b"BM", None),
            (b"{\"a\": 1}", None),
        ];
        for (bytes, format) in cases {
            assert_eq!(ImageFormat::of(bytes), format, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_not_read_is_named() {
        let webp = include_bytes!("../../tests/fixtures/photos/lossy.webp");
        let error = RgbImage::read(webp).unwrap_err().to_string();
        assert!(error.starts_with("WebP files are not read here; convert it to PNG"), "{error}");
        let error = RgbImage::read(b"weights").unwrap_err().to_string();
        assert!(error.starts_with("not an image file; convert it to PNG"), "{error}");
    }
}
