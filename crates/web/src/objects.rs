//! Objects and errors for scripts.

use js_sys::{Object, Reflect};
use wasm_bindgen::prelude::*;

/// An `Error` with a sentence.
pub(super) fn error(message: impl std::fmt::Display) -> JsValue {
    js_sys::Error::new(&message.to_string()).into()
}

/// Adds an entry to a plain object.
pub(super) fn set(object: &Object, key: &str, value: impl Into<JsValue>) {
    // A plain object takes every entry.
    let _ = Reflect::set(object, &key.into(), &value.into());
}
