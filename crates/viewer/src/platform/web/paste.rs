//! Images that are pasted on the page. The listener of the user interface reads texts only.

use std::cell::{Cell, RefCell};

use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{ClipboardEvent, File};

use super::super::{Bytes, PickedFile, Waker};
use super::reason;

type Pasted = Result<PickedFile, String>;

thread_local! {
    static LISTENS: Cell<bool> = const { Cell::new(false) };
    static PASTED: RefCell<Vec<Pasted>> = const { RefCell::new(Vec::new()) };
}

/// Collects images that are pasted from now on; the waker is called for each.
pub fn listen_for_paste(waker: Waker) {
    let Some(window) = web_sys::window().filter(|_| !LISTENS.replace(true)) else { return };
    let heard = Closure::<dyn FnMut(ClipboardEvent)>::new(move |event: ClipboardEvent| {
        let Some(file) = image_in(&event) else { return };
        event.prevent_default();
        event.stop_propagation();
        let waker = waker.clone();
        wasm_bindgen_futures::spawn_local(async move {
            let pasted = read(&file).await;
            PASTED.with_borrow_mut(|all| all.push(pasted));
            waker();
        });
    });
    // Before the canvas and the fields. The page has this listener as long as it lives.
    let function = heard.as_ref().unchecked_ref();
    let _ = window.add_event_listener_with_callback_and_bool("paste", function, true);
    heard.forget();
}

/// An image that was pasted, once.
pub fn take_pasted() -> Option<Pasted> {
    PASTED.with_borrow_mut(Vec::pop)
}

/// The image of a paste; a text beside it has precedence, for fields.
fn image_in(event: &ClipboardEvent) -> Option<File> {
    let data = event.clipboard_data()?;
    if data.get_data("text/plain").is_ok_and(|text| !text.is_empty()) {
        return None;
    }
    let files = data.files()?;
    (0..files.length()).filter_map(|i| files.get(i)).find(|file| file.type_().starts_with("image/"))
}

async fn read(file: &File) -> Pasted {
    let buffer = JsFuture::from(file.array_buffer()).await;
    let buffer =
        buffer.map_err(|error| format!("cannot read the pasted image: {}", reason(&error)))?;
    let bytes = Bytes::new(Uint8Array::new(&buffer).to_vec());
    Ok(PickedFile { name: "pasted image".to_owned(), bytes, path: None })
}
