//! The browser: a page, or a worker of one. What only a page has (its address, its dialogs) is absent in a worker.

mod fetch;
mod files;
mod gallery;
mod paste;
mod photo;
mod store;
mod workers;

use std::future::Future;

use js_sys::{Function, Promise, Reflect};
use sha2::Digest;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::{CachedFile, Task, Waker};

pub use fetch::{built_in, built_in_atlas, built_in_names, built_in_recording, fetch};
pub use files::{pick_file, pick_image, save_file};
pub use gallery::{GalleryStore, gallery_folder};
pub use paste::{listen_for_paste, take_pasted};
pub use photo::decode_image;
pub use store::{cached, delete_cached};
pub use workers::open_model;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, milliseconds: i32) -> JsValue;

    // Absent where a page came over plain HTTP.
    #[wasm_bindgen(thread_local_v2, js_name = crypto)]
    static CRYPTO: Option<web_sys::Crypto>;
}

/// Runs a job between the events of the page; `on_done` is called when its result can be taken.
pub fn spawn<T, F>(on_done: Waker, make: impl FnOnce() -> F + Send + 'static) -> Task<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let (task, promise) = Task::new(on_done);
    wasm_bindgen_futures::spawn_local(async move { promise.keep(make().await) });
    task
}

/// Lets the page live for some time.
async fn pause(milliseconds: i32) {
    let promise = Promise::new(&mut |resolve, _| {
        set_timeout(&resolve, milliseconds);
    });
    // A timer does not fail.
    let _ = JsFuture::from(promise).await;
}

/// The browser's message of an error.
fn reason(error: &JsValue) -> String {
    let message = Reflect::get(error, &"message".into()).ok().and_then(|text| text.as_string());
    message.or_else(|| error.as_string()).unwrap_or_else(|| format!("{error:?}"))
}

/// SHA-256 of some bytes; by the browser, off the page's thread, where it does that.
pub async fn sha256(bytes: &[u8]) -> [u8; 32] {
    match digest_by_browser(bytes).await {
        Some(digest) => digest,
        None => sha2::Sha256::digest(bytes).into(),
    }
}

async fn digest_by_browser(bytes: &[u8]) -> Option<[u8; 32]> {
    let subtle = CRYPTO.with(|crypto| crypto.as_ref().map(web_sys::Crypto::subtle))?;
    if subtle.is_undefined() {
        return None;
    }
    let promise = subtle.digest_with_str_and_u8_array("SHA-256", bytes).ok()?;
    let buffer = JsFuture::from(promise).await.ok()?;
    js_sys::Uint8Array::new(&buffer).to_vec().try_into().ok()
}

/// What relative addresses start from: the page's base, or the address of a worker's script.
fn base() -> Option<String> {
    let document = web_sys::window().and_then(|window| window.document());
    if let Some(base) = document.and_then(|document| document.base_uri().ok().flatten()) {
        return Some(base);
    }
    let location = Reflect::get(&js_sys::global(), &"location".into()).ok()?;
    let address = Reflect::get(&location, &"href".into()).ok()?.as_string()?;
    // A script without an address of its own belongs to the site that made it.
    if address.starts_with("blob:") { Some(format!("{}/", origin()?)) } else { Some(address) }
}

/// The site of the page or the worker, such as `https://example.org`.
fn origin() -> Option<String> {
    let location = Reflect::get(&js_sys::global(), &"location".into()).ok()?;
    Reflect::get(&location, &"origin".into()).ok()?.as_string()
}

fn location() -> Option<web_sys::Location> {
    web_sys::window().map(|window| window.location())
}

/// The address of the page, without its fragment.
pub fn page_address() -> Option<String> {
    let address = location()?.href().ok()?;
    Some(address.split('#').next().unwrap_or_default().to_owned())
}

/// What follows `#` in the page's address.
pub fn fragment() -> Option<String> {
    let text = location()?.hash().ok()?;
    Some(text.strip_prefix('#').unwrap_or(&text).to_owned()).filter(|text| !text.is_empty())
}

/// Puts text behind the `#` of the page's address, without a new entry in the browser's history.
pub fn set_fragment(text: &str) {
    let Some(history) = web_sys::window().and_then(|window| window.history().ok()) else { return };
    // Browsers refuse when it is called very often; the next call brings the address up to date.
    let _ = history.replace_state_with_url(&JsValue::NULL, "", Some(&format!("#{text}")));
}

/// A parameter of the page's address, such as `model` in `?model=…`.
pub fn query(name: &str) -> Option<String> {
    web_sys::UrlSearchParams::new_with_str(&location()?.search().ok()?).ok()?.get(name)
}

/// A seed that no one chose, from 0 to 999,999: short enough to be read out and typed again.
pub fn new_seed() -> u64 {
    (js_sys::Math::random() * 1e6) as u64
}
