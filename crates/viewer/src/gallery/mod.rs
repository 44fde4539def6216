//! Images that the user keeps beyond this visit, as PNG files with their settings: in the browser's storage, or in a
//! folder. What is asked for is done one after the other in the background; see [`jobs`].

mod jobs;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;

use egui::ColorImage;

use crate::platform::{self, GalleryStore, Task, Waker};
use jobs::{Outcome, Request};

/// Most images,
pub(crate) const MOST: usize = 200;
/// and most bytes of all of them.
pub(crate) const MOST_BYTES: u64 = 64_000_000;

/// A kept image.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Name of its file; names in order are images in order of time.
    pub(crate) name: String,
    /// What is in it, once somebody looks at the gallery.
    pub(crate) preview: Option<Preview>,
}

/// What a kept image shows.
#[derive(Clone, Debug)]
pub(crate) struct Preview {
    /// Bytes of its file.
    pub(crate) bytes: u64,
    /// What it shows, and its seed.
    pub(crate) caption: String,
    /// A small version.
    pub(crate) thumb: ColorImage,
}

impl Item {
    /// What it shows, as far as that is known.
    pub(crate) fn caption(&self) -> &str {
        self.preview.as_ref().map_or("a kept image", |preview| &preview.caption)
    }
}

/// A kept image that is looked at.
pub(crate) struct Opened {
    /// Name of its file.
    pub(crate) name: String,
    /// The file.
    pub(crate) png: Vec<u8>,
    /// Its pixels.
    pub(crate) image: diffmoe::pixels::RgbImage,
}

/// What is to be said to the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Info(String),
    Error(String),
}

/// The kept images, as far as they are known.
pub(crate) struct Gallery {
    store: Result<Option<GalleryStore>, &'static str>,
    waker: Waker,
    queue: VecDeque<Request>,
    running: Option<Task<Outcome>>,
    /// Newest first.
    items: Vec<Item>,
    /// Whether the names in the store have been read.
    is_listed: bool,
    /// Whether somebody wants to see what the images show, and whether that was asked for.
    is_looked_at: bool,
    is_previewed: bool,
    /// Why it could not be read.
    unreadable: Option<String>,
    /// Milliseconds in the last name.
    latest: u64,
    /// Files of the store that are no images.
    damaged: Vec<String>,
    /// What was kept since the user was told: captions, and how many images were there already.
    news: (Vec<String>, usize),
    /// What was deleted last, to be restored.
    deleted: Vec<(String, Vec<u8>)>,
    opened: Option<Opened>,
}

impl Gallery {
    /// The gallery in a folder, or in the browser's storage; and reads the names of its images.
    pub(crate) fn new(folder: Option<PathBuf>, waker: Waker) -> Self {
        let mut gallery = Self {
            store: GalleryStore::open(folder),
            waker,
            queue: VecDeque::new(),
            running: None,
            items: Vec::new(),
            is_listed: false,
            is_looked_at: false,
            is_previewed: false,
            unreadable: None,
            latest: 0,
            damaged: Vec::new(),
            news: (Vec::new(), 0),
            deleted: Vec::new(),
            opened: None,
        };
        gallery.ask(Request::List);
        gallery
    }

    /// Whether there is a gallery to show, if only to say why it cannot be used.
    pub(crate) fn is_there(&self) -> bool {
        !matches!(self.store, Ok(None))
    }

    /// Where images are stored; or why none can be.
    pub(crate) fn place(&self) -> Result<String, String> {
        match &self.store {
            Ok(Some(store)) => self.unreadable.clone().map_or_else(|| Ok(store.place()), Err),
            Ok(None) => Err("There is no folder for kept images.".to_owned()),
            Err(reason) => Err((*reason).to_owned()),
        }
    }

    /// The images, newest first.
    pub(crate) fn items(&self) -> &[Item] {
        &self.items
    }

    /// How many images there are, once that is known.
    pub(crate) fn count(&self) -> Option<usize> {
        self.is_listed.then_some(self.items.len())
    }

    /// Bytes of all images that are known.
    pub(crate) fn bytes(&self) -> u64 {
        self.items.iter().filter_map(|item| item.preview.as_ref()).map(|of| of.bytes).sum()
    }

    /// Reads what the images show, one after the other: for a gallery that is on screen, and before another image is kept.
    pub(crate) fn look(&mut self) {
        self.is_looked_at = true;
        self.preview();
    }

    fn preview(&mut self) {
        if !self.is_looked_at || !self.is_listed || self.is_previewed {
            return;
        }
        self.is_previewed = true;
        // The newest first, and before what was asked for in the meantime.
        for item in self.items.iter().rev().filter(|item| item.preview.is_none()) {
            self.queue.push_front(Request::Look(item.name.clone()));
        }
        self.begin();
    }

    /// Files that cannot be shown.
    pub(crate) fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// How many images can be restored.
    pub(crate) fn restorable(&self) -> usize {
        self.deleted.len()
    }

    /// The image that is looked at.
    pub(crate) fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    /// No image is looked at any longer.
    pub(crate) fn close(&mut self) {
        self.opened = None;
    }

    /// Keeps a PNG file.
    pub(crate) fn keep(&mut self, png: Vec<u8>) {
        let now = web_time::SystemTime::now().duration_since(web_time::SystemTime::UNIX_EPOCH);
        let ms = now.unwrap_or_default().as_millis() as u64;
        // One after the other, however fast they come.
        let ms = ms.max(self.latest + 1);
        self.latest = ms;
        // How much room is left is known once all are read.
        self.look();
        self.ask(Request::Keep { png, ms });
    }

    /// Looks at an image.
    pub(crate) fn open(&mut self, name: String) {
        if matches!(self.store, Ok(Some(_))) {
            self.queue.push_front(Request::Open(name));
            self.begin();
        }
    }

    /// Deletes an image.
    pub(crate) fn delete(&mut self, name: String) {
        self.ask(Request::Delete(vec![name]));
    }

    /// Deletes all images.
    pub(crate) fn delete_all(&mut self) {
        self.ask(Request::Delete(self.items.iter().map(|item| item.name.clone()).collect()));
    }

    /// Deletes the files that cannot be shown.
    pub(crate) fn delete_damaged(&mut self) {
        self.ask(Request::Delete(self.damaged.clone()));
    }

    /// Restores what was deleted last.
    pub(crate) fn restore(&mut self) {
        let deleted = std::mem::take(&mut self.deleted);
        self.ask(Request::Restore(deleted));
    }

    fn ask(&mut self, request: Request) {
        if matches!(self.store, Ok(Some(_))) {
            self.queue.push_back(request);
            self.begin();
        }
    }

    /// Begins the next job where none is running.
    fn begin(&mut self) {
        let Ok(Some(store)) = &self.store else { return };
        if self.running.is_some() {
            return;
        }
        let Some(request) = self.queue.pop_front() else { return };
        let (store, used) = (store.clone(), self.bytes());
        let job = move || async move { jobs::carry_out(&store, request, used).await };
        self.running = Some(platform::spawn(self.waker.clone(), job));
    }

    /// Takes in what has ended, and begins what comes next; what is to be said of it.
    pub(crate) fn tick(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        while let Some(outcome) = self.running.as_mut().and_then(Task::take) {
            self.running = None;
            self.take(outcome, &mut said);
            self.begin();
        }
        if self.running.is_none() {
            let (kept, already) = std::mem::take(&mut self.news);
            said.extend(summary(&kept, already).map(Said::Info));
        }
        said
    }

    fn take(&mut self, outcome: Outcome, said: &mut Vec<Said>) {
        match outcome {
            Outcome::Listed(Ok(names)) => {
                let item = |name| Item { name, preview: None };
                (self.items, self.is_listed) = (names.into_iter().map(item).collect(), true);
                self.sort();
                self.preview();
            }
            Outcome::Looked(name, preview) => {
                let Some(place) = self.items.iter().position(|item| item.name == name) else {
                    return;
                };
                if preview.is_some() {
                    self.items[place].preview = preview;
                } else {
                    self.items.remove(place);
                    self.damaged.push(name);
                }
            }
            Outcome::Kept(Ok(Some(item))) => {
                self.news.0.push(item.caption().to_owned());
                self.items.push(item);
                self.sort();
            }
            Outcome::Kept(Ok(None)) => self.news.1 += 1,
            Outcome::Opened(Ok(opened)) => self.opened = Some(opened),
            Outcome::Deleted { gone, kept_bytes, problem } => {
                self.items.retain(|item| !gone.contains(&item.name));
                self.damaged.retain(|name| !gone.contains(name));
                if self.opened.as_ref().is_some_and(|opened| gone.contains(&opened.name)) {
                    self.opened = None;
                }
                if !kept_bytes.is_empty() {
                    self.deleted = kept_bytes;
                }
                said.extend(problem.map(Said::Error));
            }
            Outcome::Restored { items, damaged, left, problem } => {
                self.items.extend(items);
                self.damaged.extend(damaged);
                self.sort();
                // What was deleted in the meantime stays restorable, too.
                self.deleted.extend(left);
                said.extend(problem.map(Said::Error));
            }
            // Said in the panel: a private window lacks a gallery at every visit, and few miss it.
            Outcome::Listed(Err(reason)) => self.unreadable = Some(reason),
            Outcome::Kept(Err(reason)) | Outcome::Opened(Err(reason)) => {
                said.push(Said::Error(reason));
            }
        }
    }

    fn sort(&mut self) {
        self.items.sort_by(|a, b| b.name.cmp(&a.name));
        self.items.dedup_by(|a, b| a.name == b.name);
    }
}

/// What came of keeping some images.
fn summary(kept: &[String], already: usize) -> Option<String> {
    let kept = match kept {
        [] if already == 0 => return None,
        [] => return Some("This image is already in the gallery.".to_owned()),
        [one] => format!("Kept {one} in the gallery"),
        several => format!("Kept {} images in the gallery", several.len()),
    };
    Some(if already == 0 {
        format!("{kept}.")
    } else {
        format!("{kept}; {already} {} already there.", if already == 1 { "was" } else { "were" })
    })
}
