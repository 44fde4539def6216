//! What this program does as a worker: it computes models for the page that made it. See `web/worker.js`.

use std::cell::RefCell;
use std::collections::VecDeque;

use js_sys::{Array, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::DedicatedWorkerGlobalScope;
use web_time::Instant;

use super::events::Turns;
use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{Host, WeightChoice};
use diffmoe::pipeline::{Backend, Pipeline, Settings};

/// A slice of work aims at this many milliseconds: so long a message may wait.
const SLICE_MS: f64 = 16.0;

/// A model whose steps are short and run the code of larger ones: an ordinary block and one with experts.
const SMALL: &str = r#"{"kind":"diffmoe","t_kind":"flow","space":"pixels","params":{"input_size":[32,32],"in_channels":3,
    "num_classes":4,"patch_size":8,"depth":2,"hidden_size":96,"num_heads":2,"learn_sigma":false,
    "MoE_config":{"num_experts":4,"capacity":1}}}"#;

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

/// Draws images of a small model of random numbers. Browsers compile code when it is called for the first time, and again,
/// for speed, when it has run for a while. A worker that is made early calls this while the first model is on its way.
///
/// # Errors
/// None that matter: the worker then compiles its code later.
#[wasm_bindgen]
pub async fn worker_warm_up() -> Result<(), JsError> {
    let model = Checkpoint::random(SMALL, 1)?;
    let pipeline = Pipeline::open_async(&model, Backend::Cpu, WeightChoice::Auto).await?;
    let mut settings = Settings::of(pipeline.config());
    settings.labels = vec![vec![0, 1, 2, 3]];
    (settings.sampling.steps, settings.sampling.guidance) = (4, 2.0);
    pipeline.start_async(settings).await?.finish_async(|_| {}).await?;
    Ok(())
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
