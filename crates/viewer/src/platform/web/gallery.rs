//! Kept images in the browser's Cache Storage, each under an address that leads nowhere. They never leave the browser.

use std::path::PathBuf;

use js_sys::{Array, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Cache, Request, Response};

use super::store::open_cache;
use super::{origin, reason};

/// Name of the cache; a new number when the layout changes.
const CACHE: &str = "diffmoe-gallery-1";

/// The browser's storage.
#[derive(Clone, Debug)]
pub struct GalleryStore {
    /// Keys have to be addresses of a web site.
    prefix: String,
}

/// A page has no folder.
pub fn gallery_folder() -> Option<PathBuf> {
    None
}

impl GalleryStore {
    /// The store of this site; `folder` is for programs outside of a browser.
    ///
    /// # Errors
    /// Why this page has no storage.
    pub fn open(_folder: Option<PathBuf>) -> Result<Option<Self>, &'static str> {
        let is_lent =
            Reflect::get(&js_sys::global(), &"caches".into()).is_ok_and(|c| !c.is_falsy());
        let prefix = origin().filter(|origin| is_lent && origin.starts_with("http"));
        let prefix = prefix.map(|origin| format!("{origin}/diffmoe-gallery/")).ok_or(
            "The browser lends no storage to pages that were opened from a file or over plain HTTP. Save images as \
             files instead.",
        )?;
        Ok(Some(Self { prefix }))
    }

    /// Where the images are, for display.
    pub fn place(&self) -> String {
        "Stored in this browser only. Clearing the data of this site deletes them.".to_owned()
    }

    async fn cache(&self) -> Result<Cache, String> {
        open_cache(CACHE).await.map_err(|error| {
            format!("this browser does not let the page store images ({})", reason(&error))
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Names of all images, in no order.
    ///
    /// # Errors
    /// The browser's reason.
    pub async fn names(&self) -> Result<Vec<String>, String> {
        let cache = self.cache().await?;
        let keys = JsFuture::from(cache.keys()).await.map_err(|error| reason(&error))?;
        let keys = Array::from(&keys);
        let requests = keys.iter().filter_map(|key| key.dyn_into::<Request>().ok());
        let name = |request: Request| Some(request.url().strip_prefix(&self.prefix)?.to_owned());
        Ok(requests.filter_map(name).collect())
    }

    /// The bytes of an image.
    ///
    /// # Errors
    /// The browser's reason.
    pub async fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let cache = self.cache().await?;
        let read = async {
            let found = JsFuture::from(cache.match_with_str(&self.key(name))).await?;
            let response = found.dyn_into::<Response>().map_err(|_| JsValue::from("it is gone"))?;
            let buffer = JsFuture::from(response.array_buffer()?).await?;
            Ok(Uint8Array::new(&buffer).to_vec())
        };
        read.await.map_err(|error| format!("cannot read {name}: {}", reason(&error)))
    }

    /// Stores an image, whole or not at all.
    ///
    /// # Errors
    /// The browser's reason, in particular that there is no room.
    pub async fn write(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let cache = self.cache().await?;
        let write = async {
            // The response must own its bytes: wasm memory may move while it is written.
            let response = Response::new_with_opt_js_u8_array(Some(&Uint8Array::from(bytes)))?;
            JsFuture::from(cache.put_with_str(&self.key(name), &response)).await
        };
        write.await.map(drop).map_err(|error| {
            let is_full = Reflect::get(&error, &"name".into()).is_ok_and(|name| name == "QuotaExceededError");
            if is_full {
                "the browser has no more room for this site: delete some images or models that are kept here, or save \
                 the image as a file"
                    .to_owned()
            } else {
                format!("the browser did not store the image: {}", reason(&error))
            }
        })
    }

    /// Deletes an image; one that is gone already is no error.
    ///
    /// # Errors
    /// The browser's reason.
    pub async fn delete(&self, name: &str) -> Result<(), String> {
        let cache = self.cache().await?;
        let deleted = JsFuture::from(cache.delete_with_str(&self.key(name))).await;
        deleted.map(drop).map_err(|error| format!("cannot delete {name}: {}", reason(&error)))
    }
}
