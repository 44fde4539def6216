//! What this program does as a worker: it computes models for the page that made it. See `web/worker.js`.

use std::cell::RefCell;
use std::collections::VecDeque;

use js_sys::{Array, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::DedicatedWorkerGlobalScope;
use web_time::Instant;

use super::events::Turns;
use diffmoe::engine::Host;

/// A slice of work aims at this many milliseconds: so long a message may wait.
const SLICE_MS: f64 = 16.0;

#[derive(Default)]
struct State {
    messages: VecDeque<Vec<u8>>,
    /// `None` while it works.
    host: Option<Host>,
    was_started: bool,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Takes in a message of the page, and works until there is nothing left to do.
#[wasm_bindgen]
pub fn worker_receive(message: Vec<u8>) {
    let host = STATE.with_borrow_mut(|state| {
        state.messages.push_back(message);
        if !state.was_started {
            state.was_started = true;
            std::panic::set_hook(Box::new(console_error_panic_hook::hook));
            state.host = Some(Host::default());
        }
        state.host.take()
    });
    // Otherwise it is working, and finds the message after its slice.
    if let Some(host) = host {
        wasm_bindgen_futures::spawn_local(work(host));
    }
}

async fn work(mut host: Host) {
    let Ok(turns) = Turns::new() else { return };
    let mut budget = 1;
    loop {
        while let Some(message) = STATE.with_borrow_mut(|state| state.messages.pop_front()) {
            if let Some(reply) = host.receive(&message).await {
                post(&reply);
            }
        }
        if !host.has_work() {
            break;
        }
        let begin = Instant::now();
        let reply = host.work(budget);
        let elapsed = begin.elapsed().as_secs_f64() * 1e3;
        if elapsed > SLICE_MS {
            budget = (budget / 2).max(1);
        } else if elapsed < SLICE_MS / 2.0 {
            budget = (budget * 2).min(1 << 10);
        }
        if let Some(reply) = reply {
            post(&reply);
        }
        if turns.next().await.is_err() {
            return;
        }
    }
    STATE.with_borrow_mut(|state| state.host = Some(host));
}

/// Sends a message to the page.
fn post(message: &[u8]) {
    let buffer = Uint8Array::from(message).buffer();
    let scope: DedicatedWorkerGlobalScope = js_sys::global().unchecked_into();
    // A buffer of our own can always be handed over.
    let _ = scope.post_message_with_transfer(&buffer, &Array::of1(&buffer));
}
