//! Files for a script, by URL or as bytes, with progress.

use js_sys::{ArrayBuffer, Function, Object, Uint8Array};
use wasm_bindgen::prelude::*;

use super::events::pause;
use super::objects::{error, set};
use super::options::Options;
use diffmoe_viewer::platform::{self, Bytes, Transfer};

/// The progress callback, and what the file is for.
#[derive(Clone, Copy)]
pub(super) struct Progress<'f> {
    pub(super) listener: Option<&'f Function>,
    /// `model` or `vae`: the name of its option.
    pub(super) file: &'static str,
}

impl Progress<'_> {
    /// Tells it: `stage` is `download` or `open`.
    pub(super) fn report(self, stage: &str, done: u64, total: Option<u64>) {
        let Some(listener) = self.listener else { return };
        let event = Object::new();
        set(&event, "stage", stage);
        set(&event, "file", self.file);
        set(&event, "done", done as f64);
        set(&event, "total", total.map_or(JsValue::NULL, |total| (total as f64).into()));
        // An error in a listener is the listener's own; it must not end the download.
        let _ = listener.call1(&JsValue::NULL, &event);
    }
}

/// The name and the content of the file in an option; nothing where it is not given.
pub(super) async fn file_bytes(
    options: &Options,
    progress: Progress<'_>,
) -> Result<Option<(String, Bytes)>, JsValue> {
    let key = progress.file;
    let Some(wanted) = options.get(key) else { return Ok(None) };
    if let Some(address) = wanted.as_string() {
        let bytes = fetch(&address, progress).await?;
        return Ok(Some((address, bytes)));
    }
    let bytes = match wanted.dyn_into::<ArrayBuffer>() {
        Ok(buffer) => Uint8Array::new(&buffer),
        Err(other) => other
            .dyn_into::<Uint8Array>()
            .map_err(|_| error(format!("{key} must be a URL, an ArrayBuffer or a Uint8Array")))?,
    };
    Ok(Some((format!("the {key}"), Bytes::new(bytes.to_vec()))))
}

/// Downloads a file and reports how far it is, some times a second.
async fn fetch(address: &str, progress: Progress<'_>) -> Result<Bytes, JsValue> {
    let transfer = Transfer::default();
    let (wanted, shared) = (address.to_owned(), transfer.clone());
    let job = move || async move { platform::fetch(&wanted, &shared).await };
    let mut task = platform::spawn(std::sync::Arc::new(|| {}), job);
    loop {
        let result = task.take();
        progress.report("download", transfer.done(), transfer.total());
        match result {
            Some(result) => return result.map_err(error),
            None => pause(50).await,
        }
    }
}
