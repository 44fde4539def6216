//! The files of a set of images, one for each batch: safetensors with `pictures` [n, h, w, 3] u8, `labels`
//! `[n, tables]` u32 and, for models with experts, `capacity` `[n]` f32. The header has the settings, so that files of
//! different sets are never mixed (docs/evaluation.md).

use std::ops::Range;
use std::path::{Path, PathBuf};

use diffmoe::checkpoint::{TensorOut, write_safetensors};
use diffmoe::platform::{Bytes, map_file};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::output::Output;

/// The header entry.
const KEY: &str = "diffmoe_set";

/// What stands in the header of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    /// 1.
    pub(super) format: u32,
    /// Number of the first image.
    pub(super) first: usize,
    /// Images in this file.
    #[serde(rename = "pictures")]
    pub(super) images: usize,
    /// Images of the whole set.
    pub(super) count: usize,
    /// What decides how an image looks, for all images of the set.
    pub(super) settings: serde_json::Map<String, serde_json::Value>,
    /// Names of the label tables.
    pub(super) tables: Vec<String>,
    /// For each table the row of each image, as in the tensor `labels`.
    pub(super) labels: Vec<Vec<u32>>,
    /// What each image was asked to show, for models that read text.
    pub(super) prompts: Vec<String>,
    /// What computed.
    pub(super) device: String,
}

impl Header {
    /// Describes an inconsistency, if there is one.
    fn contradiction(&self) -> Option<String> {
        let Self { first, images, count, tables, labels, prompts, .. } = self;
        if self.format != 1 {
            return Some(format!(
                "its format {} is unknown, expected 1; use a newer version",
                self.format
            ));
        }
        if *images == 0 || first.checked_add(*images).is_none_or(|end| end > *count) {
            return Some(format!("it declares {images} images from {first} in a set of {count}"));
        }
        if labels.len() != tables.len() {
            return Some(format!(
                "it has label lists for {} of {} tables",
                labels.len(),
                tables.len()
            ));
        }
        let wrong = tables.iter().zip(labels).find(|(_, rows)| rows.len() != *images);
        if let Some((table, rows)) = wrong {
            return Some(format!("it has {} labels of {table:?} for {images} images", rows.len()));
        }
        if !prompts.is_empty() && prompts.len() != *images {
            return Some(format!("it has {} prompts for {images} images", prompts.len()));
        }
        None
    }

    /// The settings that differ, in words.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let missing = serde_json::Value::Null;
        let keys = self.settings.keys().chain(other.settings.keys());
        let value = |of: &Self, key: &str| of.settings.get(key).unwrap_or(&missing).to_string();
        let mut differences: Vec<String> = keys
            .filter(|key| value(self, key) != value(other, key))
            .map(|key| format!("{key} {} instead of {}", value(self, key), value(other, key)))
            .collect();
        if self.tables != other.tables {
            differences.push(format!("tables {:?} instead of {:?}", self.tables, other.tables));
        }
        differences.dedup();
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}

/// The file of the batch that begins with this image.
pub(super) fn path(folder: &Path, first: usize) -> PathBuf {
    folder.join(format!("batch-{first:08}.safetensors"))
}

/// All files of batches in a folder, by name.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |e: std::io::Error| format!("cannot read {}: {e}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("batch-") && name.ends_with(".safetensors") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a batch: `images` is [n, height, width, 3].
pub(super) fn write(
    folder: &Path,
    header: &Header,
    [height, width]: [usize; 2],
    images: &[u8],
    capacity: Option<&[f32]>,
) -> Result<(), String> {
    let n = header.images;
    let rows = (0..n).flat_map(|i| header.labels.iter().map(move |table| table[i]));
    let labels: Vec<u32> = rows.collect();
    let mut tensors = vec![TensorOut::u8("pictures", &[n, height, width, 3], images)];
    if !header.tables.is_empty() {
        tensors.push(TensorOut::u32("labels", &[n, header.tables.len()], &labels));
    }
    tensors.extend(capacity.map(|c| TensorOut::f32("capacity", &[n], c)));
    let text = serde_json::to_string(header).map_err(|e| e.to_string())?;
    let out = Output::reserve(&path(folder, header.first))?;
    out.write(|part| write_safetensors(part, &tensors, [(KEY.to_owned(), text)]))
}

/// A batch that is whole.
pub(super) struct BatchFile {
    pub(super) header: Header,
    /// [height, width]
    pub(super) size: [usize; 2],
    bytes: Bytes,
    images: Range<usize>,
}

impl BatchFile {
    /// Opens a batch, or explains why it is not one. Reads only the header.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let bytes = map_file(path).map_err(|e| e.to_string())?;
        // Also compares the length of the file with what the header promises.
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|e| format!("it is incomplete ({e})"))?;
        let text = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let text = text.ok_or("it is not a batch of an image set")?;
        let known: Header = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if let Some(contradiction) = known.contradiction() {
            return Err(contradiction);
        }
        let tensor = metadata.info("pictures").ok_or("it contains no images")?;
        let (begin, end) = tensor.data_offsets;
        match *tensor.shape.as_slice() {
            [n, height, width, 3]
                if n == known.images && height > 0 && width > 0 && tensor.dtype == Dtype::U8 =>
            {
                let images = 8 + header + begin..8 + header + end;
                Ok(Self { header: known, size: [height, width], bytes, images })
            }
            _ => Err(format!(
                "its images have type {:?} and shape {:?}, expected U8 and [{}, height, width, 3]",
                tensor.dtype, tensor.shape, known.images
            )),
        }
    }

    /// [n, height, width, 3]
    pub(super) fn images(&self) -> &[u8] {
        &self.bytes[self.images.clone()]
    }
}
