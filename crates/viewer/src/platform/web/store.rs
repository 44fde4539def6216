//! Persistent downloads in the browser's Cache Storage: the parts of a file as they arrived, and a manifest that
//! describes them. An interrupted download has an incomplete manifest.

use std::ops::Deref;

use js_sys::{Array, JsString, Uint8Array};
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Cache, CacheStorage, Request, Response};

use super::{CachedFile, origin, reason};

/// What arrives is put away in pieces of at least this many bytes.
pub(super) const PART: usize = 2 << 20;
/// Name of our cache; a new number when the layout changes.
const CACHE: &str = "diffmoe-models-1";

#[wasm_bindgen]
extern "C" {
    // Absent where a page came over plain HTTP or from a file.
    #[wasm_bindgen(thread_local_v2, js_name = caches)]
    static CACHES: Option<CacheStorage>;
}

/// What is kept of one file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Where it comes from.
    pub(super) location: String,
    /// Size of the whole file, where it is known.
    pub(super) total: Option<u64>,
    /// Bytes of each part.
    pub(super) parts: Vec<u64>,
    /// The server's name for this version of the file: an `ETag` or a date.
    pub(super) version: Option<String>,
    /// SHA-256 of the whole file in hex, once it is complete.
    pub(super) sha256: Option<String>,
}

impl Manifest {
    /// Bytes in all parts.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().sum()
    }
}

/// How much of a file is in the browser's storage.
#[derive(Default)]
pub(super) struct Keeping {
    /// Whether the storage was asked for, or is not wanted any more.
    is_settled: bool,
    /// None where there is no storage, or no room in it.
    store: Option<Store>,
    /// Bytes in the store.
    pub(super) kept: usize,
}

impl Keeping {
    /// Keeps nothing from now on.
    pub(super) fn stop(&mut self) {
        (self.is_settled, self.store) = (true, None);
    }

    /// The store, where there is one and it takes this file.
    pub(super) async fn store(&mut self) -> Option<&Store> {
        if !self.is_settled {
            (self.is_settled, self.store) = (true, Store::open().await);
        }
        self.store.as_ref()
    }

    /// Puts away what is not in the store yet. A browser without room for it costs a later visit the download.
    pub(super) async fn keep(&mut self, manifest: &mut Manifest, bytes: &[u8]) {
        let kept = self.kept;
        if kept == bytes.len() {
            return;
        }
        let Some(store) = self.store().await else { return };
        for part in bytes[kept..].chunks(PART / 2) {
            if store.append(manifest, part).await.is_err() {
                let _ = store.delete(&manifest.location).await;
                self.stop();
                return;
            }
        }
        self.kept = bytes.len();
    }

    /// Puts away what is left and notes that it is whole.
    pub(super) async fn finish(
        mut self,
        mut manifest: Manifest,
        bytes: impl Deref<Target = [u8]>,
        digest: String,
    ) {
        self.keep(&mut manifest, &bytes).await;
        manifest.total = Some(bytes.len() as u64);
        manifest.sha256 = Some(digest);
        if let Some(store) = self.store().await {
            // Without the note the parts are an interrupted download, which is completed and checked next time.
            let _ = store.note(&manifest).await;
        }
    }
}

/// Our cache, where the browser lends one.
pub(super) struct Store {
    cache: Cache,
    /// Keys have to be addresses of a web site; these lead nowhere.
    prefix: String,
}

/// A cache of the browser by its name.
pub(super) async fn open_cache(name: &str) -> Result<Cache, JsValue> {
    let promise = CACHES.with(|caches| caches.as_ref().map(|caches| caches.open(name)));
    let promise = promise.ok_or("there is no storage")?;
    JsFuture::from(promise).await.map(JsCast::unchecked_into)
}

impl Store {
    pub(super) async fn open() -> Option<Self> {
        let cache = open_cache(CACHE).await.ok()?;
        Some(Self { cache, prefix: format!("{}/diffmoe-kept/", origin()?) })
    }

    fn key(&self, location: &str, part: &str) -> String {
        let name = String::from(js_sys::encode_uri_component(location));
        format!("{}{name}/{part}", self.prefix)
    }

    async fn get(&self, location: &str, part: &str) -> Option<Vec<u8>> {
        let found = JsFuture::from(self.cache.match_with_str(&self.key(location, part))).await;
        let response = found.ok()?.dyn_into::<Response>().ok()?;
        let buffer = JsFuture::from(response.array_buffer().ok()?).await.ok()?;
        Some(Uint8Array::new(&buffer).to_vec())
    }

    async fn put(&self, location: &str, part: &str, bytes: &[u8]) -> Result<(), JsValue> {
        // The response must own its bytes: wasm memory may move while it is written.
        let response = Response::new_with_opt_js_u8_array(Some(&Uint8Array::from(bytes)))?;
        let key = self.key(location, part);
        JsFuture::from(self.cache.put_with_str(&key, &response)).await.map(drop)
    }

    /// What is kept of a file.
    pub(super) async fn manifest(&self, location: &str) -> Option<Manifest> {
        let text = self.get(location, "manifest").await?;
        serde_json::from_slice(&text).ok().filter(|m: &Manifest| m.location == location)
    }

    /// All parts of a file in one piece, or nothing where one is missing.
    pub(super) async fn bytes(&self, manifest: &Manifest) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        let size = usize::try_from(manifest.total.unwrap_or(manifest.bytes())).ok()?;
        all.try_reserve_exact(size).ok()?;
        for (i, &size) in manifest.parts.iter().enumerate() {
            let part = self.get(&manifest.location, &i.to_string()).await?;
            if part.len() as u64 != size {
                return None;
            }
            all.extend(part);
        }
        Some(all)
    }

    /// Keeps the next part.
    pub(super) async fn append(&self, manifest: &mut Manifest, bytes: &[u8]) -> Result<(), String> {
        let part = manifest.parts.len().to_string();
        let kept = self.put(&manifest.location, &part, bytes).await;
        kept.map_err(|error| reason(&error))?;
        manifest.parts.push(bytes.len() as u64);
        self.note(manifest).await
    }

    /// Writes the manifest.
    pub(super) async fn note(&self, manifest: &Manifest) -> Result<(), String> {
        let text = serde_json::to_vec(manifest).map_err(|error| error.to_string())?;
        let kept = self.put(&manifest.location, "manifest", &text).await;
        kept.map_err(|error| reason(&error))
    }

    /// Deletes what is kept of a file; the manifest first, so that nothing points at missing parts.
    pub(super) async fn delete(&self, location: &str) -> Result<(), String> {
        let parts = self.manifest(location).await.map_or(0, |manifest| manifest.parts.len());
        let names =
            std::iter::once("manifest".to_owned()).chain((0..=parts).map(|i| i.to_string()));
        for name in names {
            let deleted =
                JsFuture::from(self.cache.delete_with_str(&self.key(location, &name))).await;
            deleted.map_err(|error| reason(&error))?;
        }
        Ok(())
    }

    /// Everything that is kept.
    pub(super) async fn list(&self) -> Vec<Manifest> {
        let Ok(keys) = JsFuture::from(self.cache.keys()).await else { return Vec::new() };
        let mut found = Vec::new();
        for key in Array::from(&keys).iter().filter_map(|key| key.dyn_into::<Request>().ok()) {
            let url = key.url();
            let Some(name) =
                url.strip_prefix(&self.prefix).and_then(|k| k.strip_suffix("/manifest"))
            else {
                continue;
            };
            let Ok(location) =
                js_sys::decode_uri_component(name).map(|l: JsString| String::from(l))
            else {
                continue;
            };
            found.extend(self.manifest(&location).await);
        }
        found
    }
}

/// Downloads that the browser keeps for the next visit.
pub async fn cached() -> Vec<CachedFile> {
    let Some(store) = Store::open().await else { return Vec::new() };
    let describe = |manifest: Manifest| CachedFile {
        bytes: manifest.bytes(),
        complete: manifest.sha256.is_some(),
        location: manifest.location,
    };
    store.list().await.into_iter().map(describe).collect()
}

/// Deletes what the browser keeps of a download.
///
/// # Errors
/// The browser's reason.
pub async fn delete_cached(location: &str) -> Result<(), String> {
    match Store::open().await {
        Some(store) => store.delete(location).await,
        None => Ok(()),
    }
}
