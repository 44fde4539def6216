//! Downloads: streamed, stored for the next visit, verified before reuse, and resumed after interruptions.

use js_sys::{JsString, Map, Promise, Reflect, Uint8Array};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{ReadableStreamDefaultReader, Request, RequestInit, Response};
use web_time::Instant;

use super::super::{Bytes, FetchError, Transfer};
use super::store::{Keeping, Manifest, PART, Store};
use super::{base, origin, pause, reason, sha256};

/// A model of the page that arrives within this time is put away once it is whole, while it is opened.
const SOON_SECONDS: u64 = 2;
/// Attempts without receiving a byte before the transfer fails.
const ATTEMPTS: u32 = 4;
/// An attempt ends when nothing arrives for so many milliseconds; browsers would wait for ever.
const SILENCE: i32 = 60_000;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = fetch)]
    fn request(input: &JsValue) -> Promise;
}

/// The response that the page asked for while this program was loading (`web/start.js`); nothing the second time, if that
/// request failed, or if something of the file is kept.
async fn preloaded(location: &str) -> Option<Response> {
    let map = Reflect::get(&js_sys::global(), &"diffmoePreloaded".into()).ok()?;
    let map = map.dyn_into::<Map>().ok()?;
    let promise = map.get(&location.into()).dyn_into::<Promise>().ok()?;
    map.delete(&location.into());
    Patience::new().wait(JsFuture::from(promise)).await.ok()?.dyn_into().ok()
}

/// The build's description of the hosted models.
#[derive(Deserialize)]
struct Beside {
    sha256: String,
}

fn beside() -> BTreeMap<String, Beside> {
    let text = element("models").and_then(|element| element.text_content());
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn element(id: &str) -> Option<web_sys::Element> {
    web_sys::window()?.document()?.get_element_by_id(id)
}

/// The atlas of a model hosted with the page, which has it inside; `None` where there is none.
pub fn built_in_atlas(name: &str) -> Option<Cow<'static, [u8]>> {
    let text = element(&format!("atlas-{name}"))?.text_content()?;
    Some(Cow::Owned(text.into_bytes()))
}

/// A recorded run of a model, inside the page as base64; `None` where there is none.
pub fn built_in_recording(name: &str) -> Option<Vec<u8>> {
    let text = element(&format!("recording-{name}"))?.text_content()?;
    let binary = web_sys::window()?.atob(text.trim()).ok()?;
    // `atob` gives one character for each byte.
    Some(binary.chars().map(|byte| byte as u8).collect())
}

/// The models hosted with the page, or inside it.
pub fn built_in_names() -> Vec<String> {
    beside().into_keys().collect()
}

/// A model hosted with the page or inside it; `None` if there is none with that name.
pub async fn built_in(name: &str, transfer: &Transfer) -> Option<Result<Bytes, FetchError>> {
    if let Some(element) = element(&format!("model-{name}")) {
        return Some(inside(name, &element, transfer).await);
    }
    let model = beside().remove(name)?;
    let base = base()?;
    // The checksum in the address makes a new version a new file for every cache on the way.
    let version = model.sha256.get(..8)?;
    let address = format!("models/{name}.safetensors?v={version}");
    let location = web_sys::Url::new_with_base(&address, &base).ok()?.href();
    Some(download(&location, Some(&model.sha256), transfer).await)
}

/// Bytes that are put away while others read them.
#[derive(Clone)]
struct Shared(Arc<Vec<u8>>);

impl Deref for Shared {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// A model whose base64 text is part of the page. The browser decodes it, off the page's thread.
async fn inside(
    name: &str,
    element: &web_sys::Element,
    transfer: &Transfer,
) -> Result<Bytes, FetchError> {
    let damaged = |_| FetchError::Damaged { location: format!("the model {name} in this page") };
    let text = Reflect::get(element, &"textContent".into()).map_err(damaged)?;
    let text: JsString = text.unchecked_into::<JsString>().trim();
    let address = JsString::from("data:application/octet-stream;base64,").concat(&text);
    let response = JsFuture::from(request(&address)).await.map_err(damaged)?;
    let response: Response = response.unchecked_into();
    let buffer = response.array_buffer().map_err(damaged)?;
    let bytes = Uint8Array::new(&JsFuture::from(buffer).await.map_err(damaged)?).to_vec();
    transfer.set_total(bytes.len() as u64);
    transfer.add(bytes.len() as u64);
    Ok(Bytes::new(bytes))
}

/// Deletes kept files of the same path as `location` that are not `location`.
async fn forget_other_versions(location: String) {
    let Some(store) = Store::open().await else { return };
    let path = |location: &str| location.split('?').next().map(str::to_owned);
    for manifest in store.list().await {
        if manifest.location != location && path(&manifest.location) == path(&location) {
            // What cannot be deleted now is found again next time.
            let _ = store.delete(&manifest.location).await;
        }
    }
}

/// Fetches a file, from the browser's storage where it is kept there and whole.
///
/// # Errors
/// When it cannot be reached, keeps breaking off, or arrives damaged.
pub async fn fetch(location: &str, transfer: &Transfer) -> Result<Bytes, FetchError> {
    let absolute = match base() {
        Some(base) => web_sys::Url::new_with_base(location, &base),
        None => web_sys::Url::new(location),
    };
    let absolute = absolute.map_err(|_| FetchError::Unreachable {
        location: location.to_owned(),
        reason: "it is no address".into(),
    })?;
    download(&absolute.href(), None, transfer).await
}

async fn download(
    location: &str,
    expected: Option<&str>,
    transfer: &Transfer,
) -> Result<Bytes, FetchError> {
    let mut download = Download::begin(location, transfer, expected.is_some()).await;
    if let Some(known) = download.manifest.sha256.clone() {
        if hex(&sha256(&download.bytes).await) == known && expected.is_none_or(|e| e == known) {
            if expected.is_some() {
                spawn_local(forget_other_versions(location.to_owned()));
            }
            return Ok(Bytes::new(download.bytes));
        }
        download.start_over().await;
    }
    let mut attempts = 0;
    loop {
        let before = download.bytes.len();
        match download.go_on().await {
            Ok(()) => break,
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Broken(reason)) => {
                download.keep().await;
                let moved = download.bytes.len() > before;
                attempts = if moved { 1 } else { attempts + 1 };
                if attempts == ATTEMPTS {
                    return Err(download.error(reason));
                }
                pause(250 << attempts).await;
            }
        }
    }
    let digest = hex(&sha256(&download.bytes).await);
    if expected.is_some_and(|expected| expected != digest) {
        download.start_over().await;
        return Err(FetchError::Damaged { location: location.to_owned() });
    }
    let Download { keeping, manifest, bytes, .. } = download;
    let bytes = Shared(Arc::new(bytes));
    let finish = keeping.finish(manifest, bytes.clone(), digest);
    if expected.is_none() {
        finish.await;
    } else {
        // The first image waits for a model of the page, and for nothing that is for the next visit only.
        let location = location.to_owned();
        spawn_local(async move {
            finish.await;
            forget_other_versions(location).await;
        });
    }
    Ok(Bytes::new(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Why an attempt ended.
enum Trouble {
    /// Another attempt may do better.
    Broken(String),
    /// It would not.
    Final(FetchError),
}

/// Waits as long as something arrives.
struct Patience {
    timer: Pin<Box<dyn Future<Output = ()>>>,
    /// Whether anything has arrived since the timer began.
    was_fed: bool,
}

impl Patience {
    fn new() -> Self {
        Self { timer: Box::pin(pause(SILENCE)), was_fed: false }
    }

    /// The next thing that arrives.
    async fn wait<T>(
        &mut self,
        next: impl Future<Output = Result<T, JsValue>>,
    ) -> Result<T, Trouble> {
        let mut next = pin!(next);
        loop {
            let arrived = poll_fn(|context| match next.as_mut().poll(context) {
                Poll::Ready(arrived) => Poll::Ready(Some(arrived)),
                Poll::Pending => self.timer.as_mut().poll(context).map(|()| None),
            });
            match arrived.await {
                Some(arrived) => {
                    self.was_fed = true;
                    return arrived.map_err(|error| Trouble::Broken(reason(&error)));
                }
                // One timer for many pieces: it begins again where there was one.
                None if self.was_fed => *self = Self::new(),
                None => {
                    let seconds = SILENCE / 1000;
                    return Err(Trouble::Broken(format!("nothing arrived for {seconds} seconds")));
                }
            }
        }
    }
}

/// A download in progress.
struct Download<'t> {
    keeping: Keeping,
    manifest: Manifest,
    /// Everything that is here.
    bytes: Vec<u8>,
    /// An answer that is there already.
    first: Option<Response>,
    began: Instant,
    /// Whether nothing is put away while it may arrive soon.
    is_soon: bool,
    transfer: &'t Transfer,
}

impl<'t> Download<'t> {
    /// Takes up what an earlier visit left.
    async fn begin(location: &str, transfer: &'t Transfer, is_soon: bool) -> Self {
        let mut download = Self {
            keeping: Keeping::default(),
            manifest: Manifest { location: location.to_owned(), ..Manifest::default() },
            bytes: Vec::new(),
            first: preloaded(location).await,
            began: Instant::now(),
            is_soon,
            transfer,
        };
        if download.first.is_some() {
            return download;
        }
        if let Some(store) = download.keeping.store().await
            && let Some(manifest) = store.manifest(location).await
        {
            match store.bytes(&manifest).await {
                Some(bytes) => {
                    download.keeping.kept = bytes.len();
                    transfer.resume_from(bytes.len() as u64);
                    download.bytes = bytes;
                    download.manifest = manifest;
                    download.manifest.total.inspect(|&total| transfer.set_total(total));
                }
                None => download.start_over().await,
            }
        }
        download
    }

    /// Forgets everything that is here.
    async fn start_over(&mut self) {
        if let Some(store) = self.keeping.store().await {
            // What cannot be deleted is overwritten.
            let _ = store.delete(&self.manifest.location).await;
        }
        let location = std::mem::take(&mut self.manifest.location);
        self.manifest = Manifest { location, ..Manifest::default() };
        self.bytes.clear();
        self.keeping.kept = 0;
        self.transfer.resume_from(0);
    }

    /// Requests what is missing and takes it in.
    async fn go_on(&mut self) -> Result<(), Trouble> {
        if self.manifest.total == Some(self.bytes.len() as u64) {
            return Ok(());
        }
        let response = self.ask().await?;
        let header = |name| response.headers().get(name).ok().flatten();
        match response.status() {
            206 if self.is_continued(&response) => {}
            // The server sends the whole file: it does not support ranges, or the file has changed.
            200 if !self.bytes.is_empty() => self.start_over().await,
            200 => {}
            206 | 416 => {
                self.start_over().await;
                return Err(Trouble::Broken("the server sent another part than asked for".into()));
            }
            status @ (408 | 429 | 500..) => {
                return Err(Trouble::Broken(format!("the server answered with status {status}")));
            }
            status => {
                let location = self.manifest.location.clone();
                return Err(Trouble::Final(FetchError::Refused { location, status }));
            }
        }
        if header("content-encoding").is_some() {
            // Length and ranges count the packed bytes: neither helps us.
            self.keeping.stop();
        } else {
            let rest = header("content-length").and_then(|text| text.parse::<u64>().ok());
            self.manifest.total = rest.map(|rest| rest + self.bytes.len() as u64);
            self.manifest.version = header("etag")
                .filter(|tag| !tag.starts_with("W/"))
                .or_else(|| header("last-modified"));
        }
        if let Some(total) = self.manifest.total {
            self.transfer.set_total(total);
            let room = usize::try_from(total).is_ok_and(|total| {
                let more = total.saturating_sub(self.bytes.len());
                self.bytes.try_reserve_exact(more).is_ok()
            });
            if !room {
                let location = self.manifest.location.clone();
                return Err(Trouble::Final(FetchError::TooLarge { location, bytes: total }));
            }
        }
        self.receive(&response).await
    }

    async fn ask(&mut self) -> Result<Response, Trouble> {
        let broken = |error: JsValue| Trouble::Broken(reason(&error));
        if let Some(response) = self.first.take() {
            return Ok(response);
        }
        let ask = Request::new_with_str_and_init(&self.manifest.location, &RequestInit::new())
            .map_err(broken)?;
        if !self.bytes.is_empty() {
            let range = format!("bytes={}-", self.bytes.len());
            ask.headers().set("range", &range).map_err(broken)?;
            // Another site would have to allow this header in advance; there, `is_continued` has to do.
            if let Some(version) = self.manifest.version.as_ref().filter(|_| self.is_ours()) {
                ask.headers().set("if-range", version).map_err(broken)?;
            }
        }
        let response = Patience::new().wait(JsFuture::from(request(&ask))).await?;
        Ok(response.unchecked_into())
    }

    /// Whether the file lies on the page's own site.
    fn is_ours(&self) -> bool {
        origin().is_some_and(|origin| self.manifest.location.starts_with(&format!("{origin}/")))
    }

    /// Whether a response continues where we stopped, in the same version of the file as far as the headers show.
    fn is_continued(&self, response: &Response) -> bool {
        let header = |name| response.headers().get(name).ok().flatten();
        let have = self.bytes.len() as u64;
        let begins = header("content-range")
            .is_none_or(|range| range.starts_with(&format!("bytes {have}-")));
        let rest = header("content-length").and_then(|text| text.parse::<u64>().ok());
        let sizes = self.manifest.total.zip(rest).is_none_or(|(total, rest)| have + rest == total);
        let version = self.manifest.version.as_ref();
        let names = [header("etag"), header("last-modified")];
        let same = version.is_none_or(|version| {
            names.iter().flatten().next().is_none() || names.iter().flatten().any(|n| n == version)
        });
        begins && sizes && same
    }

    async fn receive(&mut self, response: &Response) -> Result<(), Trouble> {
        let broken = |error: JsValue| Trouble::Broken(reason(&error));
        let body = response.body().ok_or_else(|| Trouble::Broken("the answer is empty".into()))?;
        let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
        let mut patience = Patience::new();
        loop {
            let piece = match patience.wait(JsFuture::from(reader.read())).await {
                Ok(piece) => piece,
                Err(trouble) => {
                    // Ends the request where the server is silent. That of a broken one is refused, which is no news.
                    let ended = JsFuture::from(reader.cancel());
                    spawn_local(async move { drop(ended.await) });
                    return Err(trouble);
                }
            };
            let value = Reflect::get(&piece, &"value".into()).map_err(broken)?;
            if value.is_undefined() {
                break;
            }
            let value: Uint8Array = value.unchecked_into();
            let start = self.bytes.len();
            self.bytes.resize(start + value.length() as usize, 0);
            value.copy_to(&mut self.bytes[start..]);
            self.transfer.add(u64::from(value.length()));
            let is_soon = self.is_soon && self.began.elapsed().as_secs() < SOON_SECONDS;
            if self.bytes.len() - self.keeping.kept >= PART && !is_soon {
                self.keep().await;
            }
        }
        match self.manifest.total {
            Some(total) if total != self.bytes.len() as u64 => {
                Err(Trouble::Broken("it ended too early".into()))
            }
            _ => Ok(()),
        }
    }

    async fn keep(&mut self) {
        self.keeping.keep(&mut self.manifest, &self.bytes).await;
    }

    fn error(&self, reason: String) -> FetchError {
        let location = self.manifest.location.clone();
        match self.bytes.len() as u64 {
            0 => FetchError::Unreachable { location, reason },
            done => FetchError::Interrupted { location, done, reason },
        }
    }
}
