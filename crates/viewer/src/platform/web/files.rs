//! Opening and saving files from a page.

use js_sys::{Array, Promise, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, BlobPropertyBag, HtmlAnchorElement, HtmlInputElement, Url};

use super::super::{Bytes, PickedFile};
use super::{pause, reason};

fn document() -> Option<web_sys::Document> {
    web_sys::window()?.document()
}

/// Opens a file dialog for a model, a trace or an image; `None` if it was cancelled. Must follow a click or key press.
pub async fn pick_file() -> Option<Result<PickedFile, String>> {
    pick(".safetensors,.json,image/*").await
}

/// The same for an image alone; a phone offers its camera.
pub async fn pick_image() -> Option<Result<PickedFile, String>> {
    pick("image/*").await
}

async fn pick(kinds: &str) -> Option<Result<PickedFile, String>> {
    let input = document()?.create_element("input").ok()?.unchecked_into::<HtmlInputElement>();
    input.set_type("file");
    input.set_accept(kinds);
    let answered = Promise::new(&mut |resolve, _| {
        input.set_onchange(Some(&resolve));
        // A handler of this event has no property of its own in the bindings.
        let _ = input.add_event_listener_with_callback("cancel", &resolve);
    });
    input.click();
    JsFuture::from(answered).await.ok()?;
    let file = input.files()?.get(0)?;
    let name = file.name();
    let bytes = JsFuture::from(file.array_buffer()).await;
    Some(match bytes {
        Ok(buffer) => {
            let bytes = Bytes::new(Uint8Array::new(&buffer).to_vec());
            Ok(PickedFile { name, bytes, path: None })
        }
        Err(error) => Err(format!("cannot read {name}: {}", reason(&error))),
    })
}

/// Hands a file to the browser as a download; its name.
///
/// # Errors
/// The browser's reason.
pub async fn save_file(
    name: String,
    mime: &'static str,
    bytes: Vec<u8>,
) -> Result<Option<String>, String> {
    let failed = |error: JsValue| format!("cannot save {name}: {}", reason(&error));
    let parts = Array::of1(&Uint8Array::from(bytes.as_slice()));
    let options = BlobPropertyBag::new();
    options.set_type(mime);
    let blob = Blob::new_with_u8_array_sequence_and_options(&parts, &options).map_err(failed)?;
    let address = Url::create_object_url_with_blob(&blob).map_err(failed)?;
    let document = document().ok_or("there is no page to save from")?;
    let link = document.create_element("a").map_err(failed)?.unchecked_into::<HtmlAnchorElement>();
    link.set_href(&address);
    link.set_download(&name);
    link.click();
    // The browser still reads it after the click.
    pause(60_000).await;
    Url::revoke_object_url(&address).map_err(failed)?;
    Ok(Some(name))
}
