//! Workers of the browser that compute the model where there is no GPU: no task of the page's thread then takes long,
//! and every core has something to do. A worker runs this same program (`web/worker.js`).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use js_sys::{Array, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::{ErrorEvent, MessageEvent, Worker};
use web_time::Instant;

use super::{query, reason};
use diffmoe::checkpoint::Checkpoint;
use diffmoe::engine::{Link, WeightChoice, Workers};
use diffmoe::pipeline::{Backend, LoadError, Pipeline};

/// Each worker has a copy of the weights, and more of them than this compete with the page itself.
const MOST: usize = 4;
/// Bytes of weights in all workers together; phones close a page that takes much more.
const MOST_BYTES: u64 = 768 << 20;
/// A worker that has not said within this time that it runs never will.
const PATIENCE_SECONDS: u64 = 20;

#[wasm_bindgen]
extern "C" {
    /// Makes a worker. The build adds it to the script around this program, so that bundlers find the worker's file.
    #[wasm_bindgen(catch, js_name = diffmoe_worker)]
    fn new_worker() -> Result<Worker, JsValue>;

    /// Ends the workers that `start.js` has made early and that nobody took.
    fn dismiss_workers();
}

/// Loads a model on the given backend. Where the processor computes, it does so in `workers` workers, or in as many as
/// suit this machine; 0 means on this thread.
///
/// # Errors
/// As [`Pipeline::open_async`].
pub async fn open_model(
    checkpoint: &Checkpoint,
    backend: Backend,
    workers: Option<usize>,
) -> Result<Pipeline, LoadError> {
    let wanted = workers.or_else(|| query("workers")?.parse().ok());
    let offer = match wanted.unwrap_or_else(|| suitable(checkpoint)) {
        0 => None,
        count => Some(Workers::new(count, connect)),
    };
    let choice = WeightChoice::Auto;
    let opened = Pipeline::open_with_async(checkpoint, backend, choice, offer.as_ref()).await;
    dismiss_workers();
    opened
}

fn navigator(key: &str) -> Option<JsValue> {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into()).ok()?;
    let value = Reflect::get(&navigator, &key.into()).ok()?;
    (!value.is_undefined() && !value.is_null()).then_some(value)
}

fn cores() -> usize {
    let cores = navigator("hardwareConcurrency").and_then(|cores| cores.as_f64());
    cores.map_or(1, |cores| (cores as usize).max(1))
}

/// One worker for each core, as far as memory allows.
fn suitable(checkpoint: &Checkpoint) -> usize {
    // Gigabytes, rounded down; not every browser says.
    let memory = navigator("deviceMemory").and_then(|gigabytes| gigabytes.as_f64());
    let is_small = memory.is_some_and(|gigabytes| gigabytes <= 2.0);
    let bytes = if is_small { MOST_BYTES / 4 } else { MOST_BYTES };
    let fitting = bytes / (4 * checkpoint.config().parameters() as u64).max(1);
    cores().min(fitting as usize).clamp(1, MOST)
}

thread_local! {
    /// Objects of the browser stay on this thread; a link knows its number here.
    static HELD: RefCell<BTreeMap<u32, Held>> = const { RefCell::new(BTreeMap::new()) };
}

/// A worker and the functions that it calls.
struct Held {
    worker: Worker,
    _on_message: Closure<dyn FnMut(MessageEvent)>,
    _on_error: Closure<dyn FnMut(ErrorEvent)>,
}

#[derive(Default)]
struct Arrived {
    messages: VecDeque<Vec<u8>>,
    is_running: bool,
    failure: Option<String>,
}

struct WorkerLink {
    number: u32,
    began: Instant,
    arrived: Arc<Mutex<Arrived>>,
}

fn lock(arrived: &Mutex<Arrived>) -> MutexGuard<'_, Arrived> {
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect() -> Result<Box<dyn Link>, String> {
    let worker = new_worker().map_err(|error| reason(&error))?;
    let arrived = Arc::new(Mutex::new(Arrived::default()));
    let told = arrived.clone();
    let on_message = Closure::new(move |event: MessageEvent| {
        let mut arrived = lock(&told);
        match event.data().dyn_into::<js_sys::ArrayBuffer>() {
            Ok(message) => arrived.messages.push_back(Uint8Array::new(&message).to_vec()),
            // Its first word.
            Err(_) => arrived.is_running = true,
        }
    });
    let failed = arrived.clone();
    let on_error = Closure::new(move |event: ErrorEvent| {
        // The page is told by the link; nothing of this is left to report.
        event.prevent_default();
        // A script that could not be loaded comes as an event without a message.
        let message = Reflect::get(&event, &"message".into()).ok().and_then(|m| m.as_string());
        let text = message.unwrap_or_else(|| "its script could not be loaded".into());
        lock(&failed).failure.get_or_insert(text);
    });
    worker.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
    worker.set_onerror(Some(on_error.as_ref().unchecked_ref()));
    // The program as it was compiled for this page: nothing is fetched or compiled again.
    worker.post_message(&wasm_bindgen::module()).map_err(|error| reason(&error))?;
    let number = HELD.with_borrow_mut(|held| {
        let number = held.last_key_value().map_or(0, |(last, _)| last + 1);
        held.insert(number, Held { worker, _on_message: on_message, _on_error: on_error });
        number
    });
    Ok(Box::new(WorkerLink { number, began: Instant::now(), arrived }))
}

impl Link for WorkerLink {
    fn send(&mut self, message: Vec<u8>) {
        let buffer = Uint8Array::from(message.as_slice()).buffer();
        let sent = HELD.with_borrow(|held| {
            let worker = &held.get(&self.number)?.worker;
            worker.post_message_with_transfer(&buffer, &Array::of1(&buffer)).err()
        });
        if let Some(error) = sent {
            lock(&self.arrived).failure.get_or_insert(reason(&error));
        }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        lock(&self.arrived).messages.pop_front()
    }

    fn failure(&self) -> Option<String> {
        let arrived = lock(&self.arrived);
        let late = !arrived.is_running && self.began.elapsed().as_secs() > PATIENCE_SECONDS;
        arrived.failure.clone().or_else(|| late.then(|| "it does not start".to_owned()))
    }
}

impl Drop for WorkerLink {
    fn drop(&mut self) {
        if let Some(held) = HELD.with_borrow_mut(|held| held.remove(&self.number)) {
            held.worker.terminate();
        }
    }
}
