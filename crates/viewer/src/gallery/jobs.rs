//! What is done with the stored images in the background.

use egui::ColorImage;

use super::{Item, MOST, MOST_BYTES, Opened, Preview};
use crate::platform::{GalleryStore, sha256};
use diffmoe::pipeline::{Parameters, Saved};
use diffmoe::pixels::{self, RgbImage};

/// Longer side of a small version in pixels.
const THUMB: usize = 96;
/// Longer side of an image that is looked at.
const MOST_SIDE: usize = 2048;
/// The text of a PNG file that other programs read, too.
const PARAMETERS: &str = "parameters";

pub(super) enum Request {
    List,
    Look(String),
    Keep { png: Vec<u8>, ms: u64 },
    Open(String),
    Delete(Vec<String>),
    Restore(Vec<(String, Vec<u8>)>),
}

pub(super) enum Outcome {
    /// The names of the images.
    Listed(Result<Vec<String>, String>),
    /// What an image shows; `None` if its file is damaged.
    Looked(String, Option<Preview>),
    /// `None` for an image that was kept already.
    Kept(Result<Option<Item>, String>),
    Opened(Result<Opened, String>),
    Deleted {
        gone: Vec<String>,
        /// Those of them that can be restored.
        kept_bytes: Vec<(String, Vec<u8>)>,
        problem: Option<String>,
    },
    Restored {
        items: Vec<Item>,
        /// Files that are stored again and cannot be shown, as before.
        damaged: Vec<String>,
        /// What could not be restored.
        left: Vec<(String, Vec<u8>)>,
        problem: Option<String>,
    },
}

/// Carries out a request; `used` is the bytes of all images that are known.
pub(super) async fn carry_out(store: &GalleryStore, request: Request, used: u64) -> Outcome {
    match request {
        Request::List => Outcome::Listed(list(store).await),
        Request::Look(name) => {
            let file = store.read(&name).await.ok();
            let preview = file.and_then(|png| preview(&name, &png).ok());
            Outcome::Looked(name, preview)
        }
        Request::Keep { png, ms } => Outcome::Kept(keep(store, &png, ms, used).await),
        Request::Open(name) => Outcome::Opened(open(store, name).await),
        Request::Delete(names) => delete(store, names).await,
        Request::Restore(files) => restore(store, files).await,
    }
}

/// `{milliseconds}-{hash}.png`, so that names in order are images in order of time.
fn name_of(ms: u64, hash: u64) -> String {
    format!("{ms:013}-{hash:016x}.png")
}

/// The hash in a name; `None` for files that are none of ours.
fn hash_in(name: &str) -> Option<u64> {
    let (ms, hash) = name.strip_suffix(".png")?.split_once('-')?;
    let is_ours = ms.len() == 13 && hash.len() == 16 && ms.bytes().all(|b| b.is_ascii_digit());
    is_ours.then(|| u64::from_str_radix(hash, 16).ok())?
}

async fn list(store: &GalleryStore) -> Result<Vec<String>, String> {
    let names = store.names().await?.into_iter();
    Ok(names.filter(|name| hash_in(name).is_some()).collect())
}

async fn keep(
    store: &GalleryStore,
    png: &[u8],
    ms: u64,
    used: u64,
) -> Result<Option<Item>, String> {
    let [a, b, c, d, e, f, g, h, ..] = sha256(png).await;
    let hash = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let names = store.names().await?;
    let kept: Vec<u64> = names.iter().filter_map(|name| hash_in(name)).collect();
    if kept.contains(&hash) {
        return Ok(None);
    }
    if kept.len() >= MOST || used + png.len() as u64 > MOST_BYTES {
        return Err(format!(
            "the gallery is full: it has {} images of {:.1} MB and takes at most {MOST} of {} MB. Delete some, or save \
             the image as a file",
            kept.len(),
            used as f64 / 1e6,
            MOST_BYTES / 1_000_000
        ));
    }
    let name = name_of(ms, hash);
    let item = item(&name, png)?;
    store.write(&name, png).await?;
    Ok(Some(item))
}

async fn open(store: &GalleryStore, name: String) -> Result<Opened, String> {
    let png = store.read(&name).await?;
    let image = RgbImage::read_png(&png).map_err(|error| format!("{name}: {error}"))?;
    Ok(Opened { name, image: scaled(&image, MOST_SIDE), png })
}

/// Deletes files one after the other, up to the first that cannot be deleted.
async fn delete(store: &GalleryStore, names: Vec<String>) -> Outcome {
    let (mut gone, mut kept_bytes) = (Vec::new(), Vec::new());
    for name in names {
        let bytes = store.read(&name).await;
        if let Err(problem) = store.delete(&name).await {
            return Outcome::Deleted { gone, kept_bytes, problem: Some(problem) };
        }
        kept_bytes.extend(bytes.ok().map(|bytes| (name.clone(), bytes)));
        gone.push(name);
    }
    Outcome::Deleted { gone, kept_bytes, problem: None }
}

async fn restore(store: &GalleryStore, files: Vec<(String, Vec<u8>)>) -> Outcome {
    let (mut items, mut damaged) = (Vec::new(), Vec::new());
    let (mut left, mut problem) = (Vec::new(), None);
    for (name, bytes) in files {
        match store.write(&name, &bytes).await {
            Ok(()) => match item(&name, &bytes) {
                Ok(item) => items.push(item),
                Err(_) => damaged.push(name),
            },
            Err(reason) => {
                problem = Some(reason);
                left.push((name, bytes));
            }
        }
    }
    Outcome::Restored { items, damaged, left, problem }
}

fn item(name: &str, png: &[u8]) -> Result<Item, String> {
    Ok(Item { name: name.to_owned(), preview: Some(preview(name, png)?) })
}

/// What is shown of a file.
fn preview(name: &str, png: &[u8]) -> Result<Preview, String> {
    let image = RgbImage::read_png(png).map_err(|error| format!("{name}: {error}"))?;
    let thumb = scaled(&image, THUMB);
    let size = [thumb.width(), thumb.height()].map(|side| side as usize);
    Ok(Preview {
        bytes: png.len() as u64,
        caption: caption(png),
        thumb: ColorImage::from_rgb(size, thumb.pixels()),
    })
}

/// What the settings in a file say that it shows.
fn caption(png: &[u8]) -> String {
    let text = pixels::text(png, PARAMETERS).ok().flatten();
    let parameters = text.and_then(|text| Parameters::parse(&text)).unwrap_or_default();
    let seed = match Saved::from_png(png) {
        Ok(Saved::Recipe(recipe)) => Some(recipe.sampling.seed),
        _ => parameters.seed(),
    };
    let seed = seed.map(|seed| format!("seed {seed}"));
    let words = Some(parameters.prompt).filter(|prompt| !prompt.is_empty());
    let known: Vec<String> = words.into_iter().chain(seed).collect();
    if known.is_empty() { "an image without settings".to_owned() } else { known.join(", ") }
}

/// An image with at most `most` pixels along a side.
pub(super) fn scaled(image: &RgbImage, most: usize) -> RgbImage {
    let size = [image.height(), image.width()].map(|side| side as usize);
    let longer = size[0].max(size[1]);
    if longer <= most {
        return image.clone();
    }
    let size = size.map(|side| (side * most / longer).max(1));
    let bytes = pixels::rgb(&image.to_sample(size), size);
    RgbImage::from_raw(size[1] as u32, size[0] as u32, bytes).unwrap_or_else(|| image.clone())
}
