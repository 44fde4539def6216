//! Texts inside PNG files: what programs write about how an image came to be. The pixels are not looked at, and sizes
//! that a file states are believed only as far as its bytes go.

/// What every PNG file begins with.
const SIGNATURE: [u8; 8] = [137, 80, 78, 71, 13, 10, 26, 10];
/// Bytes of a text, unpacked, at most.
const MOST_BYTES: usize = 1 << 20;

/// Why a text of a PNG file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PngTextError {
    /// Another kind of file.
    #[error("this is no PNG file")]
    NotPng,
    /// The file ends early.
    #[error("the PNG file is cut off: copy it again, whole")]
    Truncated,
    /// Bytes of the text have changed.
    #[error("the text {0:?} in the PNG file is damaged: copy the file again")]
    Damaged(String),
    /// More than anybody writes.
    #[error("the text {0:?} in the PNG file is longer than {MOST_BYTES} bytes")]
    TooLarge(String),
}

/// The text of a keyword in a PNG file: the first such chunk of the kinds `tEXt`, `zTXt` and `iTXt`.
///
/// # Errors
/// When the bytes are no PNG file, end before the text was found, or the text is damaged or longer than a mebibyte.
pub fn text(png: &[u8], keyword: &str) -> Result<Option<String>, PngTextError> {
    let mut rest = png.strip_prefix(&SIGNATURE).ok_or(PngTextError::NotPng)?;
    loop {
        let (head, after) = rest.split_at_checked(8).ok_or(PngTextError::Truncated)?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = &head[4..];
        if kind == b"IEND" {
            return Ok(None);
        }
        let (data, after) = after.split_at_checked(length).ok_or(PngTextError::Truncated)?;
        let (sum, after) = after.split_at_checked(4).ok_or(PngTextError::Truncated)?;
        rest = after;
        let kind = match kind {
            b"tEXt" => Kind::Plain,
            b"zTXt" => Kind::Packed,
            b"iTXt" => Kind::International,
            _ => continue,
        };
        let Some((name, body)) = split(data) else { continue };
        if name != keyword.as_bytes() {
            continue;
        }
        let damaged = || PngTextError::Damaged(keyword.to_owned());
        if crc(&[&head[4..], data]).to_be_bytes() != sum {
            return Err(damaged());
        }
        if body.len() > MOST_BYTES {
            return Err(PngTextError::TooLarge(keyword.to_owned()));
        }
        return kind.decode(body, keyword)?.ok_or_else(damaged).map(Some);
    }
}

/// Kinds of text chunks.
#[derive(Clone, Copy)]
enum Kind {
    /// Latin-1.
    Plain,
    /// Latin-1, deflated.
    Packed,
    /// UTF-8, maybe deflated, with its language.
    International,
}

impl Kind {
    /// What stands behind the keyword, as text; `None` where it is malformed.
    fn decode(self, body: &[u8], keyword: &str) -> Result<Option<String>, PngTextError> {
        let latin = |bytes: &[u8]| bytes.iter().map(|&byte| char::from(byte)).collect();
        Ok(match (self, body) {
            (Self::Plain, _) => Some(latin(body)),
            (Self::Packed, [0, packed @ ..]) => unpack(packed, keyword)?.as_deref().map(latin),
            (Self::International, [packed @ 0..=1, 0, rest @ ..]) => {
                let text = split(rest).and_then(|(_language, rest)| split(rest));
                let Some((_translated, text)) = text else { return Ok(None) };
                let text = match packed {
                    0 => Some(text.to_vec()),
                    _ => unpack(text, keyword)?,
                };
                text.and_then(|bytes| String::from_utf8(bytes).ok())
            }
            _ => None,
        })
    }
}

/// What stands before the first zero byte, and behind it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Deflated bytes, unpacked as far as they may grow.
fn unpack(packed: &[u8], keyword: &str) -> Result<Option<Vec<u8>>, PngTextError> {
    use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_zlib_with_limit};
    match decompress_to_vec_zlib_with_limit(packed, MOST_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.status == TINFLStatus::HasMoreOutput => {
            Err(PngTextError::TooLarge(keyword.to_owned()))
        }
        Err(_) => Ok(None),
    }
}

/// The checksum of PNG chunks (PNG specification, annex D).
fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in parts.iter().copied().flatten() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::RgbImage;
    use super::*;

    /// A PNG of one pixel with a chunk before its end.
    fn with_chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
        let mut png = RgbImage::from_raw(1, 1, vec![7; 3]).unwrap().to_png(&[]).unwrap();
        let end = png.split_off(png.len() - 12);
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(kind);
        png.extend(data);
        png.extend(crc(&[&kind, data]).to_be_bytes());
        png.extend(end);
        png
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        miniz_oxide::deflate::compress_to_vec_zlib(text, 6)
    }

    #[test]
    fn every_kind_of_text_chunk_is_read() {
        let read = |kind, data: &[u8]| text(&with_chunk(kind, data), "key").unwrap();
        assert_eq!(read(*b"tEXt", b"key\0gr\xfcn").as_deref(), Some("grün"));
        assert_eq!(
            read(*b"zTXt", &[b"key\0\0", &*packed(b"a b")].concat()).as_deref(),
            Some("a b")
        );
        let plain = [b"key\0\0\0de\0Schl\0", "grün…".as_bytes()].concat();
        assert_eq!(read(*b"iTXt", &plain).as_deref(), Some("grün…"));
        let deflated = [b"key\0\x01\0\0\0", &*packed("…".as_bytes())].concat();
        assert_eq!(read(*b"iTXt", &deflated).as_deref(), Some("…"));
        assert_eq!(read(*b"tEXt", b"other\0x"), None);
        assert_eq!(read(*b"tEXt", b"no zero"), None, "not ours to complain about");
    }

    #[test]
    fn what_was_written_is_read() {
        let image = RgbImage::from_raw(1, 1, vec![7; 3]).unwrap();
        for said in ["seed=7&steps=3", "für „alle“", ""] {
            let png = image.to_png(&[("other", "x".into()), ("key", said.into())]).unwrap();
            assert_eq!(text(&png, "key").unwrap().as_deref(), Some(said));
        }
    }

    #[test]
    fn files_that_lie_are_refused() {
        let read = |png: &[u8]| text(png, "key").unwrap_err();
        assert_eq!(read(b"GIF89a"), PngTextError::NotPng);
        let good = with_chunk(*b"tEXt", b"key\0value");
        for end in 8..good.len() - 24 {
            assert_eq!(read(&good[..end]), PngTextError::Truncated, "{end} bytes");
        }
        let mut damaged = good.clone();
        let at = good.len() - 12 - 5;
        damaged[at] ^= 1;
        assert_eq!(read(&damaged), PngTextError::Damaged("key".into()));
        // A length of four gigabytes in a file of some bytes.
        let mut endless = good.clone();
        endless[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(read(&endless), PngTextError::Truncated);
        let long = [b"key\0".to_vec(), vec![b'x'; MOST_BYTES + 1]].concat();
        let large = PngTextError::TooLarge("key".into());
        assert_eq!(read(&with_chunk(*b"tEXt", &long)), large);
        // A few kilobytes that would unpack to many megabytes.
        let bomb = [b"key\0\0".to_vec(), packed(&vec![0; 40 << 20])].concat();
        assert!(bomb.len() < 1 << 16);
        assert_eq!(read(&with_chunk(*b"zTXt", &bomb)), large);
        for broken in [&b"key\0\x01x"[..], b"key\0", b"key\0\0not deflated"] {
            assert_eq!(read(&with_chunk(*b"zTXt", broken)), PngTextError::Damaged("key".into()));
        }
        for broken in [&b"key\0\0"[..], b"key\0\0\0no end", b"key\0\0\0\0\0\xff"] {
            assert_eq!(read(&with_chunk(*b"iTXt", broken)), PngTextError::Damaged("key".into()));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            place in any::<prop::sample::Index>(),
            bytes in prop::collection::vec(any::<u8>(), 1..9),
        ) {
            let mut png = with_chunk(*b"iTXt", b"key\0\0\0\0\0value");
            let start = place.index(png.len());
            for (to, from) in png[start..].iter_mut().zip(&bytes) {
                *to = *from;
            }
            let _ = text(&png, "key");
        }
    }
}
