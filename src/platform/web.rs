//! The browser: a page, or a worker of one. What only a page has (its address, its dialogs) is absent in a worker.

use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use js_sys::{Function, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::Bytes;

/// Rows of a matrix product that are computed together where vectors have four numbers. WebAssembly does not tell how
/// many registers there are: browsers use 15 of an x86 processor, and sums that do not fit are stored and loaded again
/// for every product. Two rows by four vectors are 8 sums, enough to hide the latency of two multiply-adds at a time.
pub(crate) const ROWS_BY_FOUR: usize = 2;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(callback: &Function, milliseconds: i32) -> JsValue;
}

/// A browser has no such layer.
pub fn quiet_vulkan() {}

/// There are no files to map in a browser: models arrive as bytes.
///
/// # Errors
/// Always.
pub fn map_file(_path: &Path) -> std::io::Result<Bytes> {
    Err(std::io::Error::new(
        std::io::ErrorKind::Unsupported,
        "a web page cannot open files by path",
    ))
}

/// Lets the page live for some time.
pub(crate) async fn pause(time: Duration) {
    let milliseconds = i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    let promise = Promise::new(&mut |resolve, _| {
        set_timeout(&resolve, milliseconds);
    });
    // A timer does not fail.
    let _ = JsFuture::from(promise).await;
}

/// The result of a future, or nothing if it takes longer than `limit`.
pub(crate) async fn within<T, F>(limit: Duration, make: impl FnOnce() -> F) -> Option<T>
where
    F: Future<Output = T>,
{
    let (mut work, mut limit) = (pin!(make()), pin!(pause(limit)));
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => limit.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// The browser's description of itself and the system, for reports.
pub(crate) fn system() -> String {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into());
    let agent = navigator.and_then(|navigator| Reflect::get(&navigator, &"userAgent".into()));
    agent.ok().and_then(|text| text.as_string()).unwrap_or_else(|| "a browser".into())
}

/// What was remembered under a key, on this or an earlier visit. Workers have no such storage.
pub(crate) fn recall(key: &str) -> Option<String> {
    let (storage, get) = storage("getItem")?;
    get.call1(&storage, &format!("{NOTES}{key}").into()).ok()?.as_string()
}

/// Keeps a text in the browser. It may be lost at any time.
pub(crate) fn remember(key: &str, text: &str) {
    if let Some((storage, set)) = storage("setItem") {
        // Refused where storage is full or forbidden: the check is then made again next time.
        let _ = set.call2(&storage, &format!("{NOTES}{key}").into(), &text.into());
    }
}

/// What begins the names of [`remember`]; other pages of the same origin use the storage, too.
const NOTES: &str = "diffmoe ";

/// The storage of the origin, and one of its functions. Asking for it is an error where it is forbidden.
fn storage(function: &str) -> Option<(JsValue, Function)> {
    let storage = Reflect::get(&js_sys::global(), &"localStorage".into()).ok()?;
    let function = Reflect::get(&storage, &function.into()).ok()?.dyn_into().ok()?;
    Some((storage, function))
}

/// Bytes that the program can still get: a page has four gigabytes. What it had before and has freed is not counted.
pub fn free_memory() -> Option<u64> {
    /// What WebAssembly with addresses of 32 bits can hold.
    const MOST: u64 = 1 << 32;
    const PAGE: u64 = 1 << 16;
    Some(MOST.saturating_sub(core::arch::wasm32::memory_size(0) as u64 * PAGE))
}

/// Lets the page paint and listen between two pieces of long work.
pub async fn yield_now() {
    pause(Duration::ZERO).await;
}

/// Whether this is a page or a worker of a browser. Elsewhere, as in Node, wgpu panics when it is asked for a GPU.
pub(crate) fn may_have_gpu() -> bool {
    let is_there = |name: &str| Reflect::has(&js_sys::global(), &name.into()).unwrap_or(false);
    is_there("Window") || is_there("WorkerGlobalScope")
}

/// The browser's description of its preferred graphics adapter: vendor and architecture, or a description.
pub async fn adapter_name() -> Option<String> {
    let get = |object: &JsValue, key: &str| {
        let value = Reflect::get(object, &key.into()).ok()?;
        (!value.is_undefined() && !value.is_null()).then_some(value)
    };
    let gpu = get(&get(&js_sys::global(), "navigator")?, "gpu")?;
    let request: Function = get(&gpu, "requestAdapter")?.dyn_into().ok()?;
    let wanted = js_sys::Object::new();
    Reflect::set(&wanted, &"powerPreference".into(), &"high-performance".into()).ok()?;
    let promise: Promise = request.call1(&gpu, &wanted).ok()?.dyn_into().ok()?;
    let info = get(&JsFuture::from(promise).await.ok()?, "info")?;
    let words = ["vendor", "architecture"].map(|key| get(&info, key)?.as_string());
    let words: Vec<_> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
    Some(words.join(" ")).filter(|name| !name.is_empty())
}

/// Calls `job` with each number below `count`, one after the other.
pub(crate) fn share_out(count: usize, job: impl Fn(usize) + Sync) {
    (0..count).for_each(job);
}

/// A job that was done at once.
pub(crate) struct Beside;

impl Beside {
    /// Nothing is left to wait for.
    #[expect(clippy::unused_self, reason = "elsewhere a thread is waited for")]
    pub(crate) fn wait(self) {}
}

/// A page has one thread: does it now.
pub(crate) fn beside(job: impl FnOnce() + Send + 'static) -> Beside {
    job();
    Beside
}
