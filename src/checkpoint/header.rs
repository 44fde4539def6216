//! Reads the header of a safetensors file, and explains what is wrong with a file that has none.

use std::collections::BTreeMap;

use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, SafeTensors};
use serde::Deserialize;

/// Offset of the tensor data and the parsed header, or a description of the problem.
pub(super) fn read(bytes: &[u8]) -> Result<(usize, Metadata), String> {
    let (len, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| explain(&e, bytes))?;
    Ok((len + 8, metadata))
}

/// Explains the terse errors of the safetensors crate.
fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    use SafeTensorError as E;
    if let Some(known) = recognise(bytes) {
        return known.into();
    }
    match error {
        E::InvalidHeader(reason) => format!("its header is invalid: {reason}"),
        E::InvalidHeaderDeserialization(reason) => {
            format!("its header is invalid: {reason}")
        }
        E::HeaderTooSmall => "it is shorter than a header".into(),
        E::HeaderTooLarge => "it does not start with a header length".into(),
        E::InvalidHeaderLength | E::MetadataIncompleteBuffer => match promised(bytes) {
            Some(promised) if promised < bytes.len() as u64 => format!(
                "it has {} bytes after its last tensor; download or export it again",
                bytes.len() as u64 - promised
            ),
            Some(promised) => format!(
                "it ends too early, after {} of {promised} bytes; download or copy it again",
                bytes.len()
            ),
            None => "it ends too early; download or copy it again".into(),
        },
        other => other.to_string(),
    }
}

/// Recognises files that are often mistaken for a model.
fn recognise(bytes: &[u8]) -> Option<&'static str> {
    let begins = |with: &[u8]| bytes.starts_with(with);
    if begins(b"PK\x03\x04") {
        Some("it is a zip archive, as PyTorch checkpoints (.pt) are; convert it first")
    } else if begins(&[0x80, 2]) && bytes.get(8) != Some(&b'{') {
        Some(
            "it is a pickle, as old PyTorch checkpoints are; save its state_dict as safetensors in Python",
        )
    } else if begins(b"version https://git-lfs") {
        Some("it is a pointer of Git LFS to the file; download the file itself")
    } else if begins(b"<!DOCTYPE") || begins(b"<!doctype") || begins(b"<html") {
        Some("it is a web page; download the file itself")
    } else {
        None
    }
}

/// File size according to the header.
fn promised(bytes: &[u8]) -> Option<u64> {
    /// A header entry. `__metadata__` has only strings.
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        data_offsets: (u64, u64),
    }
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    let begin = length.checked_add(8)?;
    let Some(header) = usize::try_from(length).ok().and_then(|len| rest.get(..len)) else {
        return Some(begin);
    };
    let entries: BTreeMap<String, Entry> = serde_json::from_slice(header).ok()?;
    let end = entries.values().map(|entry| entry.data_offsets.1).max().unwrap_or(0);
    begin.checked_add(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn the_reason_is_the_true_one() {
        let header =
            r#"{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        assert_eq!(read(&file(header, 8)).unwrap().0, 8 + header.len());
        let refused = |bytes: &[u8]| read(bytes).unwrap_err();
        let long = refused(&file(header, 24));
        assert_eq!(long, "it has 16 bytes after its last tensor; download or export it again");
        let (has, whole) = (header.len() + 15, header.len() + 16);
        let short = refused(&file(header, 7));
        assert!(short.contains(&format!("too early, after {has} of {whole} bytes")), "{short}");
        assert!(refused(&file(header, 8)[..40]).contains("ends too early, after 40 of"));
        let number = refused(&file(&header.replace("\"b\"", "1"), 8));
        assert!(
            number.contains("header is invalid") && number.contains("expected a string"),
            "{number}"
        );
        let dtype = refused(&file(&header.replace("F32", "F3"), 8));
        assert!(dtype.contains("unknown variant `F3`"), "{dtype}");
        assert!(refused(b"PK\x03\x04and more").contains("convert it first"));
        assert!(refused(b"version https://git-lfs.github.com/spec/v1").contains("Git LFS"));
        assert!(refused(b"\x80\x02}q\x00X\x01\x00\x00\x00a").contains("is a pickle"));
        for page in ["<!DOCTYPE html><html>", "<!doctype html><p>", "<html><p>not found"] {
            assert!(refused(page.as_bytes()).contains("is a web page"), "{page}");
        }
        // The length of this header begins like a pickle.
        let long = format!("{header:<640}");
        assert_eq!(file(&long, 8)[..2], [0x80, 2]);
        assert!(read(&file(&long, 8)).is_ok());
        assert!(refused(&file(&long, 9)).contains("1 bytes after its last tensor"));
        assert!(refused(b"1234").contains("shorter than a header"));
        assert!(refused(b"this is some text").contains("does not start with"));
    }
}
