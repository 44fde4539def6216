//! Background jobs of the app: file dialogs, dropped files, the list of stored downloads.

use std::sync::Arc;

use super::session::{self, ModelSource, NoteKind, Session};
use crate::platform::{self, CachedFile, PickedFile, Task, Waker};
use diffmoe::pipeline::examine;
use diffmoe::pixels::{ImageFormat, RgbImage};

/// How a job ended.
enum Ended {
    /// A file for the session to open.
    Opened(Result<PickedFile, String>),
    /// An image to start from, and its name.
    Init(Result<(String, RgbImage), String>),
    /// A file was saved; its path, if known.
    Saved(Result<Option<String>, String>),
    /// The report on the device.
    Examined(String),
    /// The downloads that are kept here.
    Cached(Vec<CachedFile>),
    /// Nothing came of it.
    Nothing,
}

/// Jobs in the background.
pub(super) struct Jobs {
    tasks: Vec<Task<Ended>>,
    waker: Waker,
    /// Kept downloads, as far as is known.
    pub(super) cached: Vec<CachedFile>,
    /// The report on the device that was asked for last.
    pub(super) report: Option<Report>,
}

/// A report on the device.
pub(super) enum Report {
    /// The device is being checked.
    Pending,
    Ready(String),
}

impl Jobs {
    pub(super) fn new(waker: Waker) -> Self {
        platform::listen_for_paste(waker.clone());
        let mut jobs = Self { tasks: Vec::new(), waker, cached: Vec::new(), report: None };
        jobs.list_cached();
        jobs
    }

    fn spawn<F>(&mut self, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = Ended> + 'static,
    {
        self.tasks.push(platform::spawn(self.waker.clone(), make));
    }

    /// Asks for a file: a model, a decoder, a trace or a saved image.
    pub(super) fn pick(&mut self) {
        self.spawn(|| async { platform::pick_file().await.map_or(Ended::Nothing, Ended::Opened) });
    }

    /// Asks for an image to start from.
    pub(super) fn pick_init(&mut self) {
        self.spawn(|| async {
            match platform::pick_image().await {
                None => Ended::Nothing,
                Some(Ok(file)) => Ended::Init(decoded(file).await),
                Some(Err(reason)) => Ended::Init(Err(reason)),
            }
        });
    }

    /// Reads a file that was dropped on the window.
    pub(super) fn dropped(&mut self, file: egui::DroppedFileHandle) {
        self.spawn(move || async move { Ended::Opened(platform::read_dropped(file).await) });
    }

    /// Saves bytes to a path chosen by the user.
    pub(super) fn save(&mut self, name: String, mime: &'static str, bytes: Vec<u8>) {
        self.spawn(
            move || async move { Ended::Saved(platform::save_file(name, mime, bytes).await) },
        );
    }

    /// Checks the device, with the model that is open.
    pub(super) fn examine(&mut self, session: &Session) {
        self.report = Some(Report::Pending);
        let (backend, checkpoint) = (session.backend(), session.checkpoint());
        self.spawn(move || async move {
            Ended::Examined(examine(backend, checkpoint.as_deref()).await.text)
        });
    }

    /// Looks up which downloads are kept here.
    pub(super) fn list_cached(&mut self) {
        self.spawn(|| async { Ended::Cached(platform::cached().await) });
    }

    /// Deletes a kept download.
    pub(super) fn delete_cached(&mut self, location: String) {
        self.spawn(move || async move {
            match platform::delete_cached(&location).await {
                Ok(()) => Ended::Cached(platform::cached().await),
                Err(reason) => Ended::Saved(Err(reason)),
            }
        });
    }

    /// Takes in what has ended.
    pub(super) fn tick(&mut self, session: &mut Session) {
        let mut ended = Vec::new();
        self.tasks.retain_mut(|task| task.take().map(|end| ended.push(end)).is_none());
        ended.extend(std::iter::from_fn(platform::take_pasted).map(Ended::Opened));
        for end in ended {
            match end {
                Ended::Opened(Ok(file)) if session::is_trace(&file.bytes) => {
                    session.open_trace(&file.name, &file.bytes);
                }
                Ended::Opened(Ok(file)) if session::is_png(&file.bytes) => {
                    session.open_png(&file.name, &file.bytes);
                }
                Ended::Opened(Ok(file)) if ImageFormat::of(&file.bytes).is_some() => {
                    self.spawn(move || async move { Ended::Init(decoded(file).await) });
                }
                Ended::Opened(Ok(file)) if session::is_atlas(&file.bytes) => {
                    session.open_atlas(&file.name, &file.bytes);
                }
                Ended::Opened(Ok(PickedFile { path: Some(path), .. })) => {
                    session.load(ModelSource::Path(path));
                }
                Ended::Opened(Ok(PickedFile { name, bytes, path: None })) => {
                    session.load(ModelSource::File { name, bytes: Arc::new(bytes) });
                }
                Ended::Init(Ok((name, image))) => session.start_from_image(&name, &image),
                Ended::Opened(Err(reason))
                | Ended::Init(Err(reason))
                | Ended::Saved(Err(reason)) => {
                    session.note(NoteKind::Error, reason);
                }
                Ended::Saved(Ok(Some(place))) => {
                    session.note(NoteKind::Info, format!("Saved {place}."));
                }
                Ended::Examined(text) => self.report = Some(Report::Ready(text)),
                Ended::Cached(files) => self.cached = files,
                Ended::Saved(Ok(None)) | Ended::Nothing => {}
            }
        }
    }
}

/// A file as an image, with its name.
async fn decoded(file: PickedFile) -> Result<(String, RgbImage), String> {
    let image = platform::decode_image(&file.bytes).await;
    image.map_err(|reason| format!("{}: {reason}", file.name)).map(|image| (file.name, image))
}
