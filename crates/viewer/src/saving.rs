//! What leaves the app: images and traces as files, kept images, links.

use egui::Context;

use crate::gallery::Said;
use crate::session::{NoteKind, Record, export};
use crate::{App, platform, view};

impl App {
    /// Saves one image, or the grid of all, as on screen.
    pub(crate) fn save_png(&mut self, image: Option<usize>) {
        let Some(record) = self.session.record() else { return };
        let frame = self.view.frame_of(record);
        let only = (record.labels.len() == 1).then_some(0);
        let image = image.or(only);
        let usual = image.map(|_| usual_scale(record, frame));
        let which = image.map_or_else(String::new, |image| format!("-{}", image + 1));
        let name = format!("{}{which}.png", file_stem(record));
        let view::Enlarge { scale, smooth } = self.view.enlarge;
        let file = export::enlarged_png(record, image, frame, scale.or(usual), smooth);
        self.save(name, "image/png", file);
    }

    pub(crate) fn save_animation(&mut self) {
        let Some(record) = self.session.record() else { return };
        let name = format!("{}-steps.png", file_stem(record));
        self.save(name, "image/apng", export::apng(record, None));
    }

    pub(crate) fn save_trace(&mut self) {
        let Some(record) = self.session.record() else { return };
        let name = format!("{}-routing.json", file_stem(record));
        self.save(name, "application/json", export::trace_json(record).map(String::into_bytes));
    }

    pub(crate) fn save(
        &mut self,
        name: String,
        mime: &'static str,
        bytes: Result<Vec<u8>, String>,
    ) {
        match bytes {
            Ok(bytes) => self.jobs.save(name, mime, bytes),
            Err(reason) => self.session.note(NoteKind::Error, reason),
        }
    }

    pub(crate) fn copy_link(&mut self, ctx: &Context) {
        let Some(fragment) = self.share() else { return };
        let (link, note) = match platform::page_address() {
            Some(address) => {
                (format!("{address}#{fragment}"), "Copied a link that draws the same images.")
            }
            None => (
                format!("#{fragment}"),
                "Copied. Append it to the address of the page, or run: diffmoe window --share '…'",
            ),
        };
        ctx.copy_text(link);
        self.session.note(NoteKind::Info, note);
    }

    /// Keeps images of the finished run in the gallery: one, or all of them.
    pub(crate) fn keep(&mut self, image: Option<usize>) {
        let Some(record) = self.session.record() else { return };
        let last = record.frames.len().saturating_sub(1);
        let view::Enlarge { scale, smooth } = self.view.enlarge;
        let scale = scale.unwrap_or_else(|| usual_scale(record, last));
        let images = image.map_or(0..record.labels.len(), |image| image..image + 1);
        for image in images {
            let Some(record) = self.session.record() else { return };
            match export::enlarged_png(record, Some(image), last, Some(scale), smooth) {
                Ok(png) => self.gallery.keep(png),
                Err(reason) => return self.session.note(NoteKind::Error, reason),
            }
        }
    }

    /// Whether the run on screen has images to be kept.
    pub(crate) fn can_keep(&self) -> bool {
        let record = self.session.record();
        let is_finished = |r: &Record| r.is_complete() && !r.is_traced();
        self.gallery.place().is_ok() && record.is_some_and(is_finished)
    }

    /// Takes in what the gallery has done, and says it.
    pub(crate) fn tell_gallery(&mut self) {
        for said in self.gallery.tick() {
            let (kind, text) = match said {
                Said::Info(text) => (NoteKind::Info, text),
                Said::Error(text) => (NoteKind::Error, text),
            };
            self.session.note(kind, text);
        }
    }
}

/// How much one image is enlarged if nothing else is chosen: one of a few pixels is of little use elsewhere.
fn usual_scale(record: &Record, frame: usize) -> u32 {
    let size = record.images(frame).map_or([1; 2], |images| images.size);
    (512 / size[0].max(size[1])).clamp(1, 64) as u32
}

pub(crate) fn file_stem(record: &Record) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    // Names come from files, and file systems take 255 bytes.
    let model: String = record.config.name.chars().map(safe).take(60).collect();
    format!("diffmoe-{model}-{}", record.settings.sampling.seed)
}
