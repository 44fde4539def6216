//! Yielding to the event loop of a page between two slices of work.

use js_sys::{Function, Promise};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{MessageChannel, MessagePort};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, milliseconds: i32) -> JsValue;
}

/// Gives the page its turn, and comes back at once after it: a message to ourselves. (Browsers stretch
/// timers in a row to four milliseconds, which would be half of our time.)
pub(super) struct Turns {
    here: MessagePort,
    there: MessagePort,
}

impl Turns {
    pub(super) fn new() -> Result<Self, JsValue> {
        let channel = MessageChannel::new()?;
        Ok(Self { here: channel.port1(), there: channel.port2() })
    }

    pub(super) async fn next(&self) -> Result<(), JsValue> {
        let mut posted = Ok(());
        let arrived = Promise::new(&mut |resolve, _| {
            self.here.set_onmessage(Some(&resolve));
            posted = self.there.post_message(&JsValue::NULL);
        });
        posted?;
        JsFuture::from(arrived).await.map(drop)
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        // An open port keeps its handler alive for ever.
        self.here.close();
        self.there.close();
    }
}

/// Lets some time pass.
pub(super) async fn pause(milliseconds: i32) {
    let promise = Promise::new(&mut |resolve, _| {
        set_timeout(&resolve, milliseconds);
    });
    // A timer does not fail.
    let _ = JsFuture::from(promise).await;
}
